"""The memory of all processes of a browser: what is over its limit is ended, and when all together come near the
budget, new pages share the process of their origin; over it, pages that nobody uses are discarded, and then new ones
wait."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ..ends import End, OutOfMemory
from ..errors import OutOfDescriptors
from ..process import ChildProcess
from ..process.usage import pss, resident
from .room import Room

if TYPE_CHECKING:
    from ..process.pressure import Pressure, PressureWatch

__all__ = ["MemoryKeeper", "default_budget"]

log = logging.getLogger("cloister.browser")

INTERVAL = 1.0
"""Seconds between two looks; a look costs 20 µs for each process while all is well."""
BACKGROUND = 2.0
"""Seconds without use after which a page is in the background: it rests by then, and waits for nothing."""
SHARE_FROM = 0.75
"""Part of the budget from which on pages of one origin share."""


class Discardable(Protocol):
    """A page, as far as memory is concerned."""

    used_at: float

    @property
    def children(self) -> Sequence[ChildProcess]: ...
    def discard(self) -> bool: ...


class MemoryKeeper:
    """``pages`` and ``processes`` say what there is now; ``room`` is shut while there is no memory for more, and
    ``share`` is told whether pages of one origin are to share a process."""

    def __init__(
        self,
        pages: Callable[[], Iterable[Discardable]],
        processes: Callable[[], Iterable[ChildProcess]],
        room: Room,
        share: Callable[[bool], None],
        *,
        budget: int,
        page_limit: int,
    ) -> None:
        self._pages = pages
        self._processes = processes
        self._room = room
        self._share = share
        self._budget = budget
        self._page_limit = page_limit
        self._pressure: PressureWatch | None = None
        self._work = asyncio.get_running_loop().create_task(self._watch())

    async def close(self) -> None:
        if self._pressure is not None:
            self._pressure.close()
        self._work.cancel()
        await asyncio.gather(self._work, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL)
            try:
                if self._pressure is None:
                    # Not for a program that opens one page and ends: the kernel takes 15 ms to let go of its trigger
                    # (psi_trigger_destroy() waits for all processors), and no page is in the background by now.
                    from ..process.pressure import PressureWatch

                    self._pressure = PressureWatch(self._on_pressure)
                for page in list(self._pages()):
                    await self._check(page)
                await self._keep_within_budget()
            except OutOfDescriptors as error:
                log.warning("memory is not watched for %g s: %s", INTERVAL, error)

    async def _check(self, page: Discardable) -> None:
        if not page.children or (resident(page.children[0].pid) or 0) <= self._page_limit:
            return
        process = page.children[0]
        (used,) = await _measure([process.pid])
        if used > self._page_limit:
            process.kill(_over(used, self._page_limit))

    async def _keep_within_budget(self) -> None:
        used = self._resident()
        if used > self._budget * SHARE_FROM:
            used = sum(await _measure([process.pid for process in self._processes()]))
        self._share(used > self._budget * SHARE_FROM)
        for page in self._in_background():
            if used <= self._budget:
                break
            used -= await self._discard(page, f"{_mib(used)} of {_mib(self._budget)} are used")
        if used <= self._budget:
            self._room.shut = None
        elif self._room.shut is None:
            self._room.shut = (
                f"all pages together take {_mib(used)}, and may take {_mib(self._budget)} (memory_budget)"
            )
            log.warning("new pages wait: %s", self._room.shut)
        self._room.look()

    def _on_pressure(self, pressure: Pressure) -> None:
        """The whole machine is short of memory: give back what is needed least, a page at a time."""
        for page in self._in_background():
            if page.discard():
                log.warning(
                    "a page was discarded: the machine is short of memory (PSI avg10 %g %%)", pressure.avg10
                )
                return

    async def _discard(self, page: Discardable, why: str) -> int:
        """The bytes that it took."""
        used = sum(await _measure([child.pid for child in page.children]))
        if not page.discard():  # somebody began to use it meanwhile
            return 0
        log.warning("a page was discarded: %s", why)
        return used

    def _in_background(self) -> Sequence[Discardable]:
        """The pages that may be discarded, the one that was used longest ago first."""
        before = time.monotonic() - BACKGROUND
        idle = [page for page in self._pages() if page.children and page.used_at < before]
        return sorted(idle, key=lambda page: page.used_at)

    def _resident(self) -> int:
        return sum(resident(process.pid) or 0 for process in self._processes())


async def _measure(pids: list[int]) -> list[int]:
    """The memory of each, as exactly as the kernel tells; in a thread, as page tables are walked for it."""

    def measure() -> list[int]:
        return [found if (found := pss(pid)) is not None else resident(pid) or 0 for pid in pids]

    return await asyncio.to_thread(measure)


def _over(used: int, limit: int) -> End:
    return OutOfMemory(f"it took {_mib(used)}, and a page may take {_mib(limit)} (max_page_memory)")


def _mib(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"


def default_budget() -> int:
    """Half of the machine's memory, or of what this program's cgroup may have."""
    have = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = Path(path).read_text()
        except OSError:  # the root of version 2 has none, and neither has a machine without cgroups
            continue
        have = min(have, int(text)) if text.strip().isdigit() else have
    return have // 2
