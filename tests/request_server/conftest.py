"""The real client over a real channel to a lookup server of the tests, which connects to loopback only."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import pytest
from tests.servers import Authority

from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode
from cloister.interfaces.cookies import Cookie
from cloister.interfaces.fetch import Fetch
from cloister.interfaces.lookup_server import LOOKUP, Connect, Connected
from cloister.interfaces.request_server import DocumentAllowed, Options
from cloister.ipc import Channel, Connection, Descriptors
from cloister.request_server import tls
from cloister.request_server.client import Announce, Client, Response
from cloister.request_server.cookies import DocumentCookies
from cloister.request_server.dial import Dialer


@dataclass(frozen=True)
class Fetched:
    """A response that was read to its end."""

    response: Response
    body: bytes

    def __getattr__(self, name: str) -> Any:
        return getattr(self.response, name)


class Fetcher:
    """A client whose responses are read to their ends."""

    def __init__(self, client: Client) -> None:
        self.client = client

    async def fetch(self, fetch: Fetch, body: bytes = b"") -> Fetched:
        async with self.client.open(fetch, body) as response:
            pieces = [piece async for piece in response.body]
        return Fetched(response, b"".join(pieces))


Opener = Callable[..., AbstractAsyncContextManager[Fetcher]]


async def nobody_minds(_url: str, _redirects: int) -> DocumentAllowed:
    """What is asked before a document is fetched, where there is no browser."""
    return DocumentAllowed()


class NoShelf:
    """Where there is no browser, nothing is kept."""

    async def get(self, _key: bytes) -> bytes:
        raise AssertionError("nobody said that anything is kept")

    async def put(self, _key: bytes, _entry: bytes) -> None:
        raise AssertionError("nobody said that anything is to be kept")


class Keeper:
    """The browser's part with cookies: has some for the pages of ``site``, and is told of others."""

    def __init__(self, site: str = "", *cookies: Cookie, now: float | None = None) -> None:
        self.site = site
        self.cookies = cookies
        self.asked = 0
        self.told: list[Cookie] = []
        self.of_document = DocumentCookies(self._ask, self._tell, time.time if now is None else lambda: now)

    async def _ask(self) -> tuple[str, tuple[Cookie, ...]]:
        self.asked += 1
        await asyncio.sleep(0)
        return self.site, self.cookies

    async def _tell(self, cookies: tuple[Cookie, ...]) -> None:
        self.told += cookies


async def connect(message: Connect, _fds: Descriptors) -> tuple[Connected, list[int]]:
    """What the lookup server does, for loopback; every other host is an address that is refused."""
    if message.host not in {"127.0.0.1", "localhost", "localhost."}:
        raise RequestFailed(FailureCode.ADDRESS_REFUSED, f"{message.host} is a private address")
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        await asyncio.get_running_loop().sock_connect(made, ("127.0.0.1", message.port))
    except BaseException as error:
        made.close()
        if not isinstance(error, OSError):
            raise
        raise RequestFailed(
            FailureCode.CONNECTION_REFUSED, f"{message.host} refused the connection"
        ) from error
    return Connected("127.0.0.1"), [made.detach()]


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="session")
def client(authority: Authority) -> Opener:
    """``async with client(max_redirects=3) as c``: a client with these limits, which trusts ``authority``.
    ``announce`` is what is asked before a document is fetched. Unless ``for_browser=False``, nobody's rights are
    looked at."""
    context = tls.context(authority.roots)

    @contextlib.asynccontextmanager
    async def open_client(announce: Announce = nobody_minds, **limits: Any) -> AsyncIterator[Fetcher]:
        ours, theirs = Channel.pair()
        lookup = Connection(theirs, LOOKUP, "server", {Connect: connect})
        asking = Connection(ours, LOOKUP, "client")
        options = Options(user_agent="Cloister tests", **{"for_browser": True, **limits})
        dialer = Dialer(asking, context, options.request_timeout / 1000)
        made = Client(options, dialer.dial, announce, NoShelf(), Keeper().of_document)
        try:
            yield Fetcher(made)
        finally:
            made.close()
            asking.close()
            lookup.close()

    return open_client
