"""Cookies as RFC 6265bis (draft 22) has them: what a Set-Cookie header says, who may set what, and what goes where.

What is told apart by its site is told so strictly: once another site had a hand in a request, by a redirect, it counts
as that site's. All cookies are partitioned by the site of the document, so ``Partitioned`` changes nothing.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from typing import Final

import ada_url
import msgspec

from ..interfaces.cookies import MAX_PAIR, Cookie, SameSite
from ..jar import MAX_AGE, Jar, is_for, is_path_below
from ..sites import is_below, is_public_suffix, is_same_site
from . import urls
from .exchange import Headers

__all__ = ["DocumentCookies", "SetCookie", "date", "parse", "received"]

_MAX_ATTRIBUTE: Final = 1024  # bytes (5.6)
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_DELTA: Final = re.compile(r"-?[0-9]+", re.ASCII)
_SAME_SITE: Final = {each.value.lower(): each for each in SameSite}
_SAFE: Final = {"GET", "HEAD", "OPTIONS", "TRACE"}  # RFC 9110, 9.2.1
_DELIMITERS: Final = re.compile(r"[\x09\x20-\x2f\x3b-\x40\x5b-\x60\x7b-\x7e]+")
_TIME: Final = re.compile(r"([0-9]{1,2}):([0-9]{1,2}):([0-9]{1,2})(?:[^0-9].*)?", re.DOTALL | re.ASCII)
_DAY: Final = re.compile(r"([0-9]{1,2})(?:[^0-9].*)?", re.DOTALL | re.ASCII)
_YEAR: Final = re.compile(r"([0-9]{2,4})(?:[^0-9].*)?", re.DOTALL | re.ASCII)
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")


class SetCookie(msgspec.Struct, frozen=True):
    """What one header says. ``expires`` is in seconds since 1970, None for the end of the session; ``path`` is None
    where the header leaves it to the URL."""

    name: str
    value: str
    expires: int | None = None
    domain: str = ""
    path: str | None = None
    secure: bool = False
    http_only: bool = False
    same_site: SameSite = SameSite.LAX
    partitioned: bool = False


def parse(header: bytes, now: float) -> SetCookie | None:
    """Read the value of a Set-Cookie header (5.6); None for one that is to be ignored."""
    if _CONTROL.search(header):
        return None
    pair, *attributes = header.decode("latin-1").split(";")
    name, equals, value = pair.partition("=")
    if not equals:
        name, value = "", pair
    name, value = name.strip(" \t"), value.strip(" \t")
    if not name + value or len(name) + len(value) > MAX_PAIR:
        return None
    found: dict[str, str] = {}
    for attribute in attributes:
        key, _, said = attribute.partition("=")
        key, said = key.strip(" \t").lower(), said.strip(" \t")
        if len(said) <= _MAX_ATTRIBUTE and _counts(key, said):
            found[key] = said  # the last one does
    path = found.get("path")
    return SetCookie(
        name=name,
        value=value,
        expires=_expires(found, now),
        domain=found.get("domain", "").removeprefix(".").lower(),
        path=path if path is not None and path.startswith("/") else None,
        secure="secure" in found,
        http_only="httponly" in found,
        same_site=_SAME_SITE.get(found.get("samesite", "").lower(), SameSite.LAX),
        partitioned="partitioned" in found,
    )


def _counts(key: str, said: str) -> bool:
    """A time that cannot be read is as good as not there."""
    if key == "max-age":
        return _DELTA.fullmatch(said) is not None
    return key != "expires" or date(said) is not None


def _expires(found: dict[str, str], now: float) -> int | None:
    if (age := found.get("max-age")) is not None:
        return int(now) + min(int(age), MAX_AGE) if int(age) > 0 else 0
    if (when := date(found.get("expires", ""))) is not None:
        return max(0, min(when, int(now) + MAX_AGE))
    return None


def date(text: str) -> int | None:
    """A cookie's date, however it is written (5.1.1), in seconds since 1970; None for none."""
    clock: tuple[int, int, int] | None = None
    day = month = year = None
    for token in _DELIMITERS.split(text):
        if clock is None and (found := _TIME.fullmatch(token)):
            clock = int(found[1]), int(found[2]), int(found[3])
        elif day is None and (found := _DAY.fullmatch(token)):
            day = int(found[1])
        elif month is None and token[:3].lower() in _MONTHS:
            month = _MONTHS.index(token[:3].lower()) + 1
        elif year is None and (found := _YEAR.fullmatch(token)):
            year = int(found[1])
    if clock is None or day is None or month is None or year is None:
        return None
    if year < 100:
        year += 1900 if year >= 70 else 2000
    if year < 1601:
        return None
    try:
        return int(datetime(year, month, day, *clock, tzinfo=UTC).timestamp())
    except ValueError:  # no such day, hour, minute or second
        return None


