"""One client's connections: resolve, judge, connect, hand the socket on."""

from __future__ import annotations

import asyncio
import functools
import socket

from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode
from cloister.interfaces.lookup_server import Connect, Connected, Proxy
from cloister.ipc import Descriptors

from . import race
from .addresses import Address
from .hosts import parse_host
from .policy import Policy
from .proxies import Proxies
from .resolver import Resolver
from .tunnel import open_tunnel

__all__ = ["MAX_AT_ONCE", "Client"]

MAX_AT_ONCE = 16
"""Connections that are being made for one client at once; more wait. A browser opens 6 to a host."""


class Client:
    """What one request_server may have connected: ``max_connections`` in its life, each within ``timeout``
    seconds, names and waiting included."""

    def __init__(
        self, policy: Policy, resolver: Resolver, proxies: Proxies, *, max_connections: int, timeout: float
    ) -> None:
        self._policy = policy
        self._resolver = resolver
        self._proxies = proxies
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
        refused = self._policy.port_refusal(message.port) or self._policy.host_refusal(host, message.port)
        if refused is not None:
            raise RequestFailed(FailureCode.ADDRESS_REFUSED, f"{message.host}: {refused}")
        proxy = self._proxies.choose(host, message.port)
        try:
            async with asyncio.timeout(self._timeout), self._slots:
                if proxy is None:
                    connection, address = await self._direct(host, message.port)
                else:
                    connection, address = await self._through(proxy, host, message.port)
        except TimeoutError:
            through = f" through the proxy {proxy.host}" if proxy else ""
            raise RequestFailed(
                FailureCode.TIMED_OUT,
                f"no connection to {message.host} port {message.port}{through} within {self._timeout:g} s",
            ) from None
        return Connected(str(address)), [connection.detach()]

    async def _direct(self, host: Address | str, port: int) -> tuple[socket.socket, Address]:
        named = self._policy.names(host, port)
        return await race.connect(
            str(host),
            port,
            functools.partial(self._resolver.look_up, host, named=named),
            lambda address: self._policy.refusal(host, address, port),
        )

    async def _through(self, proxy: Proxy, host: Address | str, port: int) -> tuple[socket.socket, Address]:
        """A name is the proxy's to look up: what it comes to can be judged by nobody here."""
        if isinstance(host, str):
            refused = self._policy.name_refusal(host, port)
        else:
            refused = self._policy.refusal(host, host, port)
        if refused is None and self._proxies.are_at(host, port) and not self._policy.names(host, port):
            refused = (
                f"{host} port {port} is a proxy of this browser's, and no page's to speak to (allow_hosts)"
            )
        if refused is not None:
            raise RequestFailed(FailureCode.ADDRESS_REFUSED, refused)
        try:
            # The user named it: it may be anywhere, and is looked up as the system would.
            connection, address = await race.connect(
                proxy.host,
                proxy.port,
                functools.partial(self._resolver.look_up, parse_host(proxy.host), named=True),
                lambda _address: None,
            )
        except RequestFailed as error:
            raise RequestFailed(
                FailureCode.PROXY_FAILED, f"no connection to the proxy {proxy.host}: {error.detail}"
            ) from None
        try:
            await open_tunnel(connection, proxy, host, port)
        except RequestFailed as error:
            connection.close()
            raise RequestFailed(
                error.code, f"the proxy {proxy.host} for {host} port {port}: {error.detail}"
            ) from None
        except BaseException:
            connection.close()
            raise
        return connection, address
