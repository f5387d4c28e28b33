"""What a request says of us, and which of a response's headers the page gets to see."""

from __future__ import annotations

import re
from collections.abc import Iterator

import ada_url

from ..interfaces.request_server import Destination
from . import decoding, urls

__all__ = ["Headers", "content_type", "forwarded", "request", "values"]

Headers = list[tuple[bytes, bytes]]

MAX_FORWARDED = 64
MAX_FORWARDED_BYTES = 8 * 1024  # names and values, as UTF-8: the reply has to fit one packet
_MAX_CONTENT_TYPE = 1024

_ACCEPT = {
    Destination.DOCUMENT: "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    Destination.STYLE: "text/css,*/*;q=0.1",
    Destination.IMAGE: "image/avif,image/webp,image/svg+xml,image/*,*/*;q=0.8",
    Destination.FONT: "*/*",
}

# RFC 9110, 7.6.1, and what HTTP/1.0 left behind. Cookies stay here: the page has no business with them.
_WITHHELD = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "set-cookie",
        "set-cookie2",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# With the lengths of interfaces.request_server.HeaderName and HeaderValue.
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")  # RFC 9110, 5.6.2: token
_VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]{0,4096}")  # RFC 9110, 5.5: field-value


def request(url: ada_url.URL, destination: Destination, source: str, user_agent: str) -> Headers:
    """The headers of a GET of ``url`` that the page at ``source`` asked for."""
    headers = {
        "Host": url.host,
        "User-Agent": user_agent,
        "Accept": _ACCEPT[destination],
        "Accept-Encoding": decoding.ACCEPTED,
        "Accept-Language": "en",
    }
    if referer := urls.referrer(source, url):
        headers["Referer"] = referer
    return [(name.encode(), value.encode("ascii", "replace")) for name, value in headers.items()]


def values(headers: Headers, name: str) -> list[str]:
    """The values of every ``name`` header, in order."""
    wanted = name.encode()
    return [value.decode("latin-1") for key, value in headers if key.lower() == wanted]


def content_type(headers: Headers) -> str:
    """The ``Content-Type``: the last one, as in browsers, and "" for none or for one that is absurdly long."""
    types = values(_well_formed(headers), "content-type")
    return types[-1] if types and len(types[-1]) <= _MAX_CONTENT_TYPE else ""


def forwarded(headers: Headers) -> tuple[tuple[str, str], ...]:
    """The headers for the page: lower-case names, well-formed, without those that concern the connection only.

    One that does not fit is left out as a whole: half a value may mean something else than all of it.
    """
    left = MAX_FORWARDED_BYTES
    kept: list[tuple[str, str]] = []
    for name, value in _visible(headers):
        size = len(name) + len(value.encode())
        if size <= left and len(kept) < MAX_FORWARDED:
            kept.append((name, value))
            left -= size
    return tuple(kept)


def _well_formed(headers: Headers) -> Headers:
    """Those headers that HTTP allows and the page's interface has room for."""
    return [(name, value) for name, value in headers if _NAME.fullmatch(name) and _VALUE.fullmatch(value)]


def _visible(headers: Headers) -> Iterator[tuple[str, str]]:
    named = {name.strip().lower() for value in values(headers, "connection") for name in value.split(",")}
    for key, value in _well_formed(headers):
        name = key.decode().lower()
        if name not in _WITHHELD and name not in named:
            yield name, value.decode("latin-1")
