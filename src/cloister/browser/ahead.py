"""The processes of the next pages, forked while the program looks at these."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from ..errors import CloisterError
from ..process import ChildProcess
from .renderer import Renderer

__all__ = ["Ahead"]

MOST = 4
"""Spare renderers at the most: 15 MiB each, for two seconds."""
_AFTER = 0.1
"""Seconds after a page was loaded: what is asked of it first is not to wait."""
_IDLE = 2.0
"""Seconds after which nobody seems to want another page: the memory is better given back."""


class Ahead:
    """One renderer for a program that opens page after page, more for one that opens several at once; none for one that
    opens a single page, or rests.

    A renderer that was forked ahead has seen nothing, and is used for one document as any other is.
    """

    def __init__(self, start: Callable[[], Awaitable[Renderer]], see_off: Callable[[Renderer], None]) -> None:
        self._start = start
        self._see_off = see_off
        self._loads = 0
        self._at_once = 1
        self._timer: asyncio.TimerHandle | None = None
        self._starting: asyncio.Task[None] | None = None
        self._spares: deque[Renderer] = deque()

    def take(self, loading: int) -> Renderer | None:
        """A renderer, if there is one that is alive. ``loading``: how many pages load at this moment."""
        self._at_once = max(self._at_once, min(MOST, loading))
        while self._spares:
            renderer = self._spares.popleft()
            if renderer.web_content.is_alive:
                return renderer
            self._see_off(renderer)
        return None

    @property
    def processes(self) -> list[ChildProcess]:
        """Those that wait for a page."""
        return [child for renderer in self._spares for child in renderer.processes]

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
        """As many as loaded at once since the last time."""
        wanted, self._at_once = self._at_once, 1
        if self._starting is None or self._starting.done():
            self._starting = asyncio.create_task(self._fork(wanted))
        self._wake_after(_IDLE, self._is_idle)

    async def _fork(self, wanted: int) -> None:
        try:
            while len(self._spares) < wanted:
                self._spares.append(await self._start())
        except CloisterError:
            return  # the next page meets the same trouble, and is told

    def _is_idle(self) -> None:
        if self._starting is not None and not self._starting.done():
            self._wake_after(_IDLE, self._is_idle)  # what is late is let go of as well, once it is there
        else:
            self._let_go()

    def _let_go(self) -> None:
        while self._spares:
            self._see_off(self._spares.popleft())
