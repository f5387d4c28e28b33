"""What the machine says about names and about itself: read once, before lock-down closes every file."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import msgspec

from .addresses import Address
from .hosts import parse_host

__all__ = ["System", "own_addresses", "parse_hosts", "parse_resolv_conf"]

_HOSTS_LIMIT = 16 * 1024 * 1024  # bytes: the large block lists that people put there are a third of it
_RESOLV_CONF_LIMIT = 64 * 1024
_MAX_NAME_SERVERS = 3  # MAXNS in resolv.h: the system's own resolver asks no more

# linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h
_NLMSG_ERROR, _NLMSG_DONE, _RTM_NEWADDR, _RTM_GETADDR = 2, 3, 20, 22
_NLM_F_REQUEST_DUMP = 0x301
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_IFADDRMSG = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type


class System(msgspec.Struct, frozen=True):
    """``hosts`` from /etc/hosts, ``name_servers`` (address, port) from /etc/resolv.conf, ``own`` addresses."""

    hosts: dict[str, tuple[Address, ...]] = msgspec.field(default_factory=dict)
    name_servers: tuple[tuple[Address, int], ...] = ()
    own: frozenset[Address] = frozenset()

    @classmethod
    def read(cls) -> System:
        """A missing file says nothing, as for the system's resolver. Raises OSError when the kernel does not
        tell its addresses: without them the policy could not refuse them."""
        return cls(
            parse_hosts(_read("/etc/hosts", _HOSTS_LIMIT)),
            parse_resolv_conf(_read("/etc/resolv.conf", _RESOLV_CONF_LIMIT)),
            own_addresses(),
        )


def _read(path: str, limit: int) -> str:
    try:
        with Path(path).open("rb") as file:
            return file.read(limit).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def parse_hosts(text: str) -> dict[str, tuple[Address, ...]]:
    """hosts(5): an address and its names on a line. A line that is not is passed over, as everywhere. A zone is
    left off: what needs one is link-local, and out of a page's reach in any case."""
    hosts: dict[str, tuple[Address, ...]] = {}
    for line in text.splitlines():
        first, *names = line.partition("#")[0].split() or [""]
        try:
            address = ip_address(first.partition("%")[0])
        except ValueError:
            continue
        for spelled in names:
            try:
                name = parse_host(spelled)
            except ValueError:
                continue
            if isinstance(name, str) and address not in hosts.get(name, ()):
                hosts[name] = (*hosts.get(name, ()), address)
    return hosts


def parse_resolv_conf(text: str) -> tuple[tuple[Address, int], ...]:
    """The name servers of resolv.conf(5). One with a zone (fe80::1%eth0) is passed over: asking it takes system
    calls that are closed after lock-down."""
    servers: list[tuple[Address, int]] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver" or "%" in words[1]:
            continue
        try:
            servers.append((ip_address(words[1]), 53))
        except ValueError:
            continue
    return tuple(servers[:_MAX_NAME_SERVERS])


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
