"""Which addresses count as public."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.lookup_server.addresses import embedded, special_use

REFUSED = {
    "this network": ["0.0.0.0", "0.0.0.1", "0.255.255.255"],
    "private": [
        "10.0.0.0", "10.0.0.1", "10.255.255.255", "172.16.0.0", "172.16.0.1", "172.31.255.255",
        "192.168.0.0", "192.168.1.1", "192.168.255.255",
    ],
    "carrier-grade NAT": ["100.64.0.0", "100.100.100.200", "100.127.255.255"],
    "loopback": ["127.0.0.0", "127.0.0.1", "127.0.0.2", "127.1.2.3", "127.255.255.255", "::1"],
    "Azure": ["168.63.129.16"],
    "link-local": [
        "169.254.0.0", "169.254.169.254", "169.254.170.2", "169.254.255.255",
        "fe80::", "fe80::1", "fe80::a9fe:a9fe", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    ],
    "IETF protocol assignments": [
        "192.0.0.0", "192.0.0.8", "192.0.0.9", "192.0.0.170", "192.0.0.192", "192.0.0.255",
        "2001:1::1", "2001:1::3", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
    ],
    "documentation": [
        "192.0.2.0", "192.0.2.255", "198.51.100.1", "203.0.113.255",
        "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "3fff::", "3fff:fff:ffff::1",
    ],
    "AS112": ["192.31.196.1", "192.175.48.1", "2001:4:112::1", "2620:4f:8000::1"],
    "multicast tunnelling": ["192.52.193.1", "2001:3::1"],
    "6to4": ["192.88.99.1", "2002::", "2002:0808:0808::1", "2002:7f00:1::1", "2002:ffff:ffff::"],
    "benchmarking": ["198.18.0.0", "198.19.255.255", "2001:2::1"],
    "multicast": ["224.0.0.0", "224.0.0.251", "239.255.255.255", "ff00::", "ff02::1", "ff0e::1"],
    "reserved": ["240.0.0.0", "254.1.2.3", "255.255.255.254"],
    "broadcast": ["255.255.255.255"],
    "unspecified": ["::"],
    "IPv4-compatible": ["::2", "::7f00:1", "::8.8.8.8", "::ffff:ffff"],
    "IPv4-mapped": ["::ffff:0.0.0.0", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:ffff:ffff"],
    "IPv4-translated": ["::ffff:0:127.0.0.1", "::ffff:0:8.8.8.8"],
    "NAT64": ["64:ff9b::", "64:ff9b::10.0.0.1", "64:ff9b::8.8.8.8", "64:ff9b:1::", "64:ff9b:1:ffff::1"],
    "discard-only": ["100::", "100::ffff:ffff:ffff:ffff"],
    "dummy prefix": ["100:0:0:1::1"],
    "Teredo": ["2001::", "2001:0:4136:e378:8000:63bf:3fff:fdd2"],
    "ORCHID": ["2001:10::1", "2001:1f:ffff::1", "2001:20::1", "2001:2f:ffff::1"],
    "drone": ["2001:30::1"],
    "segment routing": ["5f00::", "5f00:ffff::1"],
    "unique-local": ["fc00::", "fd00::1", "fd00:ec2::254", "fdff:ffff::1"],
    "site-local": ["fec0::", "feff::1"],
    "zone": ["fe80::1%eth0", "2600::1%1"],
    "not allocated": ["1::", "64:ff9b:2::1", "100:0:0:2::1", "1fff:ffff::1", "4000::", "fbff:ffff::1", "fe00::1"],
}  # fmt: skip

PUBLIC = [
    "1.0.0.0", "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0",
    "126.255.255.255", "128.0.0.0", "168.63.129.15", "168.63.129.17", "169.253.255.255", "169.255.0.0",
    "172.15.255.255", "172.32.0.0", "191.255.255.255", "192.0.1.0", "192.0.3.0", "192.88.98.255",
    "192.88.100.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "198.51.99.255",
    "198.51.101.0", "203.0.112.255", "203.0.114.0", "223.255.255.255",
    "2000::", "2001:200::1", "2001:4860:4860::8888", "2001:db7:ffff::1", "2001:db9::", "2003::1",
    "2606:4700:4700::1111", "2620:4f:7fff::1", "2620:4f:8001::", "3ffe:ffff::1", "3fff:1000::",
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "address"), [(name, address) for name, several in REFUSED.items() for address in several]
)
def test_an_address_that_is_not_public_is_called_what_it_is(name: str, address: str) -> None:
    assert name in (special_use(ip_address(address)) or "")


@pytest.mark.parametrize("address", PUBLIC)
def test_the_neighbours_of_special_blocks_are_public(address: str) -> None:
    assert special_use(ip_address(address)) is None


@given(st.ip_addresses(v=4))
def test_every_ipv4_address_that_python_calls_private_is_refused(address: IPv4Address) -> None:
    if address.is_private or address.is_multicast or address.is_reserved or address.is_loopback:
        assert special_use(address) is not None


@given(st.ip_addresses(v=6))
def test_an_ipv6_address_outside_global_unicast_is_refused_whatever_it_is(address: IPv6Address) -> None:
    if address not in ip_network("2000::/3"):
        assert special_use(address) is not None


@given(st.ip_addresses(v=4))
def test_every_form_that_carries_an_ipv4_address_gives_it_away(address: IPv4Address) -> None:
    high, low = int(address) >> 16, int(address) & 0xFFFF
    forms = [f"::ffff:{address}", f"::ffff:0:{address}", f"64:ff9b::{address}", f"2002:{high:x}:{low:x}::1"]
    forms += [f"2600::5efe:{address}", f"2600::200:5efe:{address}"]
    if int(address) > 1:
        forms.append(f"::{address}")
    if int(address) >> 24:
        forms.append(f"64:ff9b:1::{address}")
    for form in forms:
        assert address in embedded(IPv6Address(form)), form


@given(st.ip_addresses(v=4, network="1.0.0.0/8"), st.sampled_from([48, 56, 64, 96]))
def test_local_nat64_is_read_at_every_prefix_length(address: IPv4Address, length: int) -> None:
    prefix = int(IPv6Address("64:ff9b:1::"))
    if length == 96:
        value = prefix | int(address)
    else:  # RFC 6052, section 2.2: the byte in bits 64 to 71 is skipped
        head, tail = divmod(int(address), 1 << length - 32)
        value = prefix | head << 64 | tail << (56 - (length - 32))
    assert address in embedded(IPv6Address(value))


def test_teredo_carries_its_server_and_its_client() -> None:
    # The example of RFC 4380's successors: client 192.0.2.45 behind server 65.54.227.120.
    carried = embedded(IPv6Address("2001:0:4136:e378:8000:63bf:3fff:fdd2"))
    assert carried == (IPv4Address("65.54.227.120"), IPv4Address("192.0.2.45"))


@pytest.mark.parametrize("address", ["::", "::1", "2606:4700::1111", "fe80::1", "8.8.8.8"])
def test_an_address_that_carries_no_other_says_so(address: str) -> None:
    assert embedded(ip_address(address)) == ()
