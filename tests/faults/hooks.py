"""Sees every message that passes between two processes, and kills one of them at the chosen one.

The browser's own messages are seen in its connections. For a channel between two children, which the browser makes
and hands out, a relay is put in the middle: real processes on both sides, and each packet passed on as it came.
"""

from __future__ import annotations

import asyncio
import collections
import os
import select
import signal
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal

import pytest

from cloister.errors import BadMessage, ChannelClosed
from cloister.interfaces.base import Message
from cloister.interfaces.fetch import FETCHES
from cloister.interfaces.image_decoder import IMAGES
from cloister.interfaces.lookup_server import LOOKUP, LOOKUP_ADMIN, AddClient
from cloister.interfaces.web_content import ImageDecoderReady, RequestServerReady
from cloister.interfaces.zygote import LAUNCH, Branched, Launched, Start
from cloister.ipc import Channel, Connection, Descriptors
from cloister.ipc.codec import codec
from cloister.process import ChildProcess, launcher, start_message
from tests.faults.lines import LINES, Line, Point, Side

__all__ = ["Hooks", "kill_now"]

When = Literal["before", "after"]
Seen = tuple[Line, Side, type[Message]]


class Hooks:
    """``seen`` is what passed since it was last cleared. :meth:`arm` chooses who dies, and when."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.seen: dict[Seen, None] = {}
        self.killed: ChildProcess | None = None
        self.spared = 0
        """The pid of who must not notice anything, whatever it says."""
        self._point: Point | None = None
        self._when: When = "before"
        self._left = 0
        self._strike: Callable[[ChildProcess], None] = kill_now
        self._handles: list[weakref.ref[ChildProcess]] = []
        self._sockets: dict[int, weakref.ref[ChildProcess]] = {}
        self._branches: weakref.WeakKeyDictionary[ChildProcess, str] = weakref.WeakKeyDictionary()
        self._patch(patch)

    def arm(
        self,
        point: Point,
        when: When = "before",
        nth: int = 1,
        strike: Callable[[ChildProcess], None] | None = None,
    ) -> None:
        """Kill (or ``strike``) at the ``nth`` message of that sort, ``before`` it is passed on or ``after``."""
        self._point, self._when, self._left, self.killed = point, when, nth, None
        self._strike = strike or kill_now

    def disarm(self) -> None:
        self._point = None

    @property
    def has_struck(self) -> bool:
        return self.killed is not None

    # ── what is seen ─────────────────────────────────────────────────────────────────────────────────────────

    def saw(
        self, line: Line, sender: Side, message: Message, *, of: ChildProcess | None
    ) -> Callable[[], None]:
        """``of``: the process at the other end, where the browser knows it. What it returns is to be called once the
        message is passed on."""
        self.seen[line, sender, type(message)] = None
        point = self._point
        if point is None or (point.line, point.sender, point.message) != (line, sender, type(message)):
            return _nothing
        victim = of if of is not None else self._newest(point.victim)
        if victim is not None and victim.pid == self.spared:
            return _nothing
        self._left -= 1
        if self._left != 0 or victim is None:
            return _nothing
        self._point, self.killed = None, victim
        if self._when == "before":
            self._strike(victim)
            return _nothing
        return lambda: self._strike(victim)

    def _newest(self, kind: str) -> ChildProcess | None:
        alive = [child for ref in self._handles if (child := ref()) is not None and child.is_alive]
        wanted = [child for child in alive if self._name(child) == kind and child.pid != self.spared]
        return wanted[-1] if wanted else None

    def _name(self, child: ChildProcess) -> str:
        return self._branches.get(child, child.kind)

    def _line_of(self, connection: Connection) -> tuple[Line, ChildProcess | None] | None:
        interface = connection._interface
        child = self._owner(connection)
        if child is None and interface is not LOOKUP_ADMIN:
            return None
        name = "lookup_server" if child is None else self._name(child)
        line = Line("browser", name, interface)
        return (line, child) if line in LINES else None

    def _owner(self, connection: Connection) -> ChildProcess | None:
        alive = [child for ref in self._handles if (child := ref()) is not None]
        by_control = [child for child in alive if child.control is connection]
        by_channel = [child for child in alive if connection._channel in child.channels]
        return next(iter([*by_control, *by_channel]), None)  # the zygote's channels lead to its branches

    def _holder(self, fd: int) -> ChildProcess | None:
        """The process at the other end of a channel that was the browser's until now."""
        ref = self._sockets.get(os.fstat(fd).st_ino)
        return ref() if ref is not None else None

    # ── where it is seen ─────────────────────────────────────────────────────────────────────────────────────

    def _patch(self, patch: pytest.MonkeyPatch) -> None:
        begin, post, take = ChildProcess.__init__, Connection._post, Connection._take
        hand_over, greeted = start_message.send, launcher._greeted
        launch = Line("browser", "zygote", LAUNCH)
        pids: dict[int, int] = {}

        def init(child: ChildProcess, *arguments: Any, **named: Any) -> None:
            begin(child, *arguments, **named)
            me = weakref.ref(child)
            self._handles = [*(ref for ref in self._handles if ref() is not None), me]
            self._sockets.update((os.fstat(channel.fileno()).st_ino, me) for channel in child.channels)

        def posting(
            connection: Connection, packet: Any, request_id: int, message: Message | None, fds: Sequence[int]
        ) -> None:
            found = self._line_of(connection) if message is not None else None
            if message is None or found is None:
                post(connection, packet, request_id, message, fds)
                return
            line, child = found
            then = self.saw(line, "client", message, of=child)
            post(connection, packet, request_id, message, self._relayed(message, child, fds))
            then()

        def taking(connection: Connection, data: bytes, fds: Descriptors) -> None:
            found = self._line_of(connection)
            _, _, message = connection._codec.decode(data)
            if message is None or found is None:
                take(connection, data, fds)
                return
            line, child = found
            then = self.saw(line, "server", message, of=child)
            take(connection, data, fds)
            if isinstance(message, Branched):
                self._branched(message.kind)
            then()

        def handing_over(control: Channel, *arguments: Any) -> None:
            then = self._saw_launch(launch, "client", Start, pids.pop(control.fileno()))
            hand_over(control, *arguments)
            then()

        async def greeting(kind: str, control: Channel, errors: Any) -> int:
            pid = await greeted(kind, control, errors)
            pids[control.fileno()] = pid
            self._saw_launch(launch, "server", Launched, pid)()
            return pid

        patch.setattr(ChildProcess, "__init__", init)
        patch.setattr(Connection, "_post", posting)
        patch.setattr(Connection, "_take", taking)
        patch.setattr(start_message, "send", handing_over)
        patch.setattr(launcher, "_greeted", greeting)

    def _saw_launch(self, line: Line, sender: Side, message: type[Message], pid: int) -> Callable[[], None]:
        """As :meth:`saw`, for a process that has no handle yet."""
        self.seen[line, sender, message] = None
        point = self._point
        if point is None or (point.line, point.sender, point.message) != (line, sender, message):
            return _nothing
        self._left -= 1
        if self._left != 0:
            return _nothing
        self._point = None
        self.killed = _STARTING

        def kill() -> None:
            os.kill(pid, signal.SIGKILL)

        if self._when == "before":
            kill()
            return _nothing
        return kill

    def _branched(self, kind: str) -> None:
        branch = self._handles[-1]()
        if branch is not None and branch.kind == "zygote":
            self._branches[branch] = f"branch of {kind}"

    def _relayed(self, message: Message, child: ChildProcess | None, fds: Sequence[int]) -> Sequence[int]:
        """What is given away instead: the end of a relay."""
        if isinstance(message, RequestServerReady):
            line = Line("web_content", "request_server", FETCHES)
        elif isinstance(message, ImageDecoderReady):
            line = Line("web_content", "image_decoder", IMAGES)
        elif isinstance(message, AddClient):
            line = Line("request_server", "lookup_server", LOOKUP)
        else:
            return fds
        (fd,) = fds
        ends = {"client": child, "server": self._holder(fd)}
        if isinstance(message, AddClient):
            ends = {"client": None, "server": None}  # there may be none yet: the newest is meant
        mine, theirs = Channel.pair()
        here, there = (Channel(fd), mine) if isinstance(message, AddClient) else (mine, Channel(fd))
        Relay(line, here, there, self, ends)
        return [theirs.detach()]


