"""Processes that must always be there: started again when they end, after a while that grows, and not for ever."""

from __future__ import annotations

import asyncio
import builtins
import collections
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from ..errors import BrowserClosed, CircuitOpen, CloisterError, OutOfDescriptors, ProcessLost

__all__ = ["Breaker", "Kept"]

log = logging.getLogger("cloister.process")
T = TypeVar("T")


class Breaker:
    """Says when a process that has ended may be started again.

    The first time almost at once; then after a delay that doubles with each end in the last ``WINDOW`` seconds,
    with jitter, so that programs that failed together do not come back together. After ``MOST`` ends it is open:
    nothing is started for ``OPEN`` seconds, then once; if that one lives for ``WINDOW``, all is forgotten.
    """

    FIRST = 0.05
    """Seconds before the first restart."""
    LONGEST = 5.0
    """Seconds between two restarts at the most."""
    WINDOW = 60.0
    """Seconds for which an end counts."""
    MOST = 6
    """Ends in a window that make it a loop. Their delays take about three seconds together."""
    OPEN = 30.0
    """Seconds for which nothing is started any more."""

    def __init__(self, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._ends: collections.deque[float] = collections.deque(maxlen=self.MOST)

    def ended(self) -> None:
        """It ended, or did not come up."""
        self._ends.append(self._clock())

    def forget(self) -> None:
        """It is known to be well again."""
        self._ends.clear()

    @property
    def is_loop(self) -> bool:
        """Whether it ended too often of late."""
        now = self._clock()
        while self._ends and now - self._ends[0] > self.WINDOW:
            self._ends.popleft()
        return len(self._ends) >= self.MOST

    def delay(self) -> float:
        """Seconds to wait before the next start. Raises :class:`CircuitOpen`."""
        if not self.is_loop:
            import random

            doubled = self.FIRST * 2.0 ** max(0, len(self._ends) - 1)
            return min(doubled, self.LONGEST) * random.uniform(0.5, 1)  # noqa: S311 - it spreads, it hides nothing
        left = self._ends[-1] + self.OPEN - self._clock()
        if left > 0:
            raise CircuitOpen(
                f"{self._name} ended {self.MOST} times within {self.WINDOW:g} s, so it is not started again for "
                f"{left:.0f} s. `cloister crashes list` shows how it ended"
            )
        return 0.0


class Kept(Generic[T]):
    """What :meth:`get` gives is started again by ``start`` whenever :meth:`ended` tells of its end."""

    def __init__(self, name: str, start: Callable[[], Awaitable[T]]) -> None:
        self._name = name
        self._start = start
        self._breaker = Breaker(name)
        self._loop = asyncio.get_running_loop()
        self._current: asyncio.Future[T] = self._loop.create_future()
        self._work: asyncio.Task[None] | None = None
        self._closed = False

    async def begin(self) -> T:
        """Start the first one. What that raises is raised: a machine where it never worked is no crash loop."""
        started = await self._start()
        self._current.set_result(started)
        return started

    @property
    def current(self) -> T | None:
        """The one that is there now."""
        done = self._current.done() and not self._current.cancelled() and self._current.exception() is None
        return self._current.result() if done else None

    async def get(self, timeout: float) -> T:
        """The one that is there, or the next one, within ``timeout`` seconds.

        Raises :class:`CircuitOpen` when it keeps ending, :class:`ProcessLost` when it takes too long,
        :class:`OutOfDescriptors` when this program has no room for it.
        """
        if self._closed:
            raise BrowserClosed("the browser is closed")
        if self._current.done() and self._current.exception() is not None:
            self._breaker.delay()  # raises while it is open
            self._restart()
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(self._current)
        except builtins.TimeoutError:
            raise ProcessLost(f"{self._name} has not come back within {timeout:g} s") from None

    def ended(self) -> None:
        """The current one has ended."""
        if not self._closed and self._current.done():
            self._breaker.ended()
            self._restart()

    def failed(self, error: OutOfDescriptors) -> None:
        """It could not be started, and that is not its fault: whoever waits for it is told, whoever asks next has it
        tried again."""
        if self._current.done():
            self._current = self._loop.create_future()
        self._current.set_exception(error)
        self._current.exception()  # nobody may be waiting for it

    async def close(self) -> None:
        """Start nothing any more."""
        self._closed = True
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)
        if not self._current.done():
            self._current.cancel()

    def _restart(self) -> None:
        self._current = self._loop.create_future()
        self._work = self._loop.create_task(self._until_started(self._current))

    async def _until_started(self, future: asyncio.Future[T]) -> None:
        while True:
            try:
                await asyncio.sleep(self._breaker.delay())
                future.set_result(await self._start())
            except CircuitOpen as error:
                log.error("%s", error)  # noqa: TRY400 - the message is all there is to say
                future.set_exception(error)
                future.exception()  # nobody may be waiting for it
            except OutOfDescriptors as error:
                log.warning("%s did not come back: %s", self._name, error)
                self.failed(error)
            except CloisterError as error:
                log.warning("%s did not come back: %s", self._name, error)
                self._breaker.ended()
                continue
            else:
                log.info("%s is back", self._name)
            return
