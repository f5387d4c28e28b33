"""The entry of lookup_server: one channel to the browser, one to each request_server."""

from __future__ import annotations

import dataclasses
import logging

import msgspec

from cloister import sandbox
from cloister.interfaces.lookup_server import LOOKUP, LOOKUP_ADMIN, AddClient, Connect, Options
from cloister.ipc import Channel, Connection, Descriptors
from cloister.ipc.service import Service, Start

from .connect import Client
from .policy import Policy, parse_server
from .resolver import Resolver, warm_up
from .sandbox import POLICY
from .system import System

__all__ = ["main", "preload"]

log = logging.getLogger("cloister.lookup_server")


def preload(_options: bytes) -> None:
    """Load whatever is loaded lazily; /etc/hosts and /etc/resolv.conf are read in :func:`main`."""
    warm_up()


def main(start: Start) -> None:
    """Serve until Shutdown. Raises ValueError, before lock-down, for options that are malformed."""
    options = msgspec.msgpack.decode(start.options, type=Options)
    system = System.read()
    if options.dns_servers:
        servers = tuple(parse_server(server) for server in options.dns_servers)
        system = dataclasses.replace(system, name_servers=servers)
    policy = Policy(options.rules, system.own)
    service = Service()
    report = sandbox.enter(POLICY, allow_degraded=start.allow_degraded)

    clients: set[Connection] = set()
    timeout = options.connect_timeout / 1000

    def add_client(_message: AddClient, fds: Descriptors) -> None:
        client = Client(
            policy,
            Resolver(system, lifetime=timeout / 2),
            max_connections=options.rules.max_connections,
            timeout=timeout,
        )
        connection = Connection(
            Channel(fds.take()),
            LOOKUP,
            "server",
            handlers={Connect: client.connect},
            on_close=lambda error: gone(connection, error),
        )
        clients.add(connection)

    def gone(connection: Connection, error: Exception | None) -> None:
        clients.discard(connection)
        if (
            error is not None
        ):  # its own channel is closed, which ends its use of the network and nobody else's
            log.warning("a client broke the protocol and was cut off: %s", error)

    async def serve() -> None:
        Connection(
            start.channels[0],
            LOOKUP_ADMIN,
            "server",
            handlers={AddClient: add_client},
            on_close=lambda _error: service.stop(),
        )

    service.run(start.control, report, serve)