class Relay:
    """Two channels as one. It ends when one of them does."""

    def __init__(
        self, line: Line, client: Channel, server: Channel, hooks: Hooks, ends: dict[str, ChildProcess | None]
    ) -> None:
        self._line = line
        self._hooks = hooks
        self._refs = {side: weakref.ref(child) for side, child in ends.items() if child is not None}
        self._loop = asyncio.get_running_loop()
        self._channels: dict[Side, Channel] = {"client": client, "server": server}
        self._queues: dict[Side, collections.deque[tuple[bytes, Descriptors]]] = {
            "client": collections.deque(),
            "server": collections.deque(),
        }
        self._loop.add_reader(client.fileno(), self._pass, "client", "server")
        self._loop.add_reader(server.fileno(), self._pass, "server", "client")

    def _pass(self, sender: Side, to: Side) -> None:
        try:
            data, fds = self._channels[sender].receive()
            _, _, message = codec(self._line.interface, to).decode(data)
        except BlockingIOError:
            return
        except (ChannelClosed, BadMessage):
            self.close()
            return
        then = _nothing if message is None else self._saw(sender, message)
        self._queues[to].append((data, fds))
        self._flush(to)
        then()

    def _saw(self, sender: Side, message: Message) -> Callable[[], None]:
        point = self._hooks._point
        side = "client" if point is not None and point.victim == self._line.client else "server"
        victim = self._refs[side]() if side in self._refs else None
        return self._hooks.saw(self._line, sender, message, of=victim)

    def _flush(self, to: Side) -> None:
        queue, channel = self._queues[to], self._channels[to]
        try:
            while queue:
                channel.send(queue[0][0], queue[0][1].borrow())
                queue.popleft()[1].close()
            self._loop.remove_writer(channel.fileno())
        except BlockingIOError:
            self._loop.add_writer(channel.fileno(), self._flush, to)
        except ChannelClosed:
            self.close()

    def close(self) -> None:
        for channel in self._channels.values():
            if channel.fileno() >= 0:
                self._loop.remove_reader(channel.fileno())
                self._loop.remove_writer(channel.fileno())
                channel.close()
        for queue in self._queues.values():
            queue.clear()


def kill_now(child: ChildProcess) -> None:
    """SIGKILL, and wait until the kernel says that it is dead: whoever goes on finds nobody there."""
    try:
        signal.pidfd_send_signal(child._pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return
    poll = select.poll()
    poll.register(child._pidfd, select.POLLIN)
    assert poll.poll(10_000), f"{child!r} does not die"


def _nothing() -> None:
    pass


_STARTING: Any = "a process that has no handle yet"
