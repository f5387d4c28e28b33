"""Shared memory: memfds that cannot change size under the receiver, nor content where it is data."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os

from ..errors import BadMessage, descriptors_left
from .descriptors import BITMAP_SEALS, F_ADD_SEALS, F_GET_SEALS, F_SEAL_SEAL, F_SEAL_WRITE, SEALED

__all__ = [
    "create",
    "create_bitmap",
    "map_bitmap",
    "map_sealed",
    "map_shared",
    "read_only",
    "read_sealed",
    "seal",
    "sealed",
]

MFD_NOEXEC_SEAL = 0x0008  # Linux 6.3: never executable, and never made so


def create(name: str = "cloister") -> int:
    """A new, empty memfd, still unsealed; the caller closes it. Raises OutOfDescriptors."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    with descriptors_left():
        try:
            return os.memfd_create(name, flags | MFD_NOEXEC_SEAL)
        except OSError as error:
            if error.errno != errno.EINVAL:  # before Linux 6.3
                raise
            return os.memfd_create(name, flags)


def seal(fd: int) -> None:
    """Nobody writes, grows or shrinks ``fd`` from here on. EBUSY while a writable mapping of it exists."""
    fcntl.fcntl(fd, F_ADD_SEALS, SEALED | F_SEAL_SEAL)


def sealed(data: bytes | bytearray | memoryview) -> int:
    """A sealed memfd that holds ``data``; the caller closes it."""
    fd = create()
    try:
        rest = memoryview(data).cast("B")
        while rest:
            rest = rest[os.write(fd, rest) :]
        seal(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def create_bitmap(size: int, name: str = "cloister-bitmap") -> int:
    """A memfd of ``size`` zero bytes whose size is sealed and whose content is not; the caller closes it."""
    fd = create(name)
    try:
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, F_ADD_SEALS, BITMAP_SEALS | F_SEAL_SEAL)
    except BaseException:
        os.close(fd)
        raise
    return fd


def map_bitmap(fd: int, size: int) -> mmap.mmap:
    """Map a bitmap for reading and writing. Another process may write it at any time: copy, then judge."""
    _check(fd, size, BITMAP_SEALS)
    return mmap.mmap(fd, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def map_sealed(fd: int, size: int) -> mmap.mmap:
    """Map a sealed memfd for reading: it stays as it is for as long as it is mapped."""
    _check(fd, size, SEALED)
    return mmap.mmap(fd, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)


def map_shared(fd: int, size: int) -> mmap.mmap:
    """Map what its maker may still write to, for writing too if ``fd`` lets that be done. For memory of a peer that is
    trusted to leave it alone."""
    _check(fd, size, BITMAP_SEALS)
    is_writable = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDWR
    if is_writable and not fcntl.fcntl(fd, F_GET_SEALS) & F_SEAL_WRITE:
        return map_bitmap(fd, size)
    return mmap.mmap(fd, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)


def read_only(fd: int) -> int:
    """Another descriptor of a memfd, by which nobody can write to it, nor seal it, whatever ``fd`` allows; the caller
    closes it. Raises OSError without /proc.

    Mapped by it, memory cannot be made writable later either: the kernel clears VM_MAYWRITE (mm/mmap.c).
    """
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


def read_sealed(fd: int, size: int) -> bytes:
    """The ``size`` bytes of a sealed memfd, copied."""
    _check(fd, size, SEALED)
    data = os.pread(fd, size, 0)
    if len(data) == size:
        return data
    parts = [data]  # one pread gives 2 GiB at the most (read(2))
    while (got := sum(map(len, parts))) < size:
        part = os.pread(fd, size - got, got)
        if not part:
            raise BadMessage(f"a memfd ended after {got} of {size} bytes")
        parts.append(part)
    return b"".join(parts)


def _check(fd: int, size: int, seals: int) -> None:
    try:
        have = fcntl.fcntl(fd, F_GET_SEALS)
    except OSError as error:
        raise BadMessage("shared memory came that is not a memfd") from error
    if have & seals != seals:
        raise BadMessage("a memfd came without its seals")
    if (real := os.fstat(fd).st_size) != size:
        raise BadMessage(f"a memfd of {real} bytes came where {size} were announced")
