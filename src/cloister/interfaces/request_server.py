"""web_content ── request_server: one per page load, so all it holds belongs to that page.

And browser ── request_server, which asks before it fetches a document.
"""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from .base import Blob, ByteCount, Interface, Milliseconds, Reply, Request, Url
from .control import CONTROL

__all__ = [
    "REQUESTS",
    "REQUEST_CONTROL",
    "Destination",
    "DocumentAllowed",
    "DocumentFrom",
    "Fetch",
    "Fetched",
    "Options",
    "PreloadOptions",
]

HeaderName = Annotated[str, Meta(min_length=1, max_length=128)]
HeaderValue = Annotated[str, Meta(max_length=4096)]


class Destination(enum.StrEnum):
    """What a response is for (Fetch standard, "request destination"); it decides the Accept header."""

    DOCUMENT = "document"
    STYLE = "style"
    IMAGE = "image"
    FONT = "font"


class PreloadOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Read in the zygote, before lock-down: what only files have."""

    extra_roots: Annotated[str, Meta(max_length=4 * 1024 * 1024)] = ""  # PEM certificates


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Start options: the limits of one page load, set by the browser and by nobody else."""

    user_agent: Annotated[str, Meta(max_length=512)]
    max_requests: Annotated[int, Meta(ge=1, le=100_000)] = 500
    max_redirects: Annotated[int, Meta(ge=0, le=100)] = 20
    max_response_bytes: ByteCount = 64 * 1024 * 1024  # of one decoded body
    max_total_bytes: ByteCount = 256 * 1024 * 1024  # of all decoded bodies
    request_timeout: Milliseconds = 30_000


class Fetched(Reply, frozen=True):
    """``url`` is where the redirects ended. ``headers`` are lower-case, 8 KiB together at most."""

    url: Url
    status: Annotated[int, Meta(ge=100, le=999)]
    content_type: HeaderValue  # the whole header, or ""
    headers: Annotated[tuple[tuple[HeaderName, HeaderValue], ...], Meta(max_length=128)]
    body: Blob
    requests: Annotated[int, Meta(ge=1, le=1000)] = 1  # 1 + redirects


class Fetch(Request[Fetched], frozen=True):
    """GET ``url``. Any status is a reply; a Failure means that there is no response."""

    url: Url
    destination: Destination
    referrer: Annotated[str, Meta(max_length=8192)] = ""


class DocumentAllowed(Reply, frozen=True):
    """Go on."""


class DocumentFrom(Request[DocumentAllowed], frozen=True):
    """The page's document is about to be asked for at ``url``, where ``redirects`` have led.

    Said before the server there is spoken to, so that what is said of a server is said by a process that has not
    read a byte of it. The last URL that was allowed is where the document came from. Fails with OTHER_SITE where the
    page's process is kept to one site, and this is another.
    """

    url: Url
    redirects: Annotated[int, Meta(ge=0, le=100)]


REQUESTS = Interface("request_server", client=(Fetch,))

REQUEST_CONTROL = Interface(
    "request_server.control", client=CONTROL.client, server=(*CONTROL.server, DocumentFrom)
)
"""browser ── request_server."""
