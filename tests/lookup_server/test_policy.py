"""What the policy answers for a host, the address it led to, and a port."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.interfaces.lookup_server import PolicyRules
from cloister.lookup_server.hosts import parse_host
from cloister.lookup_server.policy import Policy

PUBLIC, PRIVATE, LOOPBACK = "8.8.8.8", "10.1.2.3", "127.0.0.1"


def refusal(rules: PolicyRules, host: str, address: str, port: int = 80) -> str | None:
    return Policy(rules).refusal(parse_host(host), ip_address(address), port)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.5.4", "192.168.0.1", "169.254.169.254",
        "100.64.0.1", "192.0.0.192", "198.18.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "168.63.129.16",
        "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:0:10.0.0.1",
        "64:ff9b::7f00:1", "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:a00:1::1", "2001:0:a00:1::", "fe80::1",
        "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "2001:db8::1", "5f00::1", "100::1",
    ],
)  # fmt: skip
def test_without_rules_only_public_addresses_may_be_connected_to(address: str) -> None:
    told = refusal(PolicyRules(), "page.example", address)
    assert told is not None
    assert str(ip_address(address)) in told
    assert "--allow-host page.example:80" in told
    assert refusal(PolicyRules(), "page.example", PUBLIC) is None


def test_the_refusal_of_a_literal_says_how_to_allow_it_in_brackets() -> None:
    assert "--allow-host [::1]:8080 " in (refusal(PolicyRules(), "::1", "::1", 8080) or "")


@pytest.mark.parametrize(
    ("rule", "host", "port", "allowed"),
    [
        ("localhost", "localhost", 80, True),
        ("localhost", "localhost", 8081, True),
        ("localhost", "LOCALHOST.", 80, True),
        ("localhost.", "localhost", 80, True),
        ("localhost", "a.localhost", 80, False),
        ("localhost:8000", "localhost", 8000, True),
        ("localhost:8000", "localhost", 8001, False),
        ("*.corp.example", "a.corp.example", 80, True),
        ("*.corp.example", "a.b.corp.example", 80, True),
        ("*.corp.example", "corp.example", 80, False),
        ("*.corp.example", "evilcorp.example", 80, False),
        ("*.corp.example:81", "a.corp.example", 80, False),
        ("*.corp.example:81", "a.corp.example", 81, True),
        ("10.1.2.3", "10.1.2.3", 80, True),
        ("10.1.2.3", "page.example", 80, False),
        ("[fd00::1]:80", "fd00::1", 80, True),
        ("[fd00:0::1]:80", "fd00::0:1", 80, True),
        ("[fd00::1]:81", "fd00::1", 80, False),
        ("[fd00::1]", "fd00::1", 80, True),
    ],
)
def test_a_host_rule_allows_where_that_host_leads_and_nothing_else(
    rule: str, host: str, port: int, allowed: bool
) -> None:
    address = "fd00::1" if ":" in host else PRIVATE
    assert (refusal(PolicyRules(allow_hosts=(rule,)), host, address, port) is None) is allowed


def test_a_network_rule_allows_its_addresses_under_every_name() -> None:
    rules = PolicyRules(allow_cidrs=("10.1.0.0/16", "fd00::/8"))
    assert refusal(rules, "any.example", "10.1.255.255") is None
    assert refusal(rules, "10.1.0.1", "10.1.0.1") is None
    assert refusal(rules, "any.example", "fd12::1") is None
    assert refusal(rules, "any.example", "10.2.0.0") is not None
    assert refusal(rules, "any.example", LOOPBACK) is not None


def test_an_address_inside_an_address_needs_both_allowed() -> None:
    nat64 = PolicyRules(allow_cidrs=("64:ff9b::/96",))
    assert refusal(nat64, "any.example", "64:ff9b::8.8.8.8") is None
    told = refusal(nat64, "any.example", "64:ff9b::10.0.0.1")
    assert told is not None
    assert "carries 10.0.0.1" in told
    assert refusal(PolicyRules(allow_cidrs=("10.0.0.0/8",)), "any.example", "64:ff9b::10.0.0.1") is not None
    both = PolicyRules(allow_cidrs=("10.0.0.0/8", "64:ff9b::/96"))
    assert refusal(both, "any.example", "64:ff9b::10.0.0.1") is None


def test_the_machines_own_public_address_is_refused_in_every_form() -> None:
    policy = Policy(PolicyRules(allow_cidrs=("64:ff9b::/96",)), own=[IPv4Address(PUBLIC)])
    for address in (PUBLIC, f"64:ff9b::{PUBLIC}"):
        assert "this machine's own" in (policy.refusal("a.example", ip_address(address), 80) or "")
    assert policy.refusal("a.example", ip_address("8.8.4.4"), 80) is None
    allowed = Policy(PolicyRules(allow_hosts=("a.example",)), own=[IPv4Address(PUBLIC)])
    assert allowed.refusal("a.example", ip_address(PUBLIC), 80) is None


def test_with_allowed_ports_every_other_port_is_refused_for_rules_too() -> None:
    rules = PolicyRules(
        allow_hosts=("localhost", "localhost:22"), allow_cidrs=("10.0.0.0/8",), allow_ports=(443,)
    )
    assert refusal(rules, "localhost", LOOPBACK, 443) is None
    assert refusal(rules, "page.example", PUBLIC, 443) is None
    for host, address in (("localhost", LOOPBACK), ("page.example", PUBLIC), ("page.example", PRIVATE)):
        assert "port 22 is refused" in (refusal(rules, host, address, 22) or "")


@pytest.mark.parametrize(
    "rules",
    [
        PolicyRules(allow_hosts=(rule,))
        for rule in ("a b", "http://a", "a/b", "a:0", "a:65536", "a:b", "*", "*.", "a.*", "*.1.2.3.4", "0x7f.1",
                     "[1.2.3.4]", "[::1", "::1]:80", "[::1]x", "user@a", "bücher.de", "*.*.a")
    ] + [PolicyRules(allow_cidrs=(rule,)) for rule in ("10.0.0.1/8", "10/8", "a", "::/129", "1.2.3.4/33", "")],
    ids=str,
)  # fmt: skip
def test_a_malformed_rule_is_refused_at_the_start_and_named(rules: PolicyRules) -> None:
    (rule,) = rules.allow_hosts or rules.allow_cidrs
    with pytest.raises(ValueError, match=r".") as caught:
        Policy(rules)
    assert repr(rule) in str(caught.value)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_a_refusal_fits_into_a_failures_detail(address: object, port: int) -> None:
    host = ".".join(["a" * 61] * 4)
    told = Policy(PolicyRules()).refusal(host, ip_address(str(address)), port)
    assert told is None or len(told) <= 500
