"""web_content ── request_server: what a page asks for, and gets. Nothing in here opens a WebSocket."""

import enum
from typing import Annotated

from msgspec import Meta

from .base import Blob, HeaderName, HeaderValue, Interface, Reply, Request, Url

__all__ = [
    "FETCHES",
    "MAX_REQUEST_BODY",
    "CredentialsMode",
    "Destination",
    "Fetch",
    "Fetched",
    "Mode",
    "ReferrerPolicy",
    "ResponseType",
]

Method = Annotated[
    str, Meta(max_length=32, pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
]  # RFC 9110, 5.6.2: token

MAX_REQUEST_BODY = 64 * 1024 * 1024
"""Bytes of :attr:`Fetch.body`."""


class Destination(enum.StrEnum):
    """What a response is for (Fetch standard, "request destination"); it decides the Accept header."""

    DOCUMENT = "document"
    STYLE = "style"
    IMAGE = "image"
    FONT = "font"
    SCRIPT = "script"
    EMPTY = "empty"  # for the page's own code: the standard's ""


class Mode(enum.StrEnum):
    """By which rules another origin is asked (Fetch standard, "request mode")."""

    NO_CORS = "no-cors"  # what it answers is shown at most
    CORS = "cors"  # it has to agree that the page reads it
    SAME_ORIGIN = "same-origin"  # it is not asked
    NAVIGATE = "navigate"


class CredentialsMode(enum.StrEnum):
    """To whom a request says who the user is (Fetch standard, "request credentials mode")."""

    OMIT = "omit"
    SAME_ORIGIN = "same-origin"
    INCLUDE = "include"


class ResponseType(enum.StrEnum):
    """How much of a response a page has (Fetch standard, "response type")."""

    BASIC = "basic"  # all of it: its own origin's, or its document
    CORS = "cors"  # what that origin said
    OPAQUE = "opaque"  # what can be shown of another origin's, and only to show it


class ReferrerPolicy(enum.StrEnum):
    """What of the page's URL a server is told (Referrer Policy, W3C)."""

    NO_REFERRER = "no-referrer"
    NO_REFERRER_WHEN_DOWNGRADE = "no-referrer-when-downgrade"
    SAME_ORIGIN = "same-origin"
    ORIGIN = "origin"
    STRICT_ORIGIN = "strict-origin"
    ORIGIN_WHEN_CROSS_ORIGIN = "origin-when-cross-origin"
    STRICT_ORIGIN_WHEN_CROSS_ORIGIN = "strict-origin-when-cross-origin"
    UNSAFE_URL = "unsafe-url"


class Fetched(Reply, frozen=True):
    """``url`` is where the redirects ended. ``headers`` are lower-case, 8 KiB together at most.

    Of an ``OPAQUE`` one there is nothing but the body and its type: ``status`` is 0, ``headers`` are none, and ``url``
    is where a stylesheet is, whose URLs hang on it, or what was asked for.
    """

    url: Url
    status: Annotated[int, Meta(ge=0, le=999)]
    content_type: HeaderValue  # the whole header, or ""
    headers: Annotated[tuple[tuple[HeaderName, HeaderValue], ...], Meta(max_length=128)]
    body: Blob
    requests: Annotated[int, Meta(ge=1, le=1000)] = 1  # 1 + redirects
    kind: ResponseType = ResponseType.BASIC


class Fetch(Request[Fetched], frozen=True):
    """Ask for ``url``. Any status is a reply; a Failure means that there is no response.

    ``referrer`` is the document that asks, in full: how much of it the server is told is ``referrer_policy``'s to
    say. It has to be of the origin that the browser says the document is of, or a style sheet that was given; what the
    page may have is decided by that origin alone. ``headers`` go along with our own. ``mode`` and ``credentials``
    are of no account for a DOCUMENT. Fails with BAD_REQUEST for what the Fetch standard lets no page ask for, with
    CORS_REFUSED where another origin did not agree, and with CROSS_ORIGIN_BLOCKED where its answer is not what it
    was asked for as.
    """

    url: Url
    destination: Destination
    referrer: Annotated[str, Meta(max_length=8192)] = ""
    referrer_policy: ReferrerPolicy = ReferrerPolicy.STRICT_ORIGIN_WHEN_CROSS_ORIGIN
    method: Method = "GET"
    headers: Annotated[tuple[tuple[HeaderName, HeaderValue], ...], Meta(max_length=64)] = ()
    body: Blob = Blob(0, b"")
    mode: Mode = Mode.NO_CORS
    credentials: CredentialsMode = CredentialsMode.INCLUDE


FETCHES = Interface("request_server", client=(Fetch,))
