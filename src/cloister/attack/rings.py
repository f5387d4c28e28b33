"""io_uring: calls that are made by writing into memory, where no filter sees them."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final

from cloister.interfaces.attack import Targets
from cloister.sandbox import Layer
from cloister.sandbox.kernel import libc

from .attempt import Harm, attempt
from .calls import call, closing
from .files import AT_FDCWD, O_RDONLY, TREE, path

# include/uapi/linux/io_uring.h
_OFF_RINGS: Final = 0
_OFF_ENTRIES: Final = 0x10000000
_GET_EVENTS: Final = 1
_OP_OPENAT: Final = 18
_OP_SOCKET: Final = 45
_PARAMETERS: Final = 120  # struct io_uring_params; the offsets of the two rings are at 40 and 80

libc.mmap.restype = ctypes.c_void_p


@contextlib.contextmanager
def _mapped(file: int, size: int, offset: int) -> Iterator[int]:
    address = call("mmap", 0, size, 3, 1, file, offset)  # readable and writable, shared
    try:
        yield address
    finally:
        libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))


def _submitted(entry: bytes) -> int:
    """The result of one entry (struct io_uring_sqe) of a ring of its own. Raises OSError as the ring says."""
    parameters = ctypes.create_string_buffer(_PARAMETERS)
    with closing(call("io_uring_setup", 1, parameters)) as ring:
        submission = struct.unpack_from("8I", parameters, 40)  # head tail mask entries flags dropped array
        completion = struct.unpack_from("8I", parameters, 80)  # head tail mask entries overflow cqes
        with _mapped(ring, 4096, _OFF_RINGS) as rings, _mapped(ring, 4096, _OFF_ENTRIES) as entries:
            ctypes.memmove(entries, entry, len(entry))
            ctypes.c_uint32.from_address(rings + submission[6]).value = 0
            ctypes.c_uint32.from_address(rings + submission[1]).value += 1
            call("io_uring_enter", ring, 1, 1, _GET_EVENTS, None, 0)
            result = ctypes.c_int32.from_address(rings + completion[5] + 8).value
    if result < 0:
        raise OSError(-result, os.strerror(-result), "io_uring")
    return result


_RING: Final = {
    **TREE,
    errno.EPERM: Layer.CAPABILITIES,
    errno.ENOMEM: Layer.LIMITS,  # a ring is locked memory, for who has no CAP_IPC_LOCK
}


@attempt(Harm.IO_URING, _RING)
def make_a_ring(_at: Targets) -> None:
    """Makes a ring: dozens of calls that no filter sees, and a long list of holes (CVE-2022-29582 and on)."""
    with closing(call("io_uring_setup", 1, ctypes.create_string_buffer(_PARAMETERS))):
        pass


@attempt(Harm.IO_URING, _RING)
def open_a_file_by_a_ring(at: Targets) -> None:
    """Opens a file that every user may read, without openat(2)."""
    name = ctypes.create_string_buffer(path(at.secret))
    entry = struct.pack("<BBHiQQII", _OP_OPENAT, 0, 0, AT_FDCWD, 0, ctypes.addressof(name), 0, O_RDONLY)
    with closing(_submitted(entry.ljust(64, b"\0"))):
        pass


@attempt(Harm.IO_URING, _RING)
def make_a_raw_socket_by_a_ring(_at: Targets) -> None:
    """Makes a raw socket, without socket(2)."""
    entry = struct.pack(
        "<BBHiQQII", _OP_SOCKET, 0, 0, socket.AF_INET, socket.SOCK_RAW, 0, socket.IPPROTO_ICMP, 0
    )
    with closing(_submitted(entry.ljust(64, b"\0"))):
        pass
