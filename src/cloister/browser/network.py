"""What a browser's pages may reach, and how much of it."""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import Literal, TypeVar

from cloister.errors import InvalidArgument
from cloister.interfaces import lookup_server, request_server

__all__ = ["NetworkPolicy", "host_rule"]

T = TypeVar("T")

# Compiled when they are needed: most programs need none, and each takes 0.2 ms.
_HOST_RULE = r"(?P<below>\*\.)?(?P<host>\[[0-9a-fA-F:.]+\]|[^\s/?#@\\:\[\]%*]+)(?::(?P<port>[0-9]+))?"
_DNS_SERVER = (
    r"(?P<over>(?:tcp|tls|https)://)?(?P<authority>[0-9A-Fa-f:.\[\]]+)(?P<path>/[!\"$-~]*)?(?P<name>#\S+)?"
)
_NAME = r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*"
_LITERAL_OR_NAME = r"\[[0-9a-f:]+\]|" + _NAME
_SECURE: tuple[Literal["tls", "https"], ...] = ("tls", "https")


@dataclass(frozen=True, kw_only=True)
class NetworkPolicy:
    """Which hosts pages may connect to, and the limits of one page load.

    Without rules, pages reach public addresses only: no loopback, no private network, no cloud metadata service.
    It is judged per connection, on the very address that is connected to, so neither a redirect nor a host name
    that resolves to a private address gets around it. It is no list of web sites: every public host can be
    reached. It says what a page may reach, and limits nothing that Python code beside the browser does.

        NetworkPolicy(allow_hosts=["localhost:8000"])  # a server under test, and the public web
        NetworkPolicy(allow_hosts=["*.corp.example", "[::1]:8080"])
        NetworkPolicy(allow_cidrs=["192.168.1.0/24"], allow_ports=[80, 443])
        NetworkPolicy(max_total_bytes=16 * 1024 * 1024, request_timeout=5)

    allow_hosts: hosts that may be connected to wherever they resolve to: ``"host"``, ``"host:port"``,
        ``"*.host"`` (every name below ``host``, not itself), ``"192.0.2.1:80"``, ``"[2001:db8::1]:80"``. An
        address here means a URL that names the address; for a name that resolves to it see ``allow_cidrs``.
    allow_cidrs: networks, or single addresses, that may be connected to by any name.
    allow_ports: when given, every other port is refused, also for ``allow_hosts``. Ports of other services that
        browsers refuse (25, 6000; the Fetch standard's list) are reached only when they are here.
    dns_servers: name servers to ask instead of the system's: ``"address"`` or ``"address:port"`` (UDP, and TCP for
        large answers), ``"tcp://address"``, ``"tls://1.1.1.1"`` (DNS over TLS), ``"https://1.1.1.1/dns-query"`` (DNS
        over HTTPS). A server is an address; the name in its certificate, if that is not the address, comes behind
        a ``#``: ``"tls://9.9.9.9#dns.quad9.net"``.
    max_response_bytes: the most that one response may have, decompressed.
    max_total_bytes: the most that all responses of one page load may have together, decompressed.
    max_requests: requests of one page load.
    max_redirects: redirects that one request follows.
    request_timeout: seconds for one request, redirects and body included.
    connect_timeout: seconds for one connection, the name's look-up included.

    Raises InvalidArgument (a ValueError) that names the argument and what is wrong with it.
    """

    allow_hosts: Sequence[str] = ()
    allow_cidrs: Sequence[str] = ()
    allow_ports: Sequence[int] = ()
    dns_servers: Sequence[str] = ()
    max_response_bytes: int = 64 * 1024 * 1024
    max_total_bytes: int = 256 * 1024 * 1024
    max_requests: int = 500
    max_redirects: int = 20
    request_timeout: float = 30.0
    connect_timeout: float = 10.0

    def __post_init__(self) -> None:
        put = object.__setattr__  # frozen; what was given is kept in its one canonical form
        hosts = _several("allow_hosts", self.allow_hosts, str)
        put(self, "allow_hosts", tuple(host_rule("allow_hosts", host) for host in hosts))
        put(self, "allow_cidrs", tuple(map(_network, _several("allow_cidrs", self.allow_cidrs, str))))
        put(self, "allow_ports", tuple(_several("allow_ports", self.allow_ports, int)))
        put(self, "dns_servers", tuple(map(_dns_server, _several("dns_servers", self.dns_servers, str, 8))))
        for port in self.allow_ports:
            _within("allow_ports", port, 1, 65535)
        _within("max_response_bytes", self.max_response_bytes, 0, 2**40)
        _within("max_total_bytes", self.max_total_bytes, 0, 2**40)
        _within("max_requests", self.max_requests, 1, 100_000)
        _within("max_redirects", self.max_redirects, 0, 100)
        _seconds("request_timeout", self.request_timeout)
        _seconds("connect_timeout", self.connect_timeout)

    def rules(self) -> lookup_server.PolicyRules:
        """What lookup_server judges addresses by."""
        # A server that closes each connection needs as many as there are requests; redirects come on top.
        connections = min(4096, max(256, self.max_requests + self.max_redirects))
        return lookup_server.PolicyRules(
            allow_hosts=tuple(self.allow_hosts),
            allow_cidrs=tuple(self.allow_cidrs),
            allow_ports=tuple(self.allow_ports),
            max_connections=connections,
        )

    def lookup_options(self, proxies: tuple[lookup_server.Proxy, ...] = ()) -> lookup_server.Options:
        """The start options of lookup_server."""
        return lookup_server.Options(
            rules=self.rules(),
            dns_servers=tuple(self.dns_servers),
            connect_timeout=round(self.connect_timeout * 1000),
            proxies=proxies,
        )

    def lookup_preload(self, extra_roots: str) -> lookup_server.PreloadOptions:
        """What lookup_server loads ahead. ``extra_roots`` (PEM) are for name servers, too."""
        over = {server.partition("://")[0] for server in self.dns_servers}
        secure = tuple(one for one in _SECURE if one in over)
        return lookup_server.PreloadOptions(secure, extra_roots if secure else "")

    def request_options(self, user_agent: str) -> request_server.Options:
        """The start options of a request_server."""
        return request_server.Options(
            user_agent=user_agent,
            max_requests=self.max_requests,
            max_redirects=self.max_redirects,
            max_response_bytes=self.max_response_bytes,
            max_total_bytes=self.max_total_bytes,
            request_timeout=round(self.request_timeout * 1000),
        )


