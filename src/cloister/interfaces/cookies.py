"""browser ── request_server: cookies (RFC 6265bis), which the request_server reads and the browser keeps."""

import enum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from .base import Blob, Event, Reply, Request

__all__ = [
    "MAX_COOKIES",
    "MAX_COOKIES_BYTES",
    "MAX_PAIR",
    "Cookie",
    "CookieList",
    "Cookies",
    "CookiesStored",
    "ForgetCookies",
    "GetCookies",
    "SameSite",
    "StoreCookies",
]

MAX_COOKIES: Final = 600
"""Cookies of one site's pages, those of third parties on them included."""
MAX_PAIR: Final = 4096
"""Bytes of a name and its value together (5.6)."""
MAX_COOKIES_BYTES: Final = MAX_COOKIES * 11 * 1024
"""Bytes of a :data:`CookieList`: 5.5 KiB of text in each, of which a character may take two on the wire."""

Name = Annotated[str, Meta(max_length=MAX_PAIR, pattern=r"^[\t\x20-\x3a\x3c\x3e-\x7e\x80-\xff]*\Z")]
Value = Annotated[str, Meta(max_length=MAX_PAIR, pattern=r"^[\t\x20-\x3a\x3c-\x7e\x80-\xff]*\Z")]
Domain = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[!-~]+\Z")]
Path = Annotated[str, Meta(max_length=1024, pattern=r"^/[\t\x20-\x7e\x80-\xff]*\Z")]
Seconds = Annotated[int, Meta(ge=0, le=2**42)]  # since 1970
Site = Annotated[str, Meta(max_length=270)]


class SameSite(enum.StrEnum):
    """With which requests that another site had a hand in a cookie goes. LAX is what a cookie is that says nothing."""

    STRICT = "Strict"
    LAX = "Lax"
    NONE = "None"


class Cookie(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One cookie. Each character of its texts is a byte of what the server sent (latin-1).

    ``created`` are nanoseconds since 1970. One whose time ``expires`` has passed is none any more: the browser is told
    so to forget it. Raises ValueError where name and value are more than :data:`MAX_PAIR` together.
    """

    name: Name
    value: Value
    domain: Domain
    path: Path
    host_only: bool
    secure: bool
    http_only: bool
    same_site: SameSite
    expires: Seconds | None
    created: Annotated[int, Meta(ge=0, le=2**63 - 1)]

    def __post_init__(self) -> None:
        if len(self.name) + len(self.value) > MAX_PAIR:
            raise ValueError(f"a cookie's name and value have at most {MAX_PAIR} bytes")


CookieList = Annotated[tuple[Cookie, ...], Meta(max_length=MAX_COOKIES)]


class Cookies(Reply, frozen=True):
    """What there is for the pages of ``site``: "" for a document that has none, which gets no cookies."""

    site: Site
    body: Blob  # msgpack of a CookieList


class GetCookies(Request[Cookies], frozen=True):
    """All cookies that the document, and what is on it, may have. Which these are is the browser's to know."""


class CookiesStored(Reply, frozen=True):
    pass


class StoreCookies(Request[CookiesStored], frozen=True):
    """Keep these for the pages of the document's site, in place of those of the same name, domain and path."""

    body: Blob  # msgpack of a CookieList


class ForgetCookies(Event, frozen=True):
    """Others have changed the cookies: ask for them again before the next request."""
