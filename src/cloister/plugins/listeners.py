"""Sockets that listen for a plugin. They are the host's: the plugin gets descriptors of them and cannot make one."""

from __future__ import annotations

import contextlib
import re
import socket
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from typing import Final, NamedTuple

from ..errors import CapabilityRefused, PluginError, descriptors_left

__all__ = ["MOST", "Listener", "Listeners", "normalised"]

MOST: Final = 4
"""Of one plugin."""
_BACKLOG: Final = 64
_ADDRESS: Final = re.compile(r"(?P<host>[0-9.]{7,15}|\[[0-9a-fA-F:.]{2,45}\]):(?P<port>[0-9]{1,5})", re.ASCII)


def normalised(addresses: Iterable[str]) -> list[str]:
    """``127.0.0.1:8080``, ``[::1]:0``, in their one canonical form. Raises :class:`CapabilityRefused`."""
    found = [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in map(_split, addresses)]
    if len(found) > MOST:
        raise CapabilityRefused(f"net:listen: {len(found)} addresses are named; {MOST} is the most")
    return found


def _split(address: str) -> tuple[str, int]:
    match = _ADDRESS.fullmatch(address)
    with contextlib.suppress(ValueError):
        if match is not None and int(match["port"]) < 2**16:
            return str(ip_address(match["host"].strip("[]"))), int(match["port"])
    raise CapabilityRefused(f"net:listen: {address!r} is not ADDRESS:PORT, or [ADDRESS]:PORT for IPv6")


class Listener(NamedTuple):
    """``granted`` is what it was granted as; ``address`` where it listens, which differs where the port is 0."""

    granted: str
    address: str
    socket: socket.socket


class Listeners:
    """Those of one plugin, which all its processes have, one after the other. One thread at a time."""

    def __init__(self) -> None:
        self._open: dict[str, Listener] = {}

    def ready(self, addresses: Iterable[str]) -> list[Listener]:
        """Have all of these listen, and no others. Raises :class:`PluginError`."""
        wanted = list(addresses)
        for granted in [each for each in self._open if each not in wanted]:
            self._open.pop(granted).socket.close()
        for granted in wanted:
            there = self._open.get(granted)
            # A plugin can shut its own down, for good: nothing listens again on a socket that did (listen(2) is for
            # its host), so the next process gets a new one.
            if there is not None and not there.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                self._open.pop(granted).socket.close()
                self._open[granted] = _listen(granted, there.address)
            elif there is None:
                self._open[granted] = _listen(granted, granted)
        return [self._open[granted] for granted in wanted]

    @property
    def addresses(self) -> tuple[str, ...]:
        return tuple(each.address for each in self._open.values())

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].socket.close()


def _listen(granted: str, address: str) -> Listener:
    host, port = _split(address)
    family = socket.AF_INET6 if isinstance(ip_address(host), IPv6Address) else socket.AF_INET
    with descriptors_left():
        made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family is socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((host, port))
        made.listen(_BACKLOG)
    except OSError as error:
        made.close()
        raise PluginError(f"net:listen: nothing can listen at {address}: {error.strerror}") from None
    real = made.getsockname()[1]
    return Listener(granted, f"[{host}]:{real}" if ":" in host else f"{host}:{real}", made)
