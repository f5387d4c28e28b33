"""One web_content process: whose documents are in it, and who may join them.

It is fresh for its first document. Once that is there, a page that goes to the same origin may join where memory is
short, if no other origin had a hand in it: each counts that the document was about to be asked for, as its
request_server said before it spoke to the server there. So a document that was redirected from another origin is
joined by none.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from ..ends import End, Killed
from ..errors import BadMessage, ChannelClosed
from ..process import ChildProcess
from .checks import origin_of

if TYPE_CHECKING:
    from .renderer import Renderer

__all__ = ["MOST_DOCUMENTS", "ContentProcess"]

MOST_DOCUMENTS: Final = 8
"""Documents in one process: what one crash, one page that is stopped, or the limit of its memory takes along."""
_ANSWERS_WITHIN: Final = 1.0
"""Seconds in which a process says that it is there, after one of its pages was stopped: that page's server may have
been slow, and nothing else."""


class ContentProcess:
    """The process ends when its last document leaves."""

    def __init__(self, process: ChildProcess) -> None:
        self.process = process
        self._renderers: list[Renderer] = []
        self._origins: set[str | None] = set()
        self._is_settled = False
        self._asked: asyncio.Future[object] | None = None
        process.when_ended(self._on_ended)

    def admit(self, url: str) -> bool:
        """A document is about to be asked for at ``url``: whether it may come here. After the first one, only those of
        its origin may."""
        origin = origin_of(url)
        if self._is_settled:
            return self._origins == {origin}
        self._origins.add(origin)
        return True

    def settle(self) -> None:
        """The first document is there: from now on the process keeps to its origin."""
        self._is_settled = True

    def can_be_joined(self, origin: str) -> bool:
        """Whether a page that is about to load a document of ``origin`` may be put here."""
        process = self.process
        return (
            self._is_settled
            and self._origins == {origin}
            and 0 < len(self._renderers) < MOST_DOCUMENTS
            and process.is_alive
            and not process.is_doomed
            and not process.is_unresponsive
            and (self._asked is None or self._asked.done())
        )

    def enter(self, renderer: Renderer) -> None:
        self._renderers.append(renderer)

    def leave(self, renderer: Renderer, why: End) -> None:
        """A document is not needed any more. Leaving twice is fine."""
        if renderer in self._renderers:
            self._renderers.remove(renderer)
            if self._renderers:
                self.process.connections.remove(renderer.page)
            else:
                self.process.kill(why)

    def stop(self, why: str, *, quiet: bool) -> None:
        """One document has had its time. End the process, unless others are in it and it is still there for them."""
        if len(self._renderers) < 2:
            self.process.kill(Killed(why, quiet=quiet))
            return
        busy = Killed(f"a page of its site that shared its process was stopped: {why}")
        try:
            asked = self._asked = self.process.probe()
        except (ChannelClosed, BadMessage):
            self.process.kill(busy)
            return
        asyncio.get_running_loop().call_later(
            _ANSWERS_WITHIN, lambda: None if asked.done() else self.process.kill(busy)
        )

    async def end(self) -> None:
        """See the process gone, if nobody is in it."""
        if not self._renderers:
            await self.process.end()

    def _on_ended(self) -> None:
        for renderer in list(self._renderers):
            renderer.on_ended()
