"""WebSockets over a real channel: with the ``websockets`` library as the server, and with servers that are enemies."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.request_server.peers import peer, read_head
from tests.request_server.sockets import (
    MIB,
    Channelled,
    accept,
    channelled,
    switched,
    until_closed,
    websocket_server,
)
from tests.request_server.test_process import start
from tests.request_server.test_web_socket_frames import BAD, BAD_DEFLATED, deflated, frame
from tests.servers import Authority, Page, Server
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection

from cloister.errors import BadMessage, RequestFailed
from cloister.interfaces.base import Blob, FailureCode
from cloister.interfaces.request_server import Credentials
from cloister.interfaces.web_socket import (
    MAX_WEB_SOCKETS,
    CloseWebSocket,
    NextWebSocketMessage,
    OpenWebSocket,
    SendWebSocket,
    WebSocketClosed,
    WebSocketMessage,
    WebSocketNews,
)
from cloister.request_server import web_socket
from cloister.request_server.exchange import BadResponse, Effort

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate"


@pytest.fixture(autouse=True)
def no_lingering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many servers here wait for the client to end the connection."""
    monkeypatch.setattr(web_socket, "_LINGER", 0.05)


def echo(connection: ServerConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        for message in connection:
            connection.send(message)


def run(work: Any) -> Any:
    async def within_time() -> Any:
        async with asyncio.timeout(40):
            return await work

    return asyncio.run(within_time())


# ── with a server that is one ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("compression", ["deflate", None])
@pytest.mark.parametrize("secure", [False, True], ids=["ws", "wss"])
def test_messages_go_there_and_back(authority: Authority, compression: str | None, secure: bool) -> None:
    messages: list[str | bytes] = [
        "",
        b"",
        "hällo",
        "a" * 200,
        bytes(range(256)),
        "ü" * MIB,
        b"x" * (3 * MIB),
    ]

    async def go() -> None:
        async with channelled(authority.roots) as page:
            number = await page.open(url)
            for message in messages:
                await page.send(number, message)
                assert await page.next(number) == message
            assert await page.close(number, 4000, "enough") == WebSocketClosed(4000, "enough", True)

    context = authority.context() if secure else None
    with websocket_server(echo, tls=context, compression=compression) as url:
        run(go())


def test_it_speaks_from_inside_the_sandbox(authority: Authority) -> None:
    async def go() -> list[Any]:
        async with start(authority.roots) as child:
            opened, _ = await child.page.request(OpenWebSocket(url), timeout=20)
            for _ in range(2):
                sent = SendWebSocket(opened.socket, True, Blob(400, b"word" * 100))
                await child.page.request(sent, timeout=20)
                message, _ = await child.page.request(NextWebSocketMessage(opened.socket), timeout=20)
                assert message.body == Blob(400, b"word" * 100)
            closed, _ = await child.page.request(CloseWebSocket(opened.socket), timeout=20)
            assert child.visited == []  # no document
            return [opened.extensions, closed.code, child.process.poll()]

    with websocket_server(echo, tls=authority.context()) as url:
        extensions, code, exit_code = run(go())
    assert extensions.startswith("permessage-deflate")
    assert (code, exit_code) == (1000, None)


def test_what_a_server_is_told() -> None:
    seen: list[dict[str, str]] = []

    def handler(connection: socket.socket, _number: int) -> None:
        seen.append(accept(connection, "Sec-WebSocket-Protocol: chat.v2"))
        until_closed(connection)

    async def go() -> WebSocketMessage:
        async with channelled() as page:
            await page.ask(OpenWebSocket(f"ws://127.0.0.1:{port}/socket?q=1#fragment"))
            return WebSocketMessage(WebSocketNews.NOTHING_YET)

    async def with_document() -> Any:
        with Server() as site:
            async with channelled() as page:
                await page.load(site.url("/"))
                url = f"ws://127.0.0.1:{port}/"
                opened = await page.ask(OpenWebSocket(url, ("chat.v1", "chat.v2")))
                assert page.announced == [site.url("/")]
                return opened.protocol, site.url("")

    with peer(handler) as port:
        with pytest.raises(RequestFailed, match="subprotocol that was not offered"):
            run(go())
        protocol, origin = run(with_document())
    without, told = seen
    assert without["origin"] == "null"
    assert "sec-websocket-protocol" not in without
    assert protocol == "chat.v2"
    assert told["origin"] == origin
    assert told["sec-websocket-protocol"] == "chat.v1, chat.v2"
    assert told["user-agent"] == "Cloister tests"
    assert told["sec-websocket-version"] == "13"
    assert told["connection"] == "Upgrade"
    assert without["sec-websocket-key"] != told["sec-websocket-key"]


def test_a_page_that_came_by_https_opens_nothing_in_the_clear_and_strict_hosts_none(
    authority: Authority,
) -> None:
    strict = Page(b"<p>", headers=(("Strict-Transport-Security", "max-age=1000"),))

    async def go() -> list[str]:
        async with channelled(authority.roots) as page:
            await page.load(site.url("/", "localhost"))
            codes = [await page.code_of(OpenWebSocket("ws://10.0.0.1/"))]
            # By https now, where nothing listens; and a page of this machine's may be in the clear.
            codes.append(await page.code_of(OpenWebSocket(url.replace("127.0.0.1", "localhost"))))
            codes.append(await page.code_of(OpenWebSocket(url)))
            return codes

    with Server({"/": strict}, tls=authority.context()) as site, websocket_server(echo) as url:
        assert run(go()) == [FailureCode.MIXED_CONTENT, FailureCode.TLS_FAILED, ""]


def test_whose_page_it_is_the_browser_says_where_no_document_was_fetched_here() -> None:
    seen: list[str] = []

    def handler(connection: socket.socket, _number: int) -> None:
        seen.append(accept(connection)["origin"])
        until_closed(connection)

    async def go(**options: Any) -> str:
        async with channelled(**options) as page:
            code = await page.code_of(OpenWebSocket("ws://10.0.0.1/"))
            await page.code_of(OpenWebSocket(f"ws://127.0.0.1:{port}/"))
            return code

    with peer(handler) as port:
        assert run(go(document="https://a.example/page")) == FailureCode.MIXED_CONTENT
        assert run(go(document="http://a.example/page")) == FailureCode.ADDRESS_REFUSED
        run(go(document="http://a.example/page", is_opaque=True))
    assert seen == ["https://a.example", "http://a.example", "null"]


def test_a_page_sends_the_cookies_of_its_site_and_keeps_those_that_come() -> None:
    seen: list[str] = []

    def handler(connection: socket.socket, _number: int) -> None:
        seen.append(accept(connection, "Set-Cookie: second=2").get("cookie", ""))
        until_closed(connection)

    async def go() -> None:
        async with channelled() as page:
            await page.load(site.url("/"))
            for host in ("127.0.0.1", "127.0.0.1", "localhost"):
                await page.open(f"ws://{host}:{port}/")

    first = Page(b"<p>", headers=(("Set-Cookie", "first=1; HttpOnly"),))
    with peer(handler) as port, Server({"/": first}) as site:
        run(go())
    assert seen == ["first=1", "first=1; second=2", ""]


def test_a_server_gets_the_password_of_the_documents_origin_when_it_asks() -> None:
    seen: list[str] = []

    def handler(connection: socket.socket, number: int) -> None:
        if number == 1:
            read_head(connection)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            return
        head = read_head(connection).decode()
        headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if line)
        seen.append(headers.get("authorization", ""))
        if number == 2:
            connection.sendall(
                b'HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm="x"\r\nContent-Length: 0\r\n\r\n'
            )
        else:
            key = next(line.split(": ")[1] for line in head.split("\r\n") if "-Key" in line)
            connection.sendall(switched({"sec-websocket-key": key}))
            until_closed(connection)

    async def go() -> None:
        async with channelled(credentials=Credentials("me", "secret")) as page:
            await page.load(f"http://127.0.0.1:{port}/")
            await page.open(f"ws://127.0.0.1:{port}/")

    with peer(handler) as port:
        run(go())
    assert seen == ["", "basic bwu6c2vjcmv0"]


