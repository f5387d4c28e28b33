"""The lookup_server as it is used: started by exec, locked down, asked over channels that the browser adds."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import dns.message
import msgspec
import pytest

from cloister.errors import ChannelClosed, LaunchError, RequestFailed
from cloister.interfaces.lookup_server import (
    LOOKUP,
    LOOKUP_ADMIN,
    AddClient,
    Connect,
    LookUp,
    Options,
    PolicyRules,
    Proxy,
)
from cloister.ipc import Channel, Connection
from cloister.lookup_server.sandbox import POLICY
from cloister.process import ChildProcess, launch

from .conftest import CanaryMaker, Zone

T = TypeVar("T")


class Server:
    """A lookup_server, and a way to ask it as a new request_server would."""

    def __init__(self, child: ChildProcess, admin: Connection) -> None:
        self.child = child
        self.admin = admin
        self.made: list[Connection] = []

    def channel(self, rules: PolicyRules | None = None) -> Channel:
        here, there = Channel.pair()
        self.admin.send(AddClient(rules), [there.detach()])
        return here

    def client(self, rules: PolicyRules | None = None) -> Connection:
        self.made.append(Connection(self.channel(rules), LOOKUP, "client"))
        return self.made[-1]


async def connect(client: Connection, host: str, port: int) -> str:
    """Connect and send a byte; the address that it went to."""
    reply, fds = await client.request(Connect(host, port), timeout=20)
    with socket.socket(fileno=fds.take()) as connection:
        connection.send(b"x")
    return reply.address


@contextlib.asynccontextmanager
async def _running(options: Options) -> AsyncIterator[Server]:
    here, there = Channel.pair()
    admin = Connection(here, LOOKUP_ADMIN, "client")
    child = await launch("lookup_server", msgspec.msgpack.encode(options), [there])
    server = Server(child, admin)
    try:
        await child.ready()
        yield server
    finally:
        for connection in (*server.made, admin):
            connection.close()
        await child.end()


def with_server(
    work: Callable[[Server], Awaitable[T]], zone: Zone, rules: PolicyRules, *, connect_timeout: int = 10_000
) -> T:
    async def run() -> T:
        async with zone.serve() as port:
            options = Options(rules, dns_servers=(f"127.0.0.1:{port}",), connect_timeout=connect_timeout)
            async with _running(options) as server:
                return await work(server)

    return asyncio.run(run())


def test_clients_are_connected_and_refused_side_by_side(zone: Zone, canary: CanaryMaker) -> None:
    allowed, forbidden = canary("127.0.0.1"), canary("127.0.0.2")
    zone.records = {
        "good.example": ["CNAME alias.example."],
        "alias.example": ["A 127.0.0.1"],
        "bad.example": ["A 127.0.0.2", "AAAA ::1", "TXT hello", "SSHFP 1 1 aa"],
    }
    rules = PolicyRules(allow_hosts=(f"good.example:{allowed.port}",))

    async def work(server: Server) -> None:
        first, second = server.client(), server.client()
        good = asyncio.create_task(connect(first, "good.example", allowed.port))
        for host, code in (
            ("bad.example", "address_refused"),
            ("nowhere.example", "unknown_host"),
            ("0x7f.1", "bad_url"),
        ):
            with pytest.raises(RequestFailed) as caught:
                await connect(second, host, forbidden.port)
            assert caught.value.code == code
        assert await good == "127.0.0.1"

    with_server(work, zone, rules)
    assert (allowed.count(), forbidden.count()) == (1, 0)


def test_a_client_with_rules_of_its_own_asks_for_no_other_host(zone: Zone, canary: CanaryMaker) -> None:
    """A name that is not to be asked for is not looked up either: a look-up tells its name server something."""
    listener = canary()
    zone.records = {"a.example": ["A 127.0.0.1"], "secret.b.example": ["A 127.0.0.1"]}
    place = f"a.example:{listener.port}"

    async def work(server: Server) -> None:
        client = server.client(PolicyRules(only_hosts=(place, "c.example"), allow_hosts=(place,)))
        assert await connect(client, "a.example", listener.port) == "127.0.0.1"
        for host, port in (
            ("secret.b.example", listener.port),
            ("a.example", listener.port + 1),
            ("127.0.0.1", listener.port),
            ("localhost", listener.port),
        ):
            with pytest.raises(RequestFailed) as caught:
                await connect(client, host, port)
            assert (caught.value.code, "none of the hosts" in caught.value.detail) == (
                "address_refused",
                True,
            )
        with pytest.raises(RequestFailed, match="none of the hosts"):
            await connect(server.client(PolicyRules(only_hosts=())), "127.0.0.1", listener.port)
        assert await connect(server.client(), "127.0.0.1", listener.port) == "127.0.0.1", (
            "others have the rules of all"
        )

    with_server(work, zone, PolicyRules(allow_hosts=(f"127.0.0.1:{listener.port}",)))
    assert listener.count() == 2
    assert {name for name, _, _ in zone.asked} == {"a.example"}


def test_names_are_looked_up_for_the_browser(zone: Zone) -> None:
    zone.records = {"a.example": ["A 10.0.0.1", "AAAA 2001:db8::1"], "b.example": ["A 192.0.2.1"]}

    async def work(server: Server) -> None:
        async def look_up(host: str) -> tuple[str, ...]:
            return (await server.admin.request(LookUp(host, named=False), timeout=20))[0].addresses

        assert await look_up("a.example") == ("2001:db8::1", "10.0.0.1")
        assert await look_up("b.example") == ("192.0.2.1",)
        for host, code in (("none.example", "unknown_host"), ("a b", "bad_url"), ("printer", "unknown_host")):
            with pytest.raises(RequestFailed) as caught:
                await look_up(host)
            assert caught.value.code == code

    with_server(work, zone, PolicyRules())


def test_an_answer_over_tcp_is_understood_after_lock_down(zone: Zone, canary: CanaryMaker) -> None:
    listener = canary()
    zone.records = {"a.example": ["A 127.0.0.1"]}
    zone.truncate_udp = True

    async def work(server: Server) -> str:
        return await connect(server.client(), "a.example", listener.port)

    assert with_server(work, zone, PolicyRules(allow_hosts=("a.example",))) == "127.0.0.1"
    assert ("a.example", "A", "tcp") in zone.asked


def test_records_of_any_type_in_an_answer_do_no_harm(zone: Zone, canary: CanaryMaker) -> None:
    listener = canary()
    kinds = [*range(1, 110), 249, 250, 255, 256, 257, 32768, 65280, 65535]

    def script(query: dns.message.Message) -> bytes:
        name = query.question[0].name
        wire = bytearray(dns.message.make_response(query).to_wire())
        # The kind that the name asks for, of class IN, with "a." as its data: valid for some, malformed for others.
        wire += (name.to_wire() or b"") + int(name.labels[0]).to_bytes(2) + b"\0\1\0\0\0\1\0\3\1a\0"
        wire[10:12] = b"\0\1"  # ARCOUNT
        return bytes(wire)

    zone.script = script

    async def work(server: Server) -> None:
        clients = [server.client() for _ in range(8)]
        outcomes = await asyncio.gather(
            *(connect(clients[kind % 8], f"{kind}.example", 80) for kind in kinds), return_exceptions=True
        )
        assert all(isinstance(outcome, RequestFailed) for outcome in outcomes)
        assert {name for name, _, _ in zone.asked} == {f"{kind}.example" for kind in kinds}
        assert await connect(server.client(), "127.0.0.1", listener.port) == "127.0.0.1"

    with_server(work, zone, PolicyRules(allow_hosts=("127.0.0.1",)), connect_timeout=1000)


def test_a_client_that_breaks_the_protocol_loses_its_channel_and_nobody_else_does(
    zone: Zone, canary: CanaryMaker
) -> None:
    listener = canary()

    async def work(server: Server) -> str:
        honest = server.client()
        broken = server.channel()
        broken.send(b"\xffgarbage")
        reads = asyncio.Event()
        asyncio.get_running_loop().add_reader(broken.fileno(), reads.set)
        await asyncio.wait_for(reads.wait(), 10)
        with pytest.raises(ChannelClosed):
            broken.receive()
        asyncio.get_running_loop().remove_reader(broken.fileno())
        broken.close()
        return await connect(honest, "127.0.0.1", listener.port)

    assert with_server(work, zone, PolicyRules(allow_hosts=("127.0.0.1",))) == "127.0.0.1"


def test_it_is_locked_down_in_the_hosts_network_and_without_files(zone: Zone) -> None:
    async def work(server: Server) -> tuple[str, list[str]]:
        root = Path(f"/proc/{server.child.pid}")
        status = (root / "status").read_text()
        report = server.child.report
        assert report is not None
        assert "network namespace" not in " ".join(report.missing)
        return status, list(report.layers)

    status, layers = with_server(work, zone, PolicyRules())
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    assert "Threads:\t1" in status
    assert layers


@pytest.mark.parametrize(
    "options",
    [
        Options(PolicyRules(allow_hosts=("a/b",))),
        Options(dns_servers=("dns.example",)),
        Options(dns_servers=("tls://192.0.2.1",)),  # nothing was preloaded for it
        Options(proxies=(Proxy(scheme="http", host="a/b", port=1),)),
        Options(proxies=(Proxy(scheme="http", host="a", port=1, bypass=("*",)),)),
    ],
    ids=["rule", "name server", "name server over TLS", "proxy", "pattern"],
)
def test_a_policy_that_is_not_understood_does_not_start(options: Options) -> None:
    async def run() -> None:
        async with _running(options):
            pass

    with pytest.raises((LaunchError, ChannelClosed)):
        asyncio.run(run())


def test_the_policy_has_sockets_that_connect_and_no_files() -> None:
    for call in ("openat", "bind", "listen", "accept4", "execve", "clone", "fork", "ptrace"):
        assert not POLICY.allows(call)
    assert POLICY.allows("connect")
    assert POLICY.connects
    assert POLICY.read_paths == ()
