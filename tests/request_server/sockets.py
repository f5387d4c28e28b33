"""The real handlers of a request_server on a real channel, in this process; and servers that speak WebSocket, or do
not."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import msgspec
from tests.request_server.conftest import Keeper, NoShelf, connect
from tests.request_server.peers import read_head
from websockets.sync.server import ServerConnection, serve

from cloister.errors import RequestFailed
from cloister.interfaces.base import Message
from cloister.interfaces.event_source import NextEvent, OpenEventSource, ServerSentEvent
from cloister.interfaces.fetch import Destination, Fetch
from cloister.interfaces.lookup_server import LOOKUP, Connect
from cloister.interfaces.request_server import Credentials, DocumentAllowed, Options
from cloister.interfaces.requests import REQUESTS
from cloister.interfaces.web_socket import (
    CloseWebSocket,
    NextWebSocketMessage,
    OpenWebSocket,
    SendWebSocket,
    WebSocketClosed,
    WebSocketMessage,
    WebSocketOpened,
)
from cloister.ipc import Channel, Connection, blob
from cloister.ipc.connection import Handler
from cloister.request_server import tls
from cloister.request_server.client import Client
from cloister.request_server.dial import Dialer
from cloister.request_server.event_source import EventSources
from cloister.request_server.web_socket import WebSockets

TIMEOUT = 20.0
MIB = 1024 * 1024


class Channelled:
    """A page's, or the program's, end of the channel. ``ended`` is why the other end closed it, if it did."""

    def __init__(self, connection: Connection, client: Client, announced: list[str]) -> None:
        self.connection = connection
        self.client = client
        self.announced = announced
        self.ended: list[Exception | None] = []

    async def ask(self, message: Any, body: bytes = b"") -> Any:
        """The reply, with its body unpacked if it has one."""
        fds: list[int] = []
        if body:
            packed, fds = blob.pack(body)
            message = msgspec.structs.replace(message, body=packed)
        reply, given = await self.connection.request(message, fds, timeout=TIMEOUT)
        if hasattr(reply, "body"):
            self.body = blob.unpack(reply.body, given, 256 * MIB)
        return reply

    async def code_of(self, message: Any) -> str:
        """Of the failure that it ends in."""
        try:
            await self.ask(message)
        except RequestFailed as error:
            return error.code
        return ""

    async def load(self, url: str) -> None:
        """The page's document."""
        async with self.client.open(Fetch(url, Destination.DOCUMENT)) as response:
            async for _ in response.body:
                pass

    async def open(self, url: str, **more: Any) -> int:
        opened: WebSocketOpened = await self.ask(OpenWebSocket(url, **more))
        return opened.socket

    async def send(self, number: int, message: str | bytes) -> None:
        data = message.encode() if isinstance(message, str) else message
        packed, fds = blob.pack(data)
        asked = SendWebSocket(number, isinstance(message, str), packed)
        await self.connection.request(asked, fds, timeout=TIMEOUT)

    async def next(self, number: int) -> str | bytes | WebSocketMessage:
        """A message, or the end."""
        reply: WebSocketMessage = await self.ask(NextWebSocketMessage(number))
        match reply.news:
            case "text":
                return self.body.decode()
            case "binary":
                return self.body
        return reply

    async def close(self, number: int, code: int = 1000, reason: str = "") -> WebSocketClosed:
        closed: WebSocketClosed = await self.ask(CloseWebSocket(number, code, reason))
        return closed

    async def listen(self, url: str, **more: Any) -> int:
        opened = await self.ask(OpenEventSource(url, **more))
        number: int = opened.source
        return number

    async def event(self, number: int) -> ServerSentEvent:
        reply: ServerSentEvent = await self.ask(NextEvent(number))
        return reply


@contextlib.asynccontextmanager
async def channelled(
    roots: str = "", credentials: Credentials | None = None, **options: Any
) -> AsyncIterator[Channelled]:
    """A request_server's handlers, and who asks them."""
    ours, theirs = Channel.pair()
    page, page_end = Channel.pair()
    lookup = Connection(theirs, LOOKUP, "server", {Connect: connect})
    asking = Connection(ours, LOOKUP, "client")
    chosen = Options(user_agent="Cloister tests", **options)
    dialer = Dialer(asking, tls.context(roots), chosen.request_timeout / 1000)
    announced: list[str] = []

    async def announce(url: str, _redirects: int) -> DocumentAllowed:
        announced.append(url)
        return DocumentAllowed(credentials)

    client = Client(chosen, dialer.dial, announce, NoShelf(), Keeper().of_document)
    sockets, sources = WebSockets(client, chosen, dialer.dial_http_1), EventSources(client, chosen)
    handlers: dict[type[Message], Handler] = {**sockets.handlers, **sources.handlers}
    made = Channelled(Connection(page, REQUESTS, "client"), client, announced)
    server = Connection(page_end, REQUESTS, "server", handlers, on_close=made.ended.append)
    try:
        yield made
    finally:
        for connection in (made.connection, server, asking, lookup):
            connection.close()
        for number in list(sockets._open._known):
            sockets._open.forget(number)
        for number in list(sources._open._known):
            sources._open.forget(number)
        client.close()
        await _settle()
        client.close()  # what was let go of meanwhile


async def _settle() -> None:
    """What reads and lingers ends."""
    async with asyncio.timeout(TIMEOUT):
        me = asyncio.current_task()
        await asyncio.gather(*(asyncio.all_tasks() - {me}), return_exceptions=True)


# ── servers ──────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def websocket_server(
    handler: Callable[[ServerConnection], None], *, tls: ssl.SSLContext | None = None, **options: Any
) -> Iterator[str]:
    """Its URL. ``handler`` serves a connection, in a thread."""
    with serve(
        handler, "127.0.0.1", 0, ssl=tls, max_size=None, ping_interval=None, close_timeout=2, **options
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"{'wss' if tls else 'ws'}://127.0.0.1:{server.socket.getsockname()[1]}/"
        finally:
            server.shutdown()
            thread.join()


def accept(connection: socket.socket, *more: str) -> dict[str, str]:
    """Do the server's side of the handshake; the request's headers."""
    lines = read_head(connection).decode().split("\r\n")[1:]
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name
    }
    connection.sendall(switched(headers, *more))
    return headers


def switched(headers: dict[str, str], *more: str) -> bytes:
    """The answer to a handshake."""
    key = headers["sec-websocket-key"].encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key).digest()).decode()
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept}",
        *more,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def until_closed(connection: socket.socket) -> bytes:
    """What the client says from here on."""
    said = b""
    with contextlib.suppress(OSError):
        while data := connection.recv(65536):
            said += data
    return said
