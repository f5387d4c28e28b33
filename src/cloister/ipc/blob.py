"""Bytes in a message: in the packet while they are small, in a sealed memfd when they are not."""

from __future__ import annotations

import os

from ..errors import BadMessage
from ..interfaces.base import INLINE_LIMIT, Blob
from . import memory
from .descriptors import Descriptors

__all__ = ["pack", "unpack"]


def pack(data: bytes | bytearray | memoryview) -> tuple[Blob, list[int]]:
    """The field and the descriptors to send with it (none, or one memfd that the caller gives away)."""
    size = len(data)
    if size <= INLINE_LIMIT:
        return Blob(size, bytes(data)), []
    return Blob(size), [memory.sealed(data)]


def unpack(blob: Blob, fds: Descriptors, limit: int) -> bytes:
    """The bytes, copied out of the peer's reach. More than ``limit`` is a :class:`BadMessage`: the peer was told."""
    try:
        if blob.size > limit:
            raise BadMessage(f"{blob.size} bytes came where at most {limit} were asked for")
        if blob.inline is None:
            return memory.read_sealed(
                fds.borrow()[-1], blob.size
            )  # it comes after the message's own descriptors
        if len(blob.inline) != blob.size:
            raise BadMessage(f"{len(blob.inline)} bytes came where {blob.size} were announced")
        return blob.inline
    finally:
        if blob.inline is None:
            os.close(fds.take(len(fds) - 1))  # now, also where whoever keeps the error keeps this frame
