"""The zygote: branches once for each kind of child; a branch loads what its kind needs, gives up what it can itself,
then forks on request.

They have one thread and no event loop, so that a fork copies nothing that runs; they parse nothing but the browser's
requests; and they never see a byte from outside.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import os
import select
import signal
import time
from collections.abc import Callable
from types import ModuleType
from typing import NoReturn

import msgspec

from .. import sandbox
from ..errors import ChannelClosed
from ..interfaces.base import Failure, FailureCode, Interface, Message
from ..interfaces.control import CONTROL, Ping, Pong, Ready, Shutdown
from ..interfaces.zygote import BRANCH, ZYGOTE, Branched, Exited, Fork, Forked, Options, PreloadKind
from ..ipc import Channel, Descriptors
from ..ipc.codec import Packet, codec
from ..ipc.start import Start
from ..sandbox.kernel import prctl
from .child import leave, run, tell_of_crashes
from .kinds import HOST_NETWORK, PLUGIN_HOST, WITHOUT_A_LOOP
from .later import load_all
from .lean import lazy_dataclasses, without

__all__ = ["main", "preload"]

_SETTLE_AFTER = 1.0
"""Seconds after its last request when a branch does what nobody should wait for. Most commands are over by then."""
_SWEEP_EVERY = 1.0
"""Seconds between two looks for what programs left behind, while there are any."""
_SWEEP_SOON = 0.02
"""Seconds until what was killed with its program is gone, as a rule."""
_SWEEPS = 3
"""After so many that found nothing, nothing is left of a program."""
_SET_CHILD_SUBREAPER = 36  # include/uapi/linux/prctl.h
_OF_ALL = ("dataclasses", "logging")
"""Libraries that each kind of a page's processes needs, with an event loop or without."""
_TURN_TIMEOUT = 2.0
"""Seconds after which a branch loads, whether it is its turn or not."""
_RETRY_AFTER = 0.01
"""Seconds until a packet for which the system had no room is tried again."""


def preload(_options: bytes) -> None:
    """Nothing: each branch preloads for itself."""


def main(start: Start) -> None:
    """Branch, lock down, wait until Shutdown, until the browser is gone, or until a branch is."""
    options = msgspec.msgpack.decode(start.options, type=Options)
    zygote = _Zygote(start.control)
    codec(CONTROL, "server")  # every child needs it, and it takes half a millisecond to build
    tell_of_crashes()
    # What is in memory now is shared by every process to come, for as long as nobody writes to it; the garbage
    # collector would.
    gc.freeze()
    branches = list(zip(options.kinds, start.channels, strict=True))
    others = [each for each in branches if each[0].kind not in WITHOUT_A_LOOP]
    # What decodes a page's images is needed after what lays the page out, and two processors are busy with that: it
    # loads once the other is loaded, or has ended.
    turn, has_turn = os.pipe() if others else (None, None)
    if others:
        _load(*_OF_ALL)
    for entry, channel in branches:
        if entry.kind in WITHOUT_A_LOOP:
            zygote.branch(entry, channel, start.allow_degraded, turn)
    if others:
        with contextlib.nullcontext() if any(_speaks_tls(entry) for entry, _ in others) else without("ssl"):
            _load("cloister.ipc.service")  # asyncio is in it
    for number, (entry, channel) in enumerate(others):
        zygote.branch(entry, channel, start.allow_degraded, None if number else has_turn)
    for end in (turn, has_turn):
        if end is not None:
            os.close(end)
    sandbox.forget_environment()
    sandbox.unshare(sandbox.Layer.NETWORK_NAMESPACE)
    sandbox.unshare(sandbox.Layer.MOUNT_NAMESPACE)  # away from branches that still read files
    sandbox.enter_empty_root(())
    report = sandbox.enter(sandbox.ZYGOTE, allow_degraded=start.allow_degraded)
    zygote.serve(Ready(tuple(report.layers), tuple(report.missing)))


def _load(*names: str) -> None:
    """Into what all branches to come share."""
    for name in names:
        importlib.import_module(name)
    gc.freeze()


def _speaks_tls(entry: PreloadKind) -> bool:
    """Whether it does so by asyncio: a lookup_server with name servers that are asked over TLS. A request_server has
    the ssl module to itself."""
    return entry.kind == "lookup_server" and bool(entry.options)


