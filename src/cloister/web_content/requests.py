"""The page's way to the network: a request_server while there is something to fetch, none when there is not."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from ..errors import BadMessage, ChannelClosed, RequestFailed
from ..interfaces.base import FailureCode, Reply, Request
from ..interfaces.fetch import FETCHES
from ..interfaces.web_content import NewRequestServer
from ..ipc import Channel, Connection, Descriptors

__all__ = ["Requests"]

R = TypeVar("R", bound=Reply)
_TIMEOUT = 20.0  # seconds for a process: one is forked in a few milliseconds, and may wait for others


class Requests:
    """Asks the browser for a request_server when the first request is made, and for another one after :meth:`rest`.

    An idle one would cost as much memory as a small page does, and be a process that speaks to the network.
    Each method raises what :class:`~cloister.ipc.Connection` raises; NO_PROCESS when the request_server has ended.
    """

    def __init__(self, page: Connection) -> None:
        self._page = page
        self._connection: Connection | None = None
        self._opening = asyncio.Lock()

    async def request(self, message: Request[R], *, timeout: float) -> tuple[R, Descriptors]:
        """As :meth:`Connection.request`."""
        async with self._opening:
            connection = self._connection
            if connection is None or connection.closed:
                _, fds = await self._page.request(NewRequestServer(), timeout=_TIMEOUT)
                connection = self._open(fds)
        try:
            return await connection.request(message, timeout=timeout)
        except (ChannelClosed, BadMessage):  # its own, not the browser's: the page goes on
            raise RequestFailed(FailureCode.NO_PROCESS, "its request_server has ended: try again") from None

    def request_blocking(self, message: Request[R], *, timeout: float) -> tuple[R, Descriptors]:
        """As :meth:`Connection.request_blocking`."""
        connection = self._connection
        if connection is None or connection.closed:
            _, fds = self._page.request_blocking(NewRequestServer(), timeout=_TIMEOUT)
            connection = self._open(fds)
        return connection.request_blocking(message, timeout=timeout)

    def rest(self) -> None:
        """Let the request_server go: it ends when its channel is closed."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self, fds: Descriptors) -> Connection:
        self._connection = Connection(Channel(fds.take()), FETCHES, "client")
        return self._connection