def test_the_program_is_announced_like_a_document_and_says_what_it_likes() -> None:
    seen: list[dict[str, str]] = []

    def handler(connection: socket.socket, _number: int) -> None:
        seen.append(accept(connection))
        until_closed(connection)

    async def go() -> list[str]:
        async with channelled(for_browser=True) as program:
            url = f"ws://127.0.0.1:{port}/feed"
            await program.open(
                url, headers=(("Origin", "https://a.example"), ("Accept", "x/y"), ("X-Key", "1"))
            )
            for bad in ("Host", "Sec-WebSocket-Key", "Upgrade", "Content-Length", "Bad Name"):
                code = await program.code_of(OpenWebSocket(url, headers=((bad, "1"),)))
                assert code == FailureCode.BAD_REQUEST, bad
            return program.announced

    async def as_a_page() -> str:
        async with channelled() as page:
            return await page.code_of(OpenWebSocket(f"ws://127.0.0.1:{port}/", headers=(("Origin", "x"),)))

    with peer(handler) as port:
        assert run(go()) == [f"http://127.0.0.1:{port}/feed"]
        assert run(as_a_page()) == FailureCode.BAD_REQUEST
    (told,) = seen
    assert (told["origin"], told["accept"], told["x-key"]) == ("https://a.example", "x/y", "1")


