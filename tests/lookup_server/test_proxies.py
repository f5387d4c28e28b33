"""Connections through proxies: which, by what handshake, and what a proxy may not be asked for."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.errors import RequestFailed
from cloister.interfaces.lookup_server import Connect, PolicyRules, Proxy
from cloister.ipc import Descriptors
from cloister.lookup_server.connect import Client
from cloister.lookup_server.hosts import parse_host
from cloister.lookup_server.policy import Policy
from cloister.lookup_server.proxies import Proxies
from cloister.lookup_server.system import OwnAddresses, own_addresses
from cloister.lookup_server.tunnel import open_tunnel
from tests.proxies import ProxyServer
from tests.servers import closed_port

from .conftest import Canary, CanaryMaker, Zone, resolver_at

Scheme = Literal["http", "socks5"]
BOTH = pytest.mark.parametrize("scheme", ["http", "socks5"])


def through(
    server: ProxyServer,
    scheme: Scheme,
    work: Callable[[Client, int], Awaitable[Any]],
    *,
    zone: Zone | None = None,
    rules: PolicyRules | None = None,
    timeout: float = 5,
    proxy_host: str = "127.0.0.1",
    **settings: Any,
) -> Any:
    """What ``work`` gets from a client behind ``server``; it is given the proxy's port, too."""

    async def run() -> Any:
        async with server.serve() as port, (zone or Zone()).serve() as name_server:
            proxy = Proxy(scheme=scheme, host=proxy_host, port=port, **settings)
            client = Client(
                Policy(rules or PolicyRules(), OwnAddresses(own_addresses())),
                resolver_at(name_server),
                Proxies([proxy]),
                max_connections=100,
                timeout=timeout,
            )
            return await work(client, port)

    return asyncio.run(run())


def reach(host: str, port: int) -> Callable[[Client, int], Awaitable[str]]:
    """Connect; the address that the socket leads to."""

    async def work(client: Client, _port: int) -> str:
        reply, (fd,) = await client.connect(Connect(host, port), Descriptors())
        with socket.socket(fileno=fd) as connection:
            assert not os.get_blocking(fd)
            assert connection.getpeername()[0] == reply.address
        return reply.address

    return work


def failure(server: ProxyServer, scheme: Scheme, host: str, port: int = 80, **how: Any) -> RequestFailed:
    with pytest.raises(RequestFailed) as caught:
        through(server, scheme, reach(host, port), **how)
    return caught.value


@pytest.fixture
def site(canary: CanaryMaker) -> Canary:
    """Stands for whatever is on the other side of the proxy."""
    return canary()


@pytest.fixture
def server(site: Canary) -> ProxyServer:
    return ProxyServer(leads_to=site.port)


@BOTH
@pytest.mark.parametrize("host", ["a.example", "93.184.216.34", "2606:2800:220:1::1"])
def test_a_connection_goes_through_and_the_name_is_the_proxys_to_look_up(
    server: ProxyServer, site: Canary, scheme: Scheme, host: str
) -> None:
    zone = Zone()
    assert through(server, scheme, reach(host, 443), zone=zone) == "127.0.0.1"
    assert server.asked == [(host, 443)]
    assert zone.asked == []
    assert site.count() == 1


@BOTH
def test_a_username_and_a_password_are_shown_when_they_are_wanted(
    server: ProxyServer, scheme: Scheme
) -> None:
    server.credentials = ("björn", "p:w")
    through(server, scheme, reach("a.example", 80), username="björn", password="p:w")
    assert server.given == [("björn", "p:w")]


@BOTH
def test_wrong_credentials_are_said_to_be_so(server: ProxyServer, site: Canary, scheme: Scheme) -> None:
    server.credentials = ("me", "secret")
    wrong = failure(server, scheme, "a.example", username="me", password="guess")
    missing = failure(server, scheme, "a.example")
    for error in (wrong, missing):
        assert error.code == "proxy_failed"
        assert "username" in error.detail
        assert "guess" not in error.detail
    assert site.count() == 0


def test_a_socks_proxy_that_wants_none_gets_none(server: ProxyServer) -> None:
    through(server, "socks5", reach("a.example", 80), username="me", password="secret")
    assert server.given == []


