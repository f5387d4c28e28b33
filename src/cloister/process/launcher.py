"""Starting children: by exec (the zygote, the lookup_server), and by a fork of the zygote (all others)."""

from __future__ import annotations

import asyncio
import builtins
import collections
import contextlib
import logging
import os
import signal
import weakref
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from .. import ends
from ..errors import (
    BadMessage,
    ChannelClosed,
    LaunchError,
    OutOfDescriptors,
    ProcessError,
    ProcessLost,
    RequestFailed,
    descriptors_left,
)
from ..interfaces.base import Interface, Message
from ..interfaces.control import CONTROL
from ..interfaces.zygote import (
    BRANCH,
    LAUNCH,
    ZYGOTE,
    Branched,
    Exited,
    Fork,
    Launched,
    Options,
    PreloadKind,
)
from ..ipc import Channel, Descriptors
from ..ipc.codec import codec
from . import early, start_message
from .early import Early
from .handle import ChildProcess, ExitStatus
from .last_words import LastWords
from .spawn import spawn
from .usage import parent_of

__all__ = ["Zygote", "launch"]

_Name = tuple[str | None, int]

log = logging.getLogger("cloister.process")

_LAUNCH_TIMEOUT = 20.0
_FORK_TIMEOUT = 10.0


async def launch(
    kind: str,
    options: bytes = b"",
    channels: Sequence[Channel] = (),
    *,
    allow_degraded: bool = False,
    keep: Sequence[Channel] = (),
    interface: Interface = CONTROL,
    handlers: Mapping[type[Message], Any] | None = None,
    shares: tuple[str, ...] = (),
    begun: Early | None = None,
) -> ChildProcess:
    """Start ``python -m cloister --subprocess-kind=KIND`` and hand it ``channels`` (given away, whatever happens).

    ``keep`` are this side's ends, closed with the handle, or here when this fails. ``shares`` are namespaces of this
    program that it stays in. ``begun`` is the process where it runs already, and may have been told its options.
    Raises :class:`LaunchError` when it does not come up, and :class:`OutOfDescriptors`.
    """
    try:
        spawned = spawn(kind, shares) if begun is None else begun.spawned
    except BaseException:
        _close(*channels, *keep)
        raise
    control, errors = Channel(spawned.control), LastWords(kind, spawned.errors)
    greeting = asyncio.ensure_future(_greeted(kind, control, errors))
    try:
        pid = await asyncio.shield(greeting)
        if begun is None or not begun.options:
            start_message.send(control, options, channels, allow_degraded)
        with descriptors_left():
            pidfd = os.pidfd_open(pid)
    except BaseException:
        await _undo(spawned.pid, greeting)
        _close(control, *keep)
        errors.close()
        raise
    finally:
        _close(*channels)
    if pid != spawned.pid:
        _reap(spawned.pid)  # it only made the namespaces, and is gone already
    child = ChildProcess(
        kind,
        pid,
        pidfd,
        control,
        keep,
        interface=interface,
        handlers=handlers,
        ours=True,
        on_release=errors.close,
        last_words=errors,
    )
    log.debug("%s %d started", kind, pid)
    return child


async def _undo(spawned: int, greeting: asyncio.Future[int]) -> None:
    """End a process whose launch failed or was cancelled: itself, and the one that it became."""
    pids = {spawned}
    with contextlib.suppress(ProcessError):
        pids.add(await greeting)  # it has a deadline, and there is no way to know the other one before it
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _reap(pid)


def _reap(pid: int) -> None:
    """Of a child that is killed, or about to exit."""
    with contextlib.suppress(ChildProcessError):  # the program reaps every child itself
        os.waitpid(pid, 0)


def _close(*channels: Channel) -> None:
    for channel in channels:
        channel.close()


async def _greeted(kind: str, control: Channel, errors: LastWords) -> int:
    """The new process's own pid, which is not the spawned one's when that made a pid namespace."""
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()
    loop.add_reader(control.fileno(), _wake, readable)
    try:
        await asyncio.wait({readable}, timeout=_LAUNCH_TIMEOUT)
        data, fds = control.receive()
        fds.close()
        _, _, message = codec(LAUNCH, "client").decode(data)
    except BlockingIOError:
        raise LaunchError(f"{kind} did not start within {_LAUNCH_TIMEOUT:g} s{errors.tail()}") from None
    except ChannelClosed:
        raise LaunchError(f"{kind} ended while it started{errors.tail()}") from None
    finally:
        loop.remove_reader(control.fileno())
    if not isinstance(message, Launched):
        raise BadMessage(f"{kind} began with something else than Launched")
    if not _is_ours(message.pid):
        raise BadMessage(f"{kind} named a process that this program did not start")
    return message.pid


