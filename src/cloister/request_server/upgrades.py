"""What goes by https though a page says http, and what does not go at all: HSTS (RFC 6797) and Mixed Content (W3C)."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Final

import ada_url

from ..errors import RequestFailed
from ..interfaces.base import FailureCode
from ..interfaces.fetch import Destination
from . import urls
from .exchange import Headers
from .headers import values

__all__ = ["StrictTransport", "without_mixed_content"]

_DIRECTIVE: Final = re.compile(r'\s*([\w!#$%&\'*+.^`|~-]+)\s*(?:=\s*(?:"([^"]*)"|([^\s;"]*))\s*)?(?:;|$)')
_MAX_AGE: Final = 400 * 24 * 3600  # seconds; longer than any request_server lives


class StrictTransport:
    """The hosts that want https, as they said to this page.

    Known for as long as the page loads: kept for longer, or for several pages, it would be a mark by which sites
    know a user again (RFC 6797, 14.9).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._hosts: dict[str, tuple[float, bool]] = {}  # until when, and whether for all names below it

    def note(self, url: ada_url.URL, headers: Headers) -> None:
        """Read what a response of ``url`` says of it."""
        found = values(headers, "strict-transport-security")
        host = url.hostname.removesuffix(".")
        if not found or url.protocol != "https:" or urls.is_address(host):
            return
        directives = _directives(found[0])  # the first one counts (8.1)
        age = directives.get("max-age", "")
        if not (age.isascii() and age.isdigit()):
            return
        if int(age[:12]):
            until = self._clock() + min(int(age[:12]), _MAX_AGE)
            self._hosts[host] = (until, "includesubdomains" in directives)
        else:
            self._hosts.pop(host, None)

    def upgraded(self, url: ada_url.URL) -> ada_url.URL:
        """``url``, with https if its host wants that (8.3)."""
        if url.protocol == "http:" and self._wants(url.hostname.removesuffix(".")):
            return _with_https(url)
        return url

    def _wants(self, host: str) -> bool:
        now = self._clock()
        name, below = host, False
        while name:
            until, all_below = self._hosts.get(name, (0.0, False))
            if until > now and (all_below or not below):
                return True
            name, below = name.partition(".")[2], True
        return False


def without_mixed_content(url: ada_url.URL, destination: Destination, page: str) -> ada_url.URL:
    """``url`` as the page at ``page`` may ask for it: a page that came by https gets images by https, and nothing
    else over http. Raises :class:`RequestFailed` (MIXED_CONTENT)."""
    is_mixed = (
        destination is not Destination.DOCUMENT and page.startswith("https:") and not urls.is_trustworthy(url)
    )
    if not is_mixed:
        return url
    if destination is Destination.IMAGE and not urls.is_address(url.hostname):
        return _with_https(url)
    raise RequestFailed(
        FailureCode.MIXED_CONTENT,
        f"{urls.shown(url.href)} is refused: the page came by https, and this would come over http",
    )


def _with_https(url: ada_url.URL) -> ada_url.URL:
    upgraded = ada_url.URL(url.href)
    upgraded.protocol = "https:"
    return upgraded


def _directives(value: str) -> dict[str, str]:
    """RFC 6797, 6.1; nothing if the header is malformed, or says something twice."""
    found: dict[str, str] = {}
    position = 0
    while position < len(value):
        match = _DIRECTIVE.match(value, position)
        if match is None:
            if value[position] not in "; \t":
                return {}
            position += 1
            continue
        name = match[1].lower()
        if name in found:
            return {}
        found[name] = match[2] if match[2] is not None else match[3] or ""
        position = match.end()
    return found
