"""Server-sent events of the program: each stream in a process of its own, which is this program's only."""

from __future__ import annotations

import asyncio
import builtins
import dataclasses
from collections.abc import AsyncIterator, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..errors import BadMessage, InvalidArgument, NavigationError, TimeoutError, printable
from ..interfaces.base import FailureCode
from ..interfaces.event_source import EVENT_WAIT, MAX_EVENT_BYTES, EventNews, NextEvent, OpenEventSource
from ..ipc import blob
from .checks import checked_url, deadline_of, left
from .own_requests import Headers, OwnRequestServer, checked, checked_headers
from .pulled import Pulled

if TYPE_CHECKING:
    from ..process.loop_thread import LoopThread
    from .without_pages import WithoutPages

__all__ = ["AsyncEvents", "Events", "ServerEvent"]

_SLACK = 10.0
"""Seconds that a process has beyond what it says it takes."""


@dataclasses.dataclass(frozen=True)
class ServerEvent:
    """One event: its ``type`` ("message" where the server says none), its data, and the id to go on from."""

    type: str
    data: str
    last_event_id: str


class AsyncEvents:
    """The events of a server, inside ``async with``; made by :meth:`AsyncBrowser.events`::

        async with browser.events("https://example.org/feed") as events:
            async for event in events:
                print(event.type, event.data)

    A connection that ends is made anew, with the last event's id. It is over when the server says so (a 204), and when
    making it anew is refused. Times are in milliseconds.
    """

    def __init__(
        self,
        browser: WithoutPages,
        url: str,
        *,
        headers: Headers | None,
        last_event_id: str,
        timeout: float,
    ) -> None:
        self.url = checked_url(url)
        """Where the events come from: after redirects, once it is open."""
        self.last_event_id = last_event_id
        self._browser = browser
        self._timeout = timeout
        given = checked_headers(headers)
        self._opening = checked(OpenEventSource(self.url, last_event_id=last_event_id, headers=given))
        self._server: OwnRequestServer | None = None
        self._number = 0
        self._ended: str | None = None
        self._pulled = Pulled(self._next)

    async def __aenter__(self) -> Self:
        deadline = deadline_of(self._timeout)
        try:
            async with asyncio.timeout(left(deadline)):
                await self._open()
        except BaseException as error:
            await self.close()
            if type(error) is builtins.TimeoutError:
                raise TimeoutError(
                    f"{printable(self.url, 200)}: no events within {self._timeout:g} ms"
                ) from None
            raise
        return self

    async def _open(self) -> None:
        """A redirect to another origin goes on in another process, which has not read who redirected."""
        redirects = 0
        while True:
            server = self._server = await self._browser.own_request_server(self.url)
            try:
                opened, _ = await server.ask(self._opening, timeout=self._timeout / 1000 + _SLACK)
            except NavigationError as failure:
                if failure.code != FailureCode.OTHER_SITE or server.led_to is None:
                    raise
                if redirects == server.options.max_redirects:
                    raise NavigationError(
                        self.url, FailureCode.TOO_MANY_REDIRECTS, f"{redirects} redirects are the limit"
                    ) from None
            else:
                break
            redirects += 1
            await self._browser.end_own(server)
            self.url = server.led_to
            # What is said to one origin, a password say, is not said to another.
            self._opening = OpenEventSource(self.url, last_event_id=self.last_event_id)
        self._number, self.url = opened.source, server.at

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def recv(self, timeout: float | None = None) -> ServerEvent | None:
        """The next event; None when the server has ended the stream. Without a ``timeout``, as long as there is a
        server to ask. Raises :class:`NavigationError` where that is refused, :class:`TimeoutError`; what comes later is
        had by the next call."""
        self._running()
        return await self._pulled.get(timeout, f"{printable(self.url, 200)}: no event came")

    async def _next(self) -> ServerEvent | None:
        server = self._running()
        while self._ended is None:
            reply, fds = await server.ask(NextEvent(self._number), timeout=EVENT_WAIT + _SLACK)
            if reply.news is EventNews.CLOSED:
                self._ended = reply.reason
            elif reply.news is EventNews.EVENT:
                self.last_event_id = reply.last_event_id
                try:
                    data = blob.unpack(reply.body, fds, MAX_EVENT_BYTES).decode()
                except (BadMessage, UnicodeDecodeError) as error:
                    raise server.punish(BadMessage(f"an event that cannot be one came: {error}")) from None
                return ServerEvent(reply.name, data, reply.last_event_id)
        if self._ended:
            raise NavigationError(self.url, FailureCode.NOT_OPEN, self._ended)
        return None

    def __aiter__(self) -> AsyncIterator[ServerEvent]:
        return self

    async def __anext__(self) -> ServerEvent:
        if (event := await self.recv()) is None:
            raise StopAsyncIteration
        return event

    async def close(self) -> None:
        """Closing twice is fine."""
        if self._server is not None:
            await self._pulled.close()
            await self._browser.end_own(self._server)
            self._server = None

    def _running(self) -> OwnRequestServer:
        if self._server is None:
            raise InvalidArgument("the stream of events is not open: use it inside `async with`")
        return self._server


class Events:
    """The events of a server, inside ``with``; each method is that of :class:`AsyncEvents`, done when it returns."""

    def __init__(self, events: AsyncEvents, thread: LoopThread) -> None:
        self._events = events
        self._thread = thread

    def __enter__(self) -> Self:
        self._thread.run(self._events.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        return self._events.url

    @property
    def last_event_id(self) -> str:
        return self._events.last_event_id

    def recv(self, timeout: float | None = None) -> ServerEvent | None:
        return self._thread.run(self._events.recv(timeout))

    def __iter__(self) -> Iterator[ServerEvent]:
        return self

    def __next__(self) -> ServerEvent:
        if (event := self.recv()) is None:
            raise StopIteration
        return event

    def close(self) -> None:
        self._thread.run(self._events.close())
