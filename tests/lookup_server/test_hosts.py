"""One spelling for each host."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.lookup_server.hosts import parse_host


@pytest.mark.parametrize(
    "text",
    [
        "0x7f.1", "0x7f000001", "2130706433", "017700000001", "0177.0.0.1", "127.1", "127.0.1", "127.0.0.01",
        "127.0.0.1.", "127.0.0.256", "1.2.3.4.5", "0x7f.0.0.1", "127.0.0.0x1", "foo.1", "foo.0x", "1..2",
        "１２７.0.0.1", "127。0。0。1", "127.0.0.1%lo", "::1%lo", "fe80::1%eth0", "[::1]", "::1]", ":::", "1:2",
        "::127.1", "::ffff:0x7f.0.0.1", "", ".", "..", "a..b", ".a", "a b", "a/b", "a@b", "a#b", "a?b", "a\\b",
        "a%41", "a\n", "a\0", "bücher.de", "localhost\t", "a" * 64, ".".join(["a" * 63] * 4), "*.example",
        "a,b", "1e3.٣",
    ],
)  # fmt: skip
def test_what_two_parsers_could_read_differently_is_no_host(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_host(text)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("localhost", "localhost"),
        ("Example.ORG.", "example.org"),
        ("a_b.example", "a_b.example"),
        ("-.example", "-.example"),
        ("xn--bcher-kva.de", "xn--bcher-kva.de"),
        ("1.example", "1.example"),
        ("0x7f.example", "0x7f.example"),
        ("127.0.0.1", IPv4Address("127.0.0.1")),
        ("::1", IPv6Address("::1")),
        ("0:0:0:0:0:0:0:1", IPv6Address("::1")),
        ("::FFFF:127.0.0.1", IPv6Address("::ffff:7f00:1")),
    ],
)
def test_names_and_canonical_addresses_are_hosts(text: str, host: object) -> None:
    assert parse_host(text) == host


@given(st.text(max_size=40) | st.from_regex(r"[0-9a-fx.:]{1,20}", fullmatch=True))
def test_a_host_is_an_address_or_a_plain_name_or_refused(text: str) -> None:
    try:
        host = parse_host(text)
    except ValueError:
        return
    assert parse_host(str(host)) == host
    if isinstance(host, str):
        assert host.isascii()
        assert not host.rpartition(".")[2].isdigit()
