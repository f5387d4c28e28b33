"""What a browser does without a page: requests, downloads, WebSockets, events."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from ..errors import InvalidArgument, RequestFailed
from ..interfaces import lookup_server, request_server
from ..interfaces.base import Message
from ..process import ChildProcess
from .checks import descriptors_left, navigation_error
from .cookies import CookieStore
from .identity import Keyring
from .network import NetworkPolicy
from .own_requests import Headers, OwnRequestServer
from .processes import Processes
from .request_servers import RequestServers
from .tab import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from .downloads import Download, Progress
    from .event_source import AsyncEvents
    from .requests import AsyncAPIRequestContext
    from .web_socket import AsyncWebSocket

__all__ = ["RequestBounds", "WithoutPages"]


class RequestBounds(msgspec.Struct, frozen=True):
    """What requests of somebody who may not ask everybody are held to: the lookup_server judges each connection by
    ``rules``, and ``allows`` says of each URL, those that redirects lead to included, whether it may be asked for."""

    rules: lookup_server.PolicyRules
    allows: Callable[[str], bool]
    max_response_bytes: int


class WithoutPages(ABC):
    """A browser's part that has request_servers and no pages."""

    pages_only: ClassVar[bool] = False
    """Whether it is for pages, and nothing is asked without one: its request_servers start without what only programs
    ask for."""

    def __init__(self, network: NetworkPolicy, options: request_server.Options, keyring: Keyring) -> None:
        self._network = network
        self._request_options = options
        self._keyring = keyring
        self._own: set[OwnRequestServer] = set()
        self._request_servers: list[RequestServers] = []
        self._request: AsyncAPIRequestContext | None = None

    @abstractmethod
    def _running(self) -> Processes: ...

    @abstractmethod
    def _traced(self) -> contextlib.AbstractContextManager[None]: ...

    async def _end_requests(self) -> None:
        """With the browser."""
        await asyncio.gather(
            *(self.end_own(server) for server in list(self._own)),
            *(servers.close() for servers in self._request_servers),
        )

    @property
    def request(self) -> AsyncAPIRequestContext:
        """Requests without a page, which have cookies of their own. :attr:`AsyncBrowserContext.request` has those of
        its pages."""
        if self._request is None:
            self._request = self.requests_with(CookieStore())
        return self._request

    def requests_with(
        self, cookies: CookieStore, bounds: RequestBounds | None = None
    ) -> AsyncAPIRequestContext:
        """For a context: requests that have these cookies, and keep more there."""
        from .requests import AsyncAPIRequestContext  # JSON, forms, files: no page needs them

        fork, allows, most = self._fork_own, None, self._network.max_response_bytes
        if bounds is not None:
            fork, allows = functools.partial(self._fork_own, rules=bounds.rules), bounds.allows
            most = min(most, bounds.max_response_bytes)
        servers = RequestServers(fork, self._keyring.get, self._traced, cookies, allows)
        self._request_servers.append(servers)
        return AsyncAPIRequestContext(
            servers,
            max_response_bytes=most,
            max_redirects=self._network.max_redirects,
            idle=self._network.request_timeout,
        )

    async def end_requests(self, request: AsyncAPIRequestContext) -> None:
        """For a context that closes."""
        await request.servers.close()
        self._request_servers.remove(request.servers)

    async def look_up(self, host: str, *, named: bool, timeout: float) -> tuple[str, ...]:
        """The addresses of ``host``, within ``timeout`` seconds; ``named`` as in :class:`lookup_server.LookUp`. Nothing
        is connected to. Raises :class:`NavigationError`, :class:`TimeoutError`."""
        with descriptors_left(), self._traced():
            try:
                return await self._running().look_up(host, named=named, timeout=timeout)
            except RequestFailed as error:
                raise navigation_error(host, error) from None

    async def download(
        self,
        url: str,
        path: str | os.PathLike[str] | None = None,
        *,
        resume: bool = True,
        progress: Progress | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        max_bytes: int | None = None,
        sha256: str | None = None,
    ) -> Download:
        """Save what is at ``url`` in a file: ``path``, or one in the folder ``path`` (the current one if none) with
        the name that the server proposes, made harmless. Nothing is overwritten, and nothing may be executed.

        While it comes it is beside that, in a file that ends in ``.part``. One that breaks off is gone on with, by the
        same call later too, if the server lets that be done safely; without ``resume``, nothing is left then.
        ``progress`` is called with a :class:`DownloadProgress` now and then. ``timeout`` is in milliseconds, for all of
        it; without one, it may take as long as something comes within each ``NetworkPolicy.request_timeout``.
        ``max_bytes`` is the most that it may have (64 GiB). With ``sha256``, hexadecimal, nothing else is taken.

        Raises :class:`DownloadFailed` with a ``code``, and the ``part`` if it can be gone on with; what
        :meth:`AsyncAPIRequestContext.fetch` raises.
        """
        from .downloads import download, download_options

        self._running()
        options = download_options(
            resume=resume,
            progress=progress,
            headers=headers,
            max_bytes=max_bytes,
            sha256=sha256,
            max_redirects=self._network.max_redirects,
            idle=self._network.request_timeout,
        )
        return await download(self.request.servers, url, path, options, timeout)

    def websocket(
        self,
        url: str,
        *,
        protocols: Sequence[str] = (),
        headers: Headers | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> AsyncWebSocket:
        """A WebSocket to ``url`` (ws or wss), in a process of its own; opened by ``async with``, within ``timeout``.
        ``protocols`` are offered, ``headers`` sent. Raises as :meth:`AsyncPage.goto`."""
        from .web_socket import AsyncWebSocket

        return AsyncWebSocket(self, url, protocols=protocols, headers=headers, timeout=timeout)

    def events(
        self,
        url: str,
        *,
        headers: Headers | None = None,
        last_event_id: str = "",
        timeout: float = DEFAULT_TIMEOUT,
    ) -> AsyncEvents:
        """The server-sent events of ``url``, in a process of their own; opened by ``async with``, within ``timeout``,
        and asked for anew whenever the connection ends. Raises as :meth:`AsyncPage.goto`."""
        from .event_source import AsyncEvents

        return AsyncEvents(self, url, headers=headers, last_event_id=last_event_id, timeout=timeout)

    async def own_request_server(self, url: str) -> OwnRequestServer:
        """For what speaks to ``url`` without a page."""
        self._running()
        with self._traced():
            server = OwnRequestServer(url, self._fork_own, self._keyring.get, self._request_options)
        self._own.add(server)
        try:
            await asyncio.shield(server.started)
        except BaseException:
            await self.end_own(server)
            raise
        return server

    async def end_own(self, server: OwnRequestServer) -> None:
        """For who has got it. Ending twice is fine."""
        if server in self._own:
            self._own.discard(server)
            await asyncio.shield(server.end())

    async def _fork_own(
        self, handlers: Mapping[type[Message], Any], rules: lookup_server.PolicyRules | None = None
    ) -> ChildProcess:
        if self.pages_only:
            raise InvalidArgument("this browser was made for pages only")
        own = msgspec.structs.replace(
            self._request_options, for_browser=True, max_requests=100_000, max_total_bytes=2**40
        )
        with descriptors_left():
            return await self._running().fork_request_server(own, handlers, rules)

    def _of_requests(self) -> list[tuple[ChildProcess, str | None]]:
        """The processes that are there for these, and what for, where that is one thing."""
        shared = [(process, None) for servers in self._request_servers for process in servers.processes]
        own = [(server.process, server.url) for server in self._own if server.process is not None]
        return [*shared, *own]
