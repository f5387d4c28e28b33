"""A real name server on loopback, and a real listener that knows whether anybody came."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from socket import AF_INET, AF_INET6, create_server, socket
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from cloister.lookup_server.configuration import Settings, parse_hosts
from cloister.lookup_server.hosts import parse_host
from cloister.lookup_server.name_servers import NameServers
from cloister.lookup_server.plain import PlainServer
from cloister.lookup_server.resolver import Resolver
from cloister.lookup_server.servers import Server

Answer = bytes | dns.message.Message | None
Script = Callable[[dns.message.Message], Answer]


class Zone:
    """Answers from a table of ``name -> records``, or by a function; counts what it is asked over what."""

    def __init__(self, records: dict[str, list[str]] | None = None, script: Script | None = None) -> None:
        self.records = records or {}
        self.script = script
        self.asked: list[tuple[str, str, str]] = []
        self.truncate_udp = False

    def answer(self, wire: bytes, transport: str) -> bytes | None:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()  # which comes in mixed case
        self.asked.append((name, question.rdtype.name, transport))
        if self.script is not None:
            answer = self.script(query)
            return answer.to_wire() if isinstance(answer, dns.message.Message) else answer
        response = dns.message.make_response(query)
        if self.truncate_udp and transport == "udp":
            response.flags |= dns.flags.TC
            return response.to_wire()
        if name not in self.records:
            response.set_rcode(dns.rcode.NXDOMAIN)
        seen = set()
        while name in self.records and name not in seen:
            seen.add(name)
            target = ""
            for record in self.records[name]:
                kind, _, value = record.partition(" ")
                if kind in {question.rdtype.name, "CNAME"}:
                    response.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", kind, value))
                if kind == "CNAME":
                    target = value.rstrip(".")
            name = target
        return response.to_wire()

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[int]:
        """The port on 127.0.0.1, UDP and TCP, for as long as the block runs."""
        zone = self
        serving: set[asyncio.Task[None]] = set()

        class Udp(asyncio.DatagramProtocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport

            def datagram_received(self, data: bytes, address: Any) -> None:
                if (answer := zone.answer(data, "udp")) is not None:
                    self.transport.sendto(answer, address)

        async def tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            serving.add(task)
            try:
                size = int.from_bytes(await reader.readexactly(2))
                if (answer := zone.answer(await reader.readexactly(size), "tcp")) is not None:
                    writer.write(len(answer).to_bytes(2) + answer)
                    await writer.drain()
                    writer.close()
                    await writer.wait_closed()
            except (asyncio.IncompleteReadError, ConnectionError):
                pass
            finally:
                writer.transport.abort()
                serving.discard(task)

        server = await asyncio.start_server(tcp, "127.0.0.1", 0)
        port: int = server.sockets[0].getsockname()[1]
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            Udp, local_addr=("127.0.0.1", port)
        )
        try:
            yield port
        finally:
            transport.close()
            server.close()
            for task in serving:
                task.cancel()
            await asyncio.gather(*serving, return_exceptions=True)
            await server.wait_closed()
            await asyncio.sleep(0)  # transports close in the next turn


@dataclass
class Canary:
    """A listening socket. ``visitors`` are the connections that the kernel has taken for it."""

    listener: socket
    address: str
    port: int
    visitors: list[socket] = field(default_factory=list)

    def count(self) -> int:
        with contextlib.suppress(BlockingIOError):
            while True:
                self.visitors.append(self.listener.accept()[0])
        return len(self.visitors)

    def close(self) -> None:
        self.count()
        for visitor in self.visitors:
            visitor.close()
        self.listener.close()


def resolver_at(
    port: int, *, hosts: str = "", lifetime: float = 5, attempts: int = 2, **settings: Any
) -> Resolver:
    """One that asks the name server on ``port`` of loopback."""
    server = PlainServer(Server(ip_address("127.0.0.1"), port), min(1.5, lifetime))
    servers = NameServers([server], attempts=attempts, rotate=False, lifetime=lifetime)
    return Resolver(parse_hosts(hosts), Settings(**settings), servers)


async def both(resolver: Resolver, host: str, *, named: bool = False) -> list[str]:
    """The addresses of ``host`` in both families, IPv6 first. Raises what both look-ups raise, or one."""
    found = await asyncio.gather(
        *(resolver.look_up(parse_host(host), version, named=named) for version in (6, 4)),
        return_exceptions=True,
    )
    addresses = [str(address) for one in found if not isinstance(one, BaseException) for address in one]
    failures = [one for one in found if isinstance(one, BaseException)]
    if failures and not addresses:
        raise failures[0]
    return addresses


CanaryMaker = Callable[..., Canary]


@pytest.fixture
def canary() -> Any:
    """``canary("127.0.0.1")`` listens there, on a port of the kernel's choice."""
    made: list[Canary] = []

    def make(address: str = "127.0.0.1", port: int = 0) -> Canary:
        family = AF_INET6 if ":" in address else AF_INET
        listener = create_server((address, port), family=family)
        listener.setblocking(False)
        made.append(Canary(listener, address, listener.getsockname()[1]))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def zone() -> Zone:
    return Zone()