# ── handshakes that are none ─────────────────────────────────────────────────────────────────────────────────────

_UPGRADE = b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
NO_HANDSHAKE: dict[str, bytes] = {
    "200": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    "404": b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n",
    "a redirect": b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n",
    "no accept": b"HTTP/1.1 101 S\r\n" + _UPGRADE + b"\r\n",
    "an accept that is wrong": b"HTTP/1.1 101 S\r\n" + _UPGRADE + b"Sec-WebSocket-Accept: AAAA\r\n\r\n",
    "another protocol": b"HTTP/1.1 101 S\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
    "no upgrade": b"HTTP/1.1 101 S\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n",
    "no connection": b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n",
    "two accepts": b"HTTP/1.1 101 S\r\n"
    + _UPGRADE
    + b"Sec-WebSocket-Accept: %s\r\nSec-WebSocket-Accept: x\r\n\r\n",
    "a subprotocol": b"HTTP/1.1 101 S\r\n"
    + _UPGRADE
    + b"Sec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol: chat\r\n\r\n",
    "an empty subprotocol": b"HTTP/1.1 101 S\r\n"
    + _UPGRADE
    + b"Sec-WebSocket-Accept: %s\r\nSec-WebSocket-Protocol:\r\n\r\n",
    "an extension": b"HTTP/1.1 101 S\r\n"
    + _UPGRADE
    + b"Sec-WebSocket-Accept: %s\r\nSec-WebSocket-Extensions: x\r\n\r\n",
    "HTTP/2": b"HTTP/2 101 S\r\n" + _UPGRADE + b"Sec-WebSocket-Accept: %s\r\n\r\n",
    "no HTTP": b"\x81\x05hello\r\n\r\n",
    "nothing": b"",
    "half a head": b"HTTP/1.1 101 S\r\n" + _UPGRADE,
    "endless 1xx": b"HTTP/1.1 100 Continue\r\n\r\n" * 100,
    "endless headers": b"HTTP/1.1 101 S\r\n" + b"X-Many: 1\r\n" * 50_000,
}


def test_whatever_is_no_handshake_is_refused() -> None:
    names = list(NO_HANDSHAKE)

    def handler(connection: socket.socket, number: int) -> None:
        head = read_head(connection).decode()
        key = next(line.split(": ")[1] for line in head.split("\r\n") if "-Key" in line)
        right = switched({"sec-websocket-key": key}).split(b"Accept: ")[1].strip()
        said = NO_HANDSHAKE[names[number - 1]]
        connection.sendall(said.replace(b"%s", right))

    async def go() -> dict[str, str]:
        async with channelled() as page:
            return {name: await page.code_of(OpenWebSocket(f"ws://127.0.0.1:{port}/")) for name in names}

    with peer(handler) as port:
        codes = run(go())
    assert {name for name, code in codes.items() if code == FailureCode.BAD_RESPONSE} == set(names), codes


def test_with_which_status_another_origin_answers_a_page_is_not_told() -> None:
    async def go() -> tuple[str, str]:
        async with channelled() as page:
            await page.load(own.url("/"))
            said = []
            for server in (own, other):
                with pytest.raises(RequestFailed) as caught:
                    await page.open(server.url("/gone").replace("http", "ws"))
                said.append(caught.value.detail)
            return said[0], said[1]

    with Server() as own, Server() as other:
        mine, theirs = run(go())
    assert "status 404" in mine
    assert "status" not in theirs