class _Parent:
    """What forks and reaps, on one channel to the browser."""

    def __init__(self, control: Channel, interface: Interface) -> None:
        self._control = control
        self._codec = codec(interface, "server")
        self._poll = select.poll()
        self._children: dict[int, int] = {}  # pidfd -> pid
        self._running = True
        self._settle: Callable[[], None] | None = None

    def serve(self, ready: Ready) -> None:
        self.send(Packet.EVENT, 0, ready)
        self._poll.register(self._control.fileno(), select.POLLIN)
        try:
            while self._running:
                pause = self.pause()
                events = self._poll.poll(None if pause is None else pause * 1000)
                if not events:
                    self.rest()
                for fd, _ in events:
                    if fd == self._control.fileno():
                        self._take()
                    elif fd in self._children:
                        self.ended(fd)
        except ChannelClosed:
            return  # the browser is gone; the children go with this process

    def pause(self) -> float | None:
        """Seconds until :meth:`rest` when nothing happens; None to wait for ever."""
        return None if self._settle is None else _SETTLE_AFTER

    def rest(self) -> None:
        if self._settle is not None:
            self._settle()
            self._settle = None

    def send(self, packet: Packet, request_id: int, message: Message, fds: tuple[int, ...] = ()) -> None:
        # The browser reads all the time; while it does not, waiting for it is all there is to do.
        data = self._codec.encode(packet, request_id, message)
        while True:
            try:
                self._control.send(data, fds)
                return
            except BlockingIOError as error:
                if error.errno != errno.EAGAIN:
                    time.sleep(_RETRY_AFTER)
                    continue
                writable = select.poll()
                writable.register(self._control.fileno(), select.POLLOUT)
                writable.poll(1000)

    def _take(self) -> None:
        try:
            data, fds = self._control.receive()
        except BlockingIOError:
            return
        _, request_id, message = self._codec.decode(data)
        fds.check(message.expected_descriptors() if message is not None else ())
        self.handle(request_id, message, fds)

    def handle(self, request_id: int, message: Message | None, _fds: Descriptors) -> None:
        if isinstance(message, Ping):
            self.send(Packet.REPLY, request_id, Pong(message.nonce))
        elif isinstance(message, Shutdown):
            self._running = False

    def adopt(self, pid: int) -> int:
        """Watch a new child; its pidfd."""
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = pid
        self._poll.register(pidfd, select.POLLIN)
        return pidfd

    def ended(self, pidfd: int) -> None:
        pid = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        _, status, used = os.wait4(pid, 0)
        cpu_time = min(round((used.ru_utime + used.ru_stime) * 1000), 24 * 3600 * 1000)
        code = os.waitstatus_to_exitcode(status)
        self.send(Packet.EVENT, 0, Exited(pid, code, used.ru_maxrss * 1024, cpu_time))


class _Zygote(_Parent):
    """The first process of the pid namespace: when it ends, everything that it branched and they forked ends."""

    def __init__(self, control: Channel) -> None:
        super().__init__(control, ZYGOTE)

    def branch(self, entry: PreloadKind, channel: Channel, allow_degraded: bool, turn: int | None) -> None:
        """``turn`` is an end of a pipe: who reads it waits until who writes it has closed it."""
        pid = os.fork()
        if pid == 0:
            _become_branch(entry, channel, allow_degraded, turn)
        channel.close()
        self.send(Packet.EVENT, 0, Branched(entry.kind, pid), (self.adopt(pid),))

    def ended(self, pidfd: int) -> None:
        super().ended(pidfd)
        self._running = False  # without one kind nothing works: the browser starts a whole zygote


class _Branch(_Parent):
    """Forks children of one kind."""

    def __init__(self, control: Channel, module: ModuleType) -> None:
        super().__init__(control, BRANCH)
        self._module = module
        self._has_forked = False

    def handle(self, request_id: int, message: Message | None, fds: Descriptors) -> None:
        if not isinstance(message, Fork):
            super().handle(request_id, message, fds)
            return
        try:
            pid = os.fork()
        except OSError as error:
            self.send(Packet.REPLY, request_id, Failure(FailureCode.NO_PROCESS, str(error)))
            return
        if pid == 0:
            _become_child(self._module, message, fds.release())
        if not self._has_forked:
            self._has_forked, self._settle = True, getattr(self._module, "settle", None)
        self.send(Packet.REPLY, request_id, Forked(pid), (self.adopt(pid),))


