"""Which addresses are public, and what the others are.

The table is ours and not :attr:`ipaddress.IPv4Address.is_global`, whose answer changed between Python releases
(3.11.9 and 3.12.4 moved 192.0.0.0/24 and 2001::/23 about). What an address is must not depend on that.

Sources: the IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890), of which every entry is refused,
also the few that are globally reachable (anycast services of the network itself: no web server stands there);
the IANA IPv6 address space registry, where only 2000::/3 is allocated for global unicast.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

__all__ = ["Address", "embedded", "special_use"]

Address = IPv4Address | IPv6Address

_IPV4 = [
    (IPv4Network(network), name)
    for network, name in (
        ("0.0.0.0/8", "this network, RFC 791"),
        ("10.0.0.0/8", "private, RFC 1918"),
        ("100.64.0.0/10", "carrier-grade NAT, RFC 6598"),
        ("127.0.0.0/8", "loopback, RFC 1122"),
        ("168.63.129.16/32", "the Azure platform's own server, reachable from each virtual machine"),
        ("169.254.0.0/16", "link-local, RFC 3927"),
        ("172.16.0.0/12", "private, RFC 1918"),
        ("192.0.0.0/24", "IETF protocol assignments, RFC 6890"),
        ("192.0.2.0/24", "documentation, RFC 5737"),
        ("192.31.196.0/24", "AS112, RFC 7535"),
        ("192.52.193.0/24", "multicast tunnelling, RFC 7450"),
        ("192.88.99.0/24", "6to4 relay, RFC 7526"),
        ("192.168.0.0/16", "private, RFC 1918"),
        ("192.175.48.0/24", "AS112, RFC 7534"),
        ("198.18.0.0/15", "benchmarking, RFC 2544"),
        ("198.51.100.0/24", "documentation, RFC 5737"),
        ("203.0.113.0/24", "documentation, RFC 5737"),
        ("224.0.0.0/4", "multicast, RFC 5771"),
        ("255.255.255.255/32", "broadcast, RFC 919"),
        ("240.0.0.0/4", "reserved, RFC 1112"),
    )
]

# The first match names the address, so a narrower network stands before the one that contains it.
_IPV6 = [
    (IPv6Network(network), name)
    for network, name in (
        ("::/128", "unspecified, RFC 4291"),
        ("::1/128", "loopback, RFC 4291"),
        ("::/96", "IPv4-compatible, RFC 4291"),
        ("::ffff:0:0/96", "IPv4-mapped, RFC 4291"),
        ("::ffff:0:0:0/96", "IPv4-translated, RFC 2765"),
        ("64:ff9b::/96", "NAT64, RFC 6052"),
        ("64:ff9b:1::/48", "local-use NAT64, RFC 8215"),
        ("100::/64", "discard-only, RFC 6666"),
        ("100:0:0:1::/64", "dummy prefix, RFC 9780"),
        ("2001::/32", "Teredo, RFC 4380"),
        ("2001:2::/48", "benchmarking, RFC 5180"),
        ("2001:3::/32", "multicast tunnelling, RFC 7450"),
        ("2001:4:112::/48", "AS112, RFC 7535"),
        ("2001:10::/28", "ORCHID, RFC 4843"),
        ("2001:20::/28", "ORCHIDv2, RFC 7343"),
        ("2001:30::/28", "drone remote identification, RFC 9374"),
        ("2001::/23", "IETF protocol assignments, RFC 2928"),
        ("2001:db8::/32", "documentation, RFC 3849"),
        ("2002::/16", "6to4, RFC 3056"),
        ("2620:4f:8000::/48", "AS112, RFC 7534"),
        ("3fff::/20", "documentation, RFC 9637"),
        ("5f00::/16", "segment routing, RFC 9602"),
        ("fc00::/7", "unique-local, RFC 4193"),
        ("fe80::/10", "link-local, RFC 4291"),
        ("fec0::/10", "site-local, RFC 3879"),
        ("ff00::/8", "multicast, RFC 4291"),
    )
]

_GLOBAL_UNICAST = IPv6Network("2000::/3")

_LOW_32_BITS = [
    IPv6Network(network) for network in ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")
]
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")
_TEREDO = IPv6Network("2001::/32")
_SIX_TO_FOUR = IPv6Network("2002::/16")
_ISATAP = (0x00005EFE, 0x02005EFE)  # RFC 5214, section 6.1: in the middle of an address of any network


def special_use(address: Address) -> str | None:
    """What ``address`` is when it is not public unicast (``"loopback, RFC 1122"``), else None."""
    if isinstance(address, IPv4Address):
        return next((name for network, name in _IPV4 if address in network), None)
    if address.scope_id is not None:
        return "bound to one network interface by its zone, RFC 4007"
    for network, name in _IPV6:
        if address in network:
            return name
    return None if address in _GLOBAL_UNICAST else "not allocated for public use"


def embedded(address: Address) -> tuple[IPv4Address, ...]:
    """The IPv4 addresses that a packet to ``address`` could be sent on to, by the kernel or by a gateway."""
    if isinstance(address, IPv4Address):
        return ()
    value = int(address)
    if any(address in network for network in _LOW_32_BITS):
        # :: and ::1 are no embeddings, though they lie in the IPv4-compatible block (RFC 4291, 2.5.5.1).
        return (IPv4Address(value & 0xFFFFFFFF),) if value > 1 else ()
    if address in _LOCAL_NAT64:
        return _local_nat64(value)
    if address in _SIX_TO_FOUR:
        return (IPv4Address(value >> 80 & 0xFFFFFFFF),)
    if address in _TEREDO:  # the server, and the client with its bits inverted (RFC 4380, section 4)
        return (IPv4Address(value >> 64 & 0xFFFFFFFF), IPv4Address(~value & 0xFFFFFFFF))
    return (IPv4Address(value & 0xFFFFFFFF),) if value >> 32 & 0xFFFFFFFF in _ISATAP else ()


def _local_nat64(value: int) -> tuple[IPv4Address, ...]:
    """RFC 8215 leaves the prefix length of local-use NAT64 to the network, and by it RFC 6052, section 2.2 places
    the IPv4 address: at 48, 56 or 64 around the empty byte of bits 64 to 71, at 96 at the end. So every reading
    counts, but those that read nothing except zeros where the prefix has them (0.0.0.0/8)."""
    without_byte = value >> 64 << 56 | value & (1 << 56) - 1
    readings = [without_byte >> 120 - length - 32 & 0xFFFFFFFF for length in (48, 56, 64)]
    readings.append(value & 0xFFFFFFFF)
    return tuple(IPv4Address(r) for r in readings if r >> 24) or (IPv4Address(0),)