def says(data: bytes, *, read: int = 1, then: float = 0) -> Callable[..., Awaitable[None]]:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(read)
        writer.write(data)
        await writer.drain()
        await asyncio.sleep(then)

    return speak


async def silent(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


async def endless(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-Header: 1\r\n" * 100)
        await writer.drain()


async def dribbling(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X")
        await writer.drain()
        await asyncio.sleep(0.02)


OK = b"HTTP/1.1 200 OK\r\n\r\n"


@pytest.mark.parametrize(
    ("scheme", "speak", "code", "told"),
    [
        ("http", says(b"HTTP/1.1 403 No\r\n\r\n"), "proxy_failed", "answered CONNECT with 403"),
        ("http", says(b"HTTP/1.1 502 Bad\r\n\r\nbody"), "proxy_failed", "answered CONNECT with 502"),
        ("http", says(b"HTTP/1.1 101 Switch\r\n\r\n"), "proxy_failed", "answered CONNECT with 101"),
        ("http", says(b"HTTP/2 200 OK\r\n\r\n"), "proxy_failed", "does not speak HTTP/1.1"),
        ("http", says(b"\x16\x03\x01\r\n\r\n"), "proxy_failed", "does not speak HTTP/1.1"),
        ("http", says(b""), "proxy_failed", "closed the connection"),
        ("http", says(b"HTTP/1.1 200 OK\r\n"), "proxy_failed", "closed the connection"),
        (
            "http",
            says(OK + b"HTTP/1.1 200 OK\r\n\r\nforged", then=1),
            "proxy_failed",
            "before it was spoken to",
        ),
        ("http", endless, "proxy_failed", "over 16,384 bytes"),
        ("http", dribbling, "timed_out", "through the proxy 127.0.0.1"),
        ("http", silent, "timed_out", "through the proxy 127.0.0.1"),
        ("socks5", silent, "timed_out", "through the proxy 127.0.0.1"),
        ("socks5", says(b""), "proxy_failed", "closed the connection"),
        ("socks5", says(b"\5"), "proxy_failed", "closed the connection"),
        ("socks5", says(b"\4\0", then=1), "proxy_failed", "does not speak SOCKS5"),
        ("socks5", says(b"HTTP/1.1 400 Bad", then=1), "proxy_failed", "does not speak SOCKS5"),
        ("socks5", says(b"\5\1", then=1), "proxy_failed", "was not offered"),
        ("socks5", says(b"\5\2", then=1), "proxy_failed", "was not offered"),
        ("socks5", says(b"\5\xff", then=1), "proxy_failed", "wants a username"),
        ("socks5", says(b"\5\0\5\1\0\1"), "proxy_failed", "something is wrong with it"),
        ("socks5", says(b"\5\0\5\2\0\1"), "proxy_failed", "rules"),
        ("socks5", says(b"\5\0\5\3\0\1"), "unreachable", "no route"),
        ("socks5", says(b"\5\0\5\4\0\1"), "unreachable", "cannot reach"),
        ("socks5", says(b"\5\0\5\5\0\1"), "connection_refused", "refused"),
        ("socks5", says(b"\5\0\5\6\0\1"), "timed_out", "did not answer"),
        ("socks5", says(b"\5\0\5\x63\0\1"), "proxy_failed", "failed with 99"),
        ("socks5", says(b"\5\0\5\0\0\7", then=1), "proxy_failed", "unknown kind"),
        ("socks5", says(b"\5\0\4\0\0\1", then=1), "proxy_failed", "does not speak SOCKS5"),
        ("socks5", says(b"\5\0\5\0\0\1\1\2"), "proxy_failed", "closed the connection"),
        ("socks5", says(b"\5\0\5\0\0\3\xff" + b"x" * 20), "proxy_failed", "closed the connection"),
    ],
)
def test_what_a_proxy_does_wrong_is_said(scheme: Scheme, speak: Any, code: str, told: str) -> None:
    error = failure(ProxyServer(speak=speak), scheme, "a.example", timeout=0.5)
    assert error.code == code
    assert told in error.detail
    assert "a.example" in error.detail


@settings(max_examples=200, deadline=None)
@given(
    scheme=st.sampled_from(["http", "socks5"]),
    said=st.binary(max_size=80)
    | st.tuples(
        st.sampled_from([b"HTTP/1.1 200 OK\r\n", b"\5\0\5\0\0", b"\5\2\1\0\5\0\0"]), st.binary(max_size=60)
    ).map(b"".join),
)
def test_whatever_a_proxy_says_is_a_tunnel_or_what_failed(scheme: Scheme, said: bytes) -> None:
    async def run() -> None:
        here, there = socket.socketpair()
        with here, there:
            here.setblocking(False)
            there.sendall(said)
            there.shutdown(socket.SHUT_WR)
            proxy = Proxy(scheme=scheme, host="p", port=1, username="me", password="secret")
            (outcome,) = await asyncio.gather(
                open_tunnel(here, proxy, "a.example", 80), return_exceptions=True
            )
            assert outcome is None or (isinstance(outcome, RequestFailed) and "secret" not in outcome.detail)

    asyncio.run(run())


def test_a_socks_proxy_may_say_where_it_connects_from_by_name(server: ProxyServer) -> None:
    async def work(client: Client, _port: int) -> None:
        reply, (fd,) = await client.connect(Connect("a.example", 80), Descriptors())
        socket.socket(fileno=fd).close()
        assert reply.address == "127.0.0.1"

    server.speak = says(b"\5\0\5\0\0\3\4name\0\x50", then=0.2)
    through(server, "socks5", work)


@BOTH
def test_a_proxy_that_is_not_there_is_what_failed(scheme: Scheme) -> None:
    async def run(port: int) -> None:
        client = Client(
            Policy(PolicyRules()),
            resolver_at(1),
            Proxies([Proxy(scheme=scheme, host="127.0.0.1", port=port)]),
            max_connections=1,
            timeout=5,
        )
        await client.connect(Connect("a.example", 80), Descriptors())

    said = r"no connection to the proxy 127\.0\.0\.1: .*refused"
    with closed_port() as port, pytest.raises(RequestFailed, match=said) as caught:
        asyncio.run(run(port))
    assert caught.value.code == "proxy_failed"


def test_a_proxy_is_found_by_its_name(server: ProxyServer) -> None:
    zone = Zone({"proxy.example": ["A 127.0.0.1"]})
    assert (
        through(server, "http", reach("a.example", 80), zone=zone, proxy_host="proxy.example") == "127.0.0.1"
    )
    assert {name for name, _, _ in zone.asked} == {"proxy.example"}


# ── what a proxy may not be asked for ────────────────────────────────────────────────────────────────────────────

PRIVATE = [
    "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.100.100.200", "0.0.0.0", "224.0.0.1",
    "fd00::1", "fe80::1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::",
    "intranet", "wpad", "metadata", "instance-data", "router.local", "metadata.google.internal", "a.b.internal",
    "nas.home.arpa", "nas.lan", "nas.home", "x.corp", "x.private", "x.intranet", "x.localdomain", "x.invalid",
    "x.onion", "x.alt", "x.test", "kubernetes.default.svc", "a.svc.cluster.local", "metadata.goog",
    "METADATA.GOOG.", "1.0.0.10.in-addr.arpa", "metadata.tencentyun.com",
]  # fmt: skip


@BOTH
@pytest.mark.parametrize("host", PRIVATE)
def test_no_proxy_is_asked_for_what_is_not_public(
    server: ProxyServer, site: Canary, scheme: Scheme, host: str
) -> None:
    error = failure(server, scheme, host)
    assert error.code == "address_refused"
    assert "allow_hosts" in error.detail
    assert server.connections == site.count() == 0


@pytest.mark.parametrize("host", ["intranet", "x.onion", "10.0.0.1", "metadata.goog"])
def test_a_rule_of_the_user_opens_it(server: ProxyServer, host: str) -> None:
    through(server, "socks5", reach(host, 80), rules=PolicyRules(allow_hosts=(f"{host}:80",)))
    assert server.asked == [(host, 80)]


@pytest.mark.parametrize(
    "host", ["x.example", "internal.example", "goog", "my-local.example", "a.metadata.example"]
)
def test_a_name_that_only_looks_alike_is_the_proxys(server: ProxyServer, host: str) -> None:
    if "." not in host:
        assert failure(server, "http", host).code == "address_refused"
    else:
        through(server, "http", reach(host, 80))


def test_the_ports_of_a_policy_hold_through_a_proxy(server: ProxyServer) -> None:
    assert failure(server, "http", "a.example", 25).code == "address_refused"
    rules = PolicyRules(allow_ports=(443,))
    assert failure(server, "http", "a.example", 80, rules=rules).code == "address_refused"
    assert server.connections == 0


@pytest.mark.parametrize("host", ["localhost", "a.localhost", "127.0.0.1", "::1"])
def test_this_machine_is_never_the_proxys_to_reach(
    server: ProxyServer, canary: CanaryMaker, host: str
) -> None:
    here = canary("::1" if host == "::1" else "127.0.0.1")
    assert failure(server, "http", host, here.port).code == "address_refused"
    assert (server.connections, here.count()) == (0, 0)
    rule = f"[{host}]" if host == "::1" else host
    through(server, "http", reach(host, here.port), rules=PolicyRules(allow_hosts=(rule,)))
    assert (server.connections, here.count()) == (0, 1)


def test_the_proxy_itself_is_not_opened_to_pages_by_being_one(server: ProxyServer) -> None:
    zone = Zone({"proxy.example": ["A 127.0.0.1"]})

    async def work(client: Client, port: int) -> list[str]:
        codes = []
        for host in ("proxy.example", "127.0.0.1"):
            with pytest.raises(RequestFailed) as caught:
                await client.connect(Connect(host, port), Descriptors())
            codes.append(caught.value.code)
        return codes

    codes = through(server, "http", work, zone=zone, proxy_host="proxy.example")
    assert codes == ["address_refused", "address_refused"]
    assert server.connections == 0


# ── which proxy ──────────────────────────────────────────────────────────────────────────────────────────────────


def chosen(host: str, port: int, *proxies: Proxy) -> str:
    found = Proxies(proxies).choose(parse_host(host), port)
    return found.host if found else "direct"


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("a.example", 80, "all"),
        ("x.onion", 80, "tor"),
        ("onion", 80, "all"),
        ("skip.example", 80, "direct"),
        ("a.skip.example", 80, "all"),
        ("a.below.example", 80, "direct"),
        ("below.example", 80, "all"),
        ("port.example", 8080, "direct"),
        ("port.example", 80, "all"),
        ("10.1.2.3", 80, "direct"),
        ("11.1.2.3", 80, "all"),
        ("fd00::1", 80, "direct"),
        ("localhost", 80, "direct"),
        ("a.localhost", 80, "direct"),
        ("127.8.8.8", 80, "direct"),
        ("::1", 80, "direct"),
        ("notlocalhost", 80, "all"),
    ],
)
def test_a_host_goes_through_the_first_proxy_that_is_for_it(host: str, port: int, expected: str) -> None:
    tor = Proxy(scheme="socks5", host="tor", port=9050, hosts=("*.onion",))
    bypass = ("skip.example", "*.below.example", "port.example:8080", "10.0.0.0/8", "fd00::/8")
    every = Proxy(scheme="http", host="all", port=8080, bypass=bypass)
    assert chosen(host, port, tor, every) == expected


def test_without_a_proxy_for_it_a_host_is_reached_directly() -> None:
    assert chosen("a.example", 80) == "direct"
    assert chosen("a.example", 80, Proxy(scheme="http", host="p", port=1, hosts=("b.example",))) == "direct"


@BOTH
def test_what_is_reached_without_the_proxy_is_judged_by_its_address(
    server: ProxyServer, canary: CanaryMaker, scheme: Scheme
) -> None:
    here = canary("127.0.0.3")
    zone = Zone({"near.example": ["A 127.0.0.3"]})
    near = reach("near.example", here.port)
    with pytest.raises(RequestFailed, match="loopback"):
        through(server, scheme, near, zone=zone, bypass=("near.example",))
    rules = PolicyRules(allow_cidrs=("127.0.0.3",))
    assert through(server, scheme, near, zone=zone, rules=rules, bypass=("near.example",)) == "127.0.0.3"
    assert (server.connections, here.count()) == (0, 1)


@pytest.mark.parametrize("pattern", ["a/b", "10.0.0.1/8", "a b", "*", "*.1.2.3.4"])
def test_a_malformed_pattern_does_not_start(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Proxies([Proxy(scheme="http", host="p", port=1, bypass=(pattern,))])
