"""Subresources are fetched in parallel before layout, so that the layout engine finds them there."""

from __future__ import annotations

import asyncio
import posixpath
from collections.abc import Callable, Iterable

from .css import Use
from .references import Found
from .resources import Resources
from .urls import path_of

__all__ = ["fetch_all"]

PARALLEL = 16
"""Requests of one page under way at once."""

MAX_IMPORTS = 5
"""Nesting of ``@import``."""

MAX_BACKGROUNDS = 40
MAX_FONTS = 8
"""Images and fonts of stylesheets that are fetched ahead: few of those that a stylesheet names are used. The
layout engine asks for others when it needs them."""

_FONT_FILES = (".woff2", ".woff", ".ttf", ".otf")

Report = Callable[[int, int], None]
"""Told how many are done, of how many that were found so far."""


async def fetch_all(
    found: Found, resources: Resources, report: Report, meanwhile: Callable[[], None]
) -> None:
    """Fetch what ``found`` names and what that refers to; decode the images among it. ``meanwhile`` is work that needs
    none of it, and is done once all of it has been asked for."""

    async def work() -> None:
        meanwhile()

    fetching = _Fetching(resources, report)
    try:
        async with asyncio.TaskGroup() as fetching.tasks:
            fetching.start(found, 0)
            fetching.tasks.create_task(work())  # tasks begin in the order in which they were made
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


class _Fetching:
    tasks: asyncio.TaskGroup

    def __init__(self, resources: Resources, report: Report) -> None:
        self._resources = resources
        self._report = report
        self._turn = asyncio.Semaphore(PARALLEL)
        self._seen: set[str] = set()
        self._backgrounds = 0
        self._done = 0

    def start(self, found: Found, depth: int) -> None:
        self._resources.referrers = found.referrers | self._resources.referrers
        self._resources.uses |= dict.fromkeys(found.fonts, Use.FONT) | dict.fromkeys(found.styles, Use.STYLE)
        if depth <= MAX_IMPORTS:
            self._each(found.styles, Use.STYLE, depth)
        self._each(found.images, Use.IMAGE, depth, decode=True)
        backgrounds = list(found.backgrounds)[: MAX_BACKGROUNDS - self._backgrounds]
        self._backgrounds += len(backgrounds)
        self._each(backgrounds, Use.IMAGE, depth)
        self._each(_likely_fonts(found.fonts), Use.FONT, depth)

    def _each(self, urls: Iterable[str], use: Use, depth: int, *, decode: bool = False) -> None:
        for url in urls:
            if url not in self._seen:
                self._seen.add(url)
                self.tasks.create_task(self._one(url, use, depth, decode))

    async def _one(self, url: str, use: Use, depth: int, decode: bool) -> None:
        found = Found()
        async with self._turn:
            await self._resources.fetch(url, use, found)
            if decode:
                await self._resources.decode(url)
        self.start(found, depth + 1)
        self._done += 1
        self._report(self._done, len(self._seen))


def _likely_fonts(urls: Iterable[str]) -> list[str]:
    """One file of each font, the first that the stylesheet names: the others are the same in another format."""
    chosen: dict[str, str] = {}
    for url in urls:
        stem, ending = posixpath.splitext(path_of(url))
        if ending.lower() in _FONT_FILES:
            chosen.setdefault(stem, url)
    return list(chosen.values())[:MAX_FONTS]
