"""The zygotes of a runtime: one for each set of modules, paths and powers that plugins share."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import weakref
from collections.abc import Coroutine, Sequence
from typing import Any, Final

import msgspec

from .. import ends
from ..errors import descriptors_left
from ..interfaces.plugin_host import Options, PreloadOptions
from ..interfaces.zygote import PreloadKind
from ..ipc import Channel
from ..process import ChildProcess, Zygote
from ..process.cgroups import CgroupParent
from ..process.crashed import report_crash
from ..process.keep import Kept
from ..process.kinds import MODULES, PLUGIN_HOST
from ..process.throttle import Throttle
from .limits import Limits

__all__ = ["Zygotes"]

_START_TIMEOUT = 20.0  # seconds
_MOST_THREADS: Final = 64
"""Of one plugin that may start any, where a cgroup counts them."""


class Zygotes:
    """What a process may open and what it has in memory is decided before it is forked, so plugins that were granted
    different things come from different zygotes. Each is started with its first plugin, and again when it ends.

    For the running event loop.
    """

    def __init__(self, *, allow_degraded: bool, cgroups: bool, crash_reports: bool = True) -> None:
        """``cgroups``: whether each process gets a cgroup of its own, where this program may make such. To look for
        one may move this program (:meth:`CgroupParent.find`). ``crash_reports``: whether an end that should not have
        been leaves one."""
        self._allow_degraded = allow_degraded
        self._crash_reports = crash_reports
        self._cgroups = CgroupParent.find(also=("io",)) if cgroups else None
        self._kept: dict[PreloadOptions, Kept[Zygote]] = {}
        self._starting: dict[PreloadOptions, asyncio.Future[Zygote]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._children: weakref.WeakKeyDictionary[ChildProcess, PreloadOptions] = weakref.WeakKeyDictionary()
        self._closed = False

    async def fork(
        self,
        preload: PreloadOptions,
        options: Options,
        limits: Limits,
        sockets: Sequence[socket.socket] = (),
    ) -> tuple[ChildProcess, Channel]:
        """A process that is about to lock itself down and has loaded nothing yet, and its work channel,
        which is the caller's to close. It gets copies of ``sockets``. Of ``limits`` those are held here that take a
        cgroup, or a throttle.

        Raises :class:`SandboxUnavailable`, :class:`LaunchError`, :class:`ProcessLost`, :class:`CircuitOpen` or
        :class:`OutOfDescriptors`.
        """
        kept = await self._get(preload)
        zygote = await kept.get(_START_TIMEOUT)
        here, there = Channel.pair()
        try:
            with descriptors_left():
                given = [there, *(Channel(os.dup(each.fileno())) for each in sockets)]
            child = await zygote.fork(PLUGIN_HOST, msgspec.msgpack.encode(options), given)
        except BaseException:
            here.close()
            raise
        self._children[child] = preload
        self._report_end(child)
        try:
            self._hold(child, options, limits)
        except BaseException:
            here.close()
            await child.end()
            raise
        return child, here

    def _hold(self, child: ChildProcess, options: Options, limits: Limits) -> None:
        cpu_percent = limits.cpu_percent
        has = self._cgroups.controllers if self._cgroups is not None else frozenset[str]()
        if self._cgroups is not None:
            # What the rlimits hold separately, together: its own memory, and that of one buffer.
            memory = options.memory + options.file_size if "memory" in has else None
            cgroup = self._cgroups.child(
                memory_max=memory,
                cpu_percent=cpu_percent if "cpu" in has else None,
                pids_max=_MOST_THREADS if "pids" in has else None,
                cpu_weight=limits.cpu_weight if "cpu" in has else None,
                io_weight=limits.io_weight if "io" in has else None,
            )
            child.when_ended(lambda: self._leave(cgroup.close()))
            with contextlib.suppress(ProcessLookupError):  # it is gone already
                cgroup.add(child.pid)
            child.why_killed = lambda: ends.OutOfMemory("its cgroup's limit") if cgroup.oom_kills() else None
        if cpu_percent is not None and "cpu" not in has:
            throttle = Throttle(child.pid, child.pidfd, cpu_percent)
            child.when_ended(throttle.close)

    def _report_end(self, child: ChildProcess) -> None:
        me = weakref.ref(child)  # a handle that is dropped ends its process

        def ended() -> None:
            there = me()
            if self._crash_reports and there is not None and there.ending and there.ending.is_abnormal:
                self._leave(report_crash(there, plugin=there.site))

        child.when_ended(ended)

    def _leave(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    @property
    def pids(self) -> list[int]:
        """Of the zygotes, their branches, and all that they forked and that lives. From any thread."""
        return [process.pid for process in self.processes]

    @property
    def processes(self) -> list[ChildProcess]:
        """The same, as they are."""
        zygotes = [zygote for kept in list(self._kept.values()) if (zygote := kept.current) is not None]
        standing = [process for zygote in zygotes for process in (zygote.process, *zygote.branches)]
        return [process for process in (*standing, *self._children) if not process.has_ended]

    async def warm(self, preload: PreloadOptions) -> None:
        """Have the zygote for ``preload`` running. Raises as :meth:`fork`."""
        await self._get(preload)

    async def spare(self, preload: PreloadOptions) -> None:
        """End the zygote for ``preload`` if nothing that it forked lives. The next fork starts another."""
        if preload in self._kept and not any(
            of == preload and not child.has_ended for child, of in list(self._children.items())
        ):
            await self._end(self._kept.pop(preload))

    async def close(self) -> None:
        """End them, and with them all that they forked."""
        self._closed = True
        await asyncio.gather(*(child.end() for child in list(self._children)))
        await asyncio.gather(*self._starting.values(), return_exceptions=True)
        for kept in self._kept.values():
            await self._end(kept)
        await asyncio.gather(*self._leaving, return_exceptions=True)
        if self._cgroups is not None:
            self._cgroups.close()

    async def _end(self, kept: Kept[Zygote]) -> None:
        zygote = kept.current
        await kept.close()
        if zygote is not None:
            await zygote.close()

    async def _get(self, preload: PreloadOptions) -> Kept[Zygote]:
        if preload not in self._kept:
            if preload not in self._starting:
                kept = Kept("the zygote of plugins", lambda: self._start(preload))
                self._starting[preload] = starting = asyncio.ensure_future(kept.begin())
                starting.add_done_callback(lambda done: self._started(preload, kept, done))
            await asyncio.shield(self._starting[preload])
            await asyncio.sleep(0)  # _started is called in the next turn of the loop
        return self._kept[preload]

    def _started(self, preload: PreloadOptions, kept: Kept[Zygote], done: asyncio.Future[Zygote]) -> None:
        del self._starting[preload]
        if not done.cancelled() and done.exception() is None:
            self._kept[preload] = kept

    async def _start(self, preload: PreloadOptions) -> Zygote:
        shares_network = "network_namespace" in preload.shares
        kinds = [
            PreloadKind(PLUGIN_HOST, MODULES[PLUGIN_HOST], msgspec.msgpack.encode(preload), shares_network)
        ]
        zygote = await Zygote.start(kinds, allow_degraded=self._allow_degraded, shares=preload.shares)
        try:
            await zygote.ready()
        except BaseException:
            await zygote.close()
            raise
        for each in (zygote.process, *zygote.branches):
            self._report_end(each)
        zygote.process.when_ended(lambda: self._ended(preload, zygote))
        for branch in zygote.branches:  # without its one branch it is of no use
            branch.when_ended(lambda: self._ended(preload, zygote))
        return zygote

    def _ended(self, preload: PreloadOptions, zygote: Zygote) -> None:
        kept = self._kept.get(preload)
        if self._closed or kept is None or kept.current is not zygote:
            return
        self._leave(zygote.close())
        kept.ended()
