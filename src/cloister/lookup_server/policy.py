"""The network policy: may this host, at this address, on this port, be connected to?

It is asked with the address that is connected to next, never with a name alone: so neither a redirect nor a
name that resolves differently the second time reaches what it refuses.
"""

from __future__ import annotations

import re
from collections.abc import Container
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_network

import msgspec

from cloister.interfaces.lookup_server import PolicyRules

from .addresses import Address, embedded, special_use
from .hosts import parse_host

__all__ = ["HostRule", "Policy", "parse_network", "split_port"]

# "Bad port", Fetch standard, "Port blocking": ports of services that a line of HTTP could be mistaken by.
_BAD_PORTS = frozenset(
    (
        1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104,
        109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515,
        526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049,
        3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080,
    )
)  # fmt: skip

# What a proxy would look up in a network that is not the public one, for a page that must not reach it.
_NOT_PUBLIC = frozenset(
    (
        "localhost", "invalid", "test",  # RFC 6761
        "local", "intranet", "internal", "private", "corp", "home", "lan",  # RFC 6762, section 3 and appendix G
        "home.arpa", "onion", "alt",  # RFC 8375, RFC 7686, RFC 9476
        "in-addr.arpa", "ip6.arpa", "ipv4only.arpa",  # RFC 6761, RFC 8880
        "localdomain", "svc",  # what distributions and Kubernetes use
        # Names by which a cloud's metadata service is reached from outside .internal: Google, Equinix, Tencent.
        "metadata.goog", "metadata.packet.net", "metadata.platformequinix.com", "metadata.tencentyun.com",
    )
)  # fmt: skip

_WITH_PORT = re.compile(r"(?P<host>[^:\[\]]+|\[[^\[\]]+\])(?::(?P<port>[0-9]{1,5}))?", re.ASCII)


def split_port(text: str) -> tuple[str, int | None]:
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


class HostRule(msgspec.Struct, frozen=True):
    """One of ``allow_hosts``. ``*.example.org`` means every name below example.org and not itself."""

    host: Address | str
    port: int | None = None
    subdomains: bool = False

    @classmethod
    def parse(cls, text: str) -> HostRule:
        """Raises ValueError that names the rule and what is wrong with it."""
        host, port = split_port(text)
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

    def __init__(self, rules: PolicyRules, own: Container[Address] = ()) -> None:
        self._hosts = [HostRule.parse(rule) for rule in rules.allow_hosts]
        self._only = None if rules.only_hosts is None else [HostRule.parse(rule) for rule in rules.only_hosts]
        self._networks = [parse_network(rule) for rule in rules.allow_cidrs]
        self._ports = frozenset(rules.allow_ports)
        self._own = own

    def port_refusal(self, port: int) -> str | None:
        """Why ``port`` may not be connected to, whatever the address; None when it may."""
        if port in self._ports:
            return None
        if not self._ports:
            bad = port in _BAD_PORTS
            return (
                f"port {port} is refused: another service's, as in all browsers (allow_ports)"
                if bad
                else None
            )
        allowed = ", ".join(map(str, sorted(self._ports)[:10]))
        return f"port {port} is refused: allow_ports has only {allowed}"

    def host_refusal(self, host: Address | str, port: int) -> str | None:
        """Why nobody is to ask for ``host`` at all; None when they may."""
        if self._only is None or any(rule.matches(host, port) for rule in self._only):
            return None
        return f"{host} port {port} is none of the hosts that may be asked"

    def names(self, host: Address | str, port: int) -> bool:
        """Whether one of ``allow_hosts`` is about ``host``."""
        return any(rule.matches(host, port) for rule in self._hosts)

    def name_refusal(self, host: str, port: int) -> str | None:
        """Why a proxy may not be asked for ``host``, a name that only the proxy looks up; None when it may.

        What address it comes to is not known here. So names are refused that could be public nowhere.
        """
        if (refused := self.port_refusal(port)) is not None or self.names(host, port):
            return refused
        labels = host.split(".")
        if len(labels) > 1 and not any(".".join(labels[i:]) in _NOT_PUBLIC for i in range(len(labels))):
            return None
        return (
            f"{host} is not a public name, and the network policy refuses to have the proxy look it up; "
            f"to allow it: --allow-host {host}:{port} (allow_hosts)"
        )

    def refusal(self, host: Address | str, address: Address, port: int) -> str | None:
        """Why ``address``, which ``host`` resolved to for this connection, may not be connected to on ``port``.

        None when it may: the address is public, or lies in one of ``allow_cidrs``, or ``host`` as it was asked
        for is one of ``allow_hosts``. An IPv6 address that carries an IPv4 one needs both allowed.
        """
        if (refused := self.port_refusal(port)) is not None:
            return refused
        if self.names(host, port):
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


def parse_network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a network such as 10.0.0.0/8: {error}") from None


def _shown(host: Address | str, port: int) -> str:
    return f"[{host}]:{port}" if isinstance(host, IPv6Address) else f"{host}:{port}"
