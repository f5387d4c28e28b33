"""WebSocket's frames (RFC 6455, 5) and permessage-deflate (RFC 7692), as a client has them: bytes in, pieces of
messages out. Nothing is kept of a message but what has not come in whole, and nothing is inflated beyond the limit."""

from __future__ import annotations

import codecs
import os
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Final

import msgspec

__all__ = [
    "BINARY",
    "CLOSE",
    "OFFER",
    "PING",
    "PONG",
    "TEXT",
    "Control",
    "Deflate",
    "Fault",
    "Piece",
    "Reader",
    "Writer",
    "may_be_sent",
]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

PROTOCOL_ERROR: Final = 1002
INVALID_DATA: Final = 1007
TOO_BIG: Final = 1009

_MAX_CONTROL: Final = 125
_WINDOW: Final = 32 * 1024
_SLICE: Final = 16 * 1024
"""Bytes that are inflated at once: 16 MiB at most come of them."""
_WORTH_DEFLATING: Final = 128
_TAIL: Final = b"\x00\x00\xff\xff"  # of each message; it is not sent (RFC 7692, 7.2.1)

OFFER: Final = b"permessage-deflate; client_max_window_bits"
_PARAMETER: Final = re.compile(r'\s*([a-z_]+)\s*(?:=\s*(?:([1-9][0-9]?)|"([1-9][0-9]?)")\s*)?')


class Fault(Exception):
    """What the server did, and the code with which it is told so."""

    def __init__(self, code: int, what: str) -> None:
        super().__init__(what)
        self.code = code


class Piece(msgspec.Struct, frozen=True):
    """Some of a message's bytes."""

    is_text: bool
    data: bytes
    is_last: bool


class Control(msgspec.Struct, frozen=True):
    """A frame that concerns the connection. A close has its ``code``, 1005 for none, and its reason as ``data``."""

    opcode: int
    data: bytes
    code: int = 1005


class Deflate(msgspec.Struct, frozen=True):
    """What was agreed on. ``server_forgets`` and ``client_forgets`` say after which message the window is emptied:
    each; ``client_bits`` is the size of ours."""

    server_forgets: bool = False
    client_forgets: bool = False
    client_bits: int = 15

    @classmethod
    def agreed(cls, values: list[str]) -> Deflate | None:
        """What the server's ``Sec-WebSocket-Extensions`` make of :data:`OFFER`; None if it wants nothing. Raises
        ValueError for what was not offered, or is said twice."""
        if not any(value.strip() for value in values):
            return None
        name, *parameters = ", ".join(values).split(";")
        if name.strip().lower() != "permessage-deflate":
            raise ValueError("it uses an extension that was not offered")
        said: dict[str, int | None] = {}
        for each in parameters:
            match = _PARAMETER.fullmatch(each)
            if match is None or match[1] in said:
                raise ValueError("it says something of permessage-deflate that cannot be read")
            digits = match[2] or match[3]
            said[match[1]] = int(digits) if digits else None
        for key, bits in said.items():
            is_flag = key in {"server_no_context_takeover", "client_no_context_takeover"}
            is_size = key in {"server_max_window_bits", "client_max_window_bits"}
            if not (is_flag and bits is None) and not (is_size and bits is not None and 8 <= bits <= 15):
                raise ValueError("it says something of permessage-deflate that was not offered")
        return cls(
            "server_no_context_takeover" in said,
            "client_no_context_takeover" in said,
            said.get("client_max_window_bits") or 15,
        )


class _Inflater:
    """Of raw DEFLATE, message after message."""

    def __init__(self, *, forgets: bool) -> None:
        self._forgets = forgets
        self._window = b""
        self._inflate = zlib.decompressobj(-15)

    def feed(self, data: bytes, limit: int) -> bytes:
        """Raises :class:`Fault` for more than ``limit`` bytes, and for what is no DEFLATE."""
        made = bytearray()
        try:
            while data:
                piece = self._inflate.decompress(data, limit + 1 - len(made))
                made += piece
                if len(made) > limit:
                    raise Fault(TOO_BIG, "a message is too large")
                self._window = (self._window + piece)[-_WINDOW:]
                data = self._inflate.unused_data
                if self._inflate.eof:  # a final block, after which others may come (RFC 7692, 7.2.3.5)
                    self._inflate = zlib.decompressobj(-15, zdict=self._window)
        except zlib.error:
            raise Fault(INVALID_DATA, "a message cannot be inflated") from None
        return bytes(made)

    def end(self, limit: int) -> bytes:
        """The rest of a message."""
        made = self.feed(_TAIL, limit)
        if self._forgets:
            self._window = b""
            self._inflate = zlib.decompressobj(-15)
        return made


