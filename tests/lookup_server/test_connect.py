"""Connections to real listeners on loopback, and none to those that the policy keeps out of reach."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

import dns.message
import dns.rrset
import pytest

from cloister.errors import RequestFailed
from cloister.interfaces.lookup_server import Connect, PolicyRules, Proxy
from cloister.ipc import Descriptors
from cloister.lookup_server.connect import MAX_AT_ONCE, Client
from cloister.lookup_server.policy import Policy
from cloister.lookup_server.proxies import Proxies
from cloister.lookup_server.system import OwnAddresses, own_addresses

from .conftest import CanaryMaker, Zone, resolver_at

T = TypeVar("T")
NO_RULES = PolicyRules()


def with_client(
    zone: Zone,
    work: Callable[[Client], Awaitable[T]],
    *,
    rules: PolicyRules = NO_RULES,
    timeout: float = 5,
    proxies: Sequence[Proxy] = (),
) -> T:
    async def run() -> T:
        async with zone.serve() as port:
            client = Client(
                Policy(rules, OwnAddresses(own_addresses())),
                resolver_at(port, lifetime=timeout / 2),
                Proxies(proxies),
                max_connections=rules.max_connections,
                timeout=timeout,
            )
            return await work(client)

    return asyncio.run(run())


async def open_to(client: Client, host: str, port: int) -> tuple[str, socket.socket]:
    reply, (fd,) = await client.connect(Connect(host, port), Descriptors())
    return reply.address, socket.socket(fileno=fd)


def connected(zone: Zone, host: str, port: int, rules: PolicyRules) -> str:
    """The address that the connection led to, after a byte went through it."""

    async def work(client: Client) -> str:
        address, connection = await open_to(client, host, port)
        with connection:
            assert connection.getpeername()[:2] == (address, port)
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert not os.get_blocking(connection.fileno())
            connection.send(b"x")
        return address

    return with_client(zone, work, rules=rules)


def refused(
    zone: Zone, host: str, port: int, rules: PolicyRules = NO_RULES, timeout: float = 5
) -> RequestFailed:
    async def work(client: Client) -> None:
        _, connection = await open_to(client, host, port)
        connection.close()

    with pytest.raises(RequestFailed) as caught:
        with_client(zone, work, rules=rules, timeout=timeout)
    return caught.value


@pytest.mark.parametrize(
    ("host", "rule"),
    [("127.0.0.1", "127.0.0.1"), ("localhost", "localhost"), ("a.example", "*.example")],
)
def test_a_rule_opens_the_way_to_a_listener(zone: Zone, canary: CanaryMaker, host: str, rule: str) -> None:
    listener = canary()
    zone.records = {"a.example": ["A 127.0.0.1"]}
    rules = PolicyRules(allow_hosts=(f"{rule}:{listener.port}",))
    assert connected(zone, host, listener.port, rules) == "127.0.0.1"
    assert listener.count() == 1


def test_an_ipv6_listener_is_reached_by_its_literal(zone: Zone, canary: CanaryMaker) -> None:
    listener = canary("::1")
    assert connected(zone, "::1", listener.port, PolicyRules(allow_hosts=("[::1]",))) == "::1"


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.2", "::1", "::ffff:127.0.0.1", "0.0.0.0", "::", "localhost", "a.localhost",
     "rebound.example", "alias.example", "mapped.example", "zero.example"],
)  # fmt: skip
def test_nothing_arrives_at_a_listener_that_no_rule_names(zone: Zone, canary: CanaryMaker, host: str) -> None:
    listener = canary("::1" if host == "::1" else "127.0.0.1")
    everywhere = socket.socket(socket.AF_INET6)
    everywhere.bind(("::", 0))  # dual-stack: would take any form of loopback
    everywhere.listen()
    everywhere.setblocking(False)
    zone.records = {
        "rebound.example": ["A 127.0.0.1", "AAAA ::1"],
        "alias.example": ["CNAME rebound.example."],
        "mapped.example": ["AAAA ::ffff:127.0.0.1"],
        "zero.example": ["A 0.0.0.0"],
    }
    with everywhere:
        for port in (listener.port, everywhere.getsockname()[1]):
            error = refused(zone, host, port)
            assert error.code == "address_refused"
            assert "--allow-host" in error.detail
        with pytest.raises(BlockingIOError):
            everywhere.accept()
    assert listener.count() == 0


def test_the_machines_own_address_is_refused(zone: Zone, canary: CanaryMaker) -> None:
    for address in own_addresses():
        if address.version == 4:
            listener = canary(str(address))
            assert refused(zone, str(address), listener.port).code == "address_refused"
            assert listener.count() == 0


def test_a_name_that_turns_private_on_its_second_lookup_gains_nothing(
    zone: Zone, canary: CanaryMaker
) -> None:
    listener = canary("127.0.0.2")
    answers = iter(["127.0.0.3", "127.0.0.2", "127.0.0.2"])

    def script(query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        if query.question[0].rdtype.name == "A":
            response.answer.append(dns.rrset.from_text(query.question[0].name, 0, "IN", "A", next(answers)))
        return response

    zone.script = script
    allowed = canary(
        "127.0.0.3", listener.port
    )  # stands for the public server: its address may be connected to

    async def work(client: Client) -> str:
        _, connection = await open_to(client, "rebind.example", listener.port)
        connection.close()
        with pytest.raises(RequestFailed) as caught:
            await open_to(client, "rebind.example", listener.port)
        return caught.value.code

    assert with_client(zone, work, rules=PolicyRules(allow_cidrs=("127.0.0.3",))) == "address_refused"
    assert (allowed.count(), listener.count()) == (1, 0)


def test_of_public_and_private_addresses_only_the_allowed_are_tried(zone: Zone, canary: CanaryMaker) -> None:
    forbidden = canary("127.0.0.2")
    allowed = canary("127.0.0.3", forbidden.port)
    zone.records = {"a.example": ["A 127.0.0.2", "A 127.0.0.3"]}
    rules = PolicyRules(allow_cidrs=("127.0.0.3",))
    assert connected(zone, "a.example", allowed.port, rules) == "127.0.0.3"
    assert forbidden.count() == 0


def test_a_failed_address_is_followed_by_the_next(zone: Zone, canary: CanaryMaker) -> None:
    listener = canary("127.0.0.3")
    zone.records = {"a.example": ["AAAA ::1", "A 127.0.0.2", "A 127.0.0.3"]}
    rules = PolicyRules(allow_hosts=("a.example",))
    assert connected(zone, "a.example", listener.port, rules) == "127.0.0.3"


def test_an_address_that_does_not_answer_is_overtaken_by_the_next(zone: Zone, canary: CanaryMaker) -> None:
    listener = canary("127.0.0.3")
    zone.records = {"a.example": ["A 127.0.0.2", "A 127.0.0.3"]}
    with full_listener("127.0.0.2", listener.port):
        rules = PolicyRules(allow_hosts=("a.example",))
        assert connected(zone, "a.example", listener.port, rules) == "127.0.0.3"


@contextlib.contextmanager
def full_listener(address: str, port: int = 0) -> Iterator[int]:
    """A port whose backlog is full: the kernel drops what else comes, as a silent firewall would."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((address, port), backlog=0))
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def test_a_port_where_nobody_listens_is_a_refused_connection(zone: Zone) -> None:
    error = refused(zone, "127.0.0.1", closed_port(), PolicyRules(allow_hosts=("127.0.0.1",)))
    assert error.code == "connection_refused"
    assert "127.0.0.1 port" in error.detail


