"""The streams of events of a page, each asked for anew whenever its connection ends."""

from __future__ import annotations

import asyncio
from typing import Final

from ..errors import RequestFailed
from ..interfaces.base import FailureCode, Message
from ..interfaces.event_source import (
    EVENT_WAIT,
    MAX_EVENT_SOURCES,
    CloseEventSource,
    EventNews,
    EventSourceClosed,
    EventSourceOpened,
    NextEvent,
    OpenEventSource,
    ServerSentEvent,
)
from ..interfaces.fetch import CredentialsMode, Destination, Fetch, Mode
from ..interfaces.request_server import Options
from ..ipc import Descriptors, blob
from ..ipc.connection import Handler
from . import headers
from .client import Client, Response, Special
from .event_stream import Event, Parser
from .exchange import Headers
from .inbox import Inbox
from .numbered import Numbered

__all__ = ["EventSources"]

_RETRY: Final = 3.0
"""Seconds after which it is asked anew, where the server does not say."""
_MIN_RETRY: Final = 0.5
_MAX_RETRY: Final = 3600.0
_MAX_BACKOFF: Final = 60.0
"""Seconds, of what is doubled each time that a connection brought nothing."""
_IDLE: Final = 300.0
"""Seconds without a byte after which a connection is taken for lost. Servers send a comment each 15."""
_SLICE: Final = 16 * 1024

_MAY_PASS: Final = frozenset(
    {
        FailureCode.UNKNOWN_HOST,
        FailureCode.DNS_FAILED,
        FailureCode.CONNECTION_REFUSED,
        FailureCode.CONNECTION_RESET,
        FailureCode.UNREACHABLE,
        FailureCode.PROXY_FAILED,
        FailureCode.TIMED_OUT,
        FailureCode.TLS_FAILED,
        FailureCode.BAD_RESPONSE,
    }
)
"""Why a connection ends so that another may do better. What was refused stays so."""


class EventSources:
    """``handlers`` are for what a page may ask of them."""

    def __init__(self, client: Client, options: Options) -> None:
        self._client = client
        self._options = options
        self._open: Numbered[_EventSource] = Numbered(MAX_EVENT_SOURCES, "stream of events")
        self.handlers: dict[type[Message], Handler] = {
            OpenEventSource: self._begin,
            NextEvent: self._next,
            CloseEventSource: self._close,
        }

    async def _begin(self, message: OpenEventSource, _fds: Descriptors) -> EventSourceOpened:
        if message.headers and not self._options.for_browser:
            raise RequestFailed(FailureCode.BAD_REQUEST, "a page sets no header of a stream of events")
        with self._open.opening():
            source = _EventSource(message, self._client, for_browser=self._options.for_browser)
            try:
                url = await source.begun
            except BaseException:
                source.close()
                raise
            return EventSourceOpened(self._open.add(source), url)

    async def _next(self, message: NextEvent, _fds: Descriptors) -> tuple[ServerSentEvent, list[int]]:
        found = await self._open.get(message.source).inbox.next(EVENT_WAIT)
        reply, given = found or (ServerSentEvent(EventNews.NOTHING_YET), [])
        if reply.news is EventNews.CLOSED:
            self._open.forget(message.source)
        return reply, given

    async def _close(self, message: CloseEventSource, _fds: Descriptors) -> EventSourceClosed:
        self._open.get(message.source)
        self._open.forget(message.source)
        return EventSourceClosed()


class _StoppedError(Exception):
    """The server said that there is nothing to wait for."""


