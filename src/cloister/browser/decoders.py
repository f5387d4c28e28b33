"""Image decoders, forked ahead: as many as the last page needed, one when nobody has asked for a while."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from ..errors import BrowserClosed, CloisterError
from ..interfaces import image_decoder
from ..ipc import Channel
from ..process import ChildProcess

if TYPE_CHECKING:
    from .processes import Processes

__all__ = ["DecoderPool"]

MOST_SPARES = 12
"""Spare decoders at the most: two MiB of memory each, for a second."""
_BURST = 0.1
"""Seconds without a request after which a page has what it asked for and is laid out: then no forks take the core
that it works on."""
_IDLE = 2.0
"""Seconds without a request after which one spare is enough."""


class DecoderPool:
    """Every decoder that it gives is fresh, locked down, and used for one image."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._options = msgspec.msgpack.encode(image_decoder.Options())
        self._loop = asyncio.get_running_loop()
        self._spares: deque[ChildProcess] = deque()
        self._taken = 0
        self._bursts = 0
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._work: asyncio.Task[None] | None = None
        self._begin(1)

    async def take(self) -> ChildProcess:
        """A decoder; the caller ends it. Raises :class:`LaunchError` or :class:`BrowserClosed`."""
        self._taken += 1
        self._wake_after(_BURST, self._burst_is_over)
        while self._spares:
            spare = self._spares.popleft()
            if spare.is_alive:
                return spare
            await spare.end()
        return await self._fork()

    def renew(self) -> None:
        """The zygote has ended, and the spares with it: have another one from the next."""
        if not self._closed:
            self._begin(1)

    @property
    def spares(self) -> list[ChildProcess]:
        return list(self._spares)

    async def close(self) -> None:
        """End the spares. What was taken is the takers' to end."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
        await asyncio.gather(*(spare.end() for spare in self._spares))

    async def _fork(self) -> ChildProcess:
        if self._closed:
            raise BrowserClosed("the browser is closed")
        here, there = Channel.pair()
        return await self._processes.fork("image_decoder", self._options, [there], keep=[here])

    def _burst_is_over(self) -> None:
        wanted, self._taken = min(MOST_SPARES, max(1, self._taken)), 0
        self._bursts += 1
        if self._bursts > 1:  # a program may open one page and end
            self._begin(wanted)
        self._wake_after(_IDLE, lambda: self._begin(1))

    def _wake_after(self, seconds: float, work: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, work)

    def _begin(self, wanted: int) -> None:
        if self._work is not None:
            self._work.cancel()
        self._work = self._loop.create_task(self._keep(wanted))

    async def _keep(self, wanted: int) -> None:
        """Have ``wanted`` spares, and no more."""
        for spare in [spare for spare in self._spares if not spare.is_alive]:
            self._spares.remove(spare)
            await spare.end()
        while len(self._spares) > wanted:
            await self._spares.pop().end()
        try:
            while len(self._spares) < wanted:
                self._spares.append(await self._fork())
        except CloisterError:
            return  # whoever takes one meets the same trouble, and is told
