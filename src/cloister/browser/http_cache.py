"""Responses that are kept for request_servers to come, which alone read what is in them.

They are filed by the site of the document, as the browser knows it. So nothing that one site loads can be told from
another by how fast it comes, and what a request_server that was taken over puts here reaches its own site only.
"""

from __future__ import annotations

import collections
from typing import Final

from ..interfaces.base import Message
from ..interfaces.http_cache import MAX_ENTRY, Cached, CacheGet, CacheKept, CachePut, CacheUse
from ..ipc import Descriptors, blob
from ..ipc.connection import Handler

__all__ = ["MAX_BYTES", "CacheAccess", "HttpCache"]

MAX_BYTES: Final = 32 * 1024 * 1024
_ENTRY: Final = 512
"""Bytes that an entry takes beside its own, about: so there are not too many small ones."""


class HttpCache:
    """What is kept in memory, 32 MiB at the most: what was not used for longest goes first."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._left = max_bytes
        self._entries: collections.OrderedDict[tuple[str, bytes], bytes] = collections.OrderedDict()
        self._of_site: collections.Counter[str] = collections.Counter()

    def has_any(self, site: str) -> bool:
        return self._of_site[site] > 0

    def get(self, site: str, key: bytes) -> bytes:
        """What ``site`` has under ``key``; b"" for nothing."""
        if (site, key) not in self._entries:
            return b""
        self._entries.move_to_end((site, key))
        return self._entries[site, key]

    def put(self, site: str, key: bytes, entry: bytes) -> None:
        """Keep ``entry`` in place of what was there; b"" is nothing."""
        self._remove(site, key)
        if not entry:
            return
        self._entries[site, key] = entry
        self._of_site[site] += 1
        self._left -= _ENTRY + len(entry)
        while self._left < 0:
            self._remove(*next(iter(self._entries)))

    def clear(self) -> None:
        for site, key in list(self._entries):
            self._remove(site, key)

    def _remove(self, site: str, key: bytes) -> None:
        entry = self._entries.pop((site, key), None)
        if entry is not None:
            self._left += _ENTRY + len(entry)
            self._of_site[site] -= 1
            if not self._of_site[site]:
                del self._of_site[site]


class CacheAccess:
    """What one document's request_servers have of a cache: what is their site's, once the browser knows it."""

    def __init__(self) -> None:
        self._cache: HttpCache | None = None
        self._is_reload = False
        self._site: str | None = None

    def open(self, cache: HttpCache, *, is_reload: bool) -> None:
        """Have this document use ``cache``, before anything is asked of it."""
        self._cache, self._is_reload = cache, is_reload

    def begin(self, site: str | None) -> CacheUse:
        """The document is about to be asked for at ``site``."""
        self._site = site
        return self.use

    @property
    def use(self) -> CacheUse:
        """What a request_server is to do with what there is."""
        if self._cache is None or self._site is None:
            return CacheUse.OFF
        if not self._cache.has_any(self._site):
            return CacheUse.EMPTY
        return CacheUse.REVALIDATE if self._is_reload else CacheUse.ON

    def handlers(self) -> dict[type[Message], Handler]:
        """What a request_server may ask."""
        return {CacheGet: self._get, CachePut: self._put}

    async def _get(self, message: CacheGet, _fds: Descriptors) -> tuple[Cached, list[int]]:
        found = b""
        if self._cache is not None and self._site is not None:
            found = self._cache.get(self._site, message.key)
        body, fds = blob.pack(found)
        return Cached(body), fds

    async def _put(self, message: CachePut, fds: Descriptors) -> CacheKept:
        entry = blob.unpack(message.body, fds, MAX_ENTRY)
        if self._cache is not None and self._site is not None:
            self._cache.put(self._site, message.key, entry)
        return CacheKept()
