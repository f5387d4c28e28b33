"""How many documents are live at once: who comes when there is no room waits, first come, first served."""

from __future__ import annotations

import asyncio
import collections
import resource

from ..errors import InvalidArgument

__all__ = ["Room", "default_room"]

_RESERVED = 128
"""Descriptors left to the program, and to what belongs to no page."""
_PER_DOCUMENT = 14
"""Descriptors of this process that one document holds while it loads with a few images; at rest it has four."""


def default_room() -> int:
    """As many documents as this process has descriptors for (RLIMIT_NOFILE), but not more than 256."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 256
    return max(4, min(256, (soft - _RESERVED) // _PER_DOCUMENT))


class Room:
    """Places for ``most`` documents. While it is shut, nobody new gets one, whether there are some or not."""

    def __init__(self, most: int) -> None:
        if most < 1:
            raise InvalidArgument(f"max_live_pages is {most}; at least one page must be able to live")
        self.most = most
        self.shut: str | None = None
        """Why nobody gets a place now."""
        self._taken = 0
        self._waiting: collections.deque[asyncio.Future[None]] = collections.deque()

    async def take(self) -> None:
        """Wait for a place. The caller has a deadline, and gives the place back."""
        if not self._waiting and self._has_place():
            self._taken += 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():  # it came just then
                self.give_back()
            raise

    def give_back(self) -> None:
        self._taken -= 1
        self.look()

    def look(self) -> None:
        """Let in who waits, as far as there is room: after a change of ``shut``."""
        while self._waiting and self._has_place():
            place = self._waiting.popleft()
            if not place.done():
                self._taken += 1
                place.set_result(None)

    def why_wait(self) -> str:
        """What keeps those who wait."""
        return self.shut or f"{self._taken} pages are live, which is the limit (max_live_pages)"

    @property
    def is_full(self) -> bool:
        return not self._has_place()

    def _has_place(self) -> bool:
        return self.shut is None and self._taken < self.most