def test_an_address_that_never_answers_ends_at_the_deadline(zone: Zone) -> None:
    with full_listener("127.0.0.1") as port:
        error = refused(zone, "127.0.0.1", port, PolicyRules(allow_hosts=("127.0.0.1",)), timeout=0.3)
    assert error.code == "timed_out"
    assert "within 0.3 s" in error.detail


@pytest.mark.parametrize("host", ["0x7f.1", "127.1", "2130706433", "a b", "[::1]", "::1%lo"])
def test_an_odd_spelling_is_a_bad_url(zone: Zone, host: str) -> None:
    assert refused(zone, host, 80, PolicyRules(allow_hosts=("127.0.0.1", "[::1]"))).code == "bad_url"


def test_a_port_outside_the_allowed_ones_is_refused_without_a_lookup(zone: Zone) -> None:
    error = refused(zone, "a.example", 25, PolicyRules(allow_ports=(80, 443)))
    assert error.code == "address_refused"
    assert zone.asked == []


def test_a_client_has_so_many_connections_in_its_life(zone: Zone, canary: CanaryMaker) -> None:
    listener = canary()

    async def work(client: Client) -> str:
        for _ in range(2):
            _, connection = await open_to(client, "127.0.0.1", listener.port)
            connection.close()
        with pytest.raises(RequestFailed) as caught:
            await open_to(client, "127.0.0.1", listener.port)
        return caught.value.code

    rules = PolicyRules(allow_hosts=("127.0.0.1",), max_connections=2)
    assert with_client(zone, work, rules=rules) == "too_many_requests"
    assert listener.count() == 2


def test_a_client_makes_so_many_connections_at_once_and_the_rest_wait(zone: Zone) -> None:
    zone.script = lambda _query: None

    async def work(client: Client) -> set[str]:
        tasks = [
            asyncio.create_task(open_to(client, f"{number}.example", 80)) for number in range(3 * MAX_AT_ONCE)
        ]
        await asyncio.sleep(0.1)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return {name for name, _, _ in zone.asked}

    assert len(with_client(zone, work)) == MAX_AT_ONCE
