"""A response's body: decoded as it comes, within its limits, and kept where it can be handed over."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final, Self

from ..interfaces.base import INLINE_LIMIT, Blob
from ..ipc import memory
from . import decoding
from .exchange import Answer
from .headers import values

__all__ = ["Body", "Spool"]

_SLICE: Final = 16 * 1024
"""Bytes that are decoded at once: gzip makes 16 MiB of them at most, and the limit is looked at meanwhile."""


class Body:
    """The body of ``answer``, piece by piece. ``spend`` is told of each one's size before it is kept, and raises when
    there was enough. Raises that, ``Broken``, and ValueError for what cannot be decoded."""

    def __init__(
        self, answer: Answer, spend: Callable[[int], None], limit: int, too_large: Exception
    ) -> None:
        self._answer = answer
        self._spend = spend
        self._left = self._raw_left = limit
        self._too_large = too_large
        self._decoded: list[bytes] = []
        self._is_over = False
        names = decoding.encodings(values(answer.headers, "content-encoding"))
        self._decoder = decoding.decoder(names, self._take)
        self._step = _SLICE if names else 2**62

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        while not self._decoded:
            if self._is_over:
                raise StopAsyncIteration
            await self._read()
        piece = self._decoded[0] if len(self._decoded) == 1 else b"".join(self._decoded)
        self._decoded.clear()
        return piece

    async def _read(self) -> None:
        data = await self._answer.receive()
        if not data:
            self._is_over = True
            self._decoder.finish()
            return
        # Counted too: a stream of empty blocks decodes to nothing, without an end.
        self._raw_left -= len(data)
        if self._raw_left < 0:
            raise self._too_large
        for start in range(0, len(data), self._step):
            self._decoder.feed(data[start : start + self._step])

    def _take(self, piece: bytes) -> None:
        if len(piece) > self._left:
            raise self._too_large
        self._spend(len(piece))
        self._left -= len(piece)
        self._decoded.append(piece)


class Spool:
    """Bytes on their way into a message: in memory while they fit a packet, in a memfd from then on, so that a
    large body is in memory once."""

    def __init__(self) -> None:
        self._small = bytearray()
        self._fd: int | None = None
        self._size = 0

    def write(self, piece: bytes) -> None:
        """Raises OSError when there is no memory for it."""
        self._size += len(piece)
        if self._fd is None and self._size <= INLINE_LIMIT:
            self._small += piece
            return
        if self._fd is None:
            self._fd = memory.create()
            _write(self._fd, self._small)
            self._small.clear()
        _write(self._fd, piece)

    def finish(self) -> tuple[Blob, list[int]]:
        """The field, and the descriptors to give away with it."""
        if self._fd is None:
            return Blob(self._size, bytes(self._small)), []
        memory.seal(self._fd)
        fd, self._fd = self._fd, None
        return Blob(self._size), [fd]

    def close(self) -> None:
        """Forget what was not given away."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _write(fd: int, data: bytes | bytearray) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
