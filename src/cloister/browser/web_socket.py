"""WebSockets of the program: each spoken by a process of its own, which is this program's only."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..errors import (
    BadMessage,
    ConnectionClosed,
    InvalidArgument,
    NavigationError,
    ProcessError,
    TimeoutError,
    printable,
)
from ..interfaces.base import FailureCode
from ..interfaces.web_socket import (
    MAX_SENT_MESSAGE,
    WEB_SOCKET_WAIT,
    CloseWebSocket,
    NextWebSocketMessage,
    OpenWebSocket,
    SendWebSocket,
    WebSocketNews,
)
from ..ipc import blob
from .checks import checked_url, deadline_of, left
from .own_requests import Headers, OwnRequestServer, checked, checked_headers
from .pulled import Pulled

if TYPE_CHECKING:
    from ..process.loop_thread import LoopThread
    from .without_pages import WithoutPages

__all__ = ["AsyncWebSocket", "WebSocket"]

_SLACK = 10.0
"""Seconds that a process has beyond what it says it takes."""
_CLOSE_TIMEOUT = 20.0


class AsyncWebSocket:
    """A WebSocket, open inside ``async with``; made by :meth:`AsyncBrowser.websocket`::

        async with browser.websocket("wss://example.org/feed") as ws:
            await ws.send("hello")
            async for message in ws:
                ...

    Names are those of the ``websockets`` library; times are in milliseconds. Every method may raise
    :class:`ConnectionClosed`, and :class:`ProcessLost` when its process ended.
    """

    def __init__(
        self,
        browser: WithoutPages,
        url: str,
        *,
        protocols: Sequence[str],
        headers: Headers | None,
        timeout: float,
    ) -> None:
        self.url = checked_url(url)
        self._browser = browser
        self._timeout = timeout
        self._opening = checked(OpenWebSocket(self.url, tuple(protocols), checked_headers(headers)))
        self._server: OwnRequestServer | None = None
        self._number = 0
        self._closed: ConnectionClosed | None = None
        self._pulled = Pulled(self._next)
        self.subprotocol: str | None = None
        """Which of the ``protocols`` the server chose."""

    async def __aenter__(self) -> Self:
        deadline = deadline_of(self._timeout)
        try:
            async with asyncio.timeout(left(deadline)):
                server = self._server = await self._browser.own_request_server(self.url)
                opened, _ = await server.ask(self._opening, timeout=left(deadline) + _SLACK)
        except BaseException as error:
            await self._end()
            if type(error) is builtins.TimeoutError:
                raise TimeoutError(
                    f"{printable(self.url, 200)}: not open within {self._timeout:g} ms"
                ) from None
            raise
        self._number, self.subprotocol = opened.socket, opened.protocol or None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None or issubclass(kind, Exception):
                await self.close()
        finally:
            await self._end()

    @property
    def close_code(self) -> int | None:
        """With which code it was closed; None while it is open."""
        return None if self._closed is None else self._closed.code

    @property
    def close_reason(self) -> str | None:
        return None if self._closed is None else self._closed.reason

    async def send(self, message: str | bytes | bytearray | memoryview) -> None:
        """Send a text (str) or bytes; return when it is on its way. Raises :class:`TimeoutError` where the server does
        not read, and the connection is over then."""
        server = self._running()
        try:
            data = message.encode() if isinstance(message, str) else bytes(message)
        except UnicodeEncodeError as error:
            raise InvalidArgument(f"a text that has no UTF-8: {error}") from None
        if len(data) > MAX_SENT_MESSAGE:
            raise InvalidArgument(
                f"a message has {MAX_SENT_MESSAGE >> 20} MiB at most, not {len(data):,} bytes"
            )
        body, fds = blob.pack(data)
        asked = SendWebSocket(self._number, isinstance(message, str), body)
        try:
            # The time limit is the request_server's; it says what became of the connection.
            await server.ask(asked, fds, timeout=server.options.request_timeout / 1000 + _SLACK)
        except NavigationError as failure:
            if failure.code != FailureCode.NOT_OPEN:
                raise
            raise ConnectionClosed(self.url, 1006, failure.detail) from None

    async def recv(self, timeout: float | None = None) -> str | bytes:
        """The next message. Without a ``timeout``, as long as there is a connection; one whose server is gone without a
        word is noticed after a minute. Raises :class:`TimeoutError`; what comes later is had by the next call."""
        self._running()
        return await self._pulled.get(timeout, f"{printable(self.url, 200)}: no message came")

    async def _next(self) -> str | bytes:
        server = self._running()
        while True:
            asked = NextWebSocketMessage(self._number)
            reply, fds = await server.ask(asked, timeout=WEB_SOCKET_WAIT + _SLACK)
            if reply.news is WebSocketNews.CLOSED:
                raise self._ended(reply.code, reply.reason)
            if reply.news is WebSocketNews.NOTHING_YET:
                continue
            try:
                data = blob.unpack(reply.body, fds, server.options.max_response_bytes)
                return data.decode() if reply.news is WebSocketNews.TEXT else data
            except (BadMessage, UnicodeDecodeError) as error:
                raise server.punish(BadMessage(f"a message that cannot be one came: {error}")) from None

    def __aiter__(self) -> AsyncIterator[str | bytes]:
        return self

    async def __anext__(self) -> str | bytes:
        """Ends when the connection was closed as it should be (1000, 1001, or no code)."""
        try:
            return await self.recv()
        except ConnectionClosed as closed:
            if closed.is_ok:
                raise StopAsyncIteration from None
            raise

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye with ``code`` and ``reason``, and wait for the server's, ten seconds at most. Closing twice is
        fine."""
        if self._closed is not None or self._server is None:
            return
        asked = checked(CloseWebSocket(self._number, code, reason))
        try:
            closed, _ = await self._server.ask(asked, timeout=_CLOSE_TIMEOUT)
            self._ended(closed.code, closed.reason)
        except NavigationError as failure:
            if failure.code != FailureCode.NOT_OPEN:
                raise InvalidArgument(f"close: {failure.detail}") from None
        except (ProcessError, TimeoutError) as error:  # there is nobody to say it to
            self._ended(1006, str(error))
        await self._end()

    def _ended(self, code: int, reason: str) -> ConnectionClosed:
        self._closed = self._closed or ConnectionClosed(self.url, code, reason)
        return self._closed

    def _running(self) -> OwnRequestServer:
        if self._closed is not None:
            raise ConnectionClosed(self.url, self._closed.code, self._closed.reason)
        if self._server is None:
            raise InvalidArgument("the WebSocket is not open: use it inside `async with`")
        return self._server

    async def _end(self) -> None:
        if self._server is not None:
            await self._pulled.close()
            await self._browser.end_own(self._server)