class _EventSource:
    """One stream. ``begun`` is where the server was that began to answer, or why there is none."""

    def __init__(self, message: OpenEventSource, client: Client, *, for_browser: bool) -> None:
        self.inbox: Inbox[ServerSentEvent] = Inbox()
        self._message = message
        self._client = client
        self._for_browser = for_browser
        self._given = headers.given(message.headers)
        self._last_event_id = message.last_event_id
        self._retry = _RETRY
        self._in_vain = 0
        """Connections in a row that brought no event."""
        loop = asyncio.get_running_loop()
        self.begun: asyncio.Future[str] = loop.create_future()
        self._running = loop.create_task(self._run())

    def close(self) -> None:
        self._running.cancel()
        self.inbox.clear()

    async def _run(self) -> None:
        reason = "it failed here"
        try:
            while True:
                try:
                    await self._listen()
                except RequestFailed as error:
                    if not self.begun.done() or error.code not in _MAY_PASS:
                        raise
                reply = ServerSentEvent(EventNews.RECONNECTING, last_event_id=self._last_event_id)
                await self.inbox.put(reply, [], 0)
                await asyncio.sleep(min(self._retry * 2**self._in_vain, max(self._retry, _MAX_BACKOFF)))
                self._in_vain = min(self._in_vain + 1, 10)
        except _StoppedError as stopped:
            reason = str(stopped)
        except RequestFailed as error:
            reason = error.detail or error.code
            if not self.begun.done():
                self.begun.set_exception(error)
        finally:
            self.begun.cancel()
            self.inbox.end(ServerSentEvent(EventNews.CLOSED, reason=reason[:500]))

    async def _listen(self) -> None:
        """One connection, to its end. Raises :class:`RequestFailed`, and ``_StoppedError``."""
        with_credentials = self._message.with_credentials
        fetch = Fetch(
            self._message.url,
            Destination.DOCUMENT if self._for_browser else Destination.EMPTY,
            referrer=self._client.page.url,
            mode=Mode.CORS,
            credentials=CredentialsMode.INCLUDE if with_credentials else CredentialsMode.SAME_ORIGIN,
        )
        async with self._client.open(fetch, special=Special(self._headers(), is_endless=True)) as response:
            self._judge(response)
            if not self.begun.done():
                self.begun.set_result(response.url)
            parser = Parser(self._last_event_id)
            while piece := await self._receive(response):
                for start in range(0, len(piece), _SLICE):
                    await self._parse(parser, piece[start : start + _SLICE])

    async def _receive(self, response: Response) -> bytes:
        try:
            async with asyncio.timeout(_IDLE):
                return await anext(response.body, b"")
        except TimeoutError:
            raise RequestFailed(FailureCode.TIMED_OUT, f"nothing came for {_IDLE:g} s") from None

    async def _parse(self, parser: Parser, data: bytes) -> None:
        try:
            for event in parser.feed(data):
                self._last_event_id, self._in_vain = parser.last_event_id, 0
                await self._put(event)
        except ValueError as error:
            raise RequestFailed(FailureCode.TOO_LARGE, str(error)) from None
        self._last_event_id = parser.last_event_id
        if parser.retry is not None:
            self._retry = min(max(parser.retry / 1000, _MIN_RETRY), _MAX_RETRY)

    async def _put(self, event: Event) -> None:
        body, fds = blob.pack(event.data)
        reply = ServerSentEvent(EventNews.EVENT, event.type, event.last_event_id, body=body)
        await self.inbox.put(reply, fds, len(event.data))

    def _headers(self) -> Headers:
        ours = [(b"Accept", b"text/event-stream"), (b"Cache-Control", b"no-cache")]
        names = {name.lower() for name, _ in self._given}
        made = [header for header in ours if header[0].lower() not in names] + self._given
        if self._last_event_id:
            made.append((b"Last-Event-ID", self._last_event_id.encode()))
        return made

    def _judge(self, response: Response) -> None:
        essence = response.content_type.partition(";")[0].strip().lower()
        if response.status == 204 and self.begun.done():
            raise _StoppedError
        if response.status != 200 or essence != "text/event-stream":
            what = f"answered with status {response.status} and {essence or 'no type'}"
            error = RequestFailed(FailureCode.BAD_RESPONSE, f"the server {what} where events were asked for")
            raise error if not self.begun.done() else _StoppedError(error.detail)
