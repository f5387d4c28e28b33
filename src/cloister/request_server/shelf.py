"""Where this page load's responses are kept: in the browser, which does not read them."""

from __future__ import annotations

from ..errors import BadMessage, ChannelClosed, RequestFailed, TimeoutError
from ..interfaces.http_cache import MAX_ENTRY, CacheGet, CachePut
from ..ipc import Connection, blob

__all__ = ["BrowsersShelf"]

_TIMEOUT = 5.0  # seconds: it is asked instead of a server, which would be slower than that at the worst
_FAILURES = (RequestFailed, ChannelClosed, BadMessage, TimeoutError, OSError)


class BrowsersShelf:
    """``control`` is the channel to the browser, on which no page can speak."""

    def __init__(self, control: Connection) -> None:
        self._control = control

    async def get(self, key: bytes) -> bytes:
        """What is kept under ``key``; b"" for nothing, and where the browser does not say."""
        try:
            reply, fds = await self._control.request(CacheGet(key), timeout=_TIMEOUT)
            return blob.unpack(reply.body, fds, MAX_ENTRY)
        except _FAILURES:
            return b""

    async def put(self, key: bytes, entry: bytes) -> None:
        """Keep ``entry``, or forget what was there where that is b"". Nobody hears if that cannot be done."""
        try:
            body, fds = blob.pack(entry)
            await self._control.request(CachePut(key, body), fds, timeout=_TIMEOUT)
        except _FAILURES:
            pass
