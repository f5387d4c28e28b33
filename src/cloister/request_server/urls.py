"""URLs as the WHATWG URL Standard reads them."""

from __future__ import annotations

import ipaddress

import ada_url

from ..errors import RequestFailed
from ..interfaces.base import FailureCode

__all__ = ["SCHEMES", "is_address", "is_trustworthy", "origin", "parse", "port", "redirect", "shown"]

SCHEMES = {"http": 80, "https": 443}

_MAX_URL = 8192  # interfaces.base.Url
_MAX_HOST = 255  # interfaces.lookup_server.HostName


def parse(text: str, base: str | None = None) -> ada_url.URL:
    """``text``, seen from ``base``, normalised and without credentials.

    Hosts come out as the lookup server takes them: A-labels, and IPv4 in dotted decimal however it was written.
    Raises :class:`RequestFailed` with BAD_URL or UNSUPPORTED_SCHEME.
    """
    try:
        url = ada_url.URL(text, base)
    except ValueError:
        raise RequestFailed(FailureCode.BAD_URL, f"{shown(text)} is not a URL") from None
    scheme = url.protocol.removesuffix(":")
    if scheme not in SCHEMES:
        raise RequestFailed(
            FailureCode.UNSUPPORTED_SCHEME,
            f"{shown(text)}: {scheme} is not a scheme that is fetched, only http(s)",
        )
    url.username = ""
    url.password = ""
    if len(url.href) > _MAX_URL or not 1 <= len(url.hostname) <= _MAX_HOST or url.port == "0":
        raise RequestFailed(FailureCode.BAD_URL, f"{shown(text)} has no usable host or port, or is too long")
    return url


def redirect(current: ada_url.URL, location: bytes) -> ada_url.URL:
    """Where a ``Location`` header leads. The fragment carries over when it names none (RFC 9110, 10.2.2).

    Raises :class:`RequestFailed` as :func:`parse` does.
    """
    try:
        text = location.decode()  # what browsers do; the standard's URLs are ASCII
    except UnicodeDecodeError:
        text = location.decode("latin-1")
    url = parse(text, current.href)
    if not url.hash:
        url.hash = current.hash
    if len(url.href) > _MAX_URL:
        raise RequestFailed(FailureCode.BAD_URL, f"{shown(text)} is too long")
    return url


def port(url: ada_url.URL) -> int:
    """The port that ``url`` names, or its scheme's."""
    return int(url.port) if url.port else SCHEMES[url.protocol.removesuffix(":")]


def origin(url: ada_url.URL) -> str:
    """Scheme, host and port: what the same-origin policy compares."""
    return str(url.origin)


def is_address(host: str) -> bool:
    """Whether a host is no name."""
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def is_trustworthy(url: ada_url.URL) -> bool:
    """Whether nobody on the way reads or changes what goes there: https, and this machine itself ("potentially
    trustworthy URL", Secure Contexts, 3.2)."""
    host = url.hostname.removesuffix(".")
    if url.protocol == "https:" or host == "localhost" or host.endswith(".localhost"):
        return True
    return is_address(host) and ipaddress.ip_address(host.strip("[]")).is_loopback


def shown(url: str) -> str:
    """``url`` short enough for a line of text."""
    return url if len(url) <= 150 else url[:149] + "…"
