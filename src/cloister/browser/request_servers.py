"""The request_servers whose client is the browser itself: for what a program fetches without a page.

Each is of one origin. What a redirect leads out of it is asked for by another one, so who redirected cannot have taken
over the process that gets the next origin's password, nor read its answer.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

from ..errors import (
    AddressRefused,
    BadMessage,
    BrowserClosed,
    ChannelClosed,
    NavigationError,
    RequestFailed,
    TimeoutError,
    printable,
)
from ..interfaces.base import Event, FailureCode, Message, Reply, Request
from ..interfaces.cookies import ForgetCookies
from ..interfaces.request_server import Credentials, DocumentAllowed, DocumentFrom
from ..ipc import Connection, Descriptors, blob
from ..process import ChildProcess
from ..process.handle import UNWANTED
from .checks import is_normalised, navigation_error, origin_of, site_of
from .cookies import CookieAccess, CookieStore

__all__ = ["CredentialsOf", "Fork", "RequestServer", "RequestServers"]

AT_ONCE: Final = 32
"""Answers that are open at once; who asks for one more waits in order."""
_MOST_KEPT: Final = 8
"""Request_servers that are kept without a use; the longest idle one makes way for another."""
_IDLE: Final = 5.0
"""Seconds for which one is kept: its connections may be used again."""
_PATIENCE: Final = 60.0
"""Seconds after which whoever waits in order is told."""
_MOST_USES: Final = 1000
"""Requests of one, which then makes way for a fresh one."""

R = TypeVar("R", bound=Reply)
Fork = Callable[[Mapping[type[Message], Any]], Awaitable[ChildProcess]]
CredentialsOf = Callable[[str], Credentials | None]


class RequestServer:
    """One of them. ``key`` is what URLs have in common that are asked for here; the first one that is announced says
    which origin that is."""

    def __init__(
        self, key: str | None, fork: Fork, credentials_of: CredentialsOf, cookies: CookieStore
    ) -> None:
        self.key = key
        self._cookies = CookieAccess(self._forget_cookies)
        self._cookies.use(cookies)
        self.users = 0
        self.uses = 0
        self.timer: asyncio.TimerHandle | None = None
        self.process: ChildProcess | None = None
        self._credentials_of = credentials_of
        self._origin: str | None = None
        self.at = ""
        """Where it spoke to last."""
        self.led_to: str | None = None
        """Where a redirect led that left its origin."""
        self._connection: Connection
        self._expected = 0
        self.started = asyncio.ensure_future(self._start(fork))

    async def _start(self, fork: Fork) -> None:
        process = await fork({DocumentFrom: self._document_from, **self._cookies.handlers})
        process.site = self.key
        from ..interfaces.requests import REQUESTS  # here: a page's command needs none of it

        self._connection = Connection(process.channel, REQUESTS, "client", on_close=process.lost_channel)
        process.connections.append(self._connection)
        self.process = process

    @property
    def is_usable(self) -> bool:
        """Whether it may be asked for one more thing."""
        if not self.started.done():
            return True
        process = self.process
        return (
            process is not None
            and self.uses < _MOST_USES
            and not self._connection.closed
            and not process.is_doomed
            and not process.is_unresponsive
        )

    async def request(
        self, message: Request[R], fds: Sequence[int] = (), *, timeout: float, url: str
    ) -> tuple[R, Descriptors]:
        """Ask. Raises what is told to a program that asked for ``url``: :class:`NavigationError` and its like,
        :class:`TimeoutError`, :class:`BadMessage`."""
        with self._explaining(url):
            return await self._connection.request(message, fds, timeout=timeout)

    @contextlib.contextmanager
    def expecting(self) -> Iterator[None]:
        """Servers may be asked for something meanwhile, and passwords given to them."""
        self._expected += 1
        try:
            yield
        finally:
            self._expected -= 1

    def _forget_cookies(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ChannelClosed, BadMessage):  # it is ending
                self.process.control.send(ForgetCookies())

    def tell(self, event: Event) -> None:
        """Say so, if it is there."""
        with contextlib.suppress(ChannelClosed, BadMessage):
            self._connection.send(event)

    def unpack(self, body: Any, fds: Descriptors, limit: int) -> bytes:
        """As :func:`blob.unpack`; who sends more than it may is ended."""
        try:
            return blob.unpack(body, fds, limit)
        except BadMessage as error:
            raise self.punish(error) from None

    def punish(self, error: BadMessage) -> BadMessage:
        """End it for what it sent; ``error`` again, to be raised."""
        if self.process is not None:
            self.process.punish(error)
        return error

    async def end(self) -> None:
        """See it gone."""
        self._cookies.close()
        self.started.cancel()
        await asyncio.gather(self.started, return_exceptions=True)
        if self.process is not None:
            self._connection.close()
            await self.process.end(UNWANTED)

    async def _document_from(self, message: DocumentFrom, _fds: Descriptors) -> DocumentAllowed:
        """What it asks before it speaks to a server, on a channel where it alone can speak."""
        if not is_normalised(message.url):
            raise BadMessage("a request_server named a URL that is none that it fetches")
        if not self._expected:
            raise RequestFailed(FailureCode.TOO_MANY_REQUESTS, "nothing was asked for")
        origin = origin_of(message.url) or site_of(message.url)
        self._origin = self._origin or origin
        if origin != self._origin:
            self.led_to = message.url
            raise RequestFailed(FailureCode.OTHER_SITE, "this request_server is kept to another origin")
        self.at = message.url
        return DocumentAllowed(
            self._credentials_of(message.url), has_cookies=self._cookies.begin(message.url)
        )

    @contextlib.contextmanager
    def _explaining(self, url: str) -> Iterator[None]:
        try:
            yield
        except RequestFailed as error:
            raise navigation_error(url, error) from None
        except BadMessage as error:
            raise BadMessage(f"{printable(url, 200)}: {error}") from None
        except ChannelClosed:
            why = "its request_server has ended: try again"
            raise NavigationError(url, FailureCode.NO_PROCESS, why) from None


class RequestServers:
    """Forks them, gives them out, and keeps them for a moment."""

    def __init__(
        self,
        fork: Fork,
        credentials_of: CredentialsOf,
        traced: Callable[[], contextlib.AbstractContextManager[None]],
        cookies: CookieStore,
        allows: Callable[[str], bool] | None = None,
    ) -> None:
        """What is begun within ``traced()`` is traced if the browser is. ``allows`` says which URLs may be asked for;
        any, if it is None."""
        self._cookies = cookies
        self._allows = allows
        self._traced = traced
        self._fork = fork
        self._credentials_of = credentials_of
        self._places = asyncio.Semaphore(AT_ONCE)
        self._shared: dict[str, RequestServer] = {}
        self._every: set[RequestServer] = set()
        self._ending: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def use(self, url: str) -> AsyncIterator[RequestServer]:
        """The one that asks for what is of the origin of ``url``. Raises :class:`ProcessError` if none can be forked,
        :class:`TimeoutError` if too many are at work for long, :class:`AddressRefused` for what may not be asked."""
        if self._allows is not None and not self._allows(url):
            raise AddressRefused(
                url, FailureCode.ADDRESS_REFUSED, "it is none of the hosts that may be asked"
            )
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._places.acquire()
        except builtins.TimeoutError:
            raise TimeoutError(
                f"{printable(url, 200)}: {AT_ONCE} requests have been under way for {_PATIENCE:g} s"
            ) from None
        server = self._take(url)
        try:
            await asyncio.shield(server.started)
            yield server
        except asyncio.CancelledError:
            if server.started.cancelled():  # with the browser
                raise BrowserClosed("the browser is closed") from None
            raise
        finally:
            self._give_back(server)
            self._places.release()

    @property
    def processes(self) -> list[ChildProcess]:
        """Those that live."""
        return [server.process for server in self._every if server.process is not None]

    async def close(self) -> None:
        """End all of them."""
        for server in list(self._every):
            self._retire(server)
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _take(self, url: str) -> RequestServer:
        key = origin_of(url)
        server = self._shared.get(key) if key is not None else None
        if server is None or not server.is_usable:
            with self._traced():
                server = RequestServer(key, self._fork, self._credentials_of, self._cookies)
            server.started.add_done_callback(lambda _started: self._watch(server))
            self._every.add(server)
            if key is not None:
                self._shared[key] = server
        if server.timer is not None:
            server.timer.cancel()
            server.timer = None
        server.users += 1
        server.uses += 1
        return server

    def _watch(self, server: RequestServer) -> None:
        """Nobody gets one that has ended."""
        if server.process is not None:
            server.process.when_ended(lambda: self._retire(server))

    def _give_back(self, server: RequestServer) -> None:
        server.users -= 1
        if server.users or server not in self._every:
            return
        is_kept = server.key is not None and self._shared.get(server.key) is server and server.is_usable
        if not is_kept:
            self._retire(server)
            return
        server.timer = asyncio.get_running_loop().call_later(_IDLE, self._retire, server)
        idle = [each for each in self._every if each.timer is not None]
        if len(idle) > _MOST_KEPT:
            self._retire(min(idle, key=lambda each: each.timer.when() if each.timer else 0.0))

    def _retire(self, server: RequestServer) -> None:
        if server not in self._every:
            return
        self._every.discard(server)
        if server.key is not None and self._shared.get(server.key) is server:
            del self._shared[server.key]
        if server.timer is not None:
            server.timer.cancel()
        task = asyncio.ensure_future(server.end())
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
