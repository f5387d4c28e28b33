"""The cookies of one site's pages, as both the browser and a request_server hold them (RFC 6265bis, 5.7 and 5.8)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from .interfaces.cookies import MAX_COOKIES, Cookie
from .sites import is_below

__all__ = ["MAX_AGE", "MAX_PER_DOMAIN", "Jar", "is_for", "is_path_below"]

MAX_AGE: Final = 400 * 24 * 3600
"""Seconds that a cookie lives (5.5)."""
MAX_PER_DOMAIN: Final = 50

_Key = tuple[str, str, bool, str]


def is_path_below(path: str, below: str) -> bool:
    """Whether ``path`` of a request is ``below``, of a cookie, or under it (5.1.4)."""
    return path == below or (path.startswith(below) and (below.endswith("/") or path[len(below)] == "/"))


def is_for(cookie: Cookie, host: str, path: str, *, is_secure: bool) -> bool:
    """Whether a request there may have ``cookie``, whoever makes it (5.8.3)."""
    is_at_home = cookie.domain == host if cookie.host_only else is_below(host, cookie.domain)
    return is_at_home and is_path_below(path, cookie.path) and (is_secure or not cookie.secure)


class Jar:
    """At most 600 cookies, 50 of each domain. What is too much goes in the order of 5.7, with "stored last" in the
    place of "used last": nobody writes down each use."""

    def __init__(self) -> None:
        self._cookies: dict[_Key, Cookie] = {}  # the longest unchanged first

    def __len__(self) -> int:
        return len(self._cookies)

    def __iter__(self) -> Iterator[Cookie]:
        return iter(list(self._cookies.values()))

    def put(self, cookies: Iterable[Cookie], now: float) -> None:
        """Keep each of ``cookies`` in the place of the one with its name, domain and path; or none, if it is over at
        ``now``."""
        for cookie in cookies:
            key = _key(cookie)
            old = self._cookies.pop(key, None)
            if not _is_over(cookie, now):
                self._cookies[key] = msgspec.structs.replace(
                    cookie,
                    created=cookie.created if old is None else old.created,
                    expires=None if cookie.expires is None else min(cookie.expires, int(now) + MAX_AGE),
                )
        if len(self._cookies) > MAX_PER_DOMAIN:
            self._shrink(now)

    def remove(self, cookies: Iterable[Cookie]) -> None:
        """Forget these."""
        for cookie in cookies:
            self._cookies.pop(_key(cookie), None)

    def expire(self, now: float) -> None:
        """Forget what is over at ``now``, in seconds since 1970."""
        self.remove([cookie for cookie in self._cookies.values() if _is_over(cookie, now)])

    def evict(self) -> None:
        """Forget the one that is missed least: of those that are not secure, or else of all, the longest unchanged."""
        every = self._cookies.values()
        self.remove([next((cookie for cookie in every if not cookie.secure), next(iter(every)))])

    def _shrink(self, now: float) -> None:
        self.expire(now)
        by_domain: dict[str, list[Cookie]] = {}
        for cookie in self._cookies.values():
            by_domain.setdefault(cookie.domain, []).append(cookie)
        for found in by_domain.values():
            self._leave(found, MAX_PER_DOMAIN)
        self._leave(list(self._cookies.values()), MAX_COOKIES)

    def _leave(self, found: list[Cookie], most: int) -> None:
        """So many of them."""
        if len(found) > most:
            found.sort(key=lambda cookie: cookie.secure)  # stable: of the others, the longest unchanged first
            self.remove(found[: len(found) - most])


def _key(cookie: Cookie) -> _Key:
    return cookie.name, cookie.domain, cookie.host_only, cookie.path


def _is_over(cookie: Cookie, now: float) -> bool:
    return cookie.expires is not None and cookie.expires <= now
