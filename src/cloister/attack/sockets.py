"""Sockets of every family, and what can be reached by one."""

from __future__ import annotations

import errno
import struct
from typing import Final

from cloister.interfaces.attack import Targets
from cloister.sandbox import Layer

from .attempt import Attempt, Harm, add, attempt
from .calls import call, closing
from .files import TREE

# include/linux/socket.h
_AF_UNIX: Final = 1
_AF_INET: Final = 2
_AF_INET6: Final = 10
_AF_NETLINK: Final = 16
_AF_PACKET: Final = 17
_AF_ALG: Final = 38
_AF_VSOCK: Final = 40
_STREAM: Final = 1
_DATAGRAM: Final = 2
_RAW: Final = 3
_SEQUENCE: Final = 5
_IPPROTO_MPTCP: Final = 262
_MSG_FASTOPEN: Final = 0x20000000

_NETWORK: Final = {
    errno.EACCES: Layer.LANDLOCK_NETWORK,
    errno.ENETUNREACH: Layer.NETWORK_NAMESPACE,
    errno.ENETDOWN: Layer.NETWORK_NAMESPACE,
    errno.EADDRNOTAVAIL: Layer.NETWORK_NAMESPACE,
}
_CONNECTS: Final = frozenset({"lookup_server", "zygote of lookup_server"})
"""What it is there for: which address it may connect to is judged by its own code, name by name."""


def internet(port: int, address: bytes = b"\x7f\0\0\1") -> bytes:
    """struct sockaddr_in."""
    return struct.pack("=HH4s8x", _AF_INET, int.from_bytes(port.to_bytes(2, "big"), "little"), address)


def _unix(name: bytes) -> bytes:
    return struct.pack("=H", _AF_UNIX) + name


@attempt(Harm.SOCKETS, _NETWORK, _CONNECTS)
def connect_to_this_machine(at: Targets) -> None:
    """Connects to a service that listens on the loopback."""
    with closing(call("socket", _AF_INET, _STREAM, 0)) as client:
        call("connect", client, internet(at.stream_port), 16)


@attempt(Harm.SOCKETS, {**_NETWORK, errno.ENOENT: Layer.NETWORK_NAMESPACE})
def connect_by_multipath_tcp(at: Targets) -> None:
    """The same by Multipath TCP, which Landlock does not judge."""
    with closing(call("socket", _AF_INET, _STREAM, _IPPROTO_MPTCP)) as client:
        call("connect", client, internet(at.stream_port), 16)


@attempt(Harm.SOCKETS, _NETWORK, _CONNECTS)
def connect_by_sending(at: Targets) -> None:
    """The same by TCP Fast Open, which connects without connect(2)."""
    with closing(call("socket", _AF_INET, _STREAM, 0)) as client:
        call("sendto", client, b"x", 1, _MSG_FASTOPEN, internet(at.stream_port), 16)


@attempt(Harm.SOCKETS, _NETWORK, _CONNECTS)
def aim_at_the_metadata_service(_at: Targets) -> None:
    """Aims a datagram at 169.254.169.254, where clouds keep credentials; none is sent."""
    with closing(call("socket", _AF_INET, _DATAGRAM, 0)) as client:
        call("connect", client, internet(80, b"\xa9\xfe\xa9\xfe"), 16)


@attempt(Harm.SOCKETS, _NETWORK, _CONNECTS)
def send_a_datagram(at: Targets) -> None:
    """Sends one byte by UDP to a service on the loopback."""
    with closing(call("socket", _AF_INET, _DATAGRAM, 0)) as client:
        call("sendto", client, b"x", 1, 0, internet(at.datagram_port), 16)


@attempt(Harm.SOCKETS, _NETWORK)
def take_a_port(at: Targets) -> None:
    """Binds a TCP port, to be taken for the service that has it."""
    with closing(call("socket", _AF_INET, _STREAM, 0)) as server:
        call("bind", server, internet(at.stream_port), 16)


