"""The WebSockets of a page: each read ahead by a little, so that pings are answered while nobody asks for messages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from ..errors import BadMessage, RequestFailed
from ..interfaces.base import FailureCode, Message
from ..interfaces.request_server import Options
from ..interfaces.web_socket import (
    MAX_SENT_MESSAGE,
    MAX_WEB_SOCKETS,
    WEB_SOCKET_WAIT,
    CloseWebSocket,
    NextWebSocketMessage,
    OpenWebSocket,
    SendWebSocket,
    WebSocketClosed,
    WebSocketMessage,
    WebSocketNews,
    WebSocketOpened,
    WebSocketSent,
)
from ..ipc import Descriptors, blob
from ..ipc.connection import Handler
from .body import Spool
from .client import Client
from .exchange import BadResponse, Broken, Effort
from .inbox import Inbox
from .numbered import Numbered
from .web_socket_frames import CLOSE, PING, PONG, Control, Fault, Piece, Reader, Writer, may_be_sent
from .web_socket_handshake import Dial, Established, shake_hands
from .wire import Link

__all__ = ["WebSockets"]

_READ: Final = 64 * 1024
_PING_AFTER: Final = 30.0
"""Seconds without a byte after which a server is pinged; and after as many more, it is taken for gone."""
_CLOSE_TIMEOUT: Final = 10.0
"""Seconds in which a server answers a goodbye."""
_LINGER: Final = 2.0
"""Seconds in which it ends the connection, which is for it to do (RFC 6455, 7.1.1)."""
_MAX_REASON: Final = 123  # bytes, of a close frame


class WebSockets:
    """``handlers`` are for what a page may ask of them. ``dial`` makes connections that are HTTP/1.1's."""

    def __init__(self, client: Client, options: Options, dial: Dial) -> None:
        self._client = client
        self._options = options
        self._dial = dial
        self._open: Numbered[_WebSocket] = Numbered(MAX_WEB_SOCKETS, "WebSocket")
        self.handlers: dict[type[Message], Handler] = {
            OpenWebSocket: self._shake_hands,
            SendWebSocket: self._send,
            NextWebSocketMessage: self._next,
            CloseWebSocket: self._close,
        }

    async def _shake_hands(self, message: OpenWebSocket, _fds: Descriptors) -> WebSocketOpened:
        with self._open.opening():
            established = await shake_hands(message, self._client, self._options, self._dial)
            number = self._open.add(_WebSocket(established, self._options, self._client.spend))
        return WebSocketOpened(number, established.protocol, established.extensions)

    async def _send(self, message: SendWebSocket, fds: Descriptors) -> WebSocketSent:
        await self._open.get(message.socket).send(message, fds)
        return WebSocketSent()

    async def _next(
        self, message: NextWebSocketMessage, _fds: Descriptors
    ) -> tuple[WebSocketMessage, list[int]]:
        reply, given = await self._open.get(message.socket).next()
        if reply.news is WebSocketNews.CLOSED:
            self._open.forget(message.socket)
        return reply, given

    async def _close(self, message: CloseWebSocket, _fds: Descriptors) -> WebSocketClosed:
        reason = message.reason.encode()
        is_allowed = message.code == 1000 or message.code >= 3000
        if not is_allowed and not (self._options.for_browser and may_be_sent(message.code)):
            raise RequestFailed(FailureCode.BAD_REQUEST, f"{message.code} is no code to say goodbye with")
        if len(reason) > _MAX_REASON:
            raise RequestFailed(FailureCode.BAD_REQUEST, f"a reason has {_MAX_REASON} bytes of UTF-8 at most")
        ended = await self._open.get(message.socket).close_with(message.code, reason)
        self._open.forget(message.socket)
        return ended


