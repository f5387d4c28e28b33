"""A process of the test's own in the place of a child: it has the child's real channels, says Ready, and then what it
likes."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from cloister import AsyncBrowser
from cloister.interfaces.base import Event, Interface, Message, Reply
from cloister.interfaces.control import CONTROL, Pong, Ready
from cloister.ipc import Channel
from cloister.process import ChildProcess
from cloister.process.last_words import LastWords

__all__ = ["Impostor", "Lie", "begin", "impostors", "packet", "start"]

LIFETIME = 20
"""Seconds after which one ends by itself, should nobody end it."""


def packet(message: Message, number: int = 0) -> bytes:
    """As the product would pack it, whoever may send it."""
    kind = 0 if isinstance(message, Event) else 2 if isinstance(message, Reply) else 1
    return struct.pack("<BI", kind, number) + msgspec.msgpack.encode(message)


class Impostor:
    """What a lie does runs in a process of its own."""

    def __init__(self, control: socket.socket, channels: list[socket.socket]) -> None:
        self.control = control
        self.channels = channels

    @property
    def work(self) -> socket.socket:
        return self.channels[0]

    def say(self, message: Message, fds: Sequence[int] = (), number: int = 0) -> None:
        socket.send_fds(self.work, [packet(message, number)], fds)

    def answer(self, message: Message, fds: Sequence[int] = ()) -> None:
        """The next request."""
        asked = self.work.recv(65536)
        self.say(message, fds, struct.unpack_from("<BI", asked)[1])

    def ask(self, message: Message, number: int) -> list[Any]:
        """Ask the browser on the control channel; what it answers, as msgpack has it."""
        self.control.send(packet(message, number))
        while asked := self.control.recv(65536):
            if struct.unpack_from("<BI", asked) == (2, number):
                return list(msgspec.msgpack.decode(asked[5:]))
        raise OSError("the browser closed the channel")

    def answer_pings(self, answer: Callable[[int], Message] = Pong) -> None:
        """For ever. ``answer`` is given the nonce."""
        while asked := self.control.recv(65536):
            (name, *fields) = msgspec.msgpack.decode(asked[5:])
            if name == "Ping":
                self.control.send(packet(answer(fields[0]), struct.unpack_from("<BI", asked)[1]))


Lie = Callable[[Impostor], object]


def begin(do: Callable[[], object], keep: Sequence[int]) -> int:
    """Fork; the child has nothing open but ``keep`` and its standard streams, and never returns. Its pid."""
    pid = os.fork()
    if pid == 0:
        try:
            last = 2
            for fd in sorted(keep):
                os.closerange(last + 1, fd)
                last = fd
            os.closerange(last + 1, 4096)
            do()
            time.sleep(LIFETIME)
        except OSError:
            pass
        finally:
            os._exit(0)
    return pid


def start(
    kind: str,
    lie: Lie,
    channels: Sequence[Channel],
    keep: Sequence[Channel],
    *,
    interface: Interface = CONTROL,
    handlers: Any = None,
    ready: bool = True,
) -> ChildProcess:
    """``ready``: whether it says so before it lies."""
    control, theirs = Channel.pair()
    errors, writer = LastWords.pipe(kind)
    fds = [channel.fileno() for channel in (theirs, *channels)]

    def do() -> None:
        os.dup2(writer, 2)
        ends = [socket.socket(fileno=fd) for fd in fds]
        for end in ends:
            end.setblocking(True)
        if ready:
            ends[0].send(packet(Ready(())))
        lie(Impostor(ends[0], ends[1:]))

    pid = begin(do, [writer, *fds])
    os.close(writer)
    for channel in (theirs, *channels):
        channel.close()
    return ChildProcess(
        kind,
        pid,
        os.pidfd_open(pid),
        control,
        keep,
        interface=interface,
        handlers=handlers,
        ours=True,
        on_release=errors.close,
        last_words=errors,
    )


@contextmanager
def impostors(
    browser: AsyncBrowser,
    kind: str,
    lies: Sequence[Lie],
    such: Callable[[bytes], bool] = lambda _options: True,
) -> Iterator[list[ChildProcess]]:
    """Inside, the next processes of ``kind`` are impostors, if their start options are ``such``; the handles of those
    that came."""
    processes = browser._processes
    assert processes is not None
    fork, left = processes.fork, list(lies)
    came: list[ChildProcess] = []

    async def forking(
        wanted: str,
        options: bytes = b"",
        channels: Sequence[Channel] = (),
        *,
        keep: Sequence[Channel] = (),
        interface: Interface = CONTROL,
        handlers: Any = None,
    ) -> ChildProcess:
        named: dict[str, Any] = {"interface": interface, "handlers": handlers}
        if wanted != kind or not left or not such(options):
            return await fork(wanted, options, channels, keep=keep, **named)
        came.append(start(kind, left.pop(0), channels, keep, **named))
        processes._supervisor.adopt(came[-1])
        return came[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "fork", forking)
        yield came
