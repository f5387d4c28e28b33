"""Descriptors that came with a message: owned until taken, and checked with the kernel before use."""

from __future__ import annotations

import fcntl
import os
import signal
import stat
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ..errors import BadMessage, OutOfDescriptors
from ..interfaces.base import Descriptor

__all__ = ["BITMAP_SEALS", "NONE", "SEALED", "Descriptors", "check"]

# fcntl(2); the constants reached Python's fcntl module in 3.14 only in part.
F_ADD_SEALS, F_GET_SEALS = 1033, 1034
F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE = 1, 2, 4, 8

BITMAP_SEALS = F_SEAL_SHRINK | F_SEAL_GROW
"""Without these two the sender can shrink the file under a mapping, and a read ends in SIGBUS."""
SEALED = BITMAP_SEALS | F_SEAL_WRITE


class Descriptors:
    """Open descriptors that belong to whoever holds this. What is not taken is closed with it."""

    __slots__ = ("_fds", "lost")

    def __init__(self, fds: Sequence[int] = (), *, lost: bool = False) -> None:
        self._fds = list(fds)
        self.lost = lost
        """Whether some could not be taken in, so that there is none."""

    def __len__(self) -> int:
        return len(self._fds)

    def take(self, index: int = 0) -> int:
        """Remove one descriptor and hand it over: the caller closes it."""
        return self._fds.pop(index)

    def release(self) -> list[int]:
        """Hand all of them over: the caller closes them."""
        fds, self._fds = self._fds, []
        return fds

    def borrow(self) -> tuple[int, ...]:
        """The descriptors to look at; they stay owned here."""
        return tuple(self._fds)

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.pop())

    def check(self, expected: Sequence[Descriptor]) -> None:
        """Raise :class:`BadMessage` unless these are exactly what the message's type says, and
        :class:`OutOfDescriptors` when there was no room for them."""
        if self.lost and expected:
            raise OutOfDescriptors
        if self.lost:
            raise BadMessage("descriptors came where none were expected")
        if len(self._fds) != len(expected):
            raise BadMessage(f"{len(self._fds)} descriptors came where {len(expected)} were expected")
        for fd, kind in zip(self._fds, expected, strict=True):
            check(fd, kind)

    def __del__(self) -> None:
        self.close()


NONE = Descriptors()
"""What comes with a message that has no descriptors, as most have none."""


def check(fd: int, kind: Descriptor) -> None:
    """Raise :class:`BadMessage` unless the kernel says that ``fd`` is a ``kind``."""
    if not _CHECKS[kind](fd):
        raise BadMessage(f"a descriptor came that is not {kind.value}")


def _is_memfd(fd: int, seals: int) -> bool:
    try:
        have = fcntl.fcntl(
            fd, F_GET_SEALS
        )  # EINVAL for everything but memfds (and hugetlbfs, which has seals too)
    except OSError:
        return False
    return have & seals == seals and stat.S_ISREG(os.fstat(fd).st_mode)


def _is_socket(fd: int) -> bool:
    return stat.S_ISSOCK(os.fstat(fd).st_mode)


def _is_pidfd(fd: int) -> bool:
    if stat.S_ISDIR(os.fstat(fd).st_mode):  # a folder /proc/PID is taken for one by the call, and by no other
        return False
    try:
        signal.pidfd_send_signal(fd, 0)  # EBADF for what is not a pidfd; ESRCH and EPERM for one
    except (ProcessLookupError, PermissionError):
        return True
    except OSError:
        return False
    return True


def _is_readable_file(fd: int) -> bool:
    mode = fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_PATH)
    return mode == os.O_RDONLY and stat.S_ISREG(os.fstat(fd).st_mode)


def _is_pipe(fd: int, way: int) -> bool:
    mode = fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_PATH)
    return mode == way and stat.S_ISFIFO(os.fstat(fd).st_mode)


_CHECKS: Final[Mapping[Descriptor, Callable[[int], bool]]] = {
    Descriptor.SEALED_MEMFD: lambda fd: _is_memfd(fd, SEALED),
    Descriptor.BITMAP: lambda fd: _is_memfd(fd, BITMAP_SEALS),
    Descriptor.SOCKET: _is_socket,
    Descriptor.PIDFD: _is_pidfd,
    Descriptor.FILE: _is_readable_file,
    Descriptor.PIPE: lambda fd: _is_pipe(fd, os.O_WRONLY),
    Descriptor.READING_PIPE: lambda fd: _is_pipe(fd, os.O_RDONLY),
}
