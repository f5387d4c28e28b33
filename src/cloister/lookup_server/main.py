"""The lookup_server's entry: channels[0] is the browser, which adds a channel for each request_server."""

from __future__ import annotations

import logging

import msgspec

from cloister.interfaces.lookup_server import LOOKUP, LOOKUP_ADMIN, AddClient, Connect, Options
from cloister.ipc import Channel, Connection, Descriptors
from cloister.ipc.service import Service, Start
from cloister.sandbox import enter

from .connect import Client
from .policy import Policy, parse_server
from .resolver import Resolver, warm_up
from .sandbox import POLICY
from .system import System

__all__ = ["POLICY", "main", "preload"]

log = logging.getLogger("cloister.lookup_server")

_system: System | None = None


def preload(_options: bytes) -> None:
    """Read what files and the kernel say about names and addresses, and load what is loaded lazily.

    Raises OSError when the kernel does not tell this machine's addresses.
    """
    global _system  # noqa: PLW0603 - there is one machine, and its files are out of reach when main() runs
    _system = System.read()
    warm_up()


def main(start: Start) -> None:
    """Serve until Shutdown. Raises ValueError, before lock-down, for rules or name servers that are malformed."""
    if _system is None:
        raise RuntimeError("lookup_server.main needs preload: no file can be read after lock-down")
    options = msgspec.msgpack.decode(start.options, type=Options)
    servers = tuple(map(parse_server, options.dns_servers)) or _system.name_servers
    clients = _Clients(options, msgspec.structs.replace(_system, name_servers=servers))
    (admin,) = start.channels
    service = Service()
    report = enter(POLICY, allow_degraded=start.allow_degraded)

    async def serve() -> None:
        Connection(
            admin, LOOKUP_ADMIN, "server", {AddClient: clients.add}, on_close=lambda _error: service.stop()
        )

    service.run(start.control, report, serve)


class _Clients:
    """The connections to request_servers. They share the policy and nothing that one could learn of another."""

    def __init__(self, options: Options, system: System) -> None:
        self._options = options
        self._system = system
        self._policy = Policy(options.rules, system.own)

    def add(self, _message: AddClient, fds: Descriptors) -> None:
        """Serve a client until its channel closes; one that breaks the protocol loses its channel only."""
        if fds.lost:
            log.error("no file descriptor is left for one more client, which is turned away")
            return
        timeout = self._options.connect_timeout / 1000
        client = Client(
            self._policy,
            Resolver(self._system, lifetime=timeout / 2),
            max_connections=self._options.rules.max_connections,
            timeout=timeout,
        )
        Connection(Channel(fds.take()), LOOKUP, "server", {Connect: client.connect}, on_close=_gone)


def _gone(error: Exception | None) -> None:
    if error is not None:
        log.warning("a client broke the protocol and was cut off: %s", error)
