"""web_content ── request_server: one per page load, so all it holds belongs to that page.

And browser ── request_server, which asks before it fetches a document: so it knows whose requests they are from the
browser, whatever the page says.
"""

import enum
from typing import Annotated

import msgspec
from msgspec import Meta

from .base import Blob, ByteCount, HeaderName, HeaderValue, Interface, Milliseconds, Reply, Request, Url
from .control import CONTROL
from .cookies import ForgetCookies, GetCookies, StoreCookies
from .event_source import CloseEventSource, NextEvent, OpenEventSource
from .http_cache import CacheGet, CachePut, CacheUse
from .transfers import CloseTransfer, HoldFile, NextPiece, OpenTransfer
from .web_socket import CloseWebSocket, NextWebSocketMessage, OpenWebSocket, SendWebSocket

__all__ = [
    "MAX_REQUEST_BODY",
    "REQUESTS",
    "REQUEST_CONTROL",
    "ClientHints",
    "Credentials",
    "CredentialsMode",
    "Destination",
    "DocumentAllowed",
    "DocumentFrom",
    "Fetch",
    "Fetched",
    "Mode",
    "Options",
    "PreloadOptions",
    "ReferrerPolicy",
    "ResponseType",
]

HintText = Annotated[
    str, Meta(max_length=64, pattern=r"^[ !#-\[\]-~]*\Z")
]  # printable, no quote, no backslash
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


class Credentials(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A name and a password for one origin."""

    username: Annotated[str, Meta(max_length=256, pattern=r"^[^:\x00-\x1f\x7f]*\Z")]  # RFC 7617, 2
    password: Annotated[str, Meta(max_length=256, pattern=r"^[^\x00-\x1f\x7f]*\Z")]


class ClientHints(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What ``Sec-CH-UA`` and its like say (User-Agent Client Hints, WICG): the same as the user agent, in other
    words. ``brands`` are names and their major versions."""

    brands: Annotated[tuple[tuple[HintText, HintText], ...], Meta(max_length=8)]
    platform: HintText
    mobile: bool = False


class PreloadOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Read in the zygote, before lock-down: what only files have."""

    extra_roots: Annotated[str, Meta(max_length=4 * 1024 * 1024)] = ""  # PEM certificates


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Start options: the limits of one page load, and whose it is; set by the browser and by nobody else.

    ``document`` is the URL of the page's document, or "" where there is none yet: the one that the browser allows next
    takes its place. ``is_opaque`` where the page is not of that URL's origin, though it is told as the referrer: what
    set_content() was given. ``for_browser`` where no page asks, but the browser itself: nothing is kept from it.
    """

    user_agent: Annotated[str, Meta(max_length=512)]
    max_requests: Annotated[int, Meta(ge=1, le=100_000)] = 500
    max_redirects: Annotated[int, Meta(ge=0, le=100)] = 20
    max_response_bytes: ByteCount = 64 * 1024 * 1024  # of one decoded body
    max_total_bytes: ByteCount = 256 * 1024 * 1024  # of all decoded bodies
    request_timeout: Milliseconds = 30_000
    client_hints: ClientHints | None = None
    document: Annotated[str, Meta(max_length=8192)] = ""
    is_opaque: bool = False
    for_browser: bool = False
    cache: CacheUse = CacheUse.OFF  # for a document that is there already


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


class DocumentAllowed(Reply, frozen=True):
    """Go on. ``credentials`` are for the origin of that URL, should it ask for them. None are given where another
    origin redirected this very request_server: it may have taken it over.

    ``cache`` is about what is kept for the document's site. ``has_cookies``: whether there are any for it.
    ``is_cross_site``: whether another site's redirects led there, before this request_server."""

    credentials: Credentials | None = None
    cache: CacheUse = CacheUse.OFF
    has_cookies: bool = False
    is_cross_site: bool = False


class DocumentFrom(Request[DocumentAllowed], frozen=True):
    """The page's document is about to be asked for at ``url``, where ``redirects`` have led.

    Said before the server there is spoken to, so that what is said of a server is said by a process that has not
    read a byte of it. The last URL that was allowed is where the document came from. Fails with OTHER_SITE where that
    is another site than before: the page starts over there, in processes that have read nothing.
    """

    url: Url
    redirects: Annotated[int, Meta(ge=0, le=100)]


REQUESTS = Interface(
    "request_server",
    client=(
        Fetch,
        OpenWebSocket,
        SendWebSocket,
        NextWebSocketMessage,
        CloseWebSocket,
        OpenEventSource,
        NextEvent,
        CloseEventSource,
        HoldFile,
        OpenTransfer,
        NextPiece,
        CloseTransfer,
    ),
)

REQUEST_CONTROL = Interface(
    "request_server.control",
    client=(*CONTROL.client, ForgetCookies),
    server=(*CONTROL.server, DocumentFrom, CacheGet, CachePut, GetCookies, StoreCookies),
)
"""browser ── request_server."""