def test_what_is_no_place_for_a_websocket_is_refused(authority: Authority) -> None:
    async def go(https: str) -> dict[str, str]:
        urls = {
            "private": "ws://10.0.0.1/",
            "scheme": "ftp://127.0.0.1/",
            "none": "ws:",
            "no host": "wss://",
            "closed": "ws://127.0.0.1:1/",
            "untrusted": https.replace("https", "wss"),
        }
        async with channelled() as page:
            codes = {name: await page.code_of(OpenWebSocket(url)) for name, url in urls.items()}
            twice = OpenWebSocket("ws://127.0.0.1/", ("a", "a"))
            return {**codes, "twice": await page.code_of(twice)}

    with Server(tls=authority.context()) as stranger:
        codes = run(go(stranger.url("/")))
    assert codes == {
        "private": FailureCode.ADDRESS_REFUSED,
        "scheme": FailureCode.UNSUPPORTED_SCHEME,
        "none": FailureCode.BAD_URL,
        "no host": FailureCode.BAD_URL,
        "closed": FailureCode.CONNECTION_REFUSED,
        "untrusted": FailureCode.CERTIFICATE_UNTRUSTED,
        "twice": FailureCode.BAD_REQUEST,
    }


def test_only_http_1_is_offered(authority: Authority) -> None:
    """A server that prefers HTTP/2 would speak it, and a WebSocket is not asked for over that."""

    def one(connection: ServerConnection) -> None:
        chosen: Any = connection.socket
        connection.send(str(chosen.selected_alpn_protocol()))

    async def go() -> Any:
        async with channelled(authority.roots) as page:
            await page.load(site.url("/"))
            said = await page.next(await page.open(url))
            await page.load(site.url("/"))
            return said

    with websocket_server(one, tls=authority.context()) as url, Server(tls=authority.context()) as site:
        assert run(go()) == "http/1.1"
    assert {request.version for request in site.requests} == {"HTTP/2"}


# ── servers that speak it badly ──────────────────────────────────────────────────────────────────────────────────


def talk(
    said: Callable[[socket.socket], None] | bytes,
    *,
    extensions: str = "",
    work: Callable[[Channelled, int], Any] | None = None,
    **options: Any,
) -> tuple[list[Any], bytes]:
    """Every message from a server that says ``said``, the end included; and what it was told after the handshake."""
    told: list[bytes] = []

    def handler(connection: socket.socket, _number: int) -> None:
        accept(connection, *([extensions] if extensions else []))
        if callable(said):
            said(connection)
        else:
            with contextlib.suppress(OSError):
                connection.sendall(said)
        told.append(until_closed(connection))

    async def go() -> list[Any]:
        async with channelled(**options) as page:
            number = await page.open(f"ws://127.0.0.1:{port}/")
            if work is not None:
                return [await work(page, number)]
            found: list[Any] = []
            while not found or not isinstance(found[-1], WebSocketMessage):
                found.append(await page.next(number))
            assert await page.code_of(NextWebSocketMessage(number)) == FailureCode.NOT_OPEN
            return found

    with peer(handler) as port:
        found = run(go())
    return found, b"".join(told)


def opened(masked: bytes) -> list[tuple[int, bytes]]:
    """The short frames that a client said: opcode and payload."""
    frames = []
    while masked:
        assert masked[0] & 0x80
        assert masked[1] & 0x80
        size, key = masked[1] & 0x7F, masked[2:6]
        data = bytes(byte ^ key[i % 4] for i, byte in enumerate(masked[6 : 6 + size]))
        frames.append((masked[0] & 0x0F, data))
        masked = masked[6 + size :]
    return frames


@pytest.mark.parametrize(
    ("bad", "extensions"),
    [
        (BAD["a mask"][0], ""),
        (BAD["RSV2"][0], ""),
        (BAD["a text in Latin-1"][0], ""),
        (BAD["a close with 1005"][0], ""),
        (BAD["a close with 1006"][0], ""),
        (BAD_DEFLATED["a bomb"][0], DEFLATE),
    ],
    ids=["masked", "RSV2", "Latin-1", "1005", "1006", "bomb"],
)
def test_what_nobody_may_send_ends_the_connection_after_what_was_right(bad: bytes, extensions: str) -> None:
    codes = {code for data, code in [*BAD.values(), *BAD_DEFLATED.values()] if data == bad}
    found, told = talk(frame(0x81, b"right") + bad, extensions=extensions, max_response_bytes=MIB)
    assert found[0] == "right"
    end = found[1]
    assert (end.news, end.code, end.was_clean) == (WebSocketNews.CLOSED, 1006, False)
    assert end.reason
    ((opcode, payload),) = opened(told)
    assert opcode == 8
    assert struct.unpack("!H", payload)[0] in codes


