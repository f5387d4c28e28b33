"""One client's connections: resolve, judge, connect, hand the socket on."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address

from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode
from cloister.interfaces.lookup_server import Connect, Connected
from cloister.ipc import Descriptors

from .addresses import Address
from .hosts import parse_host
from .policy import Policy
from .resolver import Resolver

__all__ = ["MAX_AT_ONCE", "Client"]

MAX_AT_ONCE = 16
"""Connections that are being made for one client at once; more wait. A browser opens 6 to a host."""
_STAGGER = 0.25  # seconds before the next address is tried beside the last (RFC 8305, section 5)

_CODES = {
    errno.ECONNREFUSED: FailureCode.CONNECTION_REFUSED,
    errno.ECONNRESET: FailureCode.CONNECTION_RESET,
    errno.ETIMEDOUT: FailureCode.TIMED_OUT,
}
# Of several addresses that failed, the first failure that says most about the server itself is told.
_TELLING: tuple[str, ...] = (
    FailureCode.CONNECTION_REFUSED,
    FailureCode.CONNECTION_RESET,
    FailureCode.TIMED_OUT,
    FailureCode.UNREACHABLE,
    FailureCode.ADDRESS_REFUSED,
)


class Client:
    """What one request_server may have connected: ``max_connections`` in its life, each within ``timeout``
    seconds, names and waiting included."""

    def __init__(self, policy: Policy, resolver: Resolver, *, max_connections: int, timeout: float) -> None:
        self._policy = policy
        self._resolver = resolver
        self._left = max_connections
        self._max = max_connections
        self._timeout = timeout
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)

    async def connect(self, message: Connect, _fds: Descriptors) -> tuple[Connected, list[int]]:
        """The handler of :class:`Connect`; raises RequestFailed as that message's documentation says."""
        if self._left == 0:
            raise RequestFailed(
                FailureCode.TOO_MANY_REQUESTS, f"a page load may open {self._max} connections"
            )
        self._left -= 1
        try:
            host = parse_host(message.host)
        except ValueError as error:
            raise RequestFailed(FailureCode.BAD_URL, f"{message.host!r} is not a host: {error}") from None
        if (refused := self._policy.port_refusal(message.port)) is not None:
            raise RequestFailed(FailureCode.ADDRESS_REFUSED, f"{message.host}: {refused}")
        try:
            async with asyncio.timeout(self._timeout), self._slots:
                addresses = await self._resolver.resolve(host)
                connection, address = await self._first(host, addresses, message.port)
        except TimeoutError:
            raise RequestFailed(
                FailureCode.TIMED_OUT,
                f"no connection to {message.host} port {message.port} within {self._timeout:g} s",
            ) from None
        return Connected(str(address)), [connection.detach()]

    async def _first(
        self, host: Address | str, addresses: Sequence[Address], port: int
    ) -> tuple[socket.socket, Address]:
        """The first connection that stands, of attempts that start one after the other: each a moment after the
        last, or as soon as one failed."""
        untried = list(reversed(addresses))
        attempts: dict[asyncio.Task[socket.socket], Address] = {}
        failures: list[RequestFailed] = []
        try:
            while untried or attempts:
                if untried:
                    address = untried.pop()
                    attempts[asyncio.create_task(self._attempt(host, address, port))] = address
                done, _ = await asyncio.wait(
                    attempts, timeout=_STAGGER if untried else None, return_when=asyncio.FIRST_COMPLETED
                )
                for attempt in done:
                    address = attempts.pop(attempt)
                    try:
                        return attempt.result(), address
                    except RequestFailed as failure:
                        failures.append(failure)
        finally:
            for attempt in attempts:
                _abandon(attempt)
        raise min(failures, key=lambda failure: _TELLING.index(failure.code))

    async def _attempt(self, host: Address | str, address: Address, port: int) -> socket.socket:
        """Connect to exactly the address that was just judged."""
        if (refused := self._policy.refusal(host, address, port)) is not None:
            raise RequestFailed(FailureCode.ADDRESS_REFUSED, refused)
        family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
        try:
            connection = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as error:
            raise _failure(error, address, port) from None
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await asyncio.get_running_loop().sock_connect(connection, (str(address), port))
        except OSError as error:
            connection.close()
            raise _failure(error, address, port) from None
        except BaseException:
            connection.close()
            raise
        return connection


def _abandon(attempt: asyncio.Task[socket.socket]) -> None:
    """A connection that came second is closed; one still being made closes itself when it is cancelled."""
    if not attempt.done():
        attempt.cancel()
    elif attempt.exception() is None:
        attempt.result().close()


def _failure(error: OSError, address: Address, port: int) -> RequestFailed:
    code = _CODES.get(error.errno or 0, FailureCode.UNREACHABLE)
    why = os.strerror(error.errno) if error.errno else str(error)
    return RequestFailed(code, f"{address} port {port}: {why}")
