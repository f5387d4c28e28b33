"""What a request says of us, and which of a response's headers the page gets to see."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import ada_url

from ..errors import RequestFailed
from ..interfaces.base import FailureCode
from ..interfaces.fetch import Destination, Fetch
from ..interfaces.request_server import ClientHints, Options
from ..interfaces.transfers import MAX_HEADERS, MAX_HEADERS_BYTES
from . import decoding, urls
from .exchange import Headers
from .step import Relation, Step

__all__ = [
    "all_of",
    "are_well_formed",
    "content_type",
    "forwarded",
    "given",
    "metadata",
    "method",
    "of_program",
    "own",
    "request",
    "values",
]

_NONE: Final[Headers] = []

MAX_FORWARDED = 64
MAX_FORWARDED_BYTES = 8 * 1024  # names and values, as UTF-8: the reply has to fit one packet
_MAX_CONTENT_TYPE = 1024

_ACCEPT = {
    Destination.DOCUMENT: "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    Destination.STYLE: "text/css,*/*;q=0.1",
    Destination.IMAGE: "image/avif,image/webp,image/svg+xml,image/*,*/*;q=0.8",
    Destination.FONT: "*/*",
    Destination.SCRIPT: "*/*",
    Destination.EMPTY: "*/*",
}
_RELATIONS = {
    Relation.SAME_ORIGIN: "same-origin",
    Relation.SAME_SITE: "same-site",
    Relation.CROSS_SITE: "cross-site",
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
# Fetch standard, "forbidden request-header", and Expect, which would have us wait.
_FORBIDDEN = frozenset(
    {
        "accept-charset",
        "accept-encoding",
        "access-control-request-headers",
        "access-control-request-method",
        "access-control-request-private-network",
        "connection",
        "content-length",
        "cookie",
        "cookie2",
        "date",
        "dnt",
        "expect",
        "host",
        "keep-alive",
        "origin",
        "referer",
        "set-cookie",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
    }
)
# What frames a message, or has us wait: nobody is helped by another word on it than ours.
_FRAMING = frozenset(
    {"connection", "content-length", "expect", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)
_OURS = frozenset({"accept-encoding", "host"})  # where an answer is read here
_FORBIDDEN_METHODS = frozenset({"CONNECT", "TRACE", "TRACK"})
_OVERRIDES = frozenset({"x-http-method", "x-http-method-override", "x-method-override"})
_ASCII_VALUE = re.compile(r"[\t\x20-\x7e]{0,4096}")
# With the lengths of interfaces.request_server.HeaderName and HeaderValue.
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")  # RFC 9110, 5.6.2: token
_VALUE = re.compile(rb"[^\x00-\x08\x0a-\x1f\x7f]{0,4096}")  # RFC 9110, 5.5: field-value


def request(url: ada_url.URL, destination: Destination, options: Options, own: Headers = _NONE) -> Headers:
    """The headers of a request for ``url``, whatever its method: ours, and those of the page's ``own`` that replace
    or follow them."""
    headers = {
        "Host": url.host,
        "User-Agent": options.user_agent,
        "Accept": _ACCEPT[destination],
        "Accept-Encoding": decoding.ACCEPTED,
        "Accept-Language": "en",
    }
    if options.client_hints is not None and url.protocol == "https:":
        headers |= _hints(options.client_hints)
    made = {name.lower().encode(): (name.encode(), _ascii(value)) for name, value in headers.items()}
    replaced = {name.lower() for name, _ in own}
    return [header for name, header in made.items() if name not in replaced] + own


def metadata(step: Step, destination: Destination) -> Headers:
    """What tells a server whose request it is, so that it can refuse other sites' (Fetch Metadata, W3C). A document is
    asked for by who uses the browser."""
    if not urls.is_trustworthy(step.url):
        return []
    is_document = destination is Destination.DOCUMENT
    told = {
        "Sec-Fetch-Site": "none" if is_document else _RELATIONS[step.relation],
        "Sec-Fetch-Mode": step.mode.value,
        "Sec-Fetch-Dest": destination.value,
    }
    if is_document:
        told["Sec-Fetch-User"] = "?1"
    return [(name.encode(), value.encode()) for name, value in told.items()]


def own(fetch: Fetch) -> Headers:
    """The headers that the page wants to send. Raises :class:`RequestFailed` (BAD_REQUEST) for what the Fetch standard
    forbids a page: such a header says something of the connection, or in our name."""
    if fetch.method.upper() in _FORBIDDEN_METHODS:
        raise RequestFailed(FailureCode.BAD_REQUEST, f"a page may not use {fetch.method}")
    for name, value in fetch.headers:
        key = name.lower()
        if key in _FORBIDDEN or key.startswith(("proxy-", "sec-")):
            raise RequestFailed(FailureCode.BAD_REQUEST, f"a page may not set the header {name}")
        if key in _OVERRIDES and {each.strip().upper() for each in value.split(",")} & _FORBIDDEN_METHODS:
            raise RequestFailed(FailureCode.BAD_REQUEST, f"a page may not use {value} by way of {name}")
    return _encoded(fetch.headers)


def of_program(fetch: Fetch) -> Headers:
    """The headers that the program wants to send, whose own requests these are. Raises :class:`RequestFailed`
    (BAD_REQUEST) for what says where the message ends."""
    if fetch.method.upper() == "CONNECT":
        raise RequestFailed(FailureCode.BAD_REQUEST, "CONNECT is for proxies")
    for name, _ in fetch.headers:
        if name.lower() in _FRAMING:
            raise RequestFailed(FailureCode.BAD_REQUEST, f"the header {name} is not the program's to set")
    return _encoded(fetch.headers)


def _encoded(pairs: tuple[tuple[str, str], ...]) -> Headers:
    for name, value in pairs:
        if not _NAME.fullmatch(name.encode()) or not _ASCII_VALUE.fullmatch(value):
            raise RequestFailed(
                FailureCode.BAD_REQUEST, f"{name[:40]!r} is not a header, or its value is none"
            )
    return [(name.encode(), value.strip(" \t").encode()) for name, value in pairs]


def given(pairs: tuple[tuple[str, str], ...]) -> Headers:
    """The headers that a program wants to send with a handshake or for a stream: any but those that frame messages or
    speak of the connection. Raises :class:`RequestFailed` (BAD_REQUEST)."""
    for name, _ in pairs:
        key = name.lower()
        if key in _FRAMING | _OURS or key.startswith("sec-websocket-"):
            raise RequestFailed(FailureCode.BAD_REQUEST, f"the header {name} is not yours to set")
    return _encoded(pairs)


def method(fetch: Fetch) -> str:
    """The request's method; the common ones in capitals (Fetch standard, "normalize")."""
    upper = fetch.method.upper()
    return upper if upper in {"DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"} else fetch.method


