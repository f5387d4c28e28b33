"""DNS over TLS (RFC 7858): each message behind its length, answers in any order."""

from __future__ import annotations

from .kept import Unreadable
from .message import MAX_ANSWER, NoAnswer

__all__ = ["DnsOverTls"]

_MAX_WAITING = 1024


class DnsOverTls:
    """The framing of one connection. A question's number is its id on the wire, so that no two have the same."""

    protocol = None  # servers need not name it (RFC 7858)
    is_ready = True

    def __init__(self) -> None:
        self._ids: dict[int, bytes] = {}
        self._last = 0
        self._buffer = bytearray()

    @property
    def has_room(self) -> bool:
        return len(self._ids) < _MAX_WAITING

    def opening(self) -> bytes:
        return b""

    def ask(self, wire: bytes) -> tuple[int, bytes]:
        while self._last in self._ids or not self._last:
            self._last = (self._last + 1) % 65536
        number = self._last
        self._last = (self._last + 1) % 65536  # one that was forgotten is not soon another's
        self._ids[number] = wire[:2]
        return number, len(wire).to_bytes(2) + number.to_bytes(2) + wire[2:]

    def forget(self, number: int) -> bytes:
        self._ids.pop(number, None)
        return b""

    def received(self, data: bytes) -> tuple[dict[int, bytes | NoAnswer], bytes]:
        self._buffer += data
        answers: dict[int, bytes | NoAnswer] = {}
        while len(self._buffer) >= 2:
            end = 2 + int.from_bytes(self._buffer[:2])
            if end > MAX_ANSWER:
                raise Unreadable(f"an answer of {end - 2:,} bytes; at most {MAX_ANSWER:,} are read")
            if len(self._buffer) < end:
                break
            message = bytes(self._buffer[2:end])
            del self._buffer[:end]
            number = int.from_bytes(message[:2])
            if (own := self._ids.pop(number, None)) is not None:
                answers[number] = own + message[2:]
        return answers, b""
