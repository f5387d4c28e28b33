"""The zygote: imports what children need, gives up what it can itself, then forks on request.

It has one thread and no event loop, so that a fork copies nothing that runs; it parses nothing but the browser's
requests; and it never sees a byte from outside.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
from types import ModuleType
from typing import NoReturn

import msgspec

from .. import sandbox
from ..errors import ChannelClosed
from ..interfaces.base import Failure, FailureCode, Message
from ..interfaces.control import CONTROL, Ping, Pong, Ready, Shutdown
from ..interfaces.zygote import ZYGOTE, Exited, Fork, Forked, Options
from ..ipc import Channel, Descriptors
from ..ipc.codec import Packet, codec
from ..ipc.service import Start
from .child import leave, run

__all__ = ["main", "preload"]


def preload(_options: bytes) -> None:
    """Nothing: what this process preloads is in its start options."""


def main(start: Start) -> None:
    """Preload every kind, lock down, fork until Shutdown or until the browser is gone."""
    options = msgspec.msgpack.decode(start.options, type=Options)
    kinds: dict[str, ModuleType] = {}
    for entry in options.kinds:
        module = importlib.import_module(entry.module)
        module.preload(entry.options)
        sandbox.prepare(module.POLICY)
        kinds[entry.kind] = module
    os.environ.clear()
    codec(CONTROL, "server")  # every child needs it, and it takes half a millisecond to build
    # What is there now is shared by every fork for as long as nobody writes to it; the collector would.
    gc.collect()
    gc.freeze()
    policy = sandbox.zygote_policy(module.POLICY for module in kinds.values())
    sandbox.enter_empty_root(policy.read_paths)
    report = sandbox.enter(policy, allow_degraded=start.allow_degraded)
    _Zygote(start.control, kinds).serve(Ready(tuple(report.layers), tuple(report.missing)))


class _Zygote:
    def __init__(self, control: Channel, kinds: dict[str, ModuleType]) -> None:
        self._control = control
        self._kinds = kinds
        self._codec = codec(ZYGOTE, "server")
        self._poll = select.poll()
        self._children: dict[int, int] = {}  # pidfd -> pid
        self._running = True

    def serve(self, ready: Ready) -> None:
        self._send(Packet.EVENT, 0, ready)
        self._poll.register(self._control.fileno(), select.POLLIN)
        try:
            while self._running:
                for fd, _ in self._poll.poll():
                    if fd == self._control.fileno():
                        self._take()
                    elif fd in self._children:
                        self._reap(fd)
        except ChannelClosed:
            return  # the browser is gone; the children go with this process

    def _send(self, packet: Packet, request_id: int, message: Message, fds: tuple[int, ...] = ()) -> None:
        # The browser reads all the time; while it does not, waiting for it is all there is to do.
        data = self._codec.encode(packet, request_id, message)
        while True:
            try:
                self._control.send(data, fds)
                return
            except BlockingIOError:
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
        match message:
            case Fork():
                self._fork(request_id, message, fds)
            case Ping():
                self._send(Packet.REPLY, request_id, Pong(message.nonce))
            case Shutdown():
                self._running = False

    def _fork(self, request_id: int, message: Fork, fds: Descriptors) -> None:
        module = self._kinds.get(message.kind)
        if module is None:
            detail = f"this zygote forks {', '.join(self._kinds)}; {message.kind} is unknown to it"
            self._send(Packet.REPLY, request_id, Failure(FailureCode.NO_PROCESS, detail))
            return
        try:
            pid = os.fork()
        except OSError as error:
            self._send(Packet.REPLY, request_id, Failure(FailureCode.NO_PROCESS, str(error)))
            return
        if pid == 0:
            _become(module, message, fds.release())
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = pid
        self._poll.register(pidfd, select.POLLIN)
        self._send(Packet.REPLY, request_id, Forked(pid), (pidfd,))

    def _reap(self, pidfd: int) -> None:
        pid = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        _, status = os.waitpid(pid, 0)
        self._send(Packet.EVENT, 0, Exited(pid, os.waitstatus_to_exitcode(status)))


def _become(module: ModuleType, message: Fork, fds: list[int]) -> NoReturn:
    sandbox.shed(fds)
    control, *channels = (Channel(fd) for fd in fds)
    leave(run(module, Start(control, tuple(channels), message.options, message.allow_degraded)))
