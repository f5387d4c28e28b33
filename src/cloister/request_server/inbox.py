"""What has come for a page and waits until it asks."""

from __future__ import annotations

import asyncio
import collections
from typing import Final, Generic, TypeVar

from ..interfaces.base import Reply
from ..ipc import Descriptors

__all__ = ["Inbox"]

R = TypeVar("R", bound=Reply)

_MOST: Final = 64
_MOST_BYTES: Final = 1024 * 1024


class Inbox(Generic[R]):
    """Replies with their descriptors, in order. When 64 of them or 1 MiB wait, who puts them in waits too: so a server
    is listened to no faster than the page asks."""

    def __init__(self) -> None:
        self._waiting: collections.deque[tuple[R, list[int], int]] = collections.deque()
        self._bytes = 0
        self._last: R | None = None
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    @property
    def is_full(self) -> bool:
        return not self._room.is_set()

    async def put(self, reply: R, fds: list[int], size: int) -> None:
        """Return when there is room for the next. ``fds`` are given away; after the end, all of it is dropped."""
        if self._last is not None:
            Descriptors(fds).close()
            return
        self._waiting.append((reply, fds, size))
        self._bytes += size
        self._news.set()
        if len(self._waiting) >= _MOST or self._bytes >= _MOST_BYTES:
            self._room.clear()
        await self._room.wait()

    async def next(self, seconds: float) -> tuple[R, list[int]] | None:
        """What is next, and the last for ever after; None where nothing comes for ``seconds``."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return None
        if self._waiting:
            reply, fds, size = self._waiting.popleft()
            self._bytes -= size
            if self._bytes < _MOST_BYTES:
                self._room.set()
            if not self._waiting and self._last is None:
                self._news.clear()
            return reply, fds
        return None if self._last is None else (self._last, [])

    def end(self, last: R) -> None:
        """Nothing comes after ``last``."""
        self._last = self._last or last
        self._news.set()
        self._room.set()

    def clear(self) -> None:
        """Nobody wants what waits."""
        while self._waiting:
            Descriptors(self._waiting.popleft()[1]).close()
        self._bytes = 0
        self._room.set()
        if self._last is None:
            self._news.clear()
