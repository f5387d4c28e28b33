"""Where a page has been, and how to go there again."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..interfaces.base import Request
from ..interfaces.web_content import Loaded

__all__ = ["Entry", "History"]

MOST = 50
"""Entries that are kept, as in Chromium (content/public/common/content_constants.h, kMaxSessionHistoryEntries)."""


class Entry(NamedTuple):
    """One navigation: ``message`` makes the request, and the descriptors that go with it, anew each time."""

    url: str
    message: Callable[[], tuple[Request[Loaded], list[int]]]
    will_fetch: bool


class History:
    """A list of entries and a place in it."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self._at = -1

    @property
    def current(self) -> Entry | None:
        return self._entries[self._at] if self._entries else None

    def push(self, entry: Entry) -> None:
        """Go to a new entry: what lay ahead is forgotten, and so is the oldest beyond ``MOST``."""
        self._entries = [*self._entries[: self._at + 1], entry][-MOST:]
        self._at = len(self._entries) - 1

    def step(self, by: int) -> Entry | None:
        """Go back (-1) or forward (1); None where there is nothing."""
        if not 0 <= self._at + by < len(self._entries):
            return None
        self._at += by
        return self.current