class _BranchOfPrograms(_Branch):
    """Forks what becomes foreign programs, and ends what those started and left behind."""

    def __init__(self, control: Channel, module: ModuleType) -> None:
        super().__init__(control, module)
        self._in_vain = _SWEEPS  # sweeps that found nothing since a program ended, or one found something

    def pause(self) -> float | None:
        if not self._in_vain:
            return _SWEEP_SOON
        return _SWEEP_EVERY if self._children or self._in_vain < _SWEEPS else None

    def rest(self) -> None:
        """Reap what came to this process when its own parent ended."""
        self._in_vain += 1
        known = set(self._children.values())
        with contextlib.suppress(ChildProcessError):  # there is nobody at all
            while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if found.si_pid in known:
                    return  # its pidfd tells of it
                os.waitpid(found.si_pid, 0)
                self._in_vain = 0

    def ended(self, pidfd: int) -> None:
        # A group: each leads its own, and none may leave it. Before the leader is reaped, so that it is still its own.
        with contextlib.suppress(ProcessLookupError):  # it ended before it led one
            os.killpg(self._children[pidfd], signal.SIGKILL)
        super().ended(pidfd)
        self.rest()  # where one program ends after the other there is no other moment
        self._in_vain = 0


class _Branching:
    """A branch as a module that :func:`run` can run: it refuses, and fails, as any child does."""

    def __init__(self, entry: PreloadKind, turn: int | None) -> None:
        self._entry = entry
        self._turn = turn

    def main(self, start: Start) -> None:
        # Its root folder will be another than the others': in a namespace that they shared, it would be theirs, too.
        sandbox.unshare(sandbox.Layer.MOUNT_NAMESPACE)
        if self._entry.kind not in HOST_NETWORK and not self._entry.shares_network:
            sandbox.unshare(sandbox.Layer.NETWORK_NAMESPACE)
        if self._entry.kind == PLUGIN_HOST:
            load_all()  # what a plugin imports is what it expects, and some has parts in C, which it cannot load
        if self._entry.kind in WITHOUT_A_LOOP:
            self._await_turn()
            module = importlib.import_module(self._entry.module)
        else:
            with lazy_dataclasses():
                module = importlib.import_module(self._entry.module)
        module.preload(self._entry.options)
        if self._turn is not None:
            os.close(self._turn)
        sandbox.prepare(module.POLICY)
        sandbox.forget_environment()
        gc.freeze()
        policy = sandbox.zygote_policy([module.POLICY])
        sandbox.enter_empty_root(policy.read_paths, policy.files, policy.programs)
        runs_programs = "program" in policy.groups
        if runs_programs:
            prctl(_SET_CHILD_SUBREAPER, 1)
        report = sandbox.enter(policy, allow_degraded=start.allow_degraded)
        branch = (_BranchOfPrograms if runs_programs else _Branch)(start.control, module)
        branch.serve(Ready(tuple(report.layers), tuple(report.missing)))

    def _await_turn(self) -> None:
        if self._turn is not None:
            poll = select.poll()
            poll.register(self._turn)
            poll.poll(_TURN_TIMEOUT * 1000)


def _become_branch(entry: PreloadKind, channel: Channel, allow_degraded: bool, turn: int | None) -> NoReturn:
    environment = dict(os.environ)  # as long as files are read
    sandbox.shed([channel.fileno()] if turn is None else [channel.fileno(), turn])
    os.environ.update(environment)
    leave(run(_Branching(entry, turn), Start(channel, (), b"", allow_degraded)))


def _become_child(module: ModuleType, message: Fork, fds: list[int]) -> NoReturn:
    errors = fds.pop()
    os.dup2(errors, 2)
    os.close(errors)
    sandbox.shed(fds)
    control, *channels = (Channel(fd) for fd in fds)
    gc.enable()
    leave(run(module, Start(control, tuple(channels), message.options, message.allow_degraded)))
