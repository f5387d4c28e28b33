"""Which connection carries which request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

import ada_url

from . import tls, urls
from .exchange import Answer, Asked, Unanswered, Unprocessed, WantsHttp1
from .http1 import Http1
from .http2 import Http2
from .wire import Link

__all__ = ["Dial", "Pool"]

_MAX_CONNECTIONS: Final = 32
_MAX_PER_ORIGIN: Final = 6  # of HTTP/1.1, as browsers do
_IDLE: Final = 15.0
"""Seconds that a connection is kept for nothing."""
_ATTEMPTS: Final = 3
"""For a request that a server says it has not begun with."""
_IDEMPOTENT: Final = {"GET", "HEAD", "OPTIONS", "PUT", "DELETE"}  # RFC 9110, 9.2.2

_HTTP_1: Final = ("http/1.1",)


class Dial(Protocol):
    """Connects to a URL's server, TLS included."""

    async def __call__(self, url: ada_url.URL, protocols: Sequence[str] = tls.PROTOCOLS, /) -> Link:
        """``protocols`` are offered to the server."""


class _Origin:
    """The connections to one scheme, host and port."""

    def __init__(self, url: ada_url.URL) -> None:
        self.http1: set[Http1] = set()
        self.idle: list[Http1] = []  # those of them that nobody uses, the longest idle first
        self.http2: list[Http2] = []  # one, and those that are about to end
        self.opening = 0
        self.is_http2: bool | None = None if url.protocol == "https:" else False
        """None until a server has said which it speaks."""
        self.wants_http1 = False
        """Whether it has said that HTTP/2, which it speaks, is not what it wants."""
        self.first: asyncio.Future[None] | None = None
        """Done when a connection is there that others may share, or that tells them to open their own."""

    @property
    def connections(self) -> int:
        return len(self.http1) + len(self.http2) + self.opening

    def kept(self) -> Http1 | Http2 | None:
        """A connection that takes a request now."""
        for shared in self.http2:
            if shared.has_room and not self.wants_http1:
                return shared
        while self.idle:
            if (connection := self.idle.pop()).is_usable:
                return connection
            connection.close()
        return None

    def may_open(self) -> bool:
        if self.is_http2 is False:
            return self.connections < _MAX_PER_ORIGIN
        return not self.opening and all(shared.is_over for shared in self.http2)

    def drop_idle(self) -> None:
        for connection in list(self.idle):
            connection.close()


class Pool:
    """Sends requests over connections that ``dial`` makes."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._loop = asyncio.get_running_loop()
        self._origins: dict[str, _Origin] = {}
        self._waiting: list[asyncio.Future[None]] = []
        self._sweep: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Close every connection."""
        for origin in self._origins.values():
            for mine in list(origin.http1):
                mine.close()
            for shared in list(origin.http2):
                shared.close()
        if self._sweep is not None:
            self._sweep.cancel()

    async def ask(self, asked: Asked) -> Answer:
        """Send ``asked`` and wait for the head of the answer.

        Raises :class:`RequestFailed` when there is no connection, ``Broken`` or ``BadResponse`` when there was one.
        """
        origin = self._origins.setdefault(urls.origin(asked.url), _Origin(asked.url))
        attempts = 0
        was_repeated = False
        while True:
            connection, is_fresh = await self._take(origin, asked.url)
            try:
                return await connection.ask(asked)
            except Unprocessed as error:
                attempts += 1
                if attempts == _ATTEMPTS:
                    raise
                if isinstance(error, WantsHttp1):
                    origin.wants_http1, origin.is_http2 = True, False
            except Unanswered:
                # A server may close a kept connection just when it is used again (RFC 9112, 9.3.1).
                if is_fresh or was_repeated or asked.method not in _IDEMPOTENT:
                    raise
                was_repeated = True
                origin.drop_idle()  # they are as old

    async def _take(self, origin: _Origin, url: ada_url.URL) -> tuple[Http1 | Http2, bool]:
        """A connection, and whether it is new."""
        while True:
            if (kept := origin.kept()) is not None:
                return kept, False
            if origin.may_open() and self._make_room():
                return await self._open(origin, url), True
            if origin.first is not None:
                await asyncio.shield(origin.first)  # its failure is that of all who wait for it
            else:
                change = self._loop.create_future()
                self._waiting.append(change)
                await change

    async def _open(self, origin: _Origin, url: ada_url.URL) -> Http1 | Http2:
        first = None
        if origin.is_http2 is not False:
            first = origin.first = self._loop.create_future()
        origin.opening += 1
        failure: Exception | None = None
        try:
            link = await self._dial(url, _HTTP_1 if origin.wants_http1 else tls.PROTOCOLS)
        except Exception as error:
            failure = error
            raise
        else:
            origin.is_http2 = link.protocol == "h2" and not origin.wants_http1
            return self._add(origin, link)
        finally:
            origin.opening -= 1
            if first is not None:
                origin.first = None
                if failure is None:
                    first.set_result(None)
                else:
                    first.set_exception(failure)
                    first.exception()  # perhaps nobody waits
            self._changed()

    def _add(self, origin: _Origin, link: Link) -> Http1 | Http2:
        if link.protocol == "h2":

            def changed(connection: Http2) -> None:
                if connection.is_closed and connection in origin.http2:
                    origin.http2.remove(connection)
                self._changed()

            shared = Http2(link, changed)
            origin.http2.append(shared)
            return shared

        def freed(connection: Http1) -> None:
            origin.idle.append(connection)
            self._changed()

        def ended(connection: Http1) -> None:
            origin.http1.discard(connection)
            if connection in origin.idle:
                origin.idle.remove(connection)
            self._changed()

        connection = Http1(link, freed, ended)
        origin.http1.add(connection)
        return connection

    def _changed(self) -> None:
        """Let whoever waits look again."""
        waiting, self._waiting = self._waiting, []
        for change in waiting:
            if not change.done():
                change.set_result(None)
        if self._sweep is None:
            self._sweep = self._loop.call_later(_IDLE, self._close_idle)

    def _make_room(self) -> bool:
        """Whether there may be one more connection; one that nobody uses makes way for it."""
        if sum(origin.connections for origin in self._origins.values()) < _MAX_CONNECTIONS:
            return True
        unused = self._unused()
        if unused:
            min(unused, key=lambda connection: connection.idle_since).close()
        return bool(unused)

    def _unused(self) -> list[Http1 | Http2]:
        found: list[Http1 | Http2] = []
        for origin in self._origins.values():
            found += origin.idle
            found += (shared for shared in origin.http2 if shared.is_idle)
        return found

    def _close_idle(self) -> None:
        self._sweep = None
        unused = self._unused()
        for connection in unused:
            if self._loop.time() - connection.idle_since >= _IDLE:
                connection.close()
        if unused and self._sweep is None:
            self._sweep = self._loop.call_later(_IDLE / 2, self._close_idle)
