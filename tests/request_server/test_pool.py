"""How many connections there are, who shares them, and how long they are kept."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Sequence

import ada_url
import h2.errors
import pytest
from hyperframe.frame import GoAwayFrame
from tests.request_server.conftest import Fetched, Fetcher, NoShelf, nobody_minds
from tests.request_server.conftest import Keeper as Cookies
from tests.request_server.peers import Http2Server, led_to, outcome, peer, read_head

from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode
from cloister.interfaces.fetch import Destination, Fetch
from cloister.interfaces.request_server import Options
from cloister.request_server import pool
from cloister.request_server.client import Client
from cloister.request_server.wire import Link, Wire

NEXT = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext"


class Dials:
    """Connects to ``port``; counts how often, how many at once, and what for."""

    def __init__(self, port: int) -> None:
        self.urls: list[str] = []
        self.at_once = self.most_at_once = 0
        self.fails = False
        self._port = port

    async def dial(self, url: ada_url.URL, _protocols: Sequence[str] = ()) -> Link:
        self.urls.append(url.href)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0.01)
            if self.fails:
                raise RequestFailed(FailureCode.CONNECTION_REFUSED, "no")
            return Wire(socket.create_connection(("127.0.0.1", self._port)))
        finally:
            self.at_once -= 1


class Keeper:
    """A server that answers as long as it is asked, and counts the connections that are open."""

    def __init__(self) -> None:
        self.open = self.most_open = self.all = 0
        self._lock = threading.Lock()

    def serve(self, connection: socket.socket, _number: int) -> None:
        with self._lock:
            self.all += 1
            self.open += 1
            self.most_open = max(self.open, self.most_open)
        try:
            while read_head(connection):
                connection.sendall(NEXT)
        finally:
            with self._lock:
                self.open -= 1


def run(work: Callable[[Client, Dials], object]) -> Keeper:
    """Do ``work`` (a coroutine function) with a client whose every host is one server."""
    keeper = Keeper()

    async def all_of_it() -> None:
        dials = Dials(port)
        client = Client(
            Options(user_agent="Cloister tests", for_browser=True),
            dials.dial,
            nobody_minds,
            NoShelf(),
            Cookies().of_document,
        )
        try:
            await work(client, dials)  # type: ignore[misc]
        finally:
            client.close()

    with peer(keeper.serve) as port:
        asyncio.run(all_of_it())
    return keeper


async def get(client: Client, url: str) -> bytes:
    async with client.open(Fetch(url, Destination.IMAGE)) as response:
        return b"".join([piece async for piece in response.body])


def test_over_https_one_connection_is_made_before_there_are_more() -> None:
    async def work(client: Client, dials: Dials) -> None:
        first = [asyncio.create_task(get(client, "https://a.example/")) for _ in range(20)]
        await asyncio.sleep(0.005)
        assert len(dials.urls) == 1
        assert await asyncio.gather(*first) == [b"next"] * 20

    assert 1 < run(work).all <= 6


def test_a_connection_that_fails_fails_all_who_wait_for_it_and_is_not_tried_by_each() -> None:
    async def work(client: Client, dials: Dials) -> None:
        dials.fails = True
        came = await asyncio.gather(*(outcome(get(client, "https://a.example/")) for _ in range(20)))
        assert all(isinstance(failed, RequestFailed) for failed in came)
        assert len(dials.urls) == 1
        dials.fails = False
        assert await get(client, "https://a.example/") == b"next"

    run(work)


def test_whoever_gives_up_a_connection_leaves_it_to_the_next_who_waits() -> None:
    async def work(client: Client, dials: Dials) -> None:
        tasks = [asyncio.create_task(get(client, "https://a.example/")) for _ in range(3)]
        await asyncio.sleep(0.005)
        tasks[0].cancel()
        assert await asyncio.gather(*tasks[1:]) == [b"next"] * 2
        assert dials.most_at_once == 1

    run(work)


def test_there_are_32_connections_at_most_and_unused_ones_make_way() -> None:
    async def work(client: Client, dials: Dials) -> None:
        hosts = [f"http://{number}.example/" for number in range(80)]
        for _ in range(2):
            assert await asyncio.gather(*(get(client, url) for url in hosts)) == [b"next"] * 80
        assert dials.most_at_once <= 32

    assert run(work).most_open <= 33  # one that was closed may be seen to be so a moment later


def test_a_connection_that_nobody_uses_is_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_IDLE", 0.05)

    async def work(client: Client, dials: Dials) -> None:
        assert await get(client, "http://a.example/") == b"next"
        await asyncio.sleep(0.3)
        assert await get(client, "http://a.example/") == b"next"
        assert len(dials.urls) == 2

    run(work)


# ── servers that want HTTP/1.1 after all ─────────────────────────────────────────────────────────────────────────────

POST = Fetch("https://a.example/", Destination.IMAGE, method="POST")


@pytest.mark.parametrize("how", ["reset", "goaway"])
def test_a_server_that_wants_http1_is_asked_over_it_from_then_on(how: str) -> None:
    """RFC 9113, 7: HTTP_1_1_REQUIRED. Three at once, a body too, and then two more."""
    asked: list[bytes] = []

    def serve(connection: socket.socket, _number: int) -> None:
        if connection.recv(3, socket.MSG_PEEK) != b"PRI":
            while head := read_head(connection):
                asked.append(head)
                assert connection.recv(4, socket.MSG_WAITALL) == b"body"
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold")
            return
        server = Http2Server(connection)
        streams = [server.request() for _ in range(3)]
        if how == "goaway":
            server.say(GoAwayFrame(0, 0, error_code=h2.errors.ErrorCodes.HTTP_1_1_REQUIRED).serialize())
        for stream in streams if how == "reset" else []:
            server.state.reset_stream(stream, h2.errors.ErrorCodes.HTTP_1_1_REQUIRED)
        server.flush()
        server.until_closed()

    async def run() -> list[Fetched]:
        async with led_to(port, http_2=True) as made:
            first = await asyncio.gather(*(made.fetch(POST, b"body") for _ in range(3)))
            return [*first, *[await made.fetch(POST, b"body") for _ in range(2)]]

    with peer(serve) as port:
        assert [fetched.body for fetched in asyncio.run(run())] == [b"old"] * 5
    assert len(asked) == 5


def test_a_server_that_wants_http1_and_speaks_http2_again_is_given_up() -> None:
    """As one would whose ALPN picks what nobody offered."""
    connections = 0

    def serve(connection: socket.socket, number: int) -> None:
        nonlocal connections
        connections = number
        server = Http2Server(connection)
        while True:
            server.state.reset_stream(server.request(), h2.errors.ErrorCodes.HTTP_1_1_REQUIRED)
            server.flush()

    async def run() -> Fetched | RequestFailed:
        async def dial(_url: ada_url.URL, _protocols: Sequence[str] = ()) -> Link:
            link = Wire(socket.create_connection(("127.0.0.1", port)))
            link.protocol = "h2"
            return link

        client = Client(
            Options(user_agent="Cloister tests"), dial, nobody_minds, NoShelf(), Cookies().of_document
        )
        try:
            return await outcome(Fetcher(client).fetch(POST))
        finally:
            client.close()

    with peer(serve) as port:
        failed = asyncio.run(run())
    assert isinstance(failed, RequestFailed)
    assert failed.code == FailureCode.CONNECTION_RESET
    assert connections == 3