class _Message:
    """One that has begun to come."""

    def __init__(self, *, is_text: bool, is_deflated: bool, limit: int) -> None:
        self.is_text = is_text
        self.is_deflated = is_deflated
        self.left = limit
        self.raw_left = limit
        """Counted too: a stream of empty blocks inflates to nothing, without an end."""
        self._utf_8 = codecs.getincrementaldecoder("utf-8")() if is_text else None

    def piece(self, data: bytes, *, is_last: bool) -> Piece:
        self.left -= len(data)
        if self._utf_8 is not None:
            try:
                self._utf_8.decode(data, is_last)
            except UnicodeDecodeError:
                raise Fault(INVALID_DATA, "a text is not UTF-8") from None
        return Piece(self.is_text, data, is_last)


class Reader:
    """What a server sends after the handshake. ``limit`` is of one message, in bytes, as it came and inflated."""

    def __init__(self, limit: int, deflate: Deflate | None = None) -> None:
        self._limit = limit
        self._inflater = _Inflater(forgets=deflate.server_forgets) if deflate else None
        self._buffer = bytearray()
        self._opcode = -1  # of the frame that has begun
        self._is_final = False
        self._left = 0
        self._message: _Message | None = None
        self._is_closed = False

    def feed(self, data: bytes) -> Iterator[Piece | Control]:
        """What ``data`` completes, of messages each piece that is there. Nothing comes after a close. Raises
        :class:`Fault`; nothing can be read then any more."""
        buffer = self._buffer
        buffer += data
        while not self._is_closed and (self._opcode >= 0 or self._begin()):
            size = min(self._left, _SLICE) if self._opcode < CLOSE else self._left
            if len(buffer) < size and (self._opcode >= CLOSE or not buffer):
                return
            payload = bytes(buffer[:size])
            del buffer[:size]
            self._left -= len(payload)
            opcode, is_final, is_over = self._opcode, self._is_final, not self._left
            if is_over:
                self._opcode = -1
            if opcode >= CLOSE:
                yield self._control(opcode, payload)
            elif self._message is not None:
                yield self._piece(self._message, payload, is_final and is_over)

    def _begin(self) -> bool:
        """Read the head of a frame, if it is there. What is wrong with it is told as early as it can be."""
        buffer = self._buffer
        if len(buffer) < 2:
            return False
        first, length = buffer[0], buffer[1] & 0x7F
        opcode, is_deflated = first & 0x0F, bool(first & 0x40)
        self._check(first, opcode, buffer[1])
        size = 2 + {126: 2, 127: 8}.get(length, 0)
        if len(buffer) < size:
            return False
        if size > 2:
            shorter = _MAX_CONTROL if length == 126 else 0xFFFF
            length = int.from_bytes(buffer[2:size])
            if length <= shorter or length >> 63:
                raise Fault(PROTOCOL_ERROR, "it writes a length as nobody may")
        del buffer[:size]
        if opcode in (TEXT, BINARY):
            self._message = _Message(is_text=opcode == TEXT, is_deflated=is_deflated, limit=self._limit)
        if opcode < CLOSE and self._message is not None:
            self._message.raw_left -= length
            if self._message.raw_left < 0:
                raise Fault(TOO_BIG, "a message is too large")
        self._opcode, self._is_final, self._left = opcode, bool(first & 0x80), length
        return True

    def _check(self, first: int, opcode: int, second: int) -> None:
        """Of the two bytes that a frame begins with."""
        if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            raise Fault(PROTOCOL_ERROR, f"it sends frames of an unknown type, {opcode}")
        may_be_deflated = self._inflater is not None and opcode in (TEXT, BINARY)
        if first & 0x30 or (first & 0x40 and not may_be_deflated):
            raise Fault(PROTOCOL_ERROR, "it sets bits that are reserved")
        if second & 0x80:
            raise Fault(PROTOCOL_ERROR, "it masks its frames")
        if opcode >= CLOSE:
            if not first & 0x80 or second > _MAX_CONTROL:
                raise Fault(PROTOCOL_ERROR, "it sends a control frame in pieces, or one that is too long")
        elif (opcode == CONTINUATION) != (self._message is not None):
            raise Fault(PROTOCOL_ERROR, "its fragments are out of order")

    def _piece(self, message: _Message, data: bytes, is_last: bool) -> Piece:
        if message.is_deflated and self._inflater is not None:
            data = self._inflater.feed(data, message.left)
            if is_last:
                data += self._inflater.end(message.left - len(data))
        elif len(data) > message.left:
            raise Fault(TOO_BIG, "a message is too large")
        if is_last:
            self._message = None
        return message.piece(data, is_last=is_last)

    def _control(self, opcode: int, payload: bytes) -> Control:
        if opcode != CLOSE:
            return Control(opcode, payload)
        self._is_closed = True
        if not payload:
            return Control(CLOSE, b"")
        code = int.from_bytes(payload[:2])
        if len(payload) == 1 or not may_be_sent(code):
            raise Fault(PROTOCOL_ERROR, "it says goodbye with a code that nobody may send")
        try:
            payload[2:].decode()
        except UnicodeDecodeError:
            raise Fault(INVALID_DATA, "it says goodbye in what is not UTF-8") from None
        return Control(CLOSE, payload[2:], code)


