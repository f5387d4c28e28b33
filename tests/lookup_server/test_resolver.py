"""From a host to addresses, with a real name server on loopback."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import TypeVar

import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.errors import RequestFailed
from cloister.lookup_server.hosts import parse_host
from cloister.lookup_server.resolver import MAX_PER_FAMILY, Resolver, warm_up
from cloister.lookup_server.system import System, own_addresses, parse_hosts, parse_resolv_conf

from .conftest import Zone

T = TypeVar("T")


@pytest.fixture(autouse=True, scope="module")
def _warm() -> None:
    warm_up()


def ask(zone: Zone, work: Callable[[Resolver], Awaitable[T]], *, hosts: str = "", lifetime: float = 5) -> T:
    async def run() -> T:
        async with zone.serve() as port:
            system = System(parse_hosts(hosts), ((ip_address("127.0.0.1"), port),))
            return await work(Resolver(system, lifetime=lifetime))

    return asyncio.run(run())


def resolve(zone: Zone, host: str, *, hosts: str = "", lifetime: float = 5) -> list[str]:
    async def work(resolver: Resolver) -> list[str]:
        return list(map(str, await resolver.resolve(parse_host(host))))

    return ask(zone, work, hosts=hosts, lifetime=lifetime)


def failure(zone: Zone, host: str, *, lifetime: float = 5) -> RequestFailed:
    with pytest.raises(RequestFailed) as caught:
        resolve(zone, host, lifetime=lifetime)
    return caught.value


FRESH = """
import sys
from cloister.lookup_server import main
main.preload(b"")
import dns.name, dns.query, dns.rdata, dns.rdataclass, dns.rdatatype
print(dns.name.have_idna_2008, dns.query.have_doh, "email" in sys.modules)
before = set(sys.modules)
for kind in range(65536):
    dns.rdata.get_rdata_class(dns.rdataclass.IN, dns.rdatatype.RdataType.make(kind))
print(sorted(set(sys.modules) - before))
"""


def test_a_fresh_process_loads_only_what_it_uses_and_nothing_later() -> None:
    told = subprocess.run(
        [sys.executable, "-c", FRESH], capture_output=True, text=True, check=True, timeout=30
    )
    assert told.stdout.split("\n") == ["False False False", "[]", ""]


def test_both_families_are_asked_and_come_by_turns(zone: Zone) -> None:
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


def test_a_name_without_addresses_is_an_unknown_host(zone: Zone) -> None:
    zone.records = {"a.example": ["TXT hello"]}
    assert failure(zone, "a.example").code == "unknown_host"


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


def test_a_server_that_is_not_there_is_noticed_without_waiting_for_it() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    resolver_system = System({}, ((ip_address("127.0.0.1"), port),))
    with pytest.raises(RequestFailed, match="Connection refused") as caught:
        asyncio.run(Resolver(resolver_system, lifetime=3600).resolve("a.example"))
    assert caught.value.code == "dns_failed"


def test_a_server_that_ignores_aaaa_costs_the_name_nothing_but_ipv6(zone: Zone) -> None:
    def script(query: dns.message.Message) -> dns.message.Message | None:
        if query.question[0].rdtype.name == "AAAA":
            return None
        response = dns.message.make_response(query)
        response.answer.append(dns.rrset.from_text(query.question[0].name, 60, "IN", "A", "192.0.2.1"))
        return response

    zone.script = script
    assert resolve(zone, "a.example", lifetime=3600) == ["192.0.2.1"]


def test_a_slow_name_delays_no_other(zone: Zone) -> None:
    answer = Zone({"fast.example": ["A 192.0.2.1"]}).answer
    zone.script = lambda query: (
        None if "slow" in str(query.question[0].name) else answer(query.to_wire(), "udp")
    )

    async def work(resolver: Resolver) -> tuple[str, bool]:
        slow = asyncio.create_task(resolver.resolve("slow.example"))
        await asyncio.sleep(0)
        fast = await resolver.resolve("fast.example")
        still_waiting = not slow.done()
        slow.cancel()
        return str(fast[0]), still_waiting

    assert ask(zone, work) == ("192.0.2.1", True)


def test_answers_are_kept_for_the_client_that_asked(zone: Zone) -> None:
    zone.records = {"a.example": ["A 192.0.2.1", "AAAA 2001:db8::1"]}

    async def work(resolver: Resolver) -> None:
        await resolver.resolve("a.example")
        await resolver.resolve("a.example")

    ask(zone, work)
    assert len(zone.asked) == 2


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
    assert resolve(zone, "intranet", hosts=hosts) == ["192.0.2.7", "2001:db8::7"]
    assert resolve(zone, "printer.local", hosts=hosts) == ["192.0.2.7"]
    assert zone.asked == []


def test_without_a_name_server_the_error_says_where_one_would_be() -> None:
    with pytest.raises(RequestFailed, match=r"resolv\.conf"):
        asyncio.run(Resolver(System(), lifetime=1).resolve("a.example"))


def test_name_servers_are_read_as_the_system_reads_them() -> None:
    text = "# x\nnameserver 192.0.2.1\nnameserver 2001:db8::1 \nnameserver fe80::1%eth0\nnameserver x\nsearch a\n"
    assert [str(server) for server, _ in parse_resolv_conf(text)] == ["192.0.2.1", "2001:db8::1"]
    assert len(parse_resolv_conf("nameserver 192.0.2.1\n" * 9)) == 3


def test_the_machine_knows_its_loopback_addresses() -> None:
    assert ip_address("127.0.0.1") in own_addresses()


@given(st.text())
def test_any_text_reads_as_a_hosts_file_and_as_a_resolv_conf(text: str) -> None:
    parse_hosts(text)
    parse_resolv_conf(text)


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
