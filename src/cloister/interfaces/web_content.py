"""browser ── web_content: what the browser asks of a page, and the few things that a page may ask of it."""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from .base import Blob, Descriptor, Event, Interface, Pixels, Reply, Request, Url
from .control import CONTROL

__all__ = [
    "PAGE",
    "WEB_CONTENT_CONTROL",
    "AddPage",
    "GetLinks",
    "GetText",
    "ImageDecoderReady",
    "Link",
    "LinkList",
    "Links",
    "Load",
    "LoadFile",
    "Loaded",
    "NewImageDecoder",
    "NewRequestServer",
    "Options",
    "Paint",
    "Painted",
    "Pdf",
    "PrintToPdf",
    "Progress",
    "RequestServerReady",
    "SetContent",
    "TextFormat",
    "TextResult",
]

Title = Annotated[str, Meta(max_length=2000)]
Points = Annotated[float, Meta(ge=0, le=20_000)]
HeaderName = Annotated[str, Meta(min_length=1, max_length=128)]
HeaderValue = Annotated[str, Meta(max_length=4096)]
Side = Annotated[int, Meta(ge=1, le=16_384)]


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Start options."""

    width: Side = 1280
    height: Side = 720
    max_images: Annotated[int, Meta(ge=0, le=10_000)] = 200
    max_image_pixels: Annotated[int, Meta(ge=1, le=2**30)] = 128 * 1000 * 1000  # of all images of the page


class AddPage(Event, frozen=True):
    """Serve one more page of the same site: its page channel comes with this."""

    descriptors = (Descriptor.SOCKET,)

    options: Options


class Loaded(Reply, frozen=True):
    """The document is parsed, its subresources are there and it is laid out. Sizes in CSS pixels. The browser knows
    where it came from: a page that names another ``url`` is ended."""

    url: Url
    status: Annotated[int, Meta(ge=0, le=999)]  # 0: not from HTTP
    title: Title
    headers: Annotated[tuple[tuple[HeaderName, HeaderValue], ...], Meta(max_length=128)]
    document_width: Pixels
    document_height: Pixels
    missing: Annotated[int, Meta(ge=0, le=100_000)] = 0  # subresources that could not be had


class Load(Request[Loaded], frozen=True):
    """Fetch ``url`` as a document. Fails with whatever the fetch failed with, or UNSUPPORTED_TYPE."""

    url: Url


class SetContent(Request[Loaded], frozen=True):
    """Show this document. ``content_type`` as in HTTP; without a charset the document's own rules hold."""

    body: Blob
    base_url: Url = "about:blank"
    content_type: HeaderValue = "text/html; charset=utf-8"


class LoadFile(Request[Loaded], frozen=True):
    """Show the file that the browser opened: the page gets its bytes, never its folder."""

    descriptors = (Descriptor.FILE,)

    name: Annotated[str, Meta(max_length=255)]  # to guess the type by its ending; not a path


class Painted(Reply, frozen=True):
    """The bitmap is painted."""


class Paint(Request[Painted], frozen=True):
    """Paint the rectangle (CSS pixels = device pixels) of the document into the bitmap that comes with this:
    RGB on white, ``width * 3`` bytes a row, top row first."""

    descriptors = (Descriptor.BITMAP,)

    x: Pixels
    y: Pixels
    width: Side
    height: Side


class Pdf(Reply, frozen=True):
    body: Blob
    pages: Annotated[int, Meta(ge=1, le=100_000)]


class PrintToPdf(Request[Pdf], frozen=True):
    """Lay the document out for print. Sizes in points (1/72 inch)."""

    width: Points = 595.28  # A4, ISO 216
    height: Points = 841.89
    margin_top: Points = 0.0
    margin_right: Points = 0.0
    margin_bottom: Points = 0.0
    margin_left: Points = 0.0


class TextFormat(enum.StrEnum):
    TEXT = "text"  # the visible text of the whole page
    MARKDOWN = "markdown"  # the main content
    HTML = "html"  # the document as it stands, serialized


class TextResult(Reply, frozen=True):
    body: Blob  # UTF-8


class GetText(Request[TextResult], frozen=True):
    format: TextFormat


class Link(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One ``<a href>`` or ``<area href>``, resolved."""

    url: Url
    text: Annotated[str, Meta(max_length=1000)]


LinkList = Annotated[tuple[Link, ...], Meta(max_length=10_000)]


class Links(Reply, frozen=True):
    body: Blob  # msgpack of a LinkList


class GetLinks(Request[Links], frozen=True):
    pass


class ImageDecoderReady(Reply, frozen=True):
    """A channel to a fresh image_decoder comes with this."""

    descriptors = (Descriptor.SOCKET,)


class NewImageDecoder(Request[ImageDecoderReady], frozen=True):
    """The page wants to decode one image."""


class RequestServerReady(Reply, frozen=True):
    """A channel to a fresh request_server comes with this; the one before it is gone."""

    descriptors = (Descriptor.SOCKET,)


class NewRequestServer(Request[RequestServerReady], frozen=True):
    """The page wants to fetch something."""


class Progress(Event, frozen=True):
    """How far the load is: subresources done, of those found so far."""

    done: Annotated[int, Meta(ge=0, le=1_000_000)]
    total: Annotated[int, Meta(ge=0, le=1_000_000)]


PAGE = Interface(
    "web_content",
    client=(Load, SetContent, LoadFile, Paint, PrintToPdf, GetText, GetLinks),
    server=(NewImageDecoder, NewRequestServer, Progress),
)

WEB_CONTENT_CONTROL = Interface(
    "web_content.control", client=(*CONTROL.client, AddPage), server=CONTROL.server
)
"""browser ── web_content, beside its pages."""
