"""Pixels to PNG, in the browser's own process.

A screenshot that a page's process encoded itself could be anything. This one is a well-formed PNG whatever the
process wrote into the bitmap, so the picture of a hostile page is safe to open. Encoding is not parsing: deflate
takes any bytes, and nothing here branches on them.
"""

from __future__ import annotations

import struct
import zlib

__all__ = ["PngWriter", "encode_rgba"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"  # PNG specification (W3C, third edition), 5.2
_RGB, _RGBA = 2, 6  # colour types, 11.2.1
_LEVEL = 1
"""Deflate effort. On a page of text 4 takes half as long again and 6 twice as long, for files 3 % smaller."""


class PngWriter:
    """Encodes an image band by band, so that a page of any height needs the memory of one band.

    ``alpha`` tells whether pixels come as BGRA with an alpha that counts, or as BGRA that is opaque.
    """

    def __init__(self, width: int, height: int) -> None:
        self._width = width
        self._rows_left = height
        self._deflate = zlib.compressobj(_LEVEL)
        self._parts = [_SIGNATURE, _header(width, height, _RGB)]

    def add(self, bgra: bytes) -> None:
        """The next rows: opaque BGRA, whole rows, top first."""
        rows = len(bgra) // (self._width * 4)
        if rows * self._width * 4 != len(bgra) or rows > self._rows_left:
            raise ValueError("a band must have whole rows, and no more of them than the image")
        self._rows_left -= rows
        rgb = bytearray(rows * self._width * 3)
        for target, source in ((0, 2), (1, 1), (2, 0)):
            rgb[target::3] = bgra[source::4]
        data = self._deflate.compress(_filtered(rgb, self._width * 3))
        if data:
            self._parts.append(_chunk(b"IDAT", data))

    def finish(self) -> bytes:
        """The whole file."""
        if self._rows_left:
            raise ValueError(f"{self._rows_left} rows were never added")
        self._parts += [_chunk(b"IDAT", self._deflate.flush()), _chunk(b"IEND", b"")]
        return b"".join(self._parts)


def encode_rgba(width: int, height: int, rgba: bytes) -> bytes:
    """A PNG of ``rgba`` pixels with straight alpha."""
    if len(rgba) != width * height * 4:
        raise ValueError(f"{len(rgba)} bytes are not {width}x{height} RGBA pixels")
    data = zlib.compress(_filtered(rgba, width * 4), _LEVEL)
    return b"".join((_SIGNATURE, _header(width, height, _RGBA), _chunk(b"IDAT", data), _chunk(b"IEND", b"")))


def _header(width: int, height: int, color_type: int) -> bytes:
    return _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, color_type, 0, 0, 0))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def _filtered(pixels: bytes | bytearray, stride: int) -> bytes:
    """Each row behind its filter type: 0, none. Screens are mostly flat, and deflate finds that by itself."""
    view = memoryview(pixels)
    return b"".join(
        part for start in range(0, len(pixels), stride) for part in (b"\0", view[start : start + stride])
    )
