"""WebSockets of a program: with a real server, each in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import msgspec
import pytest
from tests.request_server.sockets import websocket_server
from tests.servers import Authority, closed_port
from websockets.exceptions import ConnectionClosed as TheirConnectionClosed
from websockets.sync.server import ServerConnection

from cloister import (
    AddressRefused,
    AsyncBrowser,
    BadMessage,
    Browser,
    ConnectionClosed,
    InvalidArgument,
    NavigationError,
    NetworkPolicy,
    TimeoutError,
    ends,
)
from cloister.browser.own_requests import OwnRequestServer
from cloister.errors import ProcessLost
from cloister.interfaces.base import Blob
from cloister.interfaces.web_socket import NextWebSocketMessage, WebSocketMessage, WebSocketNews
from cloister.ipc import Descriptors, blob


def serve(connection: ServerConnection) -> None:
    """What the path says; else it echoes."""
    with contextlib.suppress(TheirConnectionClosed):
        match connection.request.path if connection.request else "":
            case "/three":
                for message in ("one", b"two", "three"):
                    connection.send(message)
            case "/bad":
                connection.close(4001, "not you")
            case "/silent":
                connection.recv()
            case "/headers":
                assert connection.request is not None
                headers = connection.request.headers
                connection.send(
                    f"{headers.get('X-Key')} {headers.get('Origin')} {headers.get('Authorization')}"
                )
            case _:
                for message in connection:
                    connection.send(message)


def _choose(_connection: ServerConnection, offered: Any) -> Any:
    return "chat.v2" if "chat.v2" in offered else None


@pytest.fixture(scope="module")
def url(authority: Authority) -> Iterator[str]:
    options = {"subprotocols": ["chat.v2"], "select_subprotocol": _choose}
    with websocket_server(serve, tls=authority.context(), **options) as url:
        yield url


@pytest.fixture(scope="module")
def asynchronously(
    ca_file: str,
) -> Iterator[Callable[[Callable[[AsyncBrowser], Coroutine[Any, Any, Any]]], Any]]:
    """Runs what it is given with one browser."""
    with asyncio.Runner() as runner:
        network = NetworkPolicy(allow_hosts=["127.0.0.1"], max_response_bytes=2**20, request_timeout=5)
        browser = runner.run(AsyncBrowser(network=network, ca_certs=ca_file).start())

        def run(work: Callable[[AsyncBrowser], Coroutine[Any, Any, Any]]) -> Any:
            async def within_time() -> Any:
                async with asyncio.timeout(30):
                    result = await work(browser)
                    assert [each for each in browser.processes() if each.page_url] == []
                    return result

            return runner.run(within_time())

        yield run
        runner.run(browser.close())


def test_a_program_speaks_with_a_server(browser: Browser, url: str) -> None:
    large = "ü" * 300_000
    with browser.websocket(url, protocols=["chat.v1", "chat.v2"]) as ws:
        assert (ws.url, ws.subprotocol, ws.close_code) == (url, "chat.v2", None)
        for message in ("hello", b"\0\xff", "", large, bytearray(b"x"), memoryview(b"y")):
            ws.send(message)
            assert ws.recv(timeout=10_000) == (message if isinstance(message, str) else bytes(message))
        (process,) = (each for each in browser.processes() if each.page_url == url)
        assert process.kind == "request_server"
        assert "seccomp" in process.layers
        ws.close(4000, "enough")
        assert (ws.close_code, ws.close_reason) == (4000, "enough")
        ws.close()
        with pytest.raises(ConnectionClosed, match="4000"):
            ws.send("more")
        with pytest.raises(ConnectionClosed):
            ws.recv()
    assert not any(each.page_url == url for each in browser.processes())


def test_messages_can_be_iterated_over(browser: Browser, url: str) -> None:
    with browser.websocket(f"{url}three") as ws:
        assert list(ws) == ["one", b"two", "three"]
        assert ws.close_code == 1000
    with (
        browser.websocket(f"{url}bad") as ws,
        pytest.raises(ConnectionClosed, match="not you") as caught,
    ):
        list(ws)
    assert (caught.value.code, caught.value.reason, caught.value.is_ok) == (4001, "not you", False)


def test_what_the_program_wants_to_be_said_is_said(ca_file: str, url: str) -> None:
    origin = url.replace("wss", "https").rstrip("/")
    with (
        Browser(
            network=NetworkPolicy(allow_hosts=["127.0.0.1"]),
            ca_certs=ca_file,
            http_credentials={"origin": origin, "username": "me", "password": "secret"},
        ) as browser,
        browser.websocket(f"{url}headers", headers={"X-Key": "1", "Origin": "https://a.example"}) as ws,
    ):
        assert ws.recv() == "1 https://a.example None"  # a password is for a server that asks


Run = Callable[[Callable[[AsyncBrowser], Coroutine[Any, Any, Any]]], Any]


def test_who_gives_up_loses_no_message(asynchronously: Run, url: str) -> None:
    async def work(browser: AsyncBrowser) -> list[Any]:
        async with browser.websocket(url) as ws:
            found: list[Any] = []
            for _ in range(3):
                with pytest.raises(TimeoutError, match="no message came within 20 ms"):
                    await ws.recv(timeout=20)
            waiting = asyncio.create_task(ws.recv())
            await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            for number in range(20):
                await ws.send(str(number))
                reader = asyncio.create_task(ws.recv())
                await asyncio.sleep(0.0002 * number)
                if reader.cancel():
                    await asyncio.gather(reader, return_exceptions=True)
                    found.append(await ws.recv())
                else:
                    found.append(reader.result())
            return found

    assert asynchronously(work) == [str(number) for number in range(20)]


def test_many_at_once_are_in_processes_of_their_own(asynchronously: Run, url: str) -> None:
    async def one(browser: AsyncBrowser, number: int) -> int:
        async with browser.websocket(url) as ws:
            await ws.send(str(number))
            assert await ws.recv() == str(number)
            (pid,) = (each.pid for each in browser.processes() if each.page_url and each.pid == _pid(ws))
            return pid

    async def work(browser: AsyncBrowser) -> list[int]:
        return await asyncio.gather(*(one(browser, number) for number in range(6)))

    assert len(set(asynchronously(work))) == 6


def _pid(ws: Any) -> int:
    pid: int = ws._server.process.pid
    return pid


@pytest.mark.parametrize(
    ("target", "error", "code"),
    [
        ("ws://10.0.0.1/", AddressRefused, "address_refused"),
        ("ws://127.0.0.1:1/", AddressRefused, "address_refused"),
        ("ws://127.0.0.1:{closed}/", NavigationError, "connection_refused"),
        ("ftp://127.0.0.1/", NavigationError, "unsupported_scheme"),
        ("ws://", NavigationError, "bad_url"),
        ("127.0.0.1", NavigationError, "bad_url"),
    ],
)
def test_what_cannot_be_opened_is_an_error(
    asynchronously: Run, target: str, error: type[NavigationError], code: str
) -> None:
    async def work(browser: AsyncBrowser) -> None:
        async with browser.websocket(target.replace("{closed}", str(closed))):
            pass

    with closed_port() as closed, pytest.raises(error) as caught:
        asynchronously(work)
    assert caught.value.code == code


@pytest.mark.parametrize(
    "options",
    [
        {"protocols": ["a b"]},
        {"protocols": ["a"] * 100},
        {"headers": {"X": 1}},
        {"headers": [("X", "y" * 5000)]},
        {"headers": {f"X-{n}": "1" for n in range(100)}},
        {"timeout": 0},
    ],
)
def test_what_cannot_be_meant_is_refused_before_a_process_is_bothered(
    asynchronously: Run, url: str, options: dict[str, Any]
) -> None:
    async def work(browser: AsyncBrowser) -> None:
        async with browser.websocket(url, **options):
            pass

    with pytest.raises(InvalidArgument):
        asynchronously(work)


def test_what_cannot_be_sent_is_refused_and_nothing_is_lost(asynchronously: Run, url: str) -> None:
    async def work(browser: AsyncBrowser) -> Any:
        ws = browser.websocket(url)
        with pytest.raises(InvalidArgument, match="async with"):
            await ws.send("early")
        async with ws:
            with pytest.raises(InvalidArgument, match="UTF-8"):
                await ws.send("\ud800")
            with pytest.raises(InvalidArgument, match="64 MiB"):
                await ws.send(bytes(64 * 2**20 + 1))
            for code, reason in ((1005, ""), (999, ""), (70000, ""), (1000, "x" * 124), (1000, "ü" * 70)):
                with pytest.raises(InvalidArgument):
                    await ws.close(code, reason)
            await ws.send("still here")
            return await ws.recv()

    assert asynchronously(work) == "still here"


def test_a_process_that_dies_is_an_error_that_may_be_tried_again(asynchronously: Run, url: str) -> None:
    async def work(browser: AsyncBrowser) -> None:
        async with browser.websocket(f"{url}silent") as ws:
            waiting = asyncio.create_task(ws.recv())
            await asyncio.sleep(0.01)
            os.kill(_pid(ws), signal.SIGKILL)
            with pytest.raises(ProcessLost) as caught:
                await waiting
            assert caught.value.retriable
            with pytest.raises(ProcessLost):
                await ws.send("x")

    asynchronously(work)


def test_who_leaves_by_an_exception_leaves_nothing(asynchronously: Run, url: str) -> None:
    async def work(browser: AsyncBrowser) -> None:
        async with browser.websocket(f"{url}silent"):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        asynchronously(work)


@contextlib.asynccontextmanager
async def lying(reply: WebSocketMessage) -> AsyncIterator[None]:
    """What a request_server that was taken over answers."""
    with pytest.MonkeyPatch.context() as patch:
        ask = OwnRequestServer.ask

        async def lie(server: OwnRequestServer, message: Any, *arguments: Any, **named: Any) -> Any:
            if isinstance(message, NextWebSocketMessage):
                _, fds = blob.pack(bytes(reply.body.size)) if reply.body.inline is None else (None, [])
                return reply, Descriptors(fds)
            return await ask(server, message, *arguments, **named)

        patch.setattr(OwnRequestServer, "ask", lie)
        yield


@pytest.mark.parametrize(
    "reply",
    [
        WebSocketMessage(WebSocketNews.TEXT, body=Blob(2, b"\xff\xfe")),
        WebSocketMessage(WebSocketNews.BINARY, body=Blob(2**21)),
        WebSocketMessage(WebSocketNews.BINARY, body=Blob(5, b"a")),
    ],
    ids=["no UTF-8", "too large", "another size"],
)
def test_a_process_that_lies_is_ended(asynchronously: Run, url: str, reply: WebSocketMessage) -> None:
    async def work(browser: AsyncBrowser) -> None:
        async with browser.websocket(url) as ws, lying(reply):
            child = ws._server.process if ws._server else None
            with pytest.raises(BadMessage):
                await ws.recv()
            assert child is not None
            await child.wait(5)
            assert isinstance(child.ending, ends.BadMessage)

    asynchronously(work)
    assert msgspec.msgpack.encode(reply)  # whole, as messages go
