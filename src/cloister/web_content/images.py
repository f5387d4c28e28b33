"""Foreign images: each is decoded in a fresh process, and becomes a bitmap that is written here."""

from __future__ import annotations

import os
import struct

from ..errors import BadMessage, RequestFailed
from ..interfaces.base import FailureCode
from ..interfaces.image_decoder import IMAGES, Decode, Decoded
from ..interfaces.web_content import NewImageDecoder
from ..ipc import Channel, Connection, Descriptors, memory
from ..ipc import blob as blobs

__all__ = ["Decoders", "bitmap"]

_TIMEOUT = 20.0  # seconds for one image: the largest that the limits admit takes a few

# BITMAPFILEHEADER, then BITMAPV4HEADER (Windows GDI, wingdi.h): the first version with an alpha mask.
_FILE_HEADER = struct.Struct("<2sIHHI")
_V4_HEADER = struct.Struct("<IiiHHIIiiIIIIIII36x12x")
_BI_BITFIELDS = 3
_LCS_SRGB = 0x73524742  # "sRGB"
_PER_METRE = 3780  # 96 pixels an inch


def bitmap(width: int, height: int, pixels: bytes | memoryview) -> bytes:
    """A BMP file of straight-alpha BGRA ``pixels``, top row first."""
    offset = _FILE_HEADER.size + _V4_HEADER.size
    size = width * height * 4
    return b"".join(
        (
            _FILE_HEADER.pack(b"BM", offset + size, 0, 0, offset),
            _V4_HEADER.pack(
                _V4_HEADER.size,
                width,
                -height,  # negative: rows go from the top down
                1,
                32,
                _BI_BITFIELDS,
                size,
                _PER_METRE,
                _PER_METRE,
                0,
                0,
                0x00FF0000,
                0x0000FF00,
                0x000000FF,
                0xFF000000,
                _LCS_SRGB,
            ),
            pixels,
        )
    )


class Decoders:
    """Image processes for one page, asked of the browser, within the page's limits.

    Each method raises :class:`RequestFailed` for an image that cannot be had, and what
    :class:`~cloister.ipc.Connection` raises when a process is gone or late.
    """

    def __init__(self, page: Connection, max_images: int, max_pixels: int) -> None:
        self._page = page
        self._limits = (max_images, max_pixels)
        self.begin_again()

    def begin_again(self) -> None:
        """Another layout of the same page has the same limits."""
        self._images_left, self._pixels_left = self._limits

    async def decode(self, data: bytes) -> bytes:
        """``data`` as a BMP file."""
        self._admit()
        _, fds = await self._page.request(NewImageDecoder(), timeout=_TIMEOUT)
        connection = Connection(Channel(fds.take()), IMAGES, "client")
        try:
            body, extra = blobs.pack(data)
            return self._accept(*await connection.request(Decode(body), extra, timeout=_TIMEOUT))
        except BadMessage:  # the decoder's, not the browser's
            raise RequestFailed(FailureCode.IMAGE_BROKEN, "its decoder broke the protocol") from None
        finally:
            connection.close()

    def decode_blocking(self, data: bytes) -> bytes:
        """The same inside a callback of the layout engine."""
        self._admit()
        _, fds = self._page.request_blocking(NewImageDecoder(), timeout=_TIMEOUT)
        connection = Connection(Channel(fds.take()), IMAGES, "client")
        try:
            body, extra = blobs.pack(data)
            return self._accept(*connection.request_blocking(Decode(body), extra, timeout=_TIMEOUT))
        finally:
            connection.close()

    def _admit(self) -> None:
        if self._images_left <= 0:
            raise RequestFailed(FailureCode.TOO_MANY_REQUESTS, "this page may show no more images")
        self._images_left -= 1

    def _accept(self, decoded: Decoded, fds: Descriptors) -> bytes:
        pixels = decoded.width * decoded.height
        if pixels > self._pixels_left:
            raise RequestFailed(FailureCode.IMAGE_TOO_LARGE, "the images of this page are too large together")
        self._pixels_left -= pixels
        fd = fds.take()
        try:
            with memory.map_sealed(fd, pixels * 4) as mapped, memoryview(mapped) as view:
                return bitmap(decoded.width, decoded.height, view)
        finally:
            os.close(fd)
