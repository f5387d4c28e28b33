"""The laid-out page becomes pixels in memory that the browser reads too."""

from __future__ import annotations

import mmap

import plutoprint

from ..interfaces.web_content import Paint

__all__ = ["PIXEL", "lay_out", "paint"]

PIXEL = 0.75
"""Points in a CSS pixel: the engine measures pages in 1/72 inch."""

_CANVAS = "html { min-height: 100vh }"
"""The background of the root covers the whole canvas (CSS Backgrounds 3, 2.11.1); the engine paints it as far as
the document reaches, so a document reaches to the end of the viewport."""


_PIXELS_AT_ONCE = 16 * 1024  # what fits into a processor's nearer memory


def lay_out(
    html: str, base_url: str, width: int, height: int, fetcher: plutoprint.ResourceFetcher
) -> plutoprint.Book:
    """The page for a screen of ``width`` by ``height`` CSS pixels. Raises :class:`plutoprint.Error`."""
    book = plutoprint.Book(
        plutoprint.PageSize(width * PIXEL, height * PIXEL),
        plutoprint.PAGE_MARGINS_NONE,
        plutoprint.MEDIA_TYPE_SCREEN,
    )
    book.custom_resource_fetcher = fetcher
    book.load_html(html, user_style=_CANVAS, base_url=base_url)
    return book


def paint(book: plutoprint.Book, area: Paint, target: mmap.mmap) -> None:
    """Paint ``area`` of the document into ``target``: RGB on white, ``width * 3`` bytes a row."""
    bgra = bytearray(area.width * area.height * 4)
    canvas = plutoprint.ImageCanvas.create_for_data(memoryview(bgra), area.width, area.height, area.width * 4)
    canvas.clear_surface(1, 1, 1)
    canvas.translate(-area.x, -area.y)
    book.render_document(canvas, (area.x, area.y, area.width, area.height))
    canvas.finish()
    rgb = bytearray(_PIXELS_AT_ONCE * 3)
    for start in range(0, area.width * area.height, _PIXELS_AT_ONCE):
        end = min(start + _PIXELS_AT_ONCE, area.width * area.height)
        del rgb[(end - start) * 3 :]
        for colour in range(3):
            rgb[colour::3] = bgra[start * 4 + 2 - colour : end * 4 : 4]
        target[start * 3 : end * 3] = rgb
