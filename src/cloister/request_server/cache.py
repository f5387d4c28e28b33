"""The HTTP cache (RFC 9111), a private one, for one site at a time.

Entries outlive this process: the browser keeps them, unread, and gives them to the next request_server of the same
site. What comes back is checked like anything else that is foreign, as one that was taken over may have written it.
"""

from __future__ import annotations

import asyncio
import collections
import hashlib
import time
from collections.abc import Awaitable, Callable
from typing import Annotated, Final, Protocol

import ada_url
import msgspec
from msgspec import Meta

from ..interfaces.http_cache import CacheUse
from . import urls
from .cache_rules import (
    age,
    freshened,
    is_storable,
    lifetime,
    must_validate,
    storable,
    validators,
    varied,
)
from .exchange import MAX_HEADERS, Answer, Asked, Headers
from .headers import are_well_formed, values

__all__ = ["Cache", "Entry", "Shelf"]

MAX_BODY: Final = 2 * 1024 * 1024

_SAFE_METHODS: Final = {"GET", "HEAD", "OPTIONS"}  # RFC 9110, 9.2.1, of those that are sent
_OF_THE_PAGES_OWN: Final = ("cache-control", "if-", "pragma", "range")
"""Beginnings of request headers by which a page does its own caching (Fetch standard, "no-store" for those)."""


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A response as it was received. ``varied`` are the request headers that it depends on, as they were sent; times
    are seconds since 1970."""

    url: Annotated[str, Meta(max_length=8192)]
    status: Annotated[int, Meta(ge=200, le=599)]
    headers: Annotated[tuple[tuple[bytes, bytes], ...], Meta(max_length=MAX_HEADERS)]
    varied: Annotated[tuple[tuple[str, str], ...], Meta(max_length=MAX_HEADERS)]
    asked_at: float
    got_at: float
    body: Annotated[bytes, Meta(max_length=MAX_BODY)]


_ENTRIES: Final[msgspec.msgpack.Decoder[Entry]] = msgspec.msgpack.Decoder(Entry)

_MOST_WAITING: Final = 16
"""Entries that wait to be put away; where the browser does not keep up, the next ones are not kept."""


class Shelf(Protocol):
    """Where entries are kept. Neither fails: what cannot be done is not done."""

    async def get(self, key: bytes) -> bytes:
        """What is kept under ``key``; b"" for nothing."""

    async def put(self, key: bytes, entry: bytes) -> None:
        """Keep ``entry``, or forget what was there where that is b""."""


class Cache:
    """Stands between a client and the network. ``use`` is the browser's to say, before anything is asked."""

    def __init__(
        self,
        ask: Callable[[Asked], Awaitable[Answer]],
        shelf: Shelf,
        use: CacheUse,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.use = use
        self._ask = ask
        self._shelf = shelf
        self._clock = clock
        self._puts: collections.deque[tuple[bytes, bytes]] = collections.deque()
        self._putting: asyncio.Task[None] | None = None

    async def ask(self, asked: Asked) -> Answer:
        """The answer to ``asked``, from here or from its server. Raises what asking the server does."""
        if self.use is CacheUse.OFF:
            return await self._ask(asked)
        if asked.method not in _SAFE_METHODS:
            return await self._invalidating(asked)
        if asked.method != "GET" or asked.body or _is_pages_own(asked):
            return await self._ask(asked)
        entry = await self._found(asked)
        if entry is None:
            return await self._recorded(asked)
        now = self._clock()
        if not must_validate(entry.headers, is_reload=self.use is CacheUse.REVALIDATE):
            how_old = age(entry.headers, entry.asked_at, entry.got_at, now)
            if lifetime(entry.status, entry.headers, entry.got_at) > how_old >= 0:
                kept = (header for header in entry.headers if header[0].lower() != b"age")
                return _Stored(entry, (*kept, (b"Age", b"%d" % how_old)))
        return await self._validated(asked, entry)

    def keep(self, answer: Answer) -> None:
        """``answer`` was read to its end, and was as it should be: keep it if it is one of those."""
        if isinstance(answer, _Recorded) and (entry := answer.entry()) is not None:
            self._later(_key(answer.asked.url), msgspec.msgpack.encode(entry))

    async def _found(self, asked: Asked) -> Entry | None:
        if self.use is CacheUse.EMPTY:
            return None
        kept = await self._shelf.get(_key(asked.url))
        if not kept:
            return None
        try:
            entry = _ENTRIES.decode(kept)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # msgspec raises all three
            return None
        is_its = entry.url == _named(asked.url) and are_well_formed(entry.headers)
        return entry if is_its and varied(entry.headers, asked.headers) == entry.varied else None

    async def _recorded(self, asked: Asked) -> Answer:
        asked_at = self._clock()
        answer = await self._ask(asked)
        if is_storable(asked.headers, answer.status, answer.headers):
            return _Recorded(answer, asked, asked_at, self._clock())
        return answer

    async def _validated(self, asked: Asked, entry: Entry) -> Answer:
        """RFC 9111, 4.3."""
        conditions = validators(entry.headers)
        if not conditions:
            return await self._recorded(asked)
        conditional = msgspec.structs.replace(asked, headers=[*asked.headers, *conditions])
        asked_at = self._clock()
        answer = await self._ask(conditional)
        if answer.status != 304:
            if is_storable(asked.headers, answer.status, answer.headers):
                return _Recorded(answer, asked, asked_at, self._clock())
            self._later(_key(asked.url), b"")
            return answer
        answer.close()
        headers = freshened(entry.headers, answer.headers)
        if headers is None:  # it is about another version
            return await self._recorded(asked)
        new = msgspec.structs.replace(
            entry, headers=storable(headers), asked_at=asked_at, got_at=self._clock()
        )
        self._later(_key(asked.url), msgspec.msgpack.encode(new))
        return _Stored(new, headers)

    async def _invalidating(self, asked: Asked) -> Answer:
        """RFC 9111, 4.4: what changed something makes what was kept of it worthless."""
        answer = await self._ask(asked)
        if 200 <= answer.status < 400:
            self._later(_key(asked.url), b"")
            for name in ("location", "content-location"):
                for value in values(answer.headers, name):
                    self._forget(asked.url, value)
        return answer

    def _forget(self, base: ada_url.URL, reference: str) -> None:
        try:
            url = ada_url.URL(reference, base.href)
        except ValueError:
            return
        if urls.origin(url) == urls.origin(base):
            self._later(_key(url), b"")

    def _later(self, key: bytes, body: bytes) -> None:
        """The page gets its answer first."""
        if self.use is CacheUse.EMPTY:
            self.use = CacheUse.ON
        if body and len(self._puts) >= _MOST_WAITING:
            return
        self._puts.append((key, body))
        if self._putting is None or self._putting.done():
            self._putting = asyncio.get_running_loop().create_task(self._put_all())

    async def _put_all(self) -> None:
        while self._puts:
            await self._shelf.put(*self._puts.popleft())


class _Stored:
    """An answer that was kept."""

    def __init__(self, entry: Entry, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        self.status = entry.status
        self.headers: Headers = list(headers)
        self._body = entry.body

    async def receive(self) -> bytes:
        body, self._body = self._body, b""
        return body

    def close(self) -> None:
        pass


class _Recorded:
    """An answer of a server, of which a copy is made as it is read."""

    def __init__(self, answer: Answer, asked: Asked, asked_at: float, got_at: float) -> None:
        self.asked = asked
        self.status = answer.status
        self.headers = answer.headers
        self._answer = answer
        self._times = asked_at, got_at
        self._pieces: list[bytes] = []
        self._left = MAX_BODY
        self._is_whole = False

    async def receive(self) -> bytes:
        piece = await self._answer.receive()
        self._left -= len(piece)
        self._is_whole = not piece
        if piece and self._left >= 0:
            self._pieces.append(piece)
        elif self._left < 0:
            self._pieces.clear()
        return piece

    def entry(self) -> Entry | None:
        """What to keep; None for what is too large, or did not come whole."""
        if not self._is_whole or self._left < 0:
            return None
        headers = storable(self.headers)
        return Entry(
            _named(self.asked.url),
            self.status,
            headers,
            varied(headers, self.asked.headers),
            *self._times,
            b"".join(self._pieces),
        )

    def close(self) -> None:
        self._answer.close()


def _is_pages_own(asked: Asked) -> bool:
    return any(name.decode("latin-1").lower().startswith(_OF_THE_PAGES_OWN) for name, _ in asked.headers)


def _named(url: ada_url.URL) -> str:
    """RFC 9111, 2: the target URI, which has no fragment."""
    return str(url.href.partition("#")[0])


def _key(url: ada_url.URL) -> bytes:
    return hashlib.sha256(_named(url).encode()).digest()
