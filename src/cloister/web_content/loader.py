"""How a document becomes a laid-out page: parse, make ready, fetch what it refers to, lay out."""

from __future__ import annotations

import functools
import math

import msgspec
import plutoprint

from ..errors import RequestFailed
from ..interfaces.base import FailureCode
from ..interfaces.fetch import ReferrerPolicy
from ..interfaces.web_content import Options
from ..ipc import Connection
from . import document as documents
from . import markup, paint, subresources
from .document import Kind, Source
from .images import Decoders
from .references import Found, References, Referrer
from .requests import Requests
from .resources import Resources
from .urls import INTERNAL, without_fragment

__all__ = ["Shown", "show"]

_NO_BASE = INTERNAL + "//page/"
"""For the layout engine, which wants a base URL: relative URLs lead nowhere where the document has none."""

_MAX_PIXELS = 2**24  # interfaces.base.Pixels
_MAX_TITLE = 2000  # characters


class Shown(msgspec.Struct):
    """A page that was laid out. The tree is gone by then: whoever wants text has it parsed again, in a millisecond
    for each 100 KB, and until then it takes no memory. The layout may go too: it takes 20 times the memory of the
    document, and :meth:`lay_out_again` makes it in the time that the first one took."""

    source: Source
    title: str
    base_url: str  # of the document
    engine_base: str  # the same for the layout engine
    html: str
    resources: Resources
    book: plutoprint.Book | None
    width: int
    height: int

    async def lay_out_again(self, options: Options) -> plutoprint.Book:
        """The layout, made anew if it is gone. Raises :class:`RequestFailed`."""
        if self.book is None:
            await self.resources.decode_again()
            self.book = _lay_out(self.html, self.engine_base, options, self.resources)
            self.resources.forget_bitmaps()
        return self.book


async def show(
    source: Source, page: Connection, requests: Requests, options: Options, report: subresources.Report
) -> Shown:
    """Load what ``source`` needs and lay it out. Raises :class:`RequestFailed`."""
    resources = Resources(requests, Decoders(page, options.max_images, options.max_image_pixels))
    document = source.parse()
    title = documents.title(document)[:_MAX_TITLE]
    base_url = markup.base_of(document, source.url)
    if source.url.startswith("http"):
        policy = markup.referrer_policy(document) or source.referrer_policy
        default = ReferrerPolicy.STRICT_ORIGIN_WHEN_CROSS_ORIGIN
        resources.referrer = Referrer(without_fragment(source.url), policy or default)
    if source.kind in {Kind.IMAGE, Kind.SVG}:
        await resources.adopt_document(source.body, source.content_type)
    found = Found()
    markup.prepare(document, References(base_url, resources.adopt, found, resources.referrer), options.width)
    await subresources.fetch_all(found, resources, report, functools.partial(markup.purge, document))
    html = markup.finish(document, resources.lacks)
    del document
    engine_base = base_url if base_url.startswith("http") else _NO_BASE
    book = _lay_out(html, engine_base, options, resources)
    width, height = _pixels(book.get_document_width()), _pixels(book.get_document_height())
    resources.forget_bitmaps()
    return Shown(source, title, base_url, engine_base, html, resources, book, width, height)


def _lay_out(html: str, base_url: str, options: Options, resources: Resources) -> plutoprint.Book:
    try:
        book = paint.lay_out(html, base_url, options.width, options.height, resources)
        book.get_document_height()  # it is laid out when somebody asks
        return book
    except plutoprint.Error as error:
        raise RequestFailed(FailureCode.LAYOUT_FAILED, f"the page could not be laid out: {error}") from error


def _pixels(length: float) -> int:
    return min(_MAX_PIXELS, math.ceil(length)) if math.isfinite(length) and length > 0 else 0
