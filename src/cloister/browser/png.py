"""Pixels to PNG, in the browser's own process.

A screenshot that a page's process encoded itself could be anything. This one is a well-formed PNG whatever the
process wrote into the bitmap, so the picture of a hostile page is safe to open. Encoding is not parsing: deflate
takes any bytes, and nothing here branches on them.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["PngWriter", "encode_rgba"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"  # PNG specification (W3C, third edition), 5.2
_RGB, _RGBA = 2, 6  # colour types, 11.2.1
_LEVEL = 1
"""Deflate effort. On a page of text 4 takes half as long again and 6 twice as long, for files 3 % smaller."""


_NONE, _UP = b"\x00", b"\x02"
"""Filters of a row, 9.2: as it is, and as what it differs by from the one above."""
_PIECE = 64 * 1024  # bytes that are compressed at once: what fits into a processor's nearer memory

_ZLIB_HEADER = b"\x78\x01"  # RFC 1950, 2.2: deflate, a window of 32 KiB, the fastest level
_LAST_BLOCK = b"\x03\x00"  # RFC 1951, 3.2.6: the last block, with the fixed codes, and empty
_ADLER = 65521


class PngWriter:
    """Encodes an image band by band, so that a page of any height needs the memory of a few bands.

    The bands may be encoded at the same time, in threads: each becomes a piece of one deflate stream that refers to
    no other (RFC 1951: a sync flush ends on a byte), and their checksums are combined in the end.
    """

    def __init__(self, width: int, height: int) -> None:
        self._width = width
        self._height = height
        self._bands: dict[int, _Band] = {}

    def encode(self, row: int, rows: Iterable[bytes]) -> None:
        """The band that begins at ``row``: its rows as RGB, top first."""
        deflate = zlib.compressobj(_LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)
        again = _UP + bytes(self._width * 3)
        together = max(1, _PIECE // len(again))
        parts: list[bytes] = []
        pieces: list[bytes] = []
        checksum, size, above = 1, 0, b""

        def compress() -> None:
            nonlocal checksum, size
            data = b"".join(pieces)
            pieces.clear()
            checksum = zlib.adler32(data, checksum)
            size += len(data)
            parts.append(deflate.compress(data))

        for rgb in rows:
            if len(rgb) != self._width * 3:
                raise ValueError(f"a row of {len(rgb)} bytes is not {self._width} pixels of RGB")
            if rgb == above:  # as half of a page of text is
                pieces.append(again)
            else:
                pieces.append(_NONE + rgb)
                above = rgb
            if len(pieces) == together:
                compress()
        compress()
        parts.append(deflate.flush(zlib.Z_SYNC_FLUSH))
        self._bands[row] = _Band(b"".join(parts), checksum, size)

    def finish(self) -> bytes:
        """The whole file."""
        stride, done = self._width * 3 + 1, 0
        checksum, parts = 1, [_ZLIB_HEADER]
        for row, band in sorted(self._bands.items()):
            if row * stride != done:
                raise ValueError(f"the rows before {row} were never added, or twice")
            done += band.size
            checksum = _combined(checksum, band)
            parts.append(band.data)
        if done != self._height * stride:
            raise ValueError(f"{done // stride} of {self._height} rows were added")
        parts += [_LAST_BLOCK, checksum.to_bytes(4, "big")]
        header = _header(self._width, self._height, _RGB)
        return b"".join((_SIGNATURE, header, _chunk(b"IDAT", b"".join(parts)), _chunk(b"IEND", b"")))


class _Band(NamedTuple):
    data: bytes
    checksum: int
    size: int
    """Bytes before compression."""


def _combined(checksum: int, band: _Band) -> int:
    """The Adler-32 (RFC 1950, 9) of what ``checksum`` is of and of ``band`` after it.

    Its low half is 1 plus the sum of the bytes, its high half the sum of the low halves after each byte: over the
    band, each of those is larger by what the low half was before it.
    """
    low, high = checksum & 0xFFFF, checksum >> 16
    band_low, band_high = band.checksum & 0xFFFF, band.checksum >> 16
    return (high + band_high + band.size * (low - 1)) % _ADLER << 16 | (low + band_low - 1) % _ADLER


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
    """Each row as it is. Screens are mostly flat, and deflate finds that by itself."""
    view = memoryview(pixels)
    return b"".join(
        part for start in range(0, len(pixels), stride) for part in (_NONE, view[start : start + stride])
    )