class _Effort(Effort):
    """One that comes back in time: a socket may be open for days."""

    PER_SECOND: Final = 100
    FOR_A_MESSAGE: Final = 4 * Effort.BYTES_FOR_ONE
    """What is asked for is no flood, however short."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._refilled = clock()

    def spend(self, size: int = 0) -> None:
        now = self._clock()
        most = self.FREE * self.BYTES_FOR_ONE
        more = int((now - self._refilled) * self.PER_SECOND) * self.BYTES_FOR_ONE
        if more:
            self._refilled = now
            self._left = max(self._left, min(most, self._left + more))
        super().spend(size)


class _WebSocket:
    """One that is open, until ``ended`` says how it ended."""

    def __init__(self, established: Established, options: Options, spend: Callable[[int], None]) -> None:
        self._link: Link = established.link
        self._reader = Reader(options.max_response_bytes, established.deflate)
        self._writer = Writer(established.deflate)
        self._timeout = options.request_timeout / 1000
        self._spend = spend
        self._effort = _Effort()
        self._inbox: Inbox[WebSocketMessage] = Inbox()
        self._spool: Spool | None = None
        """The message that is coming in."""
        self._sending = asyncio.Lock()
        self._said_goodbye = False
        self._ended: asyncio.Future[WebSocketClosed] = asyncio.get_running_loop().create_future()
        self._was_heard = True
        self._was_pinged = False
        self._loop = asyncio.get_running_loop()
        self._alarm = self._loop.call_later(_PING_AFTER, self._on_alarm)
        self._reading = self._loop.create_task(self._read(established.first))

    def close(self) -> None:
        """Nobody wants to hear of it any more. Whatever goes on is cut off."""
        self._end(1006, "it was dropped", was_clean=False)
        self._inbox.clear()

    # ── what the page asks ───────────────────────────────────────────────────────────────────────────────────

    async def send(self, message: SendWebSocket, fds: Descriptors) -> None:
        async with self._sending:
            self._check_open()
            data = blob.unpack(message.body, fds, MAX_SENT_MESSAGE)
            if message.is_text:
                _check_text(data)
            writing = self._loop.create_task(self._write(data, is_text=message.is_text))
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError:
                await writing  # half a message cannot be taken back
                raise

    async def _write(self, data: bytes, *, is_text: bool) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                for frame in self._writer.message(data, is_text=is_text):
                    self._check_open()
                    self._link.write(frame)
                    await self._link.drain()
                    await asyncio.sleep(0)
        except TimeoutError:
            self._end(1006, f"it did not read what it was sent for {self._timeout:g} s", was_clean=False)
            raise RequestFailed(FailureCode.TIMED_OUT, "the server does not read what it is sent") from None
        except Broken as error:
            self._end(1006, f"the connection broke: {error}", was_clean=False)
            self._check_open()

    async def next(self) -> tuple[WebSocketMessage, list[int]]:
        """The next message, or the end, or that there is nothing yet."""
        found = await self._inbox.next(WEB_SOCKET_WAIT)
        if found is None:
            return WebSocketMessage(WebSocketNews.NOTHING_YET), []
        self._effort.earn(_Effort.FOR_A_MESSAGE)
        return found

    async def close_with(self, code: int, reason: bytes) -> WebSocketClosed:
        self._say_goodbye(code, reason)
        self._inbox.clear()
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await asyncio.shield(self._ended)
        except TimeoutError:
            self._end(1006, f"it did not say goodbye within {_CLOSE_TIMEOUT:g} s", was_clean=False)
        return self._ended.result()

    def _check_open(self) -> None:
        if self._ended.done():
            why = self._ended.result().reason or self._ended.result().code
            raise RequestFailed(FailureCode.NOT_OPEN, f"that WebSocket is closed: {why}")
        if self._said_goodbye:
            raise RequestFailed(FailureCode.NOT_OPEN, "that WebSocket is closing")

    # ── what the server says ─────────────────────────────────────────────────────────────────────────────────

    async def _read(self, data: bytes) -> None:
        try:
            while not self._ended.done():
                self._effort.spend()
                for got in self._reader.feed(data):
                    self._effort.spend()
                    await (self._on_control(got) if isinstance(got, Control) else self._on_piece(got))
                if not self._ended.done():
                    data = await self._receive()
        except Fault as fault:
            self._fail(fault.code, str(fault))
        except BadResponse as error:
            self._fail(1008, str(error))
        except RequestFailed as error:
            self._fail(1009, error.detail)
        except Broken as error:
            self._end(1006, f"the connection broke: {error}", was_clean=False)
        except (OSError, MemoryError):
            self._fail(1009, "there is no memory for a message")
        finally:
            if self._spool is not None:
                self._spool.close()
            self._end(1006, "it failed here", was_clean=False)  # if nothing else has
            await self._linger()

    async def _receive(self) -> bytes:
        data = await self._link.receive(_READ)
        self._was_heard = True
        if not data:
            raise Broken("the server ended it without a goodbye")
        return data

    async def _on_piece(self, piece: Piece) -> None:
        self._effort.earn(len(piece.data))
        self._spend(len(piece.data))
        if self._spool is None:
            self._spool = Spool()
        self._spool.write(piece.data)
        if not piece.is_last:
            return
        body, fds = self._spool.finish()
        self._spool = None
        if self._said_goodbye or self._ended.done():
            Descriptors(fds).close()
            return
        news = WebSocketNews.TEXT if piece.is_text else WebSocketNews.BINARY
        await self._inbox.put(WebSocketMessage(news, body=body), fds, body.size)

    async def _on_control(self, control: Control) -> None:
        self._effort.spend(len(control.data))
        if control.opcode == PING:
            self._link.write(self._writer.control(PONG, control.data))
            await self._link.drain()  # who does not read is not listened to
        elif control.opcode == CLOSE:
            self._say_goodbye(control.code, control.data)
            self._end(control.code, control.data.decode(), was_clean=True)

    def _on_alarm(self) -> None:
        self._alarm = self._loop.call_later(_PING_AFTER, self._on_alarm)
        if self._was_heard or self._inbox.is_full:
            self._was_heard = self._was_pinged = False
        elif self._was_pinged:
            self._end(1006, f"nothing came from the server for {2 * _PING_AFTER:g} s", was_clean=False)
        else:
            self._was_pinged = True
            try:
                self._link.write(self._writer.control(PING))
            except Broken as error:
                self._end(1006, f"the connection broke: {error}", was_clean=False)

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────

    def _say_goodbye(self, code: int, reason: bytes) -> None:
        if not self._said_goodbye and not self._ended.done():
            self._said_goodbye = True
            try:
                self._link.write(self._writer.close(code, reason))
            except Broken:
                pass  # who reads is told

    def _fail(self, code: int, what: str) -> None:
        """The server did what it may not: it is told with ``code``, and the page with 1006."""
        self._say_goodbye(code, b"")
        self._end(1006, what, was_clean=False)

    def _end(self, code: int, reason: str, *, was_clean: bool) -> None:
        if self._ended.done():
            return
        self._ended.set_result(WebSocketClosed(code, reason[:500], was_clean))
        self._alarm.cancel()
        self._inbox.end(WebSocketMessage(WebSocketNews.CLOSED, code, reason[:500], was_clean))
        if not was_clean:
            self._link.close()

    async def _linger(self) -> None:
        """After a goodbye on both sides, until the server ends the connection: to end it under what it has not read
        yet would take ours along."""
        try:
            async with asyncio.timeout(_LINGER):
                while await self._link.receive(_READ):
                    pass
        except (TimeoutError, Broken):
            pass
        finally:
            self._link.close()


def _check_text(data: bytes) -> None:
    try:
        data.decode()
    except UnicodeDecodeError:
        raise BadMessage("a text that is not UTF-8 was to be sent") from None
