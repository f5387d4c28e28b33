"""What a NetworkPolicy accepts, and what it says about the rest."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.browser.network import NetworkPolicy
from cloister.interfaces import lookup_server, request_server


def test_rules_are_kept_in_one_canonical_form() -> None:
    policy = NetworkPolicy(
        allow_hosts=["LocalHost:8000", "*.Bücher.example.", "[0:0::1]:080", "127.1:80"],
        allow_cidrs=["10.0.0.0/8", "192.0.2.1", "FD00::/8"],
        allow_ports=[80, 443],
        dns_servers=["192.0.2.53", "192.0.2.53:5353", "2001:DB8::53", "[2001:db8::53]:53"],
    )
    rules = policy.rules()
    assert rules.allow_hosts == ("localhost:8000", "*.xn--bcher-kva.example", "[::1]:80", "127.0.0.1:80")
    assert rules.allow_cidrs == ("10.0.0.0/8", "192.0.2.1/32", "fd00::/8")
    assert rules.allow_ports == (80, 443)
    assert policy.lookup_options().dns_servers == (
        "192.0.2.53", "192.0.2.53:5353", "[2001:db8::53]", "[2001:db8::53]:53",
    )  # fmt: skip
    assert NetworkPolicy(allow_hosts=policy.allow_hosts).rules().allow_hosts == rules.allow_hosts


def test_the_limits_reach_the_processes_that_hold_them() -> None:
    policy = NetworkPolicy(
        max_response_bytes=1, max_total_bytes=2, max_requests=3, max_redirects=4, request_timeout=5, connect_timeout=0.5
    )  # fmt: skip
    assert policy.request_options("agent") == request_server.Options(
        user_agent="agent",
        max_response_bytes=1,
        max_total_bytes=2,
        max_requests=3,
        max_redirects=4,
        request_timeout=5000,
    )
    assert policy.lookup_options().connect_timeout == 500


def test_the_default_is_public_addresses_only() -> None:
    rules = NetworkPolicy().rules()
    assert (rules.allow_hosts, rules.allow_cidrs, rules.allow_ports) == ((), (), ())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"allow_hosts": "localhost"}, "allow_hosts is a list of str, not 'localhost'"),
        ({"allow_hosts": [8000]}, "it has 8000"),
        ({"allow_hosts": ["http://localhost"]}, "without scheme or path"),
        ({"allow_hosts": ["localhost/x"]}, "without scheme or path"),
        ({"allow_hosts": ["user@localhost"]}, "is not HOST"),
        ({"allow_hosts": ["::1"]}, "written in brackets"),
        ({"allow_hosts": ["localhost:99999"]}, "must be between 1 and 65535"),
        ({"allow_hosts": ["localhost:0"]}, "must be between 1 and 65535"),
        ({"allow_hosts": ["a..b"]}, "no valid host name"),
        ({"allow_hosts": ["*"]}, "is not HOST"),
        ({"allow_hosts": ["a.*"]}, "is not HOST"),
        ({"allow_hosts": ["*.127.0.0.1"]}, "no names below it"),
        ({"allow_hosts": ["*.[::1]"]}, "no names below it"),
        ({"allow_hosts": [""]}, "is not HOST"),
        ({"allow_hosts": ["a"] * 257}, "at most 256"),
        ({"allow_cidrs": ["10.0.0.1/8"]}, "allow_cidrs: '10.0.0.1/8' is not a network"),
        ({"allow_ports": [0]}, "must be between 1 and 65535"),
        ({"allow_ports": ["80"]}, "it has '80'"),
        ({"allow_ports": [True]}, "it has True"),
        ({"allow_ports": 80}, "allow_ports is a list of int"),
        ({"dns_servers": ["dns.example"]}, "dns_servers: 'dns.example'"),
        ({"dns_servers": ["1.1.1.1:x"]}, "dns_servers: '1.1.1.1:x'"),
        ({"dns_servers": ["1.1.1.1"] * 9}, "at most 8"),
        ({"max_requests": 0}, "max_requests is 0"),
        ({"max_requests": 1.5}, "max_requests is a whole number"),
        ({"max_total_bytes": -1}, "max_total_bytes is -1"),
        ({"max_redirects": 101}, "max_redirects is 101"),
        ({"request_timeout": 0}, "request_timeout is 0"),
        ({"request_timeout": float("nan")}, "request_timeout is nan"),
        ({"request_timeout": "5"}, "number of seconds"),
    ],
)
def test_what_is_wrong_is_said_with_the_argument_it_is_wrong_in(
    arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises((ValueError, TypeError)) as caught:
        NetworkPolicy(**arguments)
    assert message in str(caught.value)


def test_a_policy_cannot_be_changed_once_it_is_made() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        NetworkPolicy().max_requests = 1  # type: ignore[misc]


@given(st.text(max_size=30) | st.from_regex(r"(\*\.)?[a-z0-9.\[\]:]{1,20}", fullmatch=True))
def test_every_accepted_rule_fits_the_message_that_carries_it(rule: str) -> None:
    try:
        options = NetworkPolicy(allow_hosts=[rule]).lookup_options()
    except ValueError:
        return
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(options), type=lookup_server.Options)
    assert sent == options
