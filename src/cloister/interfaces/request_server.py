"""browser ── request_server: how one starts, and what it asks. There is one per page load, so all it holds belongs to
that page.

It asks before it fetches a document: so it knows whose requests they are from the browser, whatever the page says.
What is asked of it is in :mod:`.requests`.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from .base import ByteCount, Interface, Milliseconds, Reply, Request, Url
from .control import CONTROL
from .cookies import ForgetCookies, GetCookies, StoreCookies
from .http_cache import CacheGet, CachePut, CacheUse

__all__ = [
    "REQUEST_CONTROL",
    "ClientHints",
    "Credentials",
    "DocumentAllowed",
    "DocumentFrom",
    "Options",
    "PreloadOptions",
]

HintText = Annotated[
    str, Meta(max_length=64, pattern=r"^[ !#-\[\]-~]*\Z")
]  # printable, no quote, no backslash


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
    pages_only: bool = False
    """Whether no program will ask for anything: then there is nothing but what pages ask for (:mod:`.fetch`)."""


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


REQUEST_CONTROL = Interface(
    "request_server.control",
    client=(*CONTROL.client, ForgetCookies),
    server=(*CONTROL.server, DocumentFrom, CacheGet, CachePut, GetCookies, StoreCookies),
)
"""browser ── request_server."""
