"""A page's process that is an enemy: a process of the test's own, which says Ready and then what it likes."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from cloister import CloisterError
from cloister.errors import BadMessage, PageCrashed, TimeoutError
from cloister.interfaces.base import Event, Message, Reply, Request
from cloister.interfaces.control import CONTROL, Pong, Ready
from cloister.interfaces.web_content import (
    PAGE,
    WEB_CONTENT_CONTROL,
    Loaded,
    NewImageDecoder,
    NewRequestServer,
    Painted,
    Progress,
)
from cloister.ipc import Channel
from cloister.ipc.codec import Packet, codec
from cloister.process import ChildProcess
from tests.faults.world import World

LIFETIME = 20
"""Seconds after which an enemy ends by itself, should nobody end it."""
LOADED = Loaded("about:blank", 0, "mine", (), 10, 10)


class Enemy:
    """What it does runs in a process of its own."""

    def __init__(self, control: socket.socket, page: socket.socket) -> None:
        self.control = control
        self.page = page

    def say(self, message: Message, request_id: int = 0) -> None:
        self.page.send(packet(message, request_id))

    def answer(self, message: Message) -> None:
        """The next request."""
        asked = self.page.recv(65536)
        self.say(message, struct.unpack_from("<BI", asked)[1])

    def forever(self, do: Callable[[], object]) -> None:
        self.page.setblocking(True)
        while True:
            do()


def packet(message: Message, request_id: int = 0) -> bytes:
    shapes = {Event: Packet.EVENT, Reply: Packet.REPLY, Request: Packet.REQUEST}
    (shape,) = (packet for kind, packet in shapes.items() if isinstance(message, kind))
    return codec(PAGE, "server").encode(shape, request_id, message)


def says_half_a_message(enemy: Enemy) -> None:
    enemy.page.send(packet(Progress(1000, 2000))[:-3])


def says_less_than_a_header(enemy: Enemy) -> None:
    enemy.page.send(b"\0\0")


def says_nothing_in_a_packet(enemy: Enemy) -> None:
    enemy.page.send(b"")


def closes_its_channel(enemy: Enemy) -> None:
    enemy.page.close()


def closes_its_control_channel(enemy: Enemy) -> None:
    enemy.control.close()


def answers_what_nobody_asked(enemy: Enemy) -> None:
    enemy.say(LOADED, 77)


def answers_something_else(enemy: Enemy) -> None:
    enemy.answer(Painted())


def answers_another_ping(enemy: Enemy) -> None:
    while True:
        asked = enemy.control.recv(65536)
        number = struct.unpack_from("<BI", asked)[1] + 1
        enemy.control.send(codec(CONTROL, "server").encode(Packet.REPLY, number, Pong(0)))


def says_ready_again(enemy: Enemy) -> None:
    enemy.control.send(codec(CONTROL, "server").encode(Packet.EVENT, 0, Ready(())))


def floods_with_events(enemy: Enemy) -> None:
    enemy.forever(lambda: enemy.say(Progress(1, 2)))


def floods_with_requests(enemy: Enemy) -> None:
    numbers = iter(range(1, 2**32))
    enemy.forever(lambda: enemy.say(NewImageDecoder(), next(numbers)))


def wants_server_after_server(enemy: Enemy) -> None:
    numbers = iter(range(1, 2**32))
    enemy.forever(lambda: enemy.say(NewRequestServer(), next(numbers)))


def floods_with_descriptors(enemy: Enemy) -> None:
    message = [packet(Progress(1, 2))]
    enemy.forever(lambda: socket.send_fds(enemy.page, message, [enemy.page.fileno()] * 8))


def sends_more_descriptors_than_fit(enemy: Enemy) -> None:
    socket.send_fds(enemy.page, [packet(Progress(1, 2))], [enemy.page.fileno()] * 200)


def asks_and_never_reads(enemy: Enemy) -> None:
    for number in range(1, 150):
        enemy.say(NewImageDecoder(), number)


def says_and_does_nothing(_enemy: Enemy) -> None:
    pass


def writes_on_its_standard_error_without_end(_enemy: Enemy) -> None:
    while True:
        with contextlib.suppress(BlockingIOError):
            os.write(2, b"\x1b[31mno terminal is to see this\n" * 100)


DOES: dict[Callable[[Enemy], None], tuple[type[Exception], ...]] = {
    says_half_a_message: (BadMessage,),
    says_less_than_a_header: (BadMessage,),
    says_nothing_in_a_packet: (PageCrashed,),
    closes_its_channel: (PageCrashed,),
    closes_its_control_channel: (PageCrashed,),
    answers_what_nobody_asked: (BadMessage,),
    answers_something_else: (BadMessage,),
    answers_another_ping: (BadMessage,),
    says_ready_again: (BadMessage,),
    floods_with_events: (BadMessage,),
    floods_with_requests: (BadMessage,),
    wants_server_after_server: (BadMessage,),
    floods_with_descriptors: (BadMessage,),
    sends_more_descriptors_than_fit: (BadMessage,),
    asks_and_never_reads: (TimeoutError, BadMessage),
    says_and_does_nothing: (TimeoutError,),
    writes_on_its_standard_error_without_end: (TimeoutError,),
}


@contextmanager
def instead(world: World, does: Callable[[Enemy], None], patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Inside, the next page's process is an enemy."""
    processes = world.browser._processes
    assert processes is not None
    fork, left = processes.fork, [does]

    async def forking(
        kind: str,
        options: bytes = b"",
        channels: Sequence[Channel] = (),
        *,
        keep: Sequence[Channel] = (),
        **named: Any,
    ) -> ChildProcess:
        if kind != "web_content" or not left:
            return await fork(kind, options, channels, keep=keep, **named)
        child = _start(left.pop(), channels, keep)
        processes._supervisor.adopt(child)
        return child

    with patch.context() as here:
        here.setattr(processes, "fork", forking)
        yield


def _start(
    does: Callable[[Enemy], None], channels: Sequence[Channel], keep: Sequence[Channel]
) -> ChildProcess:
    from cloister.process.last_words import LastWords

    control, theirs = Channel.pair()
    errors, writer = LastWords.pipe("web_content")
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(writer, 2)
            ends = [socket.socket(fileno=os.dup(channel.fileno())) for channel in (theirs, *channels)]
            os.closerange(3, min(end.fileno() for end in ends))
            for end in ends:
                end.setblocking(True)
            enemy = Enemy(*ends)
            enemy.control.send(codec(CONTROL, "server").encode(Packet.EVENT, 0, Ready(())))
            does(enemy)
            time.sleep(LIFETIME)
        finally:
            os._exit(0)
    os.close(writer)
    for channel in (theirs, *channels):
        channel.close()
    return ChildProcess(
        "web_content",
        pid,
        os.pidfd_open(pid),
        control,
        keep,
        interface=WEB_CONTENT_CONTROL,
        ours=True,
        on_release=errors.close,
        last_words=errors,
    )


@pytest.mark.parametrize("does", DOES, ids=lambda does: does.__name__)
def test_an_enemy_is_ended_and_nobody_else_notices(
    world: World, does: Callable[[Enemy], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def go() -> None:
        await world.recover()
        page = await world.browser.new_page()
        with instead(world, does, monkeypatch):
            outcome = await world.act(page.set_content("<p>x", timeout=700))
        assert isinstance(outcome, CloisterError)
        assert isinstance(outcome, DOES[does]), repr(outcome)
        await page.reload(timeout=5000)
        assert (await page.text()).strip() == "x"
        await page.close()
        await world.all_is_well()

    world.run(go())
