"""What the system's files say about names: hosts(5), resolv.conf(5), nsswitch.conf(5).

Each is its administrator's, so it is believed; a line that cannot be read is passed over, as the system's own
resolver does.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address

import msgspec

from .addresses import Address
from .hosts import parse_host
from .servers import Server

__all__ = ["Settings", "parse_hosts", "parse_nsswitch", "parse_resolv_conf"]

# resolv.h and resolv.conf(5): MAXNS, RES_MAXNDOTS, RES_MAXRETRANS, RES_MAXRETRY
_MAX_SERVERS, _MAX_NDOTS, _MAX_TIMEOUT, _MAX_ATTEMPTS = 3, 15, 30, 5
_MAX_SEARCH = 16  # domains; glibc had 6 until 2.26
_FILES, _DNS = "files", "dns"


class Settings(msgspec.Struct, frozen=True):
    """How names are looked up. ``timeout`` are seconds for one question to one server: 1.5 where the system does not
    say, as its 5 would leave time for one server that does not answer."""

    servers: tuple[Server, ...] = ()
    search: tuple[str, ...] = ()
    ndots: int = 1
    timeout: float = 1.5
    attempts: int = 2
    rotate: bool = False
    ipv6: bool = True
    order: tuple[str, ...] = (_FILES, _DNS)

    def spellings(self, name: str) -> tuple[str, ...]:
        """``name`` and what ``search`` makes of it, in the order in which they are tried."""
        longer = tuple(f"{name}.{domain}" for domain in self.search if len(name) + len(domain) < 253)
        return (name, *longer) if name.count(".") >= self.ndots else (*longer, name)


def parse_hosts(text: str) -> dict[str, tuple[Address, ...]]:
    """An address and its names on a line. A zone is left off: what needs one is link-local, and out of a page's reach
    in any case."""
    hosts: dict[str, tuple[Address, ...]] = {}
    for line in text.splitlines():
        first, *names = line.partition("#")[0].split() or [""]
        try:
            address = ip_address(first.partition("%")[0])
        except ValueError:
            continue
        for spelled in names:
            name = _name(spelled)
            if name and address not in hosts.get(name, ()):
                hosts[name] = (*hosts.get(name, ()), address)
    return hosts


def parse_resolv_conf(text: str) -> Settings:
    """Its name servers, search domains and the options that concern a program that asks for addresses."""
    servers: list[Server] = []
    search: tuple[str, ...] = ()
    options: dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith(("#", ";")):
            continue
        keyword, *values = line.split() or [""]
        if keyword == "nameserver" and values and (server := _server(values[0])) is not None:
            servers.append(server)
        elif keyword in ("search", "domain"):  # the last one counts
            search = tuple(filter(None, map(_name, values)))[: _MAX_SEARCH if keyword == "search" else 1]
        elif keyword == "options":
            options.update((name, value) for name, _, value in (option.partition(":") for option in values))
    over = "tcp" if "use-vc" in options else "udp"
    return Settings(
        servers=tuple(msgspec.structs.replace(server, over=over) for server in servers[:_MAX_SERVERS]),
        search=search,
        ndots=_number(options.get("ndots"), 0, _MAX_NDOTS, 1),
        timeout=_number(options.get("timeout"), 1, _MAX_TIMEOUT, 0) or 1.5,
        attempts=_number(options.get("attempts"), 1, _MAX_ATTEMPTS, 2),
        rotate="rotate" in options,
        ipv6="no-aaaa" not in options,
    )


def parse_nsswitch(text: str) -> tuple[str, ...]:
    """In which order ``files`` and ``dns`` are asked for hosts. ``resolve`` is a DNS server that reads /etc/hosts
    first; other sources (mDNS, NIS) are not asked."""
    for line in text.splitlines():
        database, colon, sources = line.partition("#")[0].partition(":")
        if database.strip() != "hosts" or not colon:
            continue
        order: list[str] = []
        last = ""
        for word in sources.replace("[", " [").replace("]", "] ").split():
            if word.upper() == "[NOTFOUND=RETURN]" and last in (_FILES, _DNS):
                break
            last = word
            order += [_FILES, _DNS] if word == "resolve" else [word] if word in (_FILES, _DNS) else []
        return tuple(dict.fromkeys(order))
    return (_FILES, _DNS)


def _server(text: str) -> Server | None:
    """A zone (``fe80::1%eth0``: home routers announce themselves so) becomes the number of its interface."""
    address, percent, zone = text.partition("%")
    try:
        scope = (int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)) if percent else 0
        return Server(ip_address(address), scope=scope if scope < 2**32 else 0)
    except (ValueError, OSError):
        return None


def _name(text: str) -> str | None:
    try:
        name = parse_host(text)
    except ValueError:
        return None
    return name if isinstance(name, str) else None


def _number(text: str | None, least: int, most: int, otherwise: int) -> int:
    if text is None or not text.isascii() or not text.isdecimal():
        return otherwise
    return max(least, min(most, int(text[:9])))
