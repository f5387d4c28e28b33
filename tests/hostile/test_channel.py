"""What a peer can do to a channel beside lying on it: end half of it, flood it, fill the system's tables, and send
sockets that make trouble for whoever closes them."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import socket
import struct
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from cloister.errors import BadMessage, ChannelClosed
from cloister.interfaces.base import Blob
from cloister.interfaces.control import CONTROL, Shutdown
from cloister.interfaces.lookup_server import LOOKUP_ADMIN, AddClient
from cloister.interfaces.web_content import PAGE, ImageDecoderReady, NewImageDecoder, Progress, SetContent
from cloister.ipc import Channel, Connection
from cloister.lookup_server.sandbox import POLICY as LOOKUP_SERVER
from cloister.request_server.sandbox import POLICY as REQUEST_SERVER
from tests.hostile.impostor import packet
from tests.hostile.test_every_interface import held
from tests.sandbox.locked import Sandbox

MANY = 20_000


def pair(*arguments: Any, **named: Any) -> tuple[socket.socket, Connection]:
    """A liar, and a connection to it."""
    liar, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return liar, Connection(Channel(ours.detach()), *arguments, **named)


async def _closed(connection: Connection) -> None:
    await soon(lambda: connection.closed)


async def soon(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not what():
            await asyncio.sleep(0.001)


def test_a_peer_that_ended_its_reading_is_gone_once_what_it_said_is_read() -> None:
    async def go() -> None:
        ended: list[Exception | None] = []
        heard: list[Progress] = []
        liar, connection = pair(
            PAGE,
            "client",
            handlers={Progress: lambda message, _fds: heard.append(message)},
            on_close=ended.append,
        )
        with liar:
            for number in range(200):  # more than are read in one turn
                liar.send(packet(Progress(number, 200)))
            liar.shutdown(socket.SHUT_RD)
            asked = asyncio.ensure_future(connection.request(_example(), timeout=60))
            await _closed(connection)
            with pytest.raises(ChannelClosed):
                await asked
            assert len(heard) == 200
            assert ended == [None]

    asyncio.run(go())


def _example() -> Any:
    from cloister.interfaces.web_content import GetLinks

    return GetLinks()


@pytest.mark.parametrize("what", ["cancellations", "events"])
def test_a_flood_ends(what: str) -> None:
    data = packet(Progress(1, 1)) if what == "events" else struct.pack("<BI", 3, 1)

    async def go() -> None:
        ended: list[Exception | None] = []
        liar, connection = pair(
            PAGE, "client", handlers={Progress: lambda _message, _fds: None}, on_close=ended.append
        )
        with liar:
            liar.setblocking(False)
            sent = 0
            while not connection.closed and sent < MANY:
                try:
                    liar.send(data)
                    sent += 1
                except BlockingIOError:
                    await asyncio.sleep(0)
        assert isinstance(ended[0], BadMessage)

    asyncio.run(go())


def test_what_a_peer_said_counts_though_it_left_without_hearing_the_answers() -> None:
    """Then the kernel tells of a reset before it hands out what came."""

    async def go() -> None:
        ended: list[Exception | None] = []
        heard: list[Progress] = []
        liar, connection = pair(
            PAGE,
            "client",
            handlers={Progress: lambda message, _fds: heard.append(message)},
            on_close=ended.append,
        )
        with liar:
            asking = asyncio.ensure_future(connection.request(SetContent(body=Blob(1, b"x")), timeout=5))
            await asyncio.sleep(0)  # it is sent
            liar.send(packet(Progress(1, 2)))
            liar.send(b"no packet of any sort")
        await _closed(connection)
        assert heard == [Progress(1, 2)]
        assert isinstance(ended[0], BadMessage)
        with pytest.raises(BadMessage):
            await asking

    asyncio.run(go())


def test_a_flood_of_requests_that_takes_its_answers_leaves_others_their_turn() -> None:
    """There is nothing wrong with it but its number."""

    async def go() -> None:
        answer = {NewImageDecoder: lambda _message, _fds: ImageDecoderReady()}
        liar, connection = pair(PAGE, "client", handlers=answer)
        with liar:
            liar.setblocking(False)
            sent, answered, turns = 0, 0, 0
            while sent < MANY:
                try:
                    liar.send(packet(NewImageDecoder(), sent + 1))
                    sent += 1
                except BlockingIOError:
                    await asyncio.sleep(0)
                    turns += 1
                    while True:
                        try:
                            liar.recv(65536)
                            answered += 1
                        except BlockingIOError:
                            break
            assert not connection.closed
            assert answered > MANY / 2
            assert answered / turns < 200
        connection.close()

    asyncio.run(go())


def test_sockets_in_sockets_in_sockets_are_all_closed() -> None:
    """A descriptor that nobody expects may have descriptors in it, that have some in them."""

    async def go() -> None:
        for deep in (1, 5, 30):
            liar, connection = pair(CONTROL, "server", handlers={Shutdown: lambda _message, _fds: None})
            with liar:
                inner: list[socket.socket] = []
                for _ in range(deep):
                    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                    socket.send_fds(here, [b"x"], [each.fileno() for each in inner] or [liar.fileno()])
                    for each in inner:
                        each.close()
                    here.close()
                    inner = [there]
                socket.send_fds(liar, [packet(Shutdown())], [inner[0].fileno()] * 8)
                inner[0].close()
                await _closed(connection)

    asyncio.run(go())
    gc.collect()
    before = held()
    asyncio.run(go())
    assert held() == before


# ── a system that has no room ────────────────────────────────────────────────────────────────────────────────────


def in_a_process(work: Callable[[], None]) -> None:
    """With limits and a user of its own: what raises there fails here."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os.write(writer, traceback.format_exc().encode()[-8000:])
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        said = file.read().decode()
    _, status = os.waitpid(pid, 0)
    assert status == 0, said