def test_pings_are_answered_though_nobody_asks_for_messages() -> None:
    answered: list[tuple[int, bytes]] = []

    def said(connection: socket.socket) -> None:
        connection.sendall(frame(0x89, b"still there?") + frame(0x81, b"a") + frame(0x89, b"and now?"))
        got = b""
        while len(got) < 6 + 12 + 6 + 8 and (data := connection.recv(1000)):
            got += data
        answered.extend(opened(got))
        connection.sendall(frame(0x88, struct.pack("!H", 1001) + b"bye"))

    found, told = talk(said)
    assert answered == [(10, b"still there?"), (10, b"and now?")]
    end = found.pop()
    assert found == ["a"]
    assert (end.code, end.reason, end.was_clean) == (1001, "bye", True)
    assert opened(told) == [(8, struct.pack("!H", 1001) + b"bye")]


@pytest.mark.parametrize(
    ("said", "code", "was_clean"),
    [
        (frame(0x88), 1005, True),
        (frame(0x88, struct.pack("!H", 3000)) + frame(0x81, b"after"), 3000, True),
        (b"", 1006, False),
        (frame(0x81, b"cut", length=100), 1006, False),
        (b"\x81", 1006, False),
    ],
    ids=["no code", "data after", "no goodbye", "half a message", "half a head"],
)
def test_how_it_ends(said: bytes, code: int, was_clean: bool) -> None:
    def saying(connection: socket.socket) -> None:
        connection.sendall(said)
        connection.shutdown(socket.SHUT_WR)

    (end,), _ = talk(saying)
    assert (end.news, end.code, end.was_clean) == (WebSocketNews.CLOSED, code, was_clean)


def test_a_server_that_dies_is_noticed() -> None:
    def reset(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()

    (end,), _ = talk(reset)
    assert (end.code, end.was_clean) == (1006, False)


def flood(piece: bytes, before: bytes = b"") -> Callable[[socket.socket], None]:
    def flooding(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(before)
            for _ in range(20_000):
                connection.sendall(piece)

    return flooding


@pytest.mark.parametrize(
    "said",
    [
        flood(frame(0x89, b"x") * 100),
        flood(frame(0x8A) * 100),
        flood(frame(0x00) * 100, frame(0x01)),
        flood(frame(0x00, b"a") * 100, frame(0x01)),
    ],
    ids=["pings", "pongs", "empty fragments", "fragments of a byte"],
)
def test_a_flood_ends_the_connection(said: Callable[[socket.socket], None]) -> None:
    (end,), _ = talk(said)
    assert (end.code, end.was_clean) == (1006, False)
    assert "busy" in end.reason


def test_messages_that_are_asked_for_are_no_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Effort, "FREE", 300)
    count = 700  # more than a server may cause for nothing
    found, _ = talk(frame(0x81, b"a") * count + frame(0x88))
    assert len(found) == count + 1
    assert found[-1].code == 1005


def test_work_comes_back_in_time() -> None:
    now = [0.0]
    effort = web_socket._Effort(lambda: now[0])

    def spend_all() -> int:
        for count in range(100_000):
            try:
                effort.spend()
            except BadResponse:
                return count
        raise AssertionError

    assert spend_all() == effort.FREE
    now[0] = 10.0
    assert spend_all() == pytest.approx(10 * effort.PER_SECOND, abs=2)
    now[0] = 1e6
    assert spend_all() == pytest.approx(effort.FREE, abs=2)


def test_all_messages_together_have_a_limit() -> None:
    found, _ = talk(frame(0x82, bytes(MIB)) * 10, max_total_bytes=3 * MIB)
    assert len(found) == 4
    assert (found[-1].code, found[-1].was_clean) == (1006, False)
    assert "limit" in found[-1].reason


def test_a_bomb_inflates_to_its_limit_and_no_further() -> None:
    bomb = deflated(bytes(30 * MIB))
    found, _ = talk(frame(0xC2, bomb), extensions=DEFLATE, max_response_bytes=MIB)
    assert [end.code for end in found] == [1006]


def test_a_server_that_is_not_asked_is_not_listened_to() -> None:
    sent = 0

    def said(connection: socket.socket) -> None:
        nonlocal sent
        connection.settimeout(1)
        with contextlib.suppress(OSError):
            while True:
                sent += connection.send(frame(0x82, bytes(60_000)))

    async def work(page: Channelled, number: int) -> int:
        while not (before := sent) or before != sent:
            await asyncio.sleep(0.3)
        got = await page.next(number)
        assert isinstance(got, bytes)
        return len(got)

    found, _ = talk(said, work=work)
    assert found == [60_000]
    assert sent < 30 * MIB  # the kernel's buffers, and ours


def test_a_server_that_does_not_read_is_given_up() -> None:
    given_up = threading.Event()

    def said(connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        given_up.wait(20)

    async def work(page: Channelled, number: int) -> tuple[str, Any]:
        code = ""
        try:
            await page.send(number, bytes(40 * MIB))
        except RequestFailed as error:
            code = error.code
        given_up.set()
        return code, await page.next(number)

    ((code, end),), _ = talk(said, work=work, request_timeout=300)
    assert code == FailureCode.TIMED_OUT
    assert (end.code, end.was_clean) == (1006, False)


def test_one_that_says_no_goodbye_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_socket, "_CLOSE_TIMEOUT", 0.3)

    async def work(page: Channelled, number: int) -> Any:
        return await page.close(number)

    found, told = talk(frame(0x81, b"a") * 1000 + frame(0x89, b"?"), work=work)
    assert found == [WebSocketClosed(1006, "it did not say goodbye within 0.3 s", False)]
    assert (8, struct.pack("!H", 1000)) in opened(told)


def test_a_silent_server_is_pinged_and_then_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_socket, "_PING_AFTER", 0.1)
    found, told = talk(b"")
    assert (found[0].code, found[0].was_clean) == (1006, False)
    assert opened(told) == [(9, b"")]