def may_be_sent(code: int) -> bool:
    """Whether a close frame may have it (RFC 6455, 7.4, and IANA's registry)."""
    return (1000 <= code <= 1014 and code not in (1004, 1005, 1006)) or 3000 <= code <= 4999


class _Deflater:
    """The other way round."""

    def __init__(self, bits: int, *, forgets: bool) -> None:
        self._bits = bits
        self._forgets = forgets
        self._deflate = zlib.compressobj(wbits=-bits)

    def feed(self, data: bytes) -> bytes:
        return self._deflate.compress(data)

    def end(self) -> bytes:
        """The rest of a message."""
        made = self._deflate.flush(zlib.Z_SYNC_FLUSH).removesuffix(_TAIL)
        if self._forgets:
            self._deflate = zlib.compressobj(wbits=-self._bits)
        return made


class Writer:
    """What a client sends: masked, each frame with a key of its own."""

    def __init__(self, deflate: Deflate | None = None) -> None:
        # zlib writes no window of 256 bytes. A message may always go as it is.
        self._deflater: _Deflater | None = None
        if deflate is not None and deflate.client_bits > 8:
            self._deflater = _Deflater(deflate.client_bits, forgets=deflate.client_forgets)

    def message(self, data: bytes, *, is_text: bool) -> Iterator[bytes]:
        """Its frames, one after another as each is asked for."""
        deflater = self._deflater if len(data) >= _WORTH_DEFLATING else None
        opcode = TEXT if is_text else BINARY
        step = 4 * _SLICE
        starts = range(0, len(data) or 1, step)
        for start in starts:
            is_last = start == starts[-1]
            piece = data[start : start + step]
            if deflater is not None:
                piece = deflater.feed(piece) + (deflater.end() if is_last else b"")
                if not piece and not is_last:
                    continue  # it waits for more
            is_deflated = deflater is not None and opcode != CONTINUATION
            yield _frame(opcode, piece, is_final=is_last, is_deflated=is_deflated)
            opcode = CONTINUATION

    @staticmethod
    def control(opcode: int, data: bytes = b"") -> bytes:
        return _frame(opcode, data, is_final=True)

    @staticmethod
    def close(code: int, reason: bytes = b"") -> bytes:
        """A close frame; 1005 is one that says nothing."""
        return _frame(CLOSE, b"" if code == 1005 else struct.pack("!H", code) + reason, is_final=True)


def _frame(opcode: int, data: bytes, *, is_final: bool, is_deflated: bool = False) -> bytes:
    first = opcode | is_final << 7 | is_deflated << 6
    size = len(data)
    if size <= _MAX_CONTROL:
        head = struct.pack("!BB", first, 0x80 | size)
    elif size <= 0xFFFF:
        head = struct.pack("!BBH", first, 0xFE, size)
    else:
        head = struct.pack("!BBQ", first, 0xFF, size)
    key = os.urandom(4)  # from a strong source of entropy (RFC 6455, 5.3)
    return head + key + _masked(data, key)


def _masked(data: bytes, key: bytes) -> bytes:
    size = len(data)
    pattern = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(pattern, "little")).to_bytes(size, "little")