def _several(name: str, given: object, kind: type[T], most: int = 256) -> list[T]:
    if isinstance(given, str) or not isinstance(given, Sequence | Set):
        raise InvalidArgument(f"{name} is a list of {kind.__name__}, not {given!r}")
    items: list[T] = []
    for item in given:
        if not isinstance(item, kind) or isinstance(item, bool):
            raise InvalidArgument(f"{name} is a list of {kind.__name__}; it has {item!r}")
        items.append(item)
    if len(items) > most:
        raise InvalidArgument(f"{name} has {len(items)} entries; at most {most} are allowed")
    return items


def _within(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgument(f"{name} is a whole number, not {value!r}")
    if not least <= value <= most:
        raise InvalidArgument(f"{name} is {value}; it must be between {least} and {most}")


def _seconds(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidArgument(f"{name} is a number of seconds, not {value!r}")
    if not 0.001 <= value <= 24 * 3600:
        raise InvalidArgument(f"{name} is {value}; it must be between 0.001 and {24 * 3600} seconds")


def host_rule(argument: str, rule: str) -> str:
    """``rule`` of ``argument`` with its host as the URL standard spells it (A-labels, canonical addresses)."""
    match = re.fullmatch(_HOST_RULE, rule)
    if match is None:
        hint = "; an IPv6 address is written in brackets" if rule.count(":") > 1 else ""
        raise InvalidArgument(
            f"{argument}: {rule!r} is not HOST, HOST:PORT or *.HOST, without scheme or path{hint}"
        )
    if match["port"] is not None:
        _within(f"{argument}: the port of {rule!r}", int(match["port"]), 1, 65535)
    host = _canonical(match["host"])
    if not re.fullmatch(_LITERAL_OR_NAME, host, re.ASCII) or len(host) > 253:
        raise InvalidArgument(f"{argument}: {rule!r} has no valid host name")
    if match["below"] and (host.startswith("[") or host.rpartition(".")[2].isdigit()):
        raise InvalidArgument(f"{argument}: {rule!r}: an address has no names below it")
    port = f":{int(match['port'])}" if match["port"] else ""
    return f"{match['below'] or ''}{host}{port}"


def _canonical(host: str) -> str:
    """Nothing where it is none."""
    if host.isascii() and host.isalpha():
        # "localhost": there is no other spelling, and the library that knows all of them takes 2 ms to load.
        return host.lower()
    from ada_url import URL

    try:
        return URL(f"http://{host}/").hostname.removesuffix(".")
    except ValueError:
        return ""


def _network(text: str) -> str:
    from ipaddress import ip_network  # here and below: most programs name no address

    try:
        return str(ip_network(text))
    except ValueError as error:
        raise InvalidArgument(f"allow_cidrs: {text!r} is not a network such as 10.0.0.0/8: {error}") from None


def _dns_server(text: str) -> str:
    """A server in the spelling that lookup_server reads, its address in canonical form."""
    found = re.fullmatch(_DNS_SERVER, text, re.ASCII)
    form = "ADDRESS, ADDRESS:PORT, tcp://ADDRESS, tls://ADDRESS[#NAME] or https://ADDRESS/PATH[#NAME]"
    if found is None:
        raise InvalidArgument(f"dns_servers: {text!r} is not {form}")
    over, path, name = found["over"] or "", found["path"] or "", found["name"] or ""
    if bool(path) != (over == "https://") or (name and over not in ("tls://", "https://")):
        raise InvalidArgument(f"dns_servers: {text!r}: a path is for https, and a name for tls and https")
    try:
        authority = _dns_authority(found["authority"])
    except ValueError as error:
        raise InvalidArgument(f"dns_servers: {text!r} is not {form}: {error}") from None
    if name:
        name = f"#{host_rule('dns_servers', name[1:])}"
        if not re.fullmatch(_NAME, name[1:], re.ASCII):
            raise InvalidArgument(f"dns_servers: {text!r}: what is behind the # is no name")
    return f"{over}{authority}{path}{name}"


def _dns_authority(text: str) -> str:
    from ipaddress import IPv4Address, IPv6Address

    if text.count(":") > 1 and not text.startswith("["):
        return f"[{IPv6Address(text)}]"
    if text.endswith("]"):
        return f"[{IPv6Address(text[1:-1])}]"
    host, colon, port = text.rpartition(":")
    if not colon:
        return str(IPv4Address(text))
    _within("the port", int(port), 1, 65535)
    if host.startswith("["):
        return f"[{IPv6Address(host[1:-1])}]:{int(port)}"
    return f"{IPv4Address(host)}:{int(port)}"
