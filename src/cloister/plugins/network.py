"""What plugins ask of the network is asked by a browser without pages: made when the first one asks, one for all."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import CloisterError, HostError
from ..process.loop_thread import LoopThread

if TYPE_CHECKING:
    from ..browser import AsyncBrowser, NetworkPolicy

__all__ = ["Network"]

T = TypeVar("T")


class Network:
    """For any number of threads; the browser is the loop's."""

    def __init__(
        self, thread: LoopThread, policy: NetworkPolicy | None, *, allow_degraded: bool, crash_reports: bool
    ) -> None:
        self._thread = thread
        self._policy = policy
        self._allow_degraded = allow_degraded
        self._crash_reports = crash_reports
        self._starting: asyncio.Task[AsyncBrowser] | None = None

    @property
    def policy(self) -> NetworkPolicy:
        """Which addresses may be reached, by whatever name."""
        from ..browser import NetworkPolicy

        return self._policy or NetworkPolicy()

    def run(self, work: Coroutine[Any, Any, T], timeout: float) -> T:
        """Run ``work`` in the loop, for ``timeout`` seconds at the most. Raises :class:`HostError` after that."""
        try:
            return self._thread.run(work, timeout)
        except CloisterError:
            raise
        except concurrent.futures.TimeoutError:
            raise HostError(f"not answered within {timeout:.3g} s") from None

    async def browser(self) -> AsyncBrowser:
        """In the loop: the browser. Raises as :meth:`AsyncBrowser.start`."""
        starting = self._starting
        if starting is None or (starting.done() and (starting.cancelled() or starting.exception())):
            starting = self._starting = asyncio.ensure_future(self._start())
        return await asyncio.shield(starting)

    async def close(self) -> None:
        """In the loop: end it, and all that it asks."""
        if self._starting is not None:
            (browser,) = await asyncio.gather(self._starting, return_exceptions=True)
            if not isinstance(browser, BaseException):
                await browser.close()

    async def _start(self) -> AsyncBrowser:
        from ..browser import AsyncBrowser

        browser = AsyncBrowser(
            network=self._policy, allow_degraded=self._allow_degraded, crash_reports=self._crash_reports
        )
        return await browser.start()
