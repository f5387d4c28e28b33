"""What the machine says about names and about itself: read once, before lock-down closes every file."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import msgspec

from .addresses import Address
from .configuration import Settings, parse_hosts, parse_nsswitch, parse_resolv_conf
from .sockets import source_towards

__all__ = ["OwnAddresses", "System", "own_addresses"]

_HOSTS_LIMIT = 16 * 1024 * 1024  # bytes: the large block lists that people put there are a third of it
_SETTINGS_LIMIT = 64 * 1024

# linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h
_NLMSG_ERROR, _NLMSG_DONE, _RTM_NEWADDR, _RTM_GETADDR = 2, 3, 20, 22
_NLM_F_REQUEST_DUMP = 0x301
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_IFADDRMSG = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type


class System(msgspec.Struct, frozen=True):
    """``hosts`` from /etc/hosts, ``settings`` from /etc/resolv.conf and /etc/nsswitch.conf, ``own`` addresses."""

    hosts: dict[str, tuple[Address, ...]] = msgspec.field(default_factory=dict)
    settings: Settings = Settings()
    own: frozenset[Address] = frozenset()

    @classmethod
    def read(cls) -> System:
        """A missing file says nothing, as for the system's resolver. Raises OSError when the kernel does not
        tell its addresses: without them the policy could not refuse them."""
        settings = parse_resolv_conf(_read("/etc/resolv.conf", _SETTINGS_LIMIT))
        order = parse_nsswitch(_read("/etc/nsswitch.conf", _SETTINGS_LIMIT))
        return cls(
            parse_hosts(_read("/etc/hosts", _HOSTS_LIMIT)),
            msgspec.structs.replace(settings, order=order),
            own_addresses(),
        )


class OwnAddresses:
    """This machine's addresses: those it had at the start, and those that it has got since (a VPN, another network).

    The kernel tells by the way: what it would connect to from the very same address is its own. That leaves out an
    IPv4 address that was added to a network in which the machine had one: it is connected to from the first.
    """

    def __init__(self, known: frozenset[Address]) -> None:
        self._known = known

    def __contains__(self, address: object) -> bool:
        return address in self._known or (
            isinstance(address, IPv4Address | IPv6Address) and source_towards(address) == address
        )


def _read(path: str, limit: int) -> str:
    try:
        with Path(path).open("rb") as file:
            return file.read(limit).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def own_addresses() -> frozenset[Address]:
    """Every address of this machine's interfaces, from the kernel (rtnetlink(7), RTM_GETADDR). Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.settimeout(5)
        body = _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
        kernel.send(_HEADER.pack(_HEADER.size + len(body), _RTM_GETADDR, _NLM_F_REQUEST_DUMP, 1, 0) + body)
        found: set[Address] = set()
        while True:
            for kind, payload in _records(kernel.recv(1 << 20), _HEADER):
                if kind == _NLMSG_DONE:
                    return frozenset(found)
                if kind == _NLMSG_ERROR:
                    raise OSError("the kernel does not list this machine's addresses")
                if kind == _RTM_NEWADDR:
                    attributes = dict(_records(payload[_IFADDRMSG.size :], _ATTRIBUTE))
                    # On a point-to-point link IFA_ADDRESS is the peer and IFA_LOCAL this machine.
                    found.add(ip_address(attributes.get(_IFA_LOCAL) or attributes[_IFA_ADDRESS]))


def _records(data: bytes, head: struct.Struct) -> Iterator[tuple[int, bytes]]:
    """(type, payload) of netlink messages or of attributes: both begin with length and type, aligned to 4."""
    while len(data) >= head.size:
        length, kind = head.unpack_from(data)[:2]
        if length < head.size:
            return
        yield kind, data[head.size : length]
        data = data[length + 3 & ~3 :]