def test_a_message_waits_while_its_user_has_too_many_descriptors_in_flight() -> None:
    """Another process of the same user can bring that about: it is no end of the channel, and nothing is lost."""

    def work() -> None:
        if os.geteuid() == 0:
            os.setresuid(65533, 65533, 65533)  # with CAP_SYS_RESOURCE there is no such limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
        asyncio.run(go())

    async def go() -> None:
        here, there = Channel.pair()
        ours, theirs = Connection(here, LOOKUP_ADMIN, "client"), _Receiver(there)
        stuffing, stuffed = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        socket.send_fds(stuffing, [b"x"], [stuffing.fileno()] * 200)
        with pytest.raises(OSError, match="Too many references"):
            socket.send_fds(stuffing, [b"x"], [stuffing.fileno()])
        given, kept = socket.socketpair()
        ours.send(AddClient(), [given.detach()])
        ours.send(AddClient(), [kept.detach()])
        await asyncio.sleep(0.05)
        assert not ours.closed
        assert theirs.came == 0
        stuffing.close()
        stuffed.close()  # and what is in it
        gc.collect()
        await soon(lambda: theirs.came == 2)
        ours.close()
        theirs.connection.close()

    in_a_process(work)


class _Receiver:
    def __init__(self, channel: Channel) -> None:
        self.came = 0
        self.connection = Connection(channel, LOOKUP_ADMIN, "server", {AddClient: self._took})

    def _took(self, _message: AddClient, fds: Any) -> None:
        self.came += 1
        fds.close()


# ── a socket that waits when it is closed ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("policy", [REQUEST_SERVER, LOOKUP_SERVER], ids=lambda policy: policy.kind)
def test_nobody_who_has_connected_sockets_can_make_their_last_holder_wait(policy: Any) -> None:
    """close(2) of a socket with SO_LINGER waits until its peer has taken everything, or for as long as the option
    says. The last holder may be the browser, to whom it was sent."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        connected = socket.create_connection(server.getsockname())
        with connected:

            def attempt() -> None:
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 65535))

            outcome = Sandbox(policy, keep=[connected.fileno()]).run(attempt)
            assert outcome.denied
            assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8) == struct.pack("ii", 0, 0)
