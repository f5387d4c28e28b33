"""Hosts that a plugin may request from, as manifests and grants name them: ``api.example.org``, ``*.example.org``,
``localhost:8000``. Without a port, the ports of http and https are meant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import msgspec

from ..errors import CapabilityRefused, InvalidArgument

if TYPE_CHECKING:
    from ..browser.network import NetworkPolicy
    from ..interfaces.lookup_server import PolicyRules

__all__ = ["allows", "covers", "normalised", "rules"]

_PORTS: Final = (80, 443)
_MOST: Final = 100


def normalised(hosts: Iterable[str]) -> list[str]:
    """In their one canonical form. Raises :class:`CapabilityRefused`."""
    from ..browser.network import (
        host_rule,
    )  # here and below: most plugins have nothing to do with the network

    try:
        found = [host_rule("net:request", host) for host in hosts]
    except InvalidArgument as error:
        raise CapabilityRefused(str(error)) from None
    if len(found) > _MOST:
        raise CapabilityRefused(f"net:request: {len(found)} hosts are named; {_MOST} is the most")
    return found


def covers(pattern: str, name: str) -> bool:
    """Whether all that ``name`` is about, ``pattern`` is about too."""
    (mine, my_port), (its, its_port) = _split(pattern), _split(name)
    is_below = mine.startswith("*.") and its.removeprefix("*").endswith(mine[1:])
    if not is_below and mine != its:
        return False
    return my_port == its_port or (my_port is None and its_port in _PORTS)


def allows(hosts: Iterable[str], url: str) -> bool:
    """Whether ``url``, which anybody may have made, is of one of ``hosts``."""
    from ..browser.checks import origin_of

    origin = origin_of(url)
    if origin is None:
        return False
    place = origin.partition("://")[2]
    return any(covers(host, place) for host in hosts)


def rules(hosts: Iterable[str], policy: NetworkPolicy) -> PolicyRules:
    """What the lookup_server judges the connections by: these hosts and no others, at public addresses and at those
    that ``policy`` allows. A host that is itself an address, or localhost, was meant to be where it is."""
    only: list[str] = []
    private: list[str] = []
    for name, port in map(_split, hosts):
        places = [f"{name}:{each}" for each in (_PORTS if port is None else (port,))]
        only += places
        if name == "localhost" or name.startswith("[") or name.rpartition(".")[2].isdigit():
            private += places
    base = policy.rules()
    return msgspec.structs.replace(
        base, only_hosts=tuple(only), allow_hosts=tuple({*base.allow_hosts, *private})
    )


def _split(rule: str) -> tuple[str, int | None]:
    name, colon, port = rule.rpartition(":")
    return (name, int(port)) if colon and not port.endswith("]") else (rule, None)