def _hints(hints: ClientHints) -> dict[str, str]:
    """Those that are sent unasked (User-Agent Client Hints, "low entropy"), as structured fields (RFC 9651)."""
    return {
        "Sec-CH-UA": ", ".join(f'"{brand}";v="{version}"' for brand, version in hints.brands),
        "Sec-CH-UA-Mobile": "?1" if hints.mobile else "?0",
        "Sec-CH-UA-Platform": f'"{hints.platform}"',
    }


def _ascii(value: str) -> bytes:
    return value.encode("ascii", "replace")


def values(headers: Headers, name: str) -> list[str]:
    """The values of every ``name`` header, in order."""
    wanted = name.encode()
    return [value.decode("latin-1") for key, value in headers if key.lower() == wanted]


def content_type(headers: Headers) -> str:
    """The ``Content-Type``: the last one, as in browsers, and "" for none or for one that is absurdly long."""
    types = values(_well_formed(headers), "content-type")
    return types[-1] if types and len(types[-1]) <= _MAX_CONTENT_TYPE else ""


def forwarded(
    headers: Headers, is_exposed: Callable[[str], bool] = lambda _name: True
) -> tuple[tuple[str, str], ...]:
    """The headers for the page that ``is_exposed`` lets pass: lower-case names, well-formed, without those that
    concern the connection only.

    One that does not fit is left out as a whole: half a value may mean something else than all of it.
    """
    left = MAX_FORWARDED_BYTES
    kept: list[tuple[str, str]] = []
    for name, value in _visible(headers):
        size = len(name) + len(value.encode())
        if is_exposed(name) and size <= left and len(kept) < MAX_FORWARDED:
            kept.append((name, value))
            left -= size
    return tuple(kept)


def are_well_formed(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether HTTP allows all of them, and they are no longer than what a page gets."""
    return all(_NAME.fullmatch(name) and _VALUE.fullmatch(value) for name, value in headers)


def all_of(headers: Headers) -> tuple[tuple[str, str], ...]:
    """The headers for a program, in the way and within the bounds of :func:`forwarded`, but with every one that is
    well-formed, several of one name and cookies too."""
    left = MAX_HEADERS_BYTES
    kept: list[tuple[str, str]] = []
    for key, value in _well_formed(headers)[:MAX_HEADERS]:
        text = value.decode("latin-1")
        left -= len(key) + len(text.encode())
        if left >= 0:
            kept.append((key.decode().lower(), text))
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
