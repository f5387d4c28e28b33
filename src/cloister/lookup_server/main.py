"""The lookup_server's entry: channels[0] is the browser, which adds a channel for each request_server."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import msgspec

from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode
from cloister.interfaces.lookup_server import (
    LOOKUP,
    LOOKUP_ADMIN,
    AddClient,
    Connect,
    LookedUp,
    LookUp,
    Options,
    PreloadOptions,
)
from cloister.ipc import Channel, Connection, Descriptors
from cloister.ipc.service import Service, Start
from cloister.sandbox import enter

from .connect import Client
from .hosts import parse_host
from .name_servers import NameServer, NameServers
from .plain import PlainServer
from .policy import Policy
from .proxies import Proxies
from .resolver import Resolver
from .sandbox import POLICY
from .servers import Server
from .system import OwnAddresses, System

if TYPE_CHECKING:
    import ssl

__all__ = ["POLICY", "main", "preload"]

log = logging.getLogger("cloister.lookup_server")

_system: System | None = None
_contexts: dict[str, ssl.SSLContext] = {}


def preload(options: bytes) -> None:
    """Read what files and the kernel say about names and addresses, and load what is loaded lazily.

    ``options`` is the msgpack of ``PreloadOptions``, or nothing. Raises OSError when the kernel does not tell this
    machine's addresses, or a root cannot be read.
    """
    global _system  # noqa: PLW0603 - there is one machine, and its files are out of reach when main() runs
    wanted = msgspec.msgpack.decode(options, type=PreloadOptions) if options else PreloadOptions()
    _system = System.read()
    if wanted.secure:
        from .secure import context

        _contexts.update({over: context(over, wanted.extra_roots) for over in wanted.secure})
    "host.example".encode("idna")  # the codec with which a socket takes its address


def main(start: Start) -> None:
    """Serve until Shutdown. Raises ValueError, before lock-down, for what is malformed in the options."""
    if _system is None:
        raise RuntimeError("lookup_server.main needs preload: no file can be read after lock-down")
    options = msgspec.msgpack.decode(start.options, type=Options)
    clients = _Clients(options, _system)
    (admin,) = start.channels
    service = Service()
    report = enter(POLICY, allow_degraded=start.allow_degraded)

    async def serve() -> None:
        Connection(
            admin,
            LOOKUP_ADMIN,
            "server",
            {AddClient: clients.add, LookUp: clients.look_up},
            on_close=lambda _error: service.stop(),
        )

    service.run(start.control, report, serve)


class _Clients:
    """The connections to request_servers. They share the policy, and what name servers said."""

    def __init__(self, options: Options, system: System) -> None:
        self._options = options
        self._timeout = options.connect_timeout / 1000
        self._own = OwnAddresses(system.own)
        self._policy = Policy(options.rules, self._own)
        self._proxies = Proxies(options.proxies)
        settings = system.settings
        if options.dns_servers:
            own = tuple(map(Server.parse, options.dns_servers))
            settings = msgspec.structs.replace(settings, servers=own, rotate=False)
        lifetime = self._timeout / 2
        servers = NameServers(
            [_server(server, min(settings.timeout, lifetime), lifetime) for server in settings.servers],
            attempts=settings.attempts,
            rotate=settings.rotate,
            lifetime=lifetime,
        )
        self._resolver = Resolver(system.hosts, settings, servers)

    def add(self, message: AddClient, fds: Descriptors) -> None:
        """Serve a client until its channel closes; one that breaks the protocol loses its channel only."""
        if fds.lost:
            log.error("no file descriptor is left for one more client, which is turned away")
            return
        rules = message.rules
        client = Client(
            self._policy if rules is None else Policy(rules, self._own),
            self._resolver,
            self._proxies,
            max_connections=(rules or self._options.rules).max_connections,
            timeout=self._timeout,
        )
        Connection(Channel(fds.take()), LOOKUP, "server", {Connect: client.connect}, on_close=_gone)

    async def look_up(self, message: LookUp, _fds: Descriptors) -> LookedUp:
        """The handler of :class:`LookUp`."""
        try:
            host = parse_host(message.host)
        except ValueError as error:
            raise RequestFailed(FailureCode.BAD_URL, f"{message.host!r} is not a host: {error}") from None
        try:
            async with asyncio.timeout(self._timeout):
                found = await asyncio.gather(
                    *(self._resolver.look_up(host, version, named=message.named) for version in (6, 4)),
                    return_exceptions=True,
                )
        except TimeoutError:
            what = f"the addresses of {message.host} are not known within {self._timeout:g} s"
            raise RequestFailed(FailureCode.TIMED_OUT, what) from None
        addresses = [address for one in found if isinstance(one, tuple) for address in one]
        failures = [each for each in found if isinstance(each, BaseException)]
        if failures and not addresses:
            raise failures[0]
        return LookedUp(tuple(map(str, addresses[:64])))


def _server(server: Server, timeout: float, lifetime: float) -> NameServer:
    if not server.is_secret:
        return PlainServer(server, timeout)
    if server.over not in _contexts:
        raise ValueError(f"{server}: PreloadOptions say nothing of a name server over {server.over}")
    from .secure import make

    return make(server, lifetime, _contexts[server.over])


def _gone(error: Exception | None) -> None:
    if error is not None:
        log.warning("a client broke the protocol and was cut off: %s", error)
