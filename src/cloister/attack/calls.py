"""Raw system calls, as an attacker makes them: no library in between, and the last one is remembered."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from typing import Any

from cloister.sandbox import Policy
from cloister.sandbox.kernel import syscall
from cloister.sandbox.syscalls import native

__all__ = [
    "ABSENT",
    "address",
    "call",
    "closing",
    "deny",
    "foreign",
    "forget",
    "judged_by_filter",
    "last_call",
]

ABSENT = errno.ENOSYS
"""What an attempt raises that has nothing to try here; a kernel without the call says the same."""

_MASK = 2**64 - 1
_FOREIGN = "of another ABI"
_last: tuple[str, tuple[int, ...]] = ("", ())
_parent = 0


def call(name: str, *arguments: Any) -> int:
    """The system call ``name``; bytes and ctypes objects go as their addresses, ``None`` as 0.

    Raises:
        OSError: as the kernel says; ENOSYS also for a call that this architecture does not have.
    """
    global _last  # noqa: PLW0603 - one attempt at a time
    numbers = tuple(address(argument) for argument in arguments)
    _last = (name, numbers)
    return syscall(name, *numbers)


def address(argument: Any) -> int:
    """A number as it is; of what has a place in memory, its address. The caller keeps it alive."""
    if argument is None:
        return 0
    if isinstance(argument, int):
        return argument
    if isinstance(argument, bytes):
        return ctypes.cast(ctypes.c_char_p(argument), ctypes.c_void_p).value or 0
    return ctypes.addressof(argument)


def remember_parent(pid: int) -> None:
    """``pid`` forks the processes that make attempts. Asked later, a filter may refuse to tell."""
    global _parent  # noqa: PLW0603 - of this process
    _parent = pid


def parent() -> int:
    """The pid of who forked this process."""
    return _parent


def last_call() -> str:
    """The name of the call that was made last."""
    return _last[0]


def forget() -> None:
    """Nothing was called yet."""
    global _last  # noqa: PLW0603 - as above
    _last = ("", ())


def foreign() -> None:
    """The last call was of another ABI: a filter that knows none of those answers ENOSYS to each."""
    global _last  # noqa: PLW0603 - as above
    _last = (_FOREIGN, ())


def judged_by_filter(policy: Policy, number: int) -> bool:
    """Whether it was the filter of ``policy`` that had the last call fail with ``number``."""
    name, arguments = _last
    architecture = native()
    if architecture is None:
        return False
    if name == _FOREIGN:
        return number == ABSENT
    if name not in architecture.numbers:
        return False
    return policy.denial(name, *(argument & _MASK for argument in arguments)) == number


def deny(number: int, why: str) -> OSError:
    """What an attempt raises that found by itself that it was in vain."""
    forget()
    return OSError(number, f"{os.strerror(number)}: {why}")


@contextlib.contextmanager
def closing(descriptor: int) -> Iterator[int]:
    """A descriptor that is closed afterwards, whatever came of it."""
    try:
        yield descriptor
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)
