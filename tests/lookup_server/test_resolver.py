"""From a host to addresses, with a real name server on loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Any, TypeVar

import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.errors import RequestFailed
from cloister.lookup_server.configuration import Settings
from cloister.lookup_server.name_servers import NameServers
from cloister.lookup_server.resolver import MAX_PER_FAMILY, Resolver
from cloister.lookup_server.system import own_addresses

from .conftest import Zone, both, resolver_at

T = TypeVar("T")


def ask(zone: Zone, work: Callable[[Resolver], Awaitable[T]], **settings: Any) -> T:
    async def run() -> T:
        async with zone.serve() as port:
            return await work(resolver_at(port, **settings))

    return asyncio.run(run())


def resolve(zone: Zone, host: str, *, named: bool = False, **settings: Any) -> list[str]:
    return ask(zone, lambda resolver: both(resolver, host, named=named), **settings)


def failure(zone: Zone, host: str, **settings: Any) -> RequestFailed:
    with pytest.raises(RequestFailed) as caught:
        resolve(zone, host, **settings)
    return caught.value


def test_both_families_are_asked(zone: Zone) -> None:
    zone.records = {"a.example": ["A 192.0.2.1", "A 192.0.2.2", "AAAA 2001:db8::1"]}
    assert resolve(zone, "a.example") == ["2001:db8::1", "192.0.2.1", "192.0.2.2"]
    assert sorted(zone.asked) == [("a.example", "A", "udp"), ("a.example", "AAAA", "udp")]


def test_an_alias_is_followed_to_its_addresses(zone: Zone) -> None:
    zone.records = {
        "a.example": ["CNAME b.example."],
        "b.example": ["CNAME c.example."],
        "c.example": ["A 192.0.2.1"],
    }
    assert resolve(zone, "a.example") == ["192.0.2.1"]


def test_aliases_in_a_circle_lead_nowhere(zone: Zone) -> None:
    zone.records = {"a.example": ["CNAME b.example."], "b.example": ["CNAME a.example."]}
    assert failure(zone, "a.example").code in {"unknown_host", "dns_failed"}


def test_an_answer_too_large_for_a_datagram_is_asked_for_over_tcp(zone: Zone) -> None:
    zone.records = {"a.example": ["A 192.0.2.1"]}
    zone.truncate_udp = True
    assert resolve(zone, "a.example") == ["192.0.2.1"]
    assert ("a.example", "A", "tcp") in zone.asked


def test_of_many_addresses_a_few_are_used(zone: Zone) -> None:
    zone.records = {"a.example": [f"A 192.0.2.{i}" for i in range(200)] + ["AAAA 2001:db8::1"]}
    assert len(resolve(zone, "a.example")) == MAX_PER_FAMILY + 1


def test_a_name_that_does_not_exist_is_an_unknown_host(zone: Zone) -> None:
    error = failure(zone, "nowhere.example")
    assert error.code == "unknown_host"
    assert "nowhere.example" in error.detail


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED])
def test_a_server_that_fails_is_named_with_what_it_said(zone: Zone, rcode: dns.rcode.Rcode) -> None:
    def script(query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        response.set_rcode(rcode)
        return response

    zone.script = script
    error = failure(zone, "a.example")
    assert error.code == "dns_failed"
    assert dns.rcode.to_text(rcode) in error.detail
    assert "127.0.0.1" in error.detail


def test_a_silent_server_is_given_up_on(zone: Zone) -> None:
    zone.script = lambda _query: None
    error = failure(zone, "a.example", lifetime=0.3)
    assert error.code == "dns_failed"
    assert "no answer within 0.3 s" in error.detail


@pytest.mark.parametrize("host", ["localhost", "a.localhost", "a.b.localhost", "LOCALHOST."])
def test_localhost_is_loopback_whatever_anybody_says(zone: Zone, host: str) -> None:
    zone.records = {"a.localhost": ["A 192.0.2.1"]}
    assert resolve(zone, host, hosts="192.0.2.1 localhost") == ["::1", "127.0.0.1"]
    assert zone.asked == []


@pytest.mark.parametrize("host", ["a.invalid", "a.onion", "a.alt", "printer.local", "intranet", "com"])
def test_names_outside_public_dns_are_unknown_without_asking(zone: Zone, host: str) -> None:
    assert failure(zone, host).code == "unknown_host"
    assert zone.asked == []


def test_a_literal_is_its_own_address(zone: Zone) -> None:
    assert resolve(zone, "192.0.2.1") == ["192.0.2.1"]
    assert resolve(zone, "2001:DB8::0:1") == ["2001:db8::1"]
    assert zone.asked == []


def test_the_hosts_file_answers_first(zone: Zone) -> None:
    hosts = """
    # a comment
    192.0.2.7   intranet  Printer.Local.  # another
    2001:db8::7 intranet
    nonsense    intranet
    192.0.2.8   bad/name 192.0.2.9
    192.0.2.10
    """
    assert resolve(zone, "intranet", hosts=hosts) == ["2001:db8::7", "192.0.2.7"]
    assert resolve(zone, "printer.local", hosts=hosts) == ["192.0.2.7"]
    assert zone.asked == []


def test_the_machine_knows_its_loopback_addresses() -> None:
    assert ip_address("127.0.0.1") in own_addresses()


@settings(max_examples=15, deadline=None)
@given(garbage=st.binary(max_size=600), cut=st.integers(0, 80))
def test_garbage_from_a_name_server_is_a_failed_lookup(garbage: bytes, cut: int) -> None:
    zone = Zone()
    honest = Zone({"a.example": ["CNAME b.example.", "A 192.0.2.1"], "b.example": ["A 192.0.2.2"]})

    def script(query: dns.message.Message) -> bytes:
        wire = honest.answer(query.to_wire(), "udp") or b""
        return wire[: 2 + cut] + garbage

    zone.script = script
    try:
        outcome = str(resolve(zone, "a.example", lifetime=0.02))
    except RequestFailed as error:
        outcome = error.code
    assert outcome in {"dns_failed", "unknown_host", "['192.0.2.1']", "['192.0.2.2']"}


def test_a_name_without_addresses_has_none(zone: Zone) -> None:
    zone.records = {"a.example": ["TXT hello"]}
    assert resolve(zone, "a.example") == []


def test_a_server_that_is_not_there_is_noticed_without_waiting_for_it() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(RequestFailed, match="Connection refused") as caught:
        asyncio.run(resolver_at(port, lifetime=3600).look_up("a.example", 4))
    assert caught.value.code == "dns_failed"


def test_a_slow_name_delays_no_other(zone: Zone) -> None:
    answer = Zone({"fast.example": ["A 192.0.2.1"]}).answer
    zone.script = lambda query: (
        None if "slow" in str(query.question[0].name).lower() else answer(query.to_wire(), "udp")
    )

    async def work(resolver: Resolver) -> tuple[str, bool]:
        slow = asyncio.create_task(resolver.look_up("slow.example", 4))
        await asyncio.sleep(0)
        fast = await resolver.look_up("fast.example", 4)
        still_waiting = not slow.done()
        slow.cancel()
        return str(fast[0]), still_waiting

    assert ask(zone, work) == ("192.0.2.1", True)


def test_without_a_name_server_the_error_says_where_one_would_be() -> None:
    servers = NameServers([], attempts=1, rotate=False, lifetime=1)
    with pytest.raises(RequestFailed, match=r"resolv\.conf"):
        asyncio.run(Resolver({}, Settings(), servers).look_up("a.example", 4))


def test_a_host_that_a_rule_names_is_looked_up_as_the_system_would(zone: Zone) -> None:
    zone.records = {
        "intranet.corp.example": ["A 192.0.2.1"],
        "printer.local": ["A 192.0.2.2"],
        "a.b.other.example": ["A 192.0.2.3"],
    }
    search = ("corp.example", "other.example")
    assert resolve(zone, "intranet", named=True, search=search) == ["192.0.2.1"]
    assert resolve(zone, "printer.local", named=True) == ["192.0.2.2"]
    assert resolve(zone, "a.b", named=True, search=search, ndots=1) == ["192.0.2.3"]
    asked = [name for name, kind, _ in zone.asked if kind == "A"]
    assert asked == [
        "intranet.corp.example", "printer.local", "a.b", "a.b.corp.example", "a.b.other.example",
    ]  # fmt: skip


@pytest.mark.parametrize("host", ["intranet", "a.example"])
def test_search_domains_are_for_hosts_that_a_rule_names(zone: Zone, host: str) -> None:
    zone.records = {f"{host}.corp.example": ["A 192.0.2.1"]}
    assert failure(zone, host, search=("corp.example",), ndots=5).code == "unknown_host"
    assert all(not name.endswith("corp.example") for name, _, _ in zone.asked)


def test_the_order_of_hosts_file_and_dns_is_the_systems(zone: Zone) -> None:
    zone.records = {"a.example": ["A 192.0.2.1"]}
    hosts = "192.0.2.9 a.example b.example"
    assert resolve(zone, "a.example", hosts=hosts) == ["192.0.2.9"]
    assert resolve(zone, "a.example", hosts=hosts, order=("dns", "files")) == ["192.0.2.1"]
    assert resolve(zone, "b.example", hosts=hosts, order=("dns", "files")) == ["192.0.2.9"]
    asked = len(zone.asked)
    assert failure(zone, "c.example", hosts=hosts, order=("files",)).code == "unknown_host"
    assert len(zone.asked) == asked


def test_no_aaaa_is_asked_for_where_the_system_says_so(zone: Zone) -> None:
    zone.records = {"a.example": ["A 192.0.2.1", "AAAA 2001:db8::1"]}
    assert resolve(zone, "a.example", ipv6=False) == ["192.0.2.1"]
    assert [kind for _, kind, _ in zone.asked] == ["A"]
