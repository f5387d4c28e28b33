"""From a page's bitmaps to a PNG: painted band by band, and compressed by this process from plain pixels."""

from __future__ import annotations

import asyncio
import mmap
import os
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from ..interfaces.web_content import Paint
from ..ipc import Descriptors, memory
from .png import PngWriter

__all__ = ["MAX_SCREENSHOT_PIXELS", "take"]

MAX_SCREENSHOT_PIXELS = 2**28
"""268 megapixels: a page 1280 wide and 209,000 high. What a page says of its height is its own claim."""
_BAND_PIXELS = 2**20  # 3 MiB of RGB in each bitmap
_BANDS_AT_ONCE = 3  # one is painted while two are compressed


async def take(width: int, height: int, paint: Callable[[Paint, int], Awaitable[object]]) -> bytes:
    """A PNG of the document's first ``width`` x ``height`` pixels. ``paint`` has a band painted into the bitmap whose
    descriptor it is given, which it closes. While one band is encoded in a thread, the page paints the next."""
    rows = _rows_of_a_band(width, height)
    writer = PngWriter(width, height)
    encoding: set[asyncio.Future[None]] = set()
    try:
        for y in range(0, height, rows):
            band = min(rows, height - y)
            fd = memory.create_bitmap(width * band * 3)
            bitmap = Descriptors([fd])
            try:
                await paint(Paint(0, y, width, band), os.dup(fd))
            except BaseException:
                bitmap.close()  # now: whoever keeps the error keeps this frame
                raise
            threads = 1 if y + band < height else 2  # the page paints no more: there is a core to spare
            encoding.add(asyncio.ensure_future(_encode(writer, bitmap, _Band(y, band, width * 3), threads)))
            if len(encoding) >= _BANDS_AT_ONCE:
                done, encoding = await asyncio.wait(encoding, return_when=asyncio.FIRST_COMPLETED)
                for each in done:
                    each.result()
        await asyncio.gather(*encoding)
        return writer.finish()
    finally:
        await asyncio.gather(*encoding, return_exceptions=True)  # where one fails, another may have as well


def _rows_of_a_band(width: int, height: int) -> int:
    """A picture of one viewport is cut in three, so that one part is compressed while the next is painted. More parts
    would be more to wait for: what waits is woken when a processor is free, or 4 ms later."""
    return min(max(1, _BAND_PIXELS // width), -(-height // 3), 16_384)


class _Band(NamedTuple):
    row: int
    rows: int
    stride: int


async def _encode(writer: PngWriter, bitmap: Descriptors, band: _Band, threads: int) -> None:
    """Close the bitmap once its rows are encoded, one by one, so that no copy of all of it is ever made."""
    fd = bitmap.take()
    try:
        pixels = memory.map_bitmap(fd, band.rows * band.stride)
    finally:
        os.close(fd)
    with pixels:
        part = -(-band.rows // threads)
        work = (
            asyncio.to_thread(_encode_rows, writer, pixels, band, range(first, min(first + part, band.rows)))
            for first in range(0, band.rows, part)
        )
        for outcome in await asyncio.gather(*work, return_exceptions=True):  # none may read what is unmapped
            if outcome is not None:
                raise outcome


def _encode_rows(writer: PngWriter, pixels: mmap.mmap, band: _Band, rows: range) -> None:
    """In a thread."""
    stride = band.stride
    writer.encode(band.row + rows.start, (pixels[row * stride : (row + 1) * stride] for row in rows))
