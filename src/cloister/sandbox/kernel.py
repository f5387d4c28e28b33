"""The few kernel calls that Python's library does not have, by name."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any

from .syscalls import native

__all__ = ["libc", "prctl", "prctl_or_none", "syscall"]

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]


def syscall(name: str, *arguments: Any) -> int:
    """Call the kernel. Integers go as C longs; what is not one must be a ctypes object (or ``None``).

    Raises:
        OSError: as the kernel says; ENOSYS also for a call that this architecture does not have.
    """
    architecture = native()
    number = architecture.numbers.get(name) if architecture else None
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), name)
    values = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result: int = libc.syscall(ctypes.c_long(number), *values)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)
    return result


def prctl(option: int, *arguments: int) -> int:
    """prctl(2); unused arguments are 0, which newer options insist on.

    Raises:
        OSError: as the kernel says.
    """
    result: int = libc.prctl(option, *arguments, *[0] * (4 - len(arguments)))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), f"prctl({option})")
    return result


def prctl_or_none(option: int, *arguments: int) -> int | None:
    """:func:`prctl` for an option that the kernel may not have or not allow: then ``None``."""
    try:
        return prctl(option, *arguments)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOSYS, errno.EPERM):
            return None
        raise
