"""Content-Encoding undone piece by piece, so that no input, however made, is held decoded in one go.

Each decoder pushes what it decodes into a sink, at most :data:`MAX_STEP` bytes a call; a sink that has had
enough raises, and nothing more is decoded.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from typing import Protocol

import brotli
import zstandard

__all__ = ["ACCEPTED", "MAX_ENCODINGS", "MAX_STEP", "Decoder", "decoder", "encodings"]

ACCEPTED = "gzip, deflate, br, zstd"

MAX_ENCODINGS = 3
"""Each layer multiplies what one byte may become (gzip: 1,032; brotli and zstd: far more). Nobody needs two."""

MAX_STEP = 2 * 1024 * 1024 + 128 * 1024
"""Bytes that a decoder gives to its sink in one call. Most give less: this is what zstd may come to."""

_STEP = 64 * 1024

_ZSTD_SLICE = 64
"""zstd's Python binding cannot bound its output, so its input is bounded: a block takes 4 bytes at least and
becomes 128 KiB at most (RFC 8878, 3.1.1.2), so 64 bytes become 2 MiB and what was begun before them."""

_ZSTD_WINDOW = 8 * 1024 * 1024  # RFC 9659: the most that a zstd content encoding may ask a receiver to hold

Sink = Callable[[bytes], None]


class Decoder(Protocol):
    """Takes a body in pieces of any size."""

    def feed(self, data: bytes) -> None:
        """Decode ``data`` into the sink. Raises ValueError if it is damaged, and what the sink raises."""

    def finish(self) -> None:
        """The body is over. Raises ValueError if it lacks its end."""


class _Zlib:
    """gzip, of one or several members (RFC 1952, 2.2), and deflate. What follows its end is padding."""

    def __init__(self, sink: Sink, wbits: int) -> None:
        self._sink = sink
        self._wbits = wbits
        self._inflate = zlib.decompressobj(wbits)
        self._begun = False
        self._padding = False

    def feed(self, data: bytes) -> None:
        while data and not self._padding:
            self._begun = True
            if not self._inflate.eof:
                self._decompress(data)
                data = self._inflate.unused_data
            elif self._wbits == _GZIP and data[0] == _GZIP_MAGIC:
                self._inflate = zlib.decompressobj(self._wbits)
            else:
                self._padding = True

    def _decompress(self, data: bytes) -> None:
        more = True
        while more:
            try:
                decoded = self._inflate.decompress(data, _STEP)
            except zlib.error as error:
                raise ValueError(f"its compressed body is damaged ({error})") from None
            if decoded:
                self._sink(decoded)
            data = self._inflate.unconsumed_tail
            more = bool(data) or len(decoded) == _STEP  # a full piece may leave more inside zlib

    def finish(self) -> None:
        if self._begun and not self._inflate.eof:
            raise ValueError("its compressed body ends early")


_GZIP = 16 + zlib.MAX_WBITS
_GZIP_MAGIC = 0x1F


def _gzip(sink: Sink) -> Decoder:
    return _Zlib(sink, _GZIP)


class _Deflate:
    """``deflate`` is a zlib stream (RFC 9110, 8.4.1.2), but some servers send a raw one: two bytes tell."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._head = b""
        self._stream: _Zlib | None = None

    def feed(self, data: bytes) -> None:
        if self._stream is None:
            self._head += data
            if len(self._head) < 2:
                return
            is_zlib = (
                self._head[0] & 0x0F == 8 and int.from_bytes(self._head[:2], "big") % 31 == 0
            )  # RFC 1950, 2.2
            self._stream = _Zlib(self._sink, zlib.MAX_WBITS if is_zlib else -zlib.MAX_WBITS)
            data, self._head = self._head, b""
        self._stream.feed(data)

    def finish(self) -> None:
        if self._stream is not None:
            self._stream.finish()
        elif self._head:
            raise ValueError("its compressed body ends early")


class _Brotli:
    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._brotli = brotli.Decompressor()
        self._begun = False

    def feed(self, data: bytes) -> None:
        while data or not self._brotli.can_accept_more_data():
            self._begun = True
            try:
                decoded = self._brotli.process(data, output_buffer_limit=_STEP)
            except brotli.error:
                raise ValueError("its compressed body is damaged (brotli)") from None
            data = b""
            if decoded:
                self._sink(decoded)
            if self._brotli.is_finished():
                return

    def finish(self) -> None:
        if self._begun and not self._brotli.is_finished():
            raise ValueError("its compressed body ends early")


class _Zstd:
    """One frame after another (RFC 8878, 3.1)."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._zstd = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
        self._frame: zstandard.ZstdDecompressionObj | None = None

    def feed(self, data: bytes) -> None:
        for start in range(0, len(data), _ZSTD_SLICE):
            rest = data[start : start + _ZSTD_SLICE]
            while rest:
                rest = self._feed_frame(rest)

    def _feed_frame(self, data: bytes) -> bytes:
        """Give ``data`` to the current frame; return what comes after the frame's end."""
        if self._frame is None:
            self._frame = self._zstd.decompressobj()
        frame = self._frame
        try:
            decoded = frame.decompress(data)
        except zstandard.ZstdError as error:
            raise ValueError(f"its compressed body is damaged ({error})") from None
        if decoded:
            self._sink(decoded)
        if not frame.eof:
            return b""
        self._frame = None
        return frame.unused_data

    def finish(self) -> None:
        if self._frame is not None:
            raise ValueError("its compressed body ends early")


_DECODERS: dict[str, Callable[[Sink], Decoder]] = {
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _Deflate,
    "br": _Brotli,
    "zstd": _Zstd,
}


def encodings(values: Iterable[str]) -> list[str]:
    """The codings that the ``Content-Encoding`` headers ``values`` name, in the order they were applied.

    Empty if one of them is unknown: servers write all sorts of things there (``utf-8``, ``none``), and like a
    browser we then show the body as it came. Raises ValueError if there are too many.
    """
    names = [name.strip().lower() for value in values for name in value.split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if len(names) > MAX_ENCODINGS:
        raise ValueError(f"it is compressed {len(names)} times over; at most {MAX_ENCODINGS} are undone")
    return names if all(name in _DECODERS for name in names) else []


def decoder(names: Iterable[str], sink: Sink) -> Decoder:
    """Undoes ``names``, as :func:`encodings` gives them, and pushes the plain bytes into ``sink``."""
    stages: list[Decoder] = []
    for name in names:
        stages.insert(0, _DECODERS[name](stages[0].feed if stages else sink))
    return _Chain(stages, sink)


class _Chain:
    """Decoders in the order in which a body passes through them; without any, it passes as it is."""

    def __init__(self, stages: list[Decoder], sink: Sink) -> None:
        self._stages = stages
        self._first = stages[0].feed if stages else sink

    def feed(self, data: bytes) -> None:
        self._first(data)

    def finish(self) -> None:
        for stage in self._stages:
            stage.finish()