def _is_ours(pid: int) -> bool:
    """Whether ``pid`` is a child of this process: what it names will be killed one day."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Zygote:
    """The browser's side of the zygote and its branches, which fork children that have their libraries in memory."""

    def __init__(self, *, allow_degraded: bool, on_branch: Callable[[ChildProcess], None]) -> None:
        self._allow_degraded = allow_degraded
        self._on_branch = on_branch
        # Each by its parent's kind (None: the zygote itself) and the pid that its parent has for it: what one parent
        # says is about its own children.
        self._children: weakref.WeakValueDictionary[_Name, ChildProcess] = weakref.WeakValueDictionary()
        self._forking: collections.Counter[str] = collections.Counter()
        self._ended_early: dict[_Name, Exited] = {}
        self._channels: dict[str, Channel] = {}
        self._branches: dict[str, asyncio.Future[ChildProcess]] = {}
        self.process: ChildProcess

    @classmethod
    async def start(
        cls,
        kinds: Sequence[PreloadKind],
        *,
        allow_degraded: bool = False,
        on_branch: Callable[[ChildProcess], None] = lambda _branch: None,
        shares: tuple[str, ...] = (),
    ) -> Zygote:
        """Start one that can fork ``kinds``. Its branches may still be loading; forks wait for them. ``on_branch``
        hears of each. ``shares`` are namespaces of this program that all of them stay in, but for the network, which
        is for each kind to say.

        Raises :class:`LaunchError` or :class:`OutOfDescriptors`.
        """
        zygote = cls(allow_degraded=allow_degraded, on_branch=on_branch)
        options = msgspec.msgpack.encode(Options(tuple(kinds)))
        begun = None if shares else early.take()
        if begun is not None and begun.options and (allow_degraded or begun.options != options):
            early.end(begun)
            begun = None
        theirs: list[Channel] = []
        try:
            for number, entry in enumerate(kinds):
                if begun is not None and begun.options:
                    zygote._channels[entry.kind] = begun.channels[number]
                else:
                    zygote._channels[entry.kind], channel = Channel.pair()
                    theirs.append(channel)
                zygote._branches[entry.kind] = asyncio.get_running_loop().create_future()
        except OutOfDescriptors:
            _close(*zygote._channels.values(), *theirs)
            if begun is not None:
                early.end(begun)
            raise
        zygote.process = await launch(
            "zygote",
            options,
            theirs,
            begun=begun,
            keep=list(zygote._channels.values()),
            allow_degraded=allow_degraded,
            interface=ZYGOTE,
            shares=shares,
            handlers={
                Branched: zygote._on_branched,
                Exited: lambda message, _fds: zygote._on_exited(None, message),
            },
        )
        zygote.process.when_ended(zygote._on_own_end)
        return zygote

    @property
    def branches(self) -> list[ChildProcess]:
        """The processes that fork: one for each kind, as far as they have started."""
        return [
            branch.result() for branch in self._branches.values() if branch.done() and not branch.exception()
        ]

    async def ready(self, timeout: float = _LAUNCH_TIMEOUT) -> None:
        """Wait until the zygote and every branch are locked down, and so can fork.

        Raises :class:`SandboxUnavailable` or :class:`LaunchError`.
        """
        await self.process.ready(timeout)
        await asyncio.gather(*(self._branch(kind, timeout) for kind in self._branches))

    async def fork(
        self,
        kind: str,
        options: bytes = b"",
        channels: Sequence[Channel] = (),
        *,
        keep: Sequence[Channel] = (),
        interface: Interface = CONTROL,
        handlers: Mapping[type[Message], Any] | None = None,
        timeout: float = _FORK_TIMEOUT,
    ) -> ChildProcess:
        """Fork a child and hand it ``channels`` (given away, whatever happens); ``keep`` are this side's ends,
        closed with the handle, or here when this fails. ``interface`` and ``handlers`` are for its control channel.

        Raises :class:`LaunchError`, :class:`ProcessLost` when the zygote has ended, or :class:`OutOfDescriptors`.
        """
        opened = [*channels, *keep]
        try:
            control, theirs = Channel.pair()
            opened += [control, theirs]
            errors, its_errors = LastWords.pipe(kind)
        except OutOfDescriptors:
            _close(*opened)
            raise
        given = Descriptors([theirs.detach(), *(channel.detach() for channel in channels), its_errors])
        fds = Descriptors()
        fork = Fork(options, len(channels), self._allow_degraded)
        self._forking[kind] += 1
        branch = None
        try:
            branch = await self._branch(kind, _LAUNCH_TIMEOUT)
            forked, fds = await branch.control.request(fork, given.release(), timeout=timeout)
            child = ChildProcess(
                kind,
                self._child_of(branch, fds, forked.pid),
                fds.take(),
                control,
                keep,
                interface=interface,
                handlers=handlers,
                ours=False,
                on_release=errors.close,
                last_words=errors,
            )
        except BaseException as error:
            _close(control, *keep)
            errors.close()
            given.close()
            fds.close()
            if isinstance(error, RequestFailed):
                raise LaunchError(f"{kind} could not be forked: {error.detail}") from None
            if isinstance(error, BadMessage) and branch is not None:
                branch.punish(error)
            if isinstance(error, ChannelClosed | BadMessage):
                raise ProcessLost(f"{kind} could not be forked: the zygote has ended") from None
            raise
        finally:
            self._forking[kind] -= 1
            early = dict(self._ended_early)
            if not any(self._forking.values()):
                self._ended_early.clear()
        self._children[kind, forked.pid] = child
        if (kind, forked.pid) in early:
            child.set_ended(ExitStatus.from_wait(early[kind, forked.pid]))
        elif self.process.has_ended:  # which was told before this child was known
            self._on_own_end()
        return child

    async def _branch(self, kind: str, timeout: float) -> ChildProcess:
        if kind not in self._branches:
            raise LaunchError(f"{kind}: this zygote forks {', '.join(self._branches)}")
        try:
            async with asyncio.timeout(timeout):
                branch = await asyncio.shield(self._branches[kind])
        except builtins.TimeoutError:
            raise LaunchError(f"the zygote has not branched for {kind} within {timeout:g} s") from None
        await branch.ready(timeout)
        if branch.has_ended:
            raise ProcessLost(f"{kind} could not be forked: the zygote has ended")
        return branch

    def _on_branched(self, message: Branched, fds: Descriptors) -> None:
        branch = self._branches.get(message.kind)
        if branch is None or branch.done():
            raise BadMessage(f"the zygote branched for {message.kind} unasked")
        try:
            fds.check(message.expected_descriptors())  # there may have been no room for it
            pid = self._child_of(self.process, fds, message.pid)
        except OutOfDescriptors as error:  # a zygote that lacks a kind is of no use
            branch.set_exception(error)
            branch.exception()  # nobody may be waiting for it
            self.process.give_up(error)
            return
        process = ChildProcess(
            "zygote",
            pid,
            fds.take(),
            self._channels[message.kind],
            interface=BRANCH,
            handlers={Exited: lambda exited, _fds: self._on_exited(message.kind, exited)},
            ours=False,
            last_words=self.process.last_words,
        )
        self._children[None, message.pid] = process
        branch.set_result(process)
        self._on_branch(process)

    def _on_exited(self, parent: str | None, message: Exited) -> None:
        name = parent, message.pid
        child = self._children.get(name)
        if child is None:
            if parent is not None and self._forking[parent]:
                self._ended_early[name] = message  # its Forked came just before, and nobody has seen that yet
        elif child.is_alive:
            raise BadMessage(f"the zygote said that {child.kind} {child.pid} has ended, and it lives")
        else:
            del self._children[name]
            child.set_ended(ExitStatus.from_wait(message))

    def _child_of(self, parent: ChildProcess, fds: Descriptors, name: int) -> int:
        """The pid of the pidfd that ``parent`` sent for a new child. It is the browser's to kill one day, so the
        kernel is asked whose it is. Raises :class:`BadMessage` or :class:`OutOfDescriptors`."""
        pid = _host_pid(fds, name)
        if _parent_of(pid) not in (None, parent.pid):
            raise BadMessage(f"the zygote named a process that {parent.kind} {parent.pid} did not start")
        if any(child.pid == pid and child.is_alive for child in self._children.values()):
            raise BadMessage("the zygote named one process twice")
        return pid

    def _on_own_end(self) -> None:
        """The kernel ends a pid namespace with its first process; without one, each child with its parent."""
        for child in list(self._children.values()):
            child.kill(ends.Killed("the zygote ended", quiet=True))
            child.set_ended(ExitStatus(signal=signal.SIGKILL))
        for kind, branch in self._branches.items():
            if not branch.done():
                branch.set_exception(LaunchError(f"the zygote ended before it branched for {kind}"))
                branch.exception()  # nobody may be waiting for it

    async def close(self) -> None:
        """End the zygote, its branches, and whatever they forked that still runs."""
        await self.process.shutdown()
        self._on_own_end()
        await asyncio.gather(*(branch.end() for branch in self.branches))


def _host_pid(fds: Descriptors, fallback: int) -> int:
    """The pid of a pidfd as this process's /proc shows it; the zygote knows it only in its own namespace.

    Raises :class:`OutOfDescriptors`: a wrong pid would be worse than none.
    """
    (pidfd,) = fds.borrow()
    with contextlib.suppress(OSError, ValueError), descriptors_left():
        for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines():
            if line.startswith("Pid:"):
                return int(line.split()[1])
    return fallback


def _parent_of(pid: int) -> int | None:
    """None where /proc does not tell: the process is gone, or hidden (``hidepid=2``)."""
    return parent_of(pid) if pid > 0 else None
