"""Limits of a child: by a cgroup of its own where this program may make one, else by what it can do itself."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ..ends import End, OutOfMemory
from ..errors import InvalidArgument
from .handle import ChildProcess

if TYPE_CHECKING:
    from .cgroups import Cgroup, CgroupParent

__all__ = ["Limiter"]

log = logging.getLogger("cloister.process")


class Limiter:
    """Holds each child to ``memory_max`` bytes and ``cpu_percent`` of one core; None is no limit.

    Without a cgroup, the memory is the caller's to watch, and the processor time is held by stopping the child for
    moments (:class:`Throttle`). Looking for a cgroup may move this program into one of its own, so nothing is looked
    for while there is no limit.
    """

    def __init__(self, memory_max: int | None, cpu_percent: float | None) -> None:
        if cpu_percent is not None and not cpu_percent >= 1:
            raise InvalidArgument(f"max_cpu_percent is {cpu_percent!r}: 1 is the least, 200 are two cores")
        self._memory_max = memory_max
        self._cpu_percent = cpu_percent
        self._parent: CgroupParent | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Look for a place where cgroups can be made."""
        if self._memory_max is None and self._cpu_percent is None:
            return
        from .cgroups import CgroupParent  # here and below: most programs set no limit

        self._parent = CgroupParent.find()
        log.debug("limits are held by %s", "cgroups" if self._parent else "this program")

    def hold(self, child: ChildProcess) -> None:
        """From now on, until its end."""
        has = self._parent.controllers if self._parent else frozenset[str]()
        memory_max = self._memory_max if "memory" in has else None
        cpu_percent = self._cpu_percent if "cpu" in has else None
        if memory_max is not None or cpu_percent is not None:
            self._put_into_cgroup(child, memory_max, cpu_percent)
        if self._cpu_percent is not None and cpu_percent is None:
            from .throttle import Throttle

            throttle = Throttle(child.pid, child.pidfd, self._cpu_percent)
            child.when_ended(throttle.close)

    async def close(self) -> None:
        """Remove what was made. After the end of all children."""
        await asyncio.gather(*self._closing, return_exceptions=True)
        if self._parent is not None:
            self._parent.close()

    def _put_into_cgroup(
        self, child: ChildProcess, memory_max: int | None, cpu_percent: float | None
    ) -> None:
        assert self._parent is not None  # noqa: S101 - for the type checker
        cgroup = self._parent.child(memory_max=memory_max, cpu_percent=cpu_percent)
        child.when_ended(lambda: self._close(cgroup))
        try:
            cgroup.add(child.pid)
        except ProcessLookupError:
            return  # gone already
        child.why_killed = lambda: _out_of_memory(cgroup, memory_max)

    def _close(self, cgroup: Cgroup) -> None:
        task = asyncio.ensure_future(cgroup.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _out_of_memory(cgroup: Cgroup, limit: int | None) -> End | None:
    if limit is None or not cgroup.oom_kills():
        return None
    return OutOfMemory(f"a page may take {limit / 2**20:.0f} MiB (max_page_memory)")
