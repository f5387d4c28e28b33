"""The zygotes of a runtime: one for each set of modules, paths and powers that plugins share, or programs."""

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
from ..errors import ChannelClosed, LaunchError, descriptors_left, printable
from ..interfaces import program_host
from ..interfaces.plugin_host import Options, PreloadOptions
from ..interfaces.program_host import PROGRAM, NotStarted, Run
from ..interfaces.zygote import PreloadKind
from ..ipc import Channel, Descriptors
from ..ipc.codec import Packet, codec
from ..process import ChildProcess, Zygote
from ..process.cgroups import CgroupParent
from ..process.crashed import report_crash
from ..process.keep import Kept
from ..process.kinds import MODULES, PLUGIN_HOST, PROGRAM_HOST
from ..process.throttle import Throttle
from .limits import Limits

__all__ = ["Preload", "Zygotes"]

Preload = PreloadOptions | program_host.PreloadOptions
"""What is decided before a process is forked; the type says of which kind it is."""

_START_TIMEOUT = 20.0  # seconds
_RUN_TIMEOUT = 10.0
"""Seconds in which a program_host is locked down and the kernel has loaded its program."""
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
        self._kept: dict[Preload, Kept[Zygote]] = {}
        self._standing: set[Preload] = set()
        self._starting: dict[Preload, asyncio.Future[Zygote]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._children: weakref.WeakKeyDictionary[ChildProcess, Preload] = weakref.WeakKeyDictionary()
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
        return await self._fork(preload, options, limits, sockets)

    async def run(
        self,
        preload: program_host.PreloadOptions,
        options: program_host.Options,
        program: Run,
        pipes: Descriptors,
        limits: Limits,
    ) -> ChildProcess:
        """A process that has become ``program``, which has ``pipes``: these are closed here, whatever happens.

        Raises as :meth:`fork`, and :class:`LaunchError` when the kernel does not run it.
        """
        try:
            child, channel = await self._fork(preload, options, limits)
            try:
                channel.send(codec(PROGRAM, "client").encode(Packet.EVENT, 0, program), pipes.borrow())
                pipes.close()
                await child.ready(_RUN_TIMEOUT)
                await _began(channel)
            except BaseException:
                await child.end()
                raise
            finally:
                channel.close()
        finally:
            pipes.close()
        return child

    async def _fork(
        self,
        preload: Preload,
        options: Options | program_host.Options,
        limits: Limits,
        sockets: Sequence[socket.socket] = (),
    ) -> tuple[ChildProcess, Channel]:
        kept = await self._get(preload)
        zygote = await kept.get(_START_TIMEOUT)
        here, there = Channel.pair()
        given = [there]
        try:
            with descriptors_left():
                for each in sockets:
                    given.append(Channel(os.dup(each.fileno())))
        except BaseException:
            for each_end in (here, *given):
                each_end.close()
            raise
        try:
            child = await zygote.fork(_kind(preload), msgspec.msgpack.encode(options), given)
        except BaseException:
            here.close()
            raise
        child.is_foreign = isinstance(preload, program_host.PreloadOptions)
        self._children[child] = preload
        self._report_end(child)
        try:
            self._hold(child, options, limits)
        except BaseException:
            here.close()
            await child.end()
            raise
        return child, here

    def _hold(self, child: ChildProcess, options: Options | program_host.Options, limits: Limits) -> None:
        cpu_percent = limits.cpu_percent
        has = self._cgroups.controllers if self._cgroups is not None else frozenset[str]()
        if self._cgroups is not None:
            # What the rlimits hold separately, together: its own memory, and that of one buffer.
            memory = options.memory + options.file_size if "memory" in has else None
            cgroup = self._cgroups.child(
                memory_max=memory,
                cpu_percent=cpu_percent if "cpu" in has else None,
                pids_max=_MOST_THREADS + (limits.processes or 0) if "pids" in has else None,
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
            if self._crash_reports and there is not None and there.ended_badly:
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

    async def warm(self, preload: Preload) -> None:
        """Have the zygote for ``preload`` running, to stay. Raises as :meth:`fork`."""
        self._standing.add(preload)
        await self._get(preload)

    async def spare(self, preload: Preload) -> None:
        """End the zygote for ``preload`` if nothing that it forked lives, and it is not to stay. The next fork starts
        another."""
        if (
            preload in self._kept
            and preload not in self._standing
            and not any(of == preload and not child.has_ended for child, of in list(self._children.items()))
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

    async def _get(self, preload: Preload) -> Kept[Zygote]:
        if preload not in self._kept:
            if preload not in self._starting:
                kept = Kept("the zygote of plugins", lambda: self._start(preload))
                self._starting[preload] = starting = asyncio.ensure_future(kept.begin())
                starting.add_done_callback(lambda done: self._started(preload, kept, done))
            await asyncio.shield(self._starting[preload])
            await asyncio.sleep(0)  # _started is called in the next turn of the loop
        return self._kept[preload]

    def _started(self, preload: Preload, kept: Kept[Zygote], done: asyncio.Future[Zygote]) -> None:
        del self._starting[preload]
        if not done.cancelled() and done.exception() is None:
            self._kept[preload] = kept

    async def _start(self, preload: Preload) -> Zygote:
        kind = _kind(preload)
        # A program has all the namespaces: whatever is given up, is given up for code in a plugin_host.
        shares = preload.shares if isinstance(preload, PreloadOptions) else ()
        shares_network = "network_namespace" in shares
        kinds = [PreloadKind(kind, MODULES[kind], msgspec.msgpack.encode(preload), shares_network)]
        zygote = await Zygote.start(kinds, allow_degraded=self._allow_degraded, shares=shares)
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

    def _ended(self, preload: Preload, zygote: Zygote) -> None:
        kept = self._kept.get(preload)
        if self._closed or kept is None or kept.current is not zygote:
            return
        self._leave(zygote.close())
        kept.ended()


def _kind(preload: Preload) -> str:
    return PLUGIN_HOST if isinstance(preload, PreloadOptions) else PROGRAM_HOST


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _began(channel: Channel) -> None:
    """Until the kernel has loaded the program: the channel is closed then, or says why not."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(channel.fileno(), _wake, readable)
    try:
        async with asyncio.timeout(_RUN_TIMEOUT):
            await readable
        _, _, message = codec(PROGRAM, "client").decode(channel.receive()[0])
    except ChannelClosed:
        return
    except TimeoutError:
        raise LaunchError(f"the program did not begin within {_RUN_TIMEOUT:g} s") from None
    finally:
        loop.remove_reader(channel.fileno())
    why = message.why if isinstance(message, NotStarted) else "its process said something else"
    raise LaunchError(f"the program could not be run: {printable(why)}")
