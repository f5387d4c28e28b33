"""What a request_server does for programs, beside what pages ask of it: WebSockets, server-sent events, answers in
pieces. It is loaded where a program may ask: pages' commands start without it, and their processes have less of it in
memory.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence

import ada_url

from ..errors import RequestFailed
from ..interfaces.base import Message
from ..interfaces.request_server import DocumentAllowed, Options
from ..interfaces.requests import REQUESTS
from ..interfaces.web_socket import OpenWebSocket
from ..ipc.codec import codec
from ..ipc.connection import Handler
from .client import Client
from .dial import Dialer
from .event_source import EventSources
from .transfers import Transfers
from .warmup import Nowhere, no_cookies
from .web_socket import WebSockets
from .web_socket_frames import Deflate, Fault, Reader, Writer
from .web_socket_handshake import shake_hands
from .wire import Link, Wire

__all__ = ["REQUESTS", "handlers", "rehearse"]

_TEXT = b"warm"
_SWITCHED = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: warm\r\n\r\n"
)


def handlers(client: Client, options: Options, dialer: Dialer) -> dict[type[Message], Handler]:
    """Of what it is asked for, for as long as its channel is open."""
    found = {
        **WebSockets(client, options, dialer.dial_http_1).handlers,
        **EventSources(client, options).handlers,
    }
    if options.for_browser:  # what a program's own request may say, no page may
        found |= Transfers(client, options).handlers()
    return found


def rehearse() -> None:
    """Before lock-down, as :mod:`.warmup`: a WebSocket."""
    codec(REQUESTS, "server")
    asyncio.run(_switch())
    _frames()


async def _switch() -> None:
    """A handshake of a WebSocket, up to an answer that is for another's key."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(_SWITCHED)

        async def dial(_url: ada_url.URL, _protocols: Sequence[str] = ()) -> Link:
            return Wire(ours)

        async def announce(_url: str, _redirects: int) -> DocumentAllowed:
            return DocumentAllowed()

        options = Options(user_agent="warm-up")
        client = Client(options, dial, announce, Nowhere(), no_cookies(""))
        try:
            await shake_hands(OpenWebSocket("ws://warm.example/"), client, options, dial)
        except RequestFailed:
            pass


def _frames() -> None:
    """A text there and back, deflated."""
    frame = b"".join(Writer(Deflate()).message(_TEXT * 100, is_text=True))
    opened = frame[:1] + bytes([frame[1] & 0x7F]) + frame[6:]  # as a server sends it
    try:
        for _ in Reader(len(_TEXT) * 100, Deflate()).feed(opened):
            pass
    except Fault:  # it is masked
        pass
