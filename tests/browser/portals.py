"""A portal on a loop of its own, and clients of it: what the tests of it share."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from cloister.browser.portal import Portal
from cloister.image_decoder.samples import SAMPLES
from cloister.interfaces.image_decoder import IMAGES, Decode, Decoded
from cloister.interfaces.web_content import PAGE, GetText, SetContent, TextFormat
from cloister.ipc import Channel, Connection, blob
from cloister.process import ChildProcess

__all__ = [
    "PLACES",
    "Page",
    "Run",
    "connect",
    "connect_in_turn",
    "connected",
    "decoded",
    "end_of",
    "gone",
    "portal",
    "process_of",
    "run",
    "runner",
    "until",
]

T = TypeVar("T")
Run = Callable[[Awaitable[Any]], Any]
PLACES = 4
CLIENTS: list[socket.socket] = []


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def portal(runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Portal]:
    portal = Portal(tmp_path_factory.mktemp("run") / "portal", max_processes=PLACES)
    runner.run(portal.start())
    yield portal
    runner.run(portal.close())


@pytest.fixture
def run(runner: asyncio.Runner, portal: Portal) -> Iterator[Run]:
    """Runs a coroutine on the portal's loop; the test's clients are gone when the next one begins."""

    async def bounded(work: Awaitable[T]) -> T:
        async with asyncio.timeout(50):
            return await work

    yield lambda work: runner.run(bounded(work))
    while CLIENTS:
        CLIENTS.pop().close()
    runner.run(until(lambda: not portal.processes))


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what has to come, however slow the machine."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


def connect(portal: Portal, kind: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    CLIENTS.append(client)
    client.setblocking(False)
    client.connect(str(portal.sockets[kind]))
    return client


async def connect_in_turn(portal: Portal, kind: str) -> socket.socket:
    """As :func:`connect`, where so many wait that the kernel takes no more for the moment."""
    async with asyncio.timeout(30):
        while True:
            try:
                return connect(portal, kind)
            except BlockingIOError:
                await asyncio.sleep(0.005)


async def process_of(portal: Portal, before: list[ChildProcess]) -> ChildProcess:
    """The process that was not there before, locked down."""
    await until(lambda: not set(portal.processes) <= set(before))
    (child,) = set(portal.processes) - set(before)
    await child.ready()
    return child


async def connected(portal: Portal, kind: str) -> tuple[socket.socket, ChildProcess]:
    before = portal.processes
    client = connect(portal, kind)
    return client, await process_of(portal, before)


async def end_of(client: socket.socket) -> None:
    """Wait until the other end of ``client`` is closed, whatever it still had to say."""
    async with asyncio.timeout(30):
        try:
            while await asyncio.get_running_loop().sock_recv(client, 2**17):
                pass
        except ConnectionResetError:  # it left something unread
            pass


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


class Page:
    """A page over the portal."""

    def __init__(self, portal: Portal) -> None:
        self._connection = Connection(Channel(connect(portal, "web_content").detach()), PAGE, "client")

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()

    async def says(self, words: str) -> bool:
        body, fds = blob.pack(f"<p>{words}".encode())
        await self._connection.request(SetContent(body), fds, timeout=30)
        result, fds_of_text = await self._connection.request(GetText(TextFormat.TEXT), timeout=30)
        return words in blob.unpack(result.body, fds_of_text, 2**16).decode()


async def decoded(portal: Portal) -> Decoded:
    client = await connect_in_turn(portal, "image_decoder")
    connection = Connection(Channel(client.detach()), IMAGES, "client")
    try:
        reply, _ = await connection.request(Decode(blob.pack(SAMPLES["PNG"])[0]), timeout=30)
        return reply
    finally:
        connection.close()
