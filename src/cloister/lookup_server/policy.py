"""The network policy: may this host, at this address, on this port, be connected to?

It is asked with the address that is connected to next, never with a name alone: so neither a redirect nor a
name that resolves differently the second time reaches what it refuses.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import msgspec

from cloister.interfaces.lookup_server import PolicyRules

from .addresses import Address, embedded, special_use
from .hosts import parse_host

__all__ = ["HostRule", "Policy", "parse_server"]

_WITH_PORT = re.compile(r"(?P<host>[^:\[\]]+|\[[^\[\]]+\])(?::(?P<port>[0-9]{1,5}))?", re.ASCII)


def _split(text: str) -> tuple[str, int | None]:
    """``host``, ``host:port``, ``[v6]``, ``[v6]:port`` or a bare ``v6``."""
    if text.count(":") > 1 and not text.startswith("["):
        return text, None
    match = _WITH_PORT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not HOST, HOST:PORT or [IPV6]:PORT")
    host, port = match["host"], match["port"]
    if port is not None and not 1 <= int(port) <= 65535:
        raise ValueError(f"{text!r}: a port is between 1 and 65535")
    if host.startswith("["):
        host = host[1:-1]
        if ":" not in host:
            raise ValueError(f"{text!r}: brackets are for IPv6 addresses")
    return host, None if port is None else int(port)


def parse_server(text: str) -> tuple[Address, int]:
    """A name server, ``address`` or ``address:port``; the port is 53 unless given. Raises ValueError."""
    host, port = _split(text)
    return ip_address(host), 53 if port is None else port


class HostRule(msgspec.Struct, frozen=True):
    """One of ``allow_hosts``. ``*.example.org`` means every name below example.org and not itself."""

    host: Address | str
    port: int | None = None
    subdomains: bool = False

    @classmethod
    def parse(cls, text: str) -> HostRule:
        """Raises ValueError that names the rule and what is wrong with it."""
        host, port = _split(text)
        subdomains = host.startswith("*.")
        try:
            parsed = parse_host(host.removeprefix("*."))
        except ValueError as error:
            raise ValueError(f"{text!r}: {error}") from None
        if subdomains and not isinstance(parsed, str):
            raise ValueError(f"{text!r}: only a name has names below it")
        return cls(parsed, port, subdomains)

    def matches(self, host: Address | str, port: int) -> bool:
        if self.port is not None and self.port != port:
            return False
        if self.subdomains:
            return isinstance(host, str) and host.endswith(f".{self.host}")
        return host == self.host


class Policy:
    """``rules`` made ready to be asked, for a machine whose own addresses are ``own``.

    Raises ValueError when a rule is malformed: a policy that was not understood refuses to start.
    """

    def __init__(self, rules: PolicyRules, own: Collection[Address] = ()) -> None:
        self._hosts = [HostRule.parse(rule) for rule in rules.allow_hosts]
        self._networks = [_parse_network(rule) for rule in rules.allow_cidrs]
        self._ports = frozenset(rules.allow_ports)
        self._own = frozenset(own)

    def port_refusal(self, port: int) -> str | None:
        """Why ``port`` may not be connected to, whatever the address; None when it may."""
        if not self._ports or port in self._ports:
            return None
        allowed = ", ".join(map(str, sorted(self._ports)[:10]))
        return f"port {port} is refused: allow_ports has only {allowed}"

    def refusal(self, host: Address | str, address: Address, port: int) -> str | None:
        """Why ``address``, which ``host`` resolved to for this connection, may not be connected to on ``port``.

        None when it may: the address is public, or lies in one of ``allow_cidrs``, or ``host`` as it was asked
        for is one of ``allow_hosts``. An IPv6 address that carries an IPv4 one needs both allowed.
        """
        if (refused := self.port_refusal(port)) is not None:
            return refused
        if any(rule.matches(host, port) for rule in self._hosts):
            return None
        for form in (address, *embedded(address)):
            if any(form in network for network in self._networks):
                continue
            what = special_use(form) or ("this machine's own" if form in self._own else None)
            if what is not None:
                carried = "" if form == address else f" carries {form}, which"
                return (
                    f"{address}{carried} is not public ({what}) and the network policy refuses it; "
                    f"to allow it: --allow-host {_shown(host, port)} (allow_hosts), or allow_cidrs"
                )
        return None


def _parse_network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a network such as 10.0.0.0/8: {error}") from None


def _shown(host: Address | str, port: int) -> str:
    return f"[{host}]:{port}" if isinstance(host, IPv6Address) else f"{host}:{port}"
