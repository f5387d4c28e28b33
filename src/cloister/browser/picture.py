"""From a page's bitmaps to a PNG: painted band by band, and compressed by this process from plain pixels."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

from ..interfaces.web_content import Paint
from ..ipc import Descriptors, memory
from .png import PngWriter

__all__ = ["MAX_SCREENSHOT_PIXELS", "take"]

MAX_SCREENSHOT_PIXELS = 2**28
"""268 megapixels: a page 1280 wide and 209,000 high. What a page says of its height is its own claim."""
_BAND_PIXELS = 2**20  # 4 MiB of BGRA in each bitmap
_BANDS_AT_ONCE = 3  # one is painted while two are compressed
_SLICE = 256 * 1024  # bytes of pixels that are encoded at once


async def take(width: int, height: int, paint: Callable[[Paint, int], Awaitable[object]]) -> bytes:
    """A PNG of the document's first ``width`` x ``height`` pixels. ``paint`` has a band painted into the bitmap whose
    descriptor it is given, which it closes. While one band is encoded in a thread, the page paints the next."""
    rows = _rows_of_a_band(width, height)
    writer = PngWriter(width, height)
    encoding: set[asyncio.Future[None]] = set()
    try:
        for y in range(0, height, rows):
            band = min(rows, height - y)
            fd = memory.create_bitmap(width * band * 4)
            bitmap = Descriptors([fd])
            try:
                await paint(Paint(0, y, width, band), os.dup(fd))
            except BaseException:
                bitmap.close()  # now: whoever keeps the error keeps this frame
                raise
            work = asyncio.to_thread(_encode, writer, bitmap, y, width * 4, band)
            encoding.add(asyncio.ensure_future(work))
            if len(encoding) >= _BANDS_AT_ONCE:
                done, encoding = await asyncio.wait(encoding, return_when=asyncio.FIRST_COMPLETED)
                for each in done:
                    each.result()
        await asyncio.gather(*encoding)
        return writer.finish()
    finally:
        await asyncio.gather(*encoding, return_exceptions=True)  # where one fails, another may have as well


def _rows_of_a_band(width: int, height: int) -> int:
    """A picture of one viewport is cut in four, to be painted and compressed at the same time."""
    return min(max(1, _BAND_PIXELS // width), -(-height // 4), 16_384)


def _encode(writer: PngWriter, bitmap: Descriptors, row: int, stride: int, rows: int) -> None:
    """In a thread: the rows of a bitmap, a few at a time, so that no copy of all of it is ever made."""
    fd = bitmap.take()
    try:
        with memory.map_bitmap(fd, stride * rows) as pixels:
            step = stride * max(1, _SLICE // stride)
            writer.encode(row, (pixels[start : start + step] for start in range(0, stride * rows, step)))
    finally:
        os.close(fd)
