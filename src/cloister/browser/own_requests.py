"""Request servers of the program's own: nothing but the program speaks to them, no page is in between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from ..ends import BadMessage as EndedBadly
from ..errors import (
    BadMessage,
    ChannelClosed,
    CloisterError,
    InvalidArgument,
    ProcessLost,
    RequestFailed,
    printable,
)
from ..interfaces import request_server
from ..interfaces.base import FailureCode, Message, Reply, Request
from ..interfaces.request_server import REQUESTS, Credentials, DocumentAllowed, DocumentFrom
from ..ipc import Connection, Descriptors
from ..ipc.connection import Handler
from ..process import ChildProcess
from .checks import is_normalised, navigation_error, origin_of, site_of
from .cookies import CookieAccess
from .processes import Processes

__all__ = ["Headers", "OwnRequestServer", "OwnRequestServers", "checked", "checked_headers"]

_EXIT_TIMEOUT = 5.0
_PAIRS = tuple[tuple[str, str], ...]
_MAX_HEADERS = 64
_MAX_HEADERS_SIZE = 16 * 1024  # characters

M = TypeVar("M", bound=Message)
R = TypeVar("R", bound=Reply)
Headers = Mapping[str, str] | Sequence[tuple[str, str]]


def checked(message: M) -> M:
    """``message`` as its interface allows it. Raises :class:`InvalidArgument`."""
    try:
        return msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=type(message))
    except (msgspec.ValidationError, TypeError) as error:
        raise InvalidArgument(f"{type(message).__name__}: {error}") from None


def checked_headers(headers: Headers | None) -> tuple[tuple[str, str], ...]:
    """``headers`` as a message has them. Raises :class:`InvalidArgument` where they are too many."""
    try:
        made = msgspec.convert(
            tuple(headers.items() if isinstance(headers, Mapping) else headers or ()), _PAIRS
        )
    except (msgspec.ValidationError, TypeError) as error:
        raise InvalidArgument(f"headers: {error}") from None
    if len(made) > _MAX_HEADERS or sum(len(name) + len(value) for name, value in made) > _MAX_HEADERS_SIZE:
        raise InvalidArgument(
            f"headers: {_MAX_HEADERS} of them, and {_MAX_HEADERS_SIZE >> 10} KiB, are the most"
        )
    return made


class OwnRequestServer:
    """One, for one URL. It keeps to the first origin that it names; ``at`` is where it spoke to last. Where a redirect
    led out of it is ``led_to``: another is to go there, which has not read a byte of who redirected."""

    child: ChildProcess
    _connection: Connection

    def __init__(
        self,
        url: str,
        options: request_server.Options,
        credentials_of: Callable[[str], Credentials | None],
    ) -> None:
        self.url = url
        self.options = options
        self.at = url
        self.led_to: str | None = None
        self._credentials_of = credentials_of
        self._cookies = CookieAccess(lambda: None)  # none but what it is given itself
        self._origin: str | None = None

    async def start(self, processes: Processes) -> None:
        """Raises :class:`ProcessError`."""
        handlers: dict[type[Message], Handler] = {
            DocumentFrom: self._document_from,
            **self._cookies.handlers,
        }
        self.child = await processes.fork_request_server(self.options, handlers)
        self.child.site = site_of(self.url)
        self._connection = Connection(
            self.child.channel, REQUESTS, "client", on_close=self.child.lost_channel
        )
        self.child.connections.append(self._connection)

    async def _document_from(self, message: DocumentFrom, _fds: Descriptors) -> DocumentAllowed:
        """What it asks before it speaks to any server."""
        if not is_normalised(message.url):
            raise BadMessage("a request_server named a URL that is none that it fetches")
        origin = origin_of(message.url)
        self._origin = self._origin or origin
        if origin is None or origin != self._origin:
            self.led_to = message.url
            raise RequestFailed(FailureCode.OTHER_SITE, "a redirect leads to another origin")
        self.at = message.url
        return DocumentAllowed(
            self._credentials_of(message.url), has_cookies=self._cookies.begin(message.url)
        )

    async def ask(
        self, message: Request[R], fds: Sequence[int] = (), *, timeout: float
    ) -> tuple[R, Descriptors]:
        """As :meth:`Connection.request`, with the failures that a program knows."""
        try:
            return await self._connection.request(message, fds, timeout=timeout)
        except RequestFailed as error:
            raise navigation_error(self.url, error) from None
        except ChannelClosed:
            raise await self._explain() from None

    async def _explain(self) -> CloisterError:
        try:
            await self.child.wait(_EXIT_TIMEOUT)
        except TimeoutError:
            pass
        what = f"{printable(self.url, 200)}: the process that spoke to its server {self.child.ending}"
        return BadMessage(what) if isinstance(self.child.ending, EndedBadly) else ProcessLost(what)

    def punish(self, error: BadMessage) -> BadMessage:
        """End it for what it said; ``error`` is to be raised."""
        self.child.punish(error)
        return error

    async def end(self) -> None:
        self._connection.close()
        await asyncio.shield(self.child.end())


class OwnRequestServers:
    """All that a browser has."""

    def __init__(
        self, options: request_server.Options, credentials_of: Callable[[str], Credentials | None]
    ) -> None:
        self._options = msgspec.structs.replace(options, for_browser=True)
        self._credentials_of = credentials_of
        self._servers: set[OwnRequestServer] = set()

    @property
    def servers(self) -> list[OwnRequestServer]:
        return list(self._servers)

    async def start(self, processes: Processes, url: str) -> OwnRequestServer:
        """Raises :class:`ProcessError`."""
        server = OwnRequestServer(url, self._options, self._credentials_of)
        await server.start(processes)
        self._servers.add(server)
        return server

    async def end(self, server: OwnRequestServer) -> None:
        """Ending twice is fine."""
        if server in self._servers:
            self._servers.discard(server)
            await server.end()

    async def close(self) -> None:
        await asyncio.gather(*(self.end(server) for server in self.servers), return_exceptions=True)