@attempt(Harm.SOCKETS, _NETWORK)
def take_a_datagram_port(at: Targets) -> None:
    """Binds a UDP port, to be taken for the service that has it."""
    with closing(call("socket", _AF_INET, _DATAGRAM, 0)) as server:
        call("bind", server, internet(at.datagram_port), 16)


@attempt(Harm.SOCKETS, _NETWORK)
def listen_without_binding(_at: Targets) -> None:
    """Listens on a port that the kernel picks, which nobody binds."""
    with closing(call("socket", _AF_INET, _STREAM, 0)) as server:
        call("listen", server, 1)


@attempt(Harm.SOCKETS, TREE)
def connect_to_a_socket_with_a_path(at: Targets) -> None:
    """Connects to a Unix socket in a folder, as daemons have it."""
    with closing(call("socket", _AF_UNIX, _STREAM, 0)) as client:
        name = _unix(at.socket.encode() + b"\0")
        call("connect", client, name, len(name))


@attempt(Harm.SOCKETS, TREE)
def listen_at_a_path(at: Targets) -> None:
    """Binds a Unix socket in a folder that every user may write."""
    with closing(call("socket", _AF_UNIX, _STREAM, 0)) as server:
        name = _unix(f"{at.folder}/listener\0".encode())
        call("bind", server, name, len(name))


def _making(name: str, family: int, kind: int, protocol: int, sentence: str) -> None:
    def run(_at: Targets) -> None:
        with closing(call("socket", family, kind, protocol)):
            pass

    add(Attempt(name, Harm.SOCKETS, sentence, run))


_making("make a raw socket", _AF_INET, _RAW, 1, "Makes packets of its own: ICMP.")
_making("make a raw socket of IPv6", _AF_INET6, _RAW, 58, "The same for IPv6.")
_making("make a packet socket", _AF_PACKET, _RAW, 0x0300, "Reads every packet of every interface.")
_making("make a packet socket without headers", _AF_PACKET, _DATAGRAM, 0x0300, "The same, cooked.")
_making(
    "ask the kernel for its routes", _AF_NETLINK, _RAW, 0, "Makes a socket to the network's configuration."
)
_making(
    "ask the kernel about sockets", _AF_NETLINK, _RAW, 4, "Makes a socket that lists everybody's sockets."
)
_making("change the firewall", _AF_NETLINK, _RAW, 12, "Makes a socket to nf_tables (CVE-2024-1086).")
_making("reach the hypervisor", _AF_VSOCK, _STREAM, 0, "Makes a socket to the host of a virtual machine.")
_making("use the kernel's ciphers", _AF_ALG, _SEQUENCE, 0, "Makes a socket to the kernel's cryptography.")
_making("make a Unix socket", _AF_UNIX, _DATAGRAM, 0, "Makes a socket that can name any other.")

_ABSTRACT: Final = {errno.EPERM: Layer.LANDLOCK_SCOPE, errno.ECONNREFUSED: Layer.NETWORK_NAMESPACE}


@attempt(Harm.ABSTRACT_SOCKETS, _ABSTRACT)
def connect_to_an_abstract_socket(at: Targets) -> None:
    """Connects to a Unix socket that has a name and no path."""
    with closing(call("socket", _AF_UNIX, _STREAM, 0)) as client:
        name = _unix(at.abstract)
        call("connect", client, name, len(name))


@attempt(Harm.ABSTRACT_SOCKETS, {**_ABSTRACT, errno.EADDRINUSE: Layer.NETWORK_NAMESPACE})
def send_to_an_abstract_socket(at: Targets) -> None:
    """Sends a datagram to one, without connecting."""
    with closing(call("socket", _AF_UNIX, _DATAGRAM, 0)) as client:
        name = _unix(at.abstract + b".datagrams")
        call("sendto", client, b"x", 1, 0, name, len(name))
