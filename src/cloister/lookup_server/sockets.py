"""Connected sockets, made without a look-up and without a file."""

from __future__ import annotations

import asyncio
import os
import socket
from ipaddress import IPv4Address, ip_address

from .addresses import Address

__all__ = ["connect_tcp", "connect_udp", "said", "source_towards"]


async def connect_tcp(address: Address, port: int, scope: int = 0) -> socket.socket:
    """A non-blocking connection with TCP_NODELAY; ``scope`` is the index of a link-local address's interface.

    Raises OSError. It has no deadline but its canceller's.
    """
    made = socket.socket(_family(address), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(made, _where(address, port, scope))
    except BaseException:
        made.close()
        raise
    return made


def connect_udp(address: Address, port: int, scope: int = 0) -> socket.socket:
    """A non-blocking socket on a port of the kernel's random choice. It gets datagrams from there only, and an error
    when nobody listens there. Nothing is sent yet. Raises OSError."""
    made = socket.socket(_family(address), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        made.connect(_where(address, port, scope))
    except BaseException:
        made.close()
        raise
    return made


def source_towards(address: Address) -> Address | None:
    """The address of this machine that the kernel would connect to ``address`` from; None where it has no route."""
    try:
        with connect_udp(address, 9) as there:
            return ip_address(there.getsockname()[0])
    except OSError:
        return None


def said(error: OSError) -> str:
    """What the kernel said, without what asyncio put in its place; the other end may just have closed."""
    return os.strerror(error.errno) if error.errno else str(error) or "it closed the connection"


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6


def _where(address: Address, port: int, scope: int) -> tuple[str, int] | tuple[str, int, int, int]:
    return (str(address), port, 0, scope) if scope else (str(address), port)