class WebSocket:
    """A WebSocket, open inside ``with``; each method is that of :class:`AsyncWebSocket`, done when it returns."""

    def __init__(self, socket: AsyncWebSocket, thread: LoopThread) -> None:
        self._socket = socket
        self._thread = thread

    def __enter__(self) -> Self:
        self._thread.run(self._socket.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.run(self._socket.__aexit__(kind, error, trace))

    @property
    def url(self) -> str:
        return self._socket.url

    @property
    def subprotocol(self) -> str | None:
        return self._socket.subprotocol

    @property
    def close_code(self) -> int | None:
        return self._socket.close_code

    @property
    def close_reason(self) -> str | None:
        return self._socket.close_reason

    def send(self, message: str | bytes | bytearray | memoryview) -> None:
        self._thread.run(self._socket.send(message))

    def recv(self, timeout: float | None = None) -> str | bytes:
        return self._thread.run(self._socket.recv(timeout))

    def __iter__(self) -> Iterator[str | bytes]:
        return self

    def __next__(self) -> str | bytes:
        try:
            return self.recv()
        except ConnectionClosed as closed:
            if closed.is_ok:
                raise StopIteration from None
            raise

    def close(self, code: int = 1000, reason: str = "") -> None:
        self._thread.run(self._socket.close(code, reason))
