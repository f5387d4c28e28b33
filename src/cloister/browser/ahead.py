"""The processes of the next page, forked while the program looks at this one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ..errors import CloisterError
from ..process import ChildProcess
from .renderer import Renderer

__all__ = ["Ahead"]

_AFTER = 0.1
"""Seconds after a page was loaded: what is asked of it first is not to wait."""
_IDLE = 2.0
"""Seconds after which nobody seems to want another page: 15 MiB are better given back."""


class Ahead:
    """One renderer for a program that opens page after page; none for one that opens a single page, or rests.

    A renderer that was forked ahead has seen nothing, and is used for one document as any other is.
    """

    def __init__(self, start: Callable[[], Awaitable[Renderer]], see_off: Callable[[Renderer], None]) -> None:
        self._start = start
        self._see_off = see_off
        self._loads = 0
        self._timer: asyncio.TimerHandle | None = None
        self._starting: asyncio.Task[None] | None = None
        self._renderer: Renderer | None = None

    def take(self) -> Renderer | None:
        """The renderer, if there is one that is alive."""
        renderer, self._renderer = self._renderer, None
        if renderer is not None and not renderer.web_content.is_alive:
            self._see_off(renderer)
            return None
        return renderer

    @property
    def processes(self) -> list[ChildProcess]:
        """Those that wait for a page."""
        return self._renderer.processes if self._renderer is not None else []

    def loaded(self) -> None:
        """A page was loaded: from the second on, begin with the next."""
        self._loads += 1
        if self._loads > 1:
            self._wake_after(_AFTER, self._begin)

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        self._let_go()

    def _wake_after(self, seconds: float, work: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, work)

    def _begin(self) -> None:
        if self._renderer is None and (self._starting is None or self._starting.done()):
            self._starting = asyncio.create_task(self._fork())
        self._wake_after(_IDLE, self._let_go)

    async def _fork(self) -> None:
        try:
            self._renderer = await self._start()
        except CloisterError:
            return  # the next page meets the same trouble, and is told

    def _let_go(self) -> None:
        renderer, self._renderer = self._renderer, None
        if renderer is not None:
            self._see_off(renderer)