# ── a page that was taken over ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "message",
    [
        NextWebSocketMessage(2),
        NextWebSocketMessage(2**32 - 1),
        CloseWebSocket(2),
        SendWebSocket(2, True, Blob(1, b"a")),
        SendWebSocket(1, True, Blob(2, b"\xff\xfe")),
        SendWebSocket(1, False, Blob(3, b"a")),
    ],
    ids=["next", "next of the last", "close", "send", "no UTF-8", "another size"],
)
def test_a_number_that_was_never_given_and_a_text_that_is_none_end_the_page(message: Any) -> None:
    async def go() -> list[Exception | None]:
        async with channelled() as page:
            assert await page.open(url) == 1
            await page.send(1, "still fine")
            with pytest.raises(Exception, match=r"is gone|CANCELLED|cancelled"):
                await page.ask(message)
            return page.ended

    with websocket_server(echo) as url:
        (error,) = run(go())
    assert isinstance(error, BadMessage)


def test_what_is_closed_stays_closed_and_places_are_few() -> None:
    async def go() -> None:
        async with channelled() as page:
            numbers = await asyncio.gather(*(page.open(url) for _ in range(MAX_WEB_SOCKETS)))
            assert sorted(numbers) == list(range(1, MAX_WEB_SOCKETS + 1))
            flood = (page.code_of(OpenWebSocket(url)) for _ in range(20))
            assert set(await asyncio.gather(*flood)) == {FailureCode.TOO_MANY_REQUESTS}
            for code, reason in ((1001, ""), (1005, ""), (1006, ""), (2000, ""), (1000, "ü" * 62)):
                assert await page.code_of(CloseWebSocket(1, code, reason)) == FailureCode.BAD_REQUEST
            await page.close(1)
            for message in (
                CloseWebSocket(1),
                NextWebSocketMessage(1),
                SendWebSocket(1, True, Blob(1, b"a")),
            ):
                assert await page.code_of(message) == FailureCode.NOT_OPEN
            assert await page.open(url) == MAX_WEB_SOCKETS + 1
            assert page.ended == []

    with websocket_server(echo, compression=None) as url:
        run(go())


def test_messages_go_in_order_and_one_that_is_given_up_goes_in_whole() -> None:
    large = b"x" * (8 * MIB)

    async def go() -> list[Any]:
        async with channelled() as page:
            number = await page.open(url)
            sending = asyncio.create_task(page.send(number, large))
            after = asyncio.create_task(page.send(number, "after"))
            await asyncio.sleep(0.01)
            sending.cancel()
            await after
            return [await page.next(number), await page.next(number)]

    with websocket_server(echo, compression=None) as url:
        found = run(go())
    assert found in ([large, "after"], ["after", WebSocketMessage(WebSocketNews.NOTHING_YET)])


def test_requests_count() -> None:
    async def go() -> list[str]:
        async with channelled(max_requests=2) as page:
            return [await page.code_of(OpenWebSocket(url)) for _ in range(3)]

    with websocket_server(echo) as url:
        assert run(go()) == ["", "", FailureCode.TOO_MANY_REQUESTS]
