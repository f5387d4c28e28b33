"""The format text/event-stream (HTML standard, 9.2.5 and 9.2.6): bytes in, events out."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import Final

import msgspec

from ..interfaces.event_source import MAX_EVENT_BYTES

__all__ = ["Event", "Parser"]

_END: Final = re.compile(rb"\r\n?|\n")
_MAX_NAME: Final = 1024  # characters, of interfaces.event_source.EventName


class Event(msgspec.Struct, frozen=True):
    """``data`` is UTF-8, whatever came."""

    type: str
    data: bytes
    last_event_id: str


class Parser:
    """Of one connection's stream. ``last_event_id`` is that of the last event of those before, and then of this one's;
    ``retry`` is after how many milliseconds the server wants to be asked anew, once it has said so."""

    def __init__(self, last_event_id: str = "") -> None:
        self.last_event_id = last_event_id
        self.retry: int | None = None
        self._id = last_event_id
        self._type = ""
        self._data: list[bytes] = []
        self._size = 0
        self._buffer = bytearray()
        self._is_start = True
        self._is_after_cr = False

    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that ``data`` completes. Raises ValueError for a line, or an event, that is too long."""
        if self._is_after_cr and data:
            self._is_after_cr = False
            data = data.removeprefix(b"\n") if data[:1] == b"\n" else data
        buffer, search = self._buffer, len(self._buffer)
        buffer += data
        if self._is_start:
            if len(buffer) < 3 and codecs.BOM_UTF8.startswith(bytes(buffer)):
                return
            self._is_start = False
            search = 0
            if buffer.startswith(codecs.BOM_UTF8):
                del buffer[:3]
        begin = 0
        while (match := _END.search(buffer, search)) is not None:
            line = bytes(buffer[begin : match.start()])
            begin = search = match.end()
            self._is_after_cr = begin == len(buffer) and match.group() == b"\r"
            if line:
                self._take(line)
            elif (event := self._dispatch()) is not None:
                yield event
        del buffer[:begin]
        if len(buffer) > MAX_EVENT_BYTES:
            raise ValueError("a line of the stream is too long")

    def _take(self, line: bytes) -> None:
        field, _, value = line.partition(b":")
        text = value.removeprefix(b" ").decode("utf-8", "replace")
        match field:
            case b"data":
                self._size += len(value) + 1
                if self._size > MAX_EVENT_BYTES:
                    raise ValueError("an event of the stream is too long")
                self._data.append(text.encode())
            case b"event":
                self._type = _short(text)
            case b"id" if "\0" not in text:
                self._id = _short(text)
            case b"retry" if text.isascii() and text.isdigit():
                self.retry = int(text[:12])

    def _dispatch(self) -> Event | None:
        self.last_event_id = self._id
        event = Event(self._type or "message", b"\n".join(self._data), self._id) if self._data else None
        self._type, self._size = "", 0
        self._data.clear()
        return event


def _short(text: str) -> str:
    if len(text) > _MAX_NAME:
        raise ValueError("a name or an id in the stream is too long")
    return text
