"""The header of each HTTP/2 frame, read before h2 reads the frame (RFC 9113, 4.1).

h2 holds a frame of any length that a server announces, counts no frames, and takes nothing after a GOAWAY, though
streams that were begun before it go on: so it is given none.
"""

from __future__ import annotations

from typing import Final

from .exchange import BadResponse, Effort

__all__ = ["MAX_FRAME", "Frames"]

MAX_FRAME: Final = 64 * 1024
"""Bytes of one, as we tell servers."""
_MAX_BLOCK: Final = 128 * 1024
"""Bytes of compressed headers, in all the frames that they come in."""

_FRAME_HEADER: Final = 9  # bytes
_DATA, _HEADERS, _PUSH_PROMISE, _GOAWAY, _CONTINUATION = 0, 1, 5, 7, 9  # RFC 9113, 6
_HEADER_BLOCK: Final = {_HEADERS, _PUSH_PROMISE, _CONTINUATION}


class Frames:
    """The frames that come over one connection. ``effort`` is spent on each; who reads a body earns it."""

    def __init__(self) -> None:
        self.effort = Effort()
        self.last_stream: int | None = None
        """The last one that the server answers, after a GOAWAY."""
        self.reason = 0
        """Why, as it says (RFC 9113, 7)."""
        self._partial = b""
        self._left = 0  # bytes of the frame under way
        self._goodbye: bytearray | None = None  # that frame, if it is a GOAWAY
        self._block = 0  # bytes of the header block under way

    def judge(self, data: bytes) -> list[bytes]:
        """``data`` for h2. Raises :class:`BadResponse`."""
        data = self._partial + data
        kept: list[bytes] = []
        start = at = 0
        while at < len(data):
            if not self._left:
                if len(data) - at < _FRAME_HEADER:
                    break
                self._begin(data[at : at + _FRAME_HEADER])
                if self._goodbye is not None and at > start:
                    kept.append(data[start:at])
            size = min(self._left, len(data) - at)
            self._left -= size
            at += size
            if self._goodbye is not None:
                self._goodbye += data[at - size : at]
                start = at
                if not self._left:
                    self._take_goodbye(bytes(self._goodbye))
        if at > start:
            kept.append(data[start:at])
        self._partial = data[at:]
        return kept

    def _begin(self, header: bytes) -> None:
        length, kind = int.from_bytes(header[:3], "big"), header[3]
        if length > MAX_FRAME:
            raise BadResponse(f"it sends a frame of {length} bytes; {MAX_FRAME} were allowed")
        self._block = length + (self._block if kind == _CONTINUATION else 0)
        if kind in _HEADER_BLOCK and self._block > _MAX_BLOCK:
            raise BadResponse("its headers are too long")  # CVE-2024-27316
        self.effort.spend(0 if kind == _DATA else length)
        self._left = _FRAME_HEADER + length
        self._goodbye = bytearray() if kind == _GOAWAY else None

    def _take_goodbye(self, frame: bytes) -> None:
        if len(frame) < _FRAME_HEADER + 8 or any(frame[5:9]):
            raise BadResponse("it sends a GOAWAY that is none")
        self.last_stream = int.from_bytes(frame[9:13], "big") & 0x7FFFFFFF
        self.reason = int.from_bytes(frame[13:17], "big")
        self._goodbye = None
