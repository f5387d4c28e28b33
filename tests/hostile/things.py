"""Descriptors to send: the right one of each kind, and everything else that a liar may think of."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import socket
import tempfile
from collections.abc import Iterator

from cloister.interfaces.base import Descriptor
from cloister.ipc.descriptors import (
    F_ADD_SEALS,
    F_SEAL_GROW,
    F_SEAL_SHRINK,
    F_SEAL_WRITE,
)

__all__ = ["Things", "things"]


class Things:
    """``right`` has one of each kind; ``wrong`` those that are right for no kind but, maybe, those in ``fits``."""

    def __init__(self) -> None:
        self.right: dict[Descriptor, int] = {}
        self.wrong: dict[str, int] = {}
        self.fits: dict[str, Descriptor] = {"a socket that nobody is connected to": Descriptor.SOCKET}
        self.stricter = {
            Descriptor.BITMAP: {Descriptor.SEALED_MEMFD},
        }

    def is_right(self, fd: int, kind: Descriptor) -> bool:
        """Whether what ``fd`` was made as may pass for ``kind``. A sealed memfd is a bitmap that nobody writes."""
        if fd == self.right[kind] or any(fd == self.right[other] for other in self.stricter.get(kind, ())):
            return True
        return any(self.wrong[name] == fd and kind is fits for name, fits in self.fits.items())


@contextlib.contextmanager
def things() -> Iterator[Things]:
    found, close = Things(), contextlib.ExitStack()

    def own(fd: int) -> int:
        close.callback(os.close, fd)
        return fd

    def memfd(seals: int, flags: int = 0) -> int:
        fd = own(os.memfd_create("hostile", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | flags))
        os.truncate(fd, 4096)
        fcntl.fcntl(fd, F_ADD_SEALS, seals)
        return fd

    with close:
        here, _there = (
            own(each.detach()) for each in socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        )
        reader, writer = map(own, os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))
        file = close.enter_context(tempfile.NamedTemporaryFile())  # noqa: SIM115
        file.write(b"x" * 100)
        file.flush()
        every = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE
        found.right = {
            Descriptor.SEALED_MEMFD: memfd(every),
            Descriptor.BITMAP: memfd(F_SEAL_SHRINK | F_SEAL_GROW),
            Descriptor.SOCKET: here,
            Descriptor.PIDFD: own(os.pidfd_open(os.getpid())),
            Descriptor.FILE: own(os.open(file.name, os.O_RDONLY | os.O_CLOEXEC)),
            Descriptor.PIPE: writer,
            Descriptor.READING_PIPE: reader,
        }
        unsealed = memfd(0)
        close.enter_context(mmap.mmap(unsealed, 4096))
        found.wrong = {
            "a folder": own(os.open("/", os.O_RDONLY | os.O_DIRECTORY)),
            "a folder of /proc that stands for a process": own(
                os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)
            ),
            "an unsealed memfd that is mapped": unsealed,
            "a memfd that may shrink": memfd(F_SEAL_GROW | F_SEAL_WRITE),
            "a memfd that may grow": memfd(F_SEAL_SHRINK | F_SEAL_WRITE),
            "/dev/zero": own(os.open("/dev/zero", os.O_RDONLY)),
            "/dev/null": own(os.open("/dev/null", os.O_RDWR)),
            "a name of a file (O_PATH)": own(os.open(file.name, os.O_PATH)),
            "a name of a folder (O_PATH)": own(os.open("/tmp", os.O_PATH)),
            "a file to write": own(os.open(file.name, os.O_RDWR)),
            "an epoll": own(_epoll()),
            "an eventfd": own(os.eventfd(0)),
            "a socket that nobody is connected to": own(socket.socket(socket.AF_UNIX).detach()),
        }
        yield found


def _epoll() -> int:
    import select

    epoll = select.epoll()
    fd = os.dup(epoll.fileno())
    epoll.close()
    return fd
