"""Which proxy a connection goes through, if through any."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network

from cloister.interfaces.lookup_server import Proxy

from .addresses import Address
from .hosts import parse_host
from .policy import HostRule, parse_network

__all__ = ["Proxies"]


class Proxies:
    """The user's ``proxies``: the first whose ``hosts`` match is for a connection, unless its ``bypass`` does too.

    Raises ValueError when one of them is malformed.
    """

    def __init__(self, proxies: Sequence[Proxy]) -> None:
        self._proxies = [(proxy, _Patterns(proxy.hosts), _Patterns(proxy.bypass)) for proxy in proxies]
        self._own = {(parse_host(proxy.host), proxy.port) for proxy in proxies}

    def choose(self, host: Address | str, port: int) -> Proxy | None:
        """The proxy for ``host``; None for a direct connection.

        ``localhost`` and loopback addresses mean this machine and are never the proxy's to resolve (RFC 6761, 6.3).
        """
        if host == "localhost" if isinstance(host, str) else host.is_loopback:
            return None
        if isinstance(host, str) and host.endswith(".localhost"):
            return None
        for proxy, hosts, bypass in self._proxies:
            if not proxy.hosts or hosts.match(host, port):
                return None if bypass.match(host, port) else proxy
        return None

    def are_at(self, host: Address | str, port: int) -> bool:
        """Whether one of them is there: a proxy is connected to for the user, and not opened to pages by that."""
        return (host, port) in self._own


class _Patterns:
    """``host``, ``*.host``, ``host:port``, or a network for addresses."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._rules: list[HostRule] = []
        self._networks: list[IPv4Network | IPv6Network] = []
        for pattern in patterns:
            if "/" in pattern:
                self._networks.append(parse_network(pattern))
            else:
                self._rules.append(HostRule.parse(pattern))

    def match(self, host: Address | str, port: int) -> bool:
        return any(rule.matches(host, port) for rule in self._rules) or (
            not isinstance(host, str) and any(host in network for network in self._networks)
        )
