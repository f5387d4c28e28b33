"""What is sent with a request: bytes, or bytes and files in turn, which are read as they are sent.

A request may be sent again (a redirect, a connection that ended, a password that was asked for), so a body is read from
its start each time. Files are read with ``pread``: their positions are shared with whoever opened them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec

from ..errors import RequestFailed
from ..interfaces.base import FailureCode

__all__ = ["PIECE", "HeldFile", "Outgoing", "Upload", "pieces"]

PIECE: Final = 64 * 1024
"""Bytes that are read and sent at once."""


class HeldFile(msgspec.Struct, frozen=True):
    """The first ``size`` bytes of what ``fd`` is open for."""

    fd: int
    size: int


class Upload:
    """A body with files in it, which belong to it. ``on_progress`` is called whenever a piece has been sent."""

    def __init__(self, parts: Sequence[bytes | HeldFile]) -> None:
        self._parts = tuple(parts)
        self._size = sum(len(part) if isinstance(part, bytes) else part.size for part in parts)
        self._is_closed = False
        self.on_progress: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        return self._size

    def pieces(self) -> Iterator[bytes]:
        """All of it, from the start. Raises :class:`RequestFailed` (FILE_CHANGED)."""
        for part in self._parts:
            for piece in _sliced(part) if isinstance(part, bytes) else self._read(part):
                yield piece
                self.on_progress()

    def close(self) -> None:
        """Close the files; what is still being sent ends. Closing twice is fine."""
        if not self._is_closed:
            self._is_closed = True
            self.on_progress = lambda: None
            for part in self._parts:
                if isinstance(part, HeldFile):
                    os.close(part.fd)

    def _read(self, file: HeldFile) -> Iterator[bytes]:
        at = 0
        while at < file.size:
            if self._is_closed:  # the number may be another file's by now
                raise RequestFailed(FailureCode.CANCELLED, "the request is over")
            try:
                piece = os.pread(file.fd, min(PIECE, file.size - at), at)
            except OSError as error:
                raise RequestFailed(
                    FailureCode.FILE_CHANGED, f"a file cannot be read on: {error.strerror}"
                ) from error
            if not piece:
                raise RequestFailed(
                    FailureCode.FILE_CHANGED,
                    f"a file that was being sent has {at:,} bytes now; it had {file.size:,}",
                )
            at += len(piece)
            yield piece


Outgoing = bytes | Upload


def pieces(body: Outgoing) -> Iterator[bytes]:
    """``body`` from its start, in pieces of a size to send. Raises :class:`RequestFailed` (FILE_CHANGED)."""
    return _sliced(body) if isinstance(body, bytes) else body.pieces()


def _sliced(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), PIECE):
        yield data[start : start + PIECE]