def received(
    said: SetCookie, url: ada_url.URL, jar: Jar, now: float, *, is_document: bool, is_cross_site: bool
) -> Cookie | None:
    """The cookie that a response of ``url`` may set among those of ``jar`` (5.7); None for one that is ignored."""
    is_secure = _is_secure(url)
    host = url.hostname
    domain = said.domain
    if not domain.isascii():
        return None
    if domain and is_public_suffix(domain):
        if domain != host:
            return None
        domain = ""
    path = said.path if said.path is not None else _default_path(url.pathname)
    # One without a name is sent as its value, and is what a server then takes its name from.
    prefixed = (said.name or said.value).lower()
    refused = (
        (domain and not is_below(host, domain))
        or (said.secure and not is_secure)
        or (not said.secure and not is_secure and _covers_a_secure_one(said, domain or host, path, jar))
        or (said.same_site is not SameSite.NONE and is_cross_site and not is_document)
        or (not said.secure and (said.same_site is SameSite.NONE or said.partitioned))
        or (not said.name and prefixed.startswith(("__secure-", "__host-")))
        or (prefixed.startswith("__secure-") and not said.secure)
        or (prefixed.startswith("__host-") and not (said.secure and not domain and said.path == "/"))
        or len(path) > _MAX_ATTRIBUTE
    )
    if refused:
        return None
    return Cookie(
        name=said.name,
        value=said.value,
        domain=domain or host,
        path=path,
        host_only=not domain,
        secure=said.secure,
        http_only=said.http_only,
        same_site=said.same_site,
        expires=said.expires,
        created=int(now * 1e9),
    )


def _covers_a_secure_one(said: SetCookie, domain: str, path: str, jar: Jar) -> bool:
    """Whether a cookie that came in the open would be sent beside, or before, one that came by https (5.7, step 16)."""
    return any(
        cookie.secure
        and cookie.name == said.name
        and (is_below(cookie.domain, domain) or is_below(domain, cookie.domain))
        and is_path_below(path, cookie.path)
        for cookie in jar
    )


def _default_path(path: str) -> str:
    """Of a cookie that names none (5.1.4)."""
    return path[: path.rfind("/")] or "/"


def _is_secure(url: ada_url.URL) -> bool:
    return urls.is_trustworthy(url)


def _may_go(cookie: Cookie, method: str, *, is_document: bool, is_cross_site: bool) -> bool:
    """SameSite (5.8.3)."""
    if cookie.same_site is SameSite.NONE or not is_cross_site:
        return True
    return cookie.same_site is SameSite.LAX and is_document and method in _SAFE


class DocumentCookies:
    """The cookies that the document, and what is on it, may have: a copy of the browser's, and of nobody else's.

    ``ask`` gives the document's site ("" for none) and its cookies, ``tell`` has the browser keep some.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[tuple[str, Iterable[Cookie]]]],
        tell: Callable[[tuple[Cookie, ...]], Awaitable[None]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ask = ask
        self._tell = tell
        self._clock = clock
        self._document = ""  # its URL, or its site; which of them takes the list of public suffixes to know
        self._jar: Jar | None = None  # None: to be asked for
        self._is_outdated = False
        self._asking = asyncio.Lock()

    def begin(self, url: ada_url.URL, *, has_cookies: bool) -> None:
        """A document is about to be asked for at ``url``; the browser says whether there are cookies for its site.
        Which ones is asked for when they are needed, if it is not known already."""
        self._document = url.href
        if not has_cookies:
            self._jar = Jar()

    def forget(self) -> None:
        """What is known is not true any more."""
        self._jar, self._is_outdated = None, True

    async def is_cross_site(self, url: ada_url.URL) -> bool:
        """Whether ``url`` is of another site than the document."""
        await self._known()
        return not is_same_site(url.href, self._document)

    async def header(
        self, url: ada_url.URL, method: str, *, is_document: bool, is_cross_site: bool
    ) -> bytes | None:
        """``Cookie`` for a request to ``url``."""
        jar = await self._known()
        jar.expire(self._clock())
        mine = [
            cookie
            for cookie in jar
            if is_for(cookie, url.hostname, url.pathname, is_secure=_is_secure(url))
            and _may_go(cookie, method, is_document=is_document, is_cross_site=is_cross_site)
        ]
        mine.sort(key=lambda cookie: (-len(cookie.path), cookie.created))
        pairs = [f"{cookie.name}={cookie.value}" if cookie.name else cookie.value for cookie in mine]
        return "; ".join(pairs).encode("latin-1") if pairs else None

    async def receive(
        self, url: ada_url.URL, headers: Headers, *, is_document: bool, is_cross_site: bool
    ) -> None:
        """Take what a response of ``url`` sets, and return once the browser has it."""
        said = [value for name, value in headers if name.lower() == b"set-cookie"]
        if not said:
            return
        jar = await self._known()
        now = self._clock()
        changed: list[Cookie] = []
        for each in said if self._document else ():
            if (read := parse(each, now)) is None:
                continue
            cookie = received(read, url, jar, now, is_document=is_document, is_cross_site=is_cross_site)
            if cookie is not None:
                jar.put([cookie], now)
                changed.append(cookie)
        if changed:
            await self._tell(tuple(changed))

    async def _known(self) -> Jar:
        if self._jar is not None:
            return self._jar
        async with self._asking:
            while self._jar is None:
                self._is_outdated = False
                self._document, cookies = await self._ask()
                if not self._is_outdated:  # meanwhile
                    self._jar = Jar()
                    self._jar.put(cookies, self._clock())
            return self._jar
