"""The cookies of a context, each filed under the site of the page that it came to; and who gets at them.

This process reads none of them: they come as typed messages, and go where they came from. A request_server gets what is
filed under the site that it was bound to before it had read a byte, and what it sends is filed there, whatever it says.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from ..errors import BadMessage, RequestFailed
from ..interfaces.base import FailureCode, Message
from ..interfaces.cookies import (
    MAX_COOKIES_BYTES,
    Cookie,
    CookieList,
    Cookies,
    CookiesStored,
    GetCookies,
    StoreCookies,
)
from ..ipc import Descriptors, blob
from ..ipc.codec import decoded
from ..ipc.connection import Handler
from ..jar import Jar
from ..sites import site_of

__all__ = ["CookieAccess", "CookieStore"]

MOST: Final = 3000
"""Cookies of one context."""
MOST_MESSAGES: Final = 10_000
"""About cookies, from one document's request_servers: at the worst each is some milliseconds of this process, and one
page load makes 500 requests."""


@functools.cache
def _decoder() -> msgspec.msgpack.Decoder[tuple[Cookie, ...]]:
    return msgspec.msgpack.Decoder(CookieList)


class CookieStore:
    """One context's. A site that sets too many loses its own before it costs others theirs."""

    def __init__(self) -> None:
        self._jars: dict[str, Jar] = {}
        self.readers: set[CookieAccess] = set()

    def put(self, site: str, cookies: Iterable[Cookie], by: CookieAccess | None = None) -> None:
        """Keep ``cookies`` for the pages of ``site``; all who know what was there, but ``by``, are told."""
        jar = self._jars.setdefault(site, Jar())
        jar.put(cookies, time.time())
        while sum(map(len, self._jars.values())) > MOST:
            max(self._jars.values(), key=len).evict()
        self._changed({site}, by)

    def jar(self, site: str) -> Jar:
        """What there is for the pages of ``site``."""
        found = self._jars.get(site) or Jar()
        found.expire(time.time())
        return found

    def all(self) -> list[tuple[str, Cookie]]:
        """Each cookie, and the site whose pages have it."""
        return [(site, cookie) for site in self._jars for cookie in self.jar(site)]

    def remove(self, unwanted: Callable[[Cookie], bool]) -> None:
        """Forget those."""
        for jar in self._jars.values():
            jar.remove([cookie for cookie in jar if unwanted(cookie)])
        self._changed(set(self._jars), None)

    @property
    def is_empty(self) -> bool:
        return not any(self._jars.values())

    def _changed(self, sites: set[str], by: CookieAccess | None) -> None:
        self._jars = {site: jar for site, jar in self._jars.items() if jar}
        for reader in self.readers:
            if reader is not by and reader.is_informed and reader.site in sites:
                reader.is_informed = False
                reader.forget()


class CookieAccess:
    """What the request_servers of one document may do with its context's cookies. ``forget`` is to tell them that
    others have changed some."""

    def __init__(self, forget: Callable[[], None]) -> None:
        self.forget = forget
        self.is_informed = False
        """Whether they may hold what is there."""
        self._messages_left = MOST_MESSAGES
        self._store = CookieStore()
        self._url: str | None = None

    def use(self, store: CookieStore) -> None:
        """Those in ``store``, from before anything is asked of the document."""
        self._store = store
        store.readers.add(self)

    def close(self) -> None:
        """The document is gone."""
        self._store.readers.discard(self)

    def begin(self, url: str) -> bool:
        """The document is about to be asked for at ``url``, and all that is on it is of that site from now on; whether
        there are cookies for it."""
        self._url = url
        self.is_informed = True
        return not self._store.is_empty and len(self._store.jar(self.site)) > 0

    @property
    def site(self) -> str:
        """That the document is of; "" for one that came from nowhere. Only who has cookies needs the list of public
        suffixes for it."""
        return "" if self._url is None else site_of(self._url) or ""

    @property
    def handlers(self) -> dict[type[Message], Handler]:
        """What a request_server may say of cookies on its control channel, where no page can speak."""
        return {GetCookies: self._get, StoreCookies: self._keep}

    async def _get(self, _message: GetCookies, _fds: Descriptors) -> tuple[Cookies, list[int]]:
        self._count()
        site = self.site
        self.is_informed = True
        body, fds = blob.pack(msgspec.msgpack.encode(tuple(self._store.jar(site))))
        return Cookies(site, body), fds

    async def _keep(self, message: StoreCookies, fds: Descriptors) -> CookiesStored:
        self._count()
        cookies = decoded(_decoder(), blob.unpack(message.body, fds, MAX_COOKIES_BYTES), "a list of cookies")
        if not (site := self.site):
            raise BadMessage("a request_server has cookies for a document that came from nowhere")
        self._store.put(site, cookies, self)
        return CookiesStored()

    def _count(self) -> None:
        if not self._messages_left:
            raise RequestFailed(FailureCode.TOO_MANY_REQUESTS, "too much was said of cookies")
        self._messages_left -= 1
