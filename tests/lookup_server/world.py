"""A machine of its own, and a world where every address there is answers: two network namespaces and a cable.

What is connected to in there is told by whoever is connected to, by its own address. So a test can say that nothing
was reached, and show that it would have been.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path

from cloister.sandbox.kernel import syscall

__all__ = ["Impossible", "World", "add_address", "enter"]

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000

# linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/veth.h
_REQUEST_ACK_CREATE = 0x0605  # NLM_F_REQUEST | NLM_F_ACK | NLM_F_EXCL | NLM_F_CREATE
_NEWLINK, _NEWADDR, _NEWROUTE = 16, 20, 24
_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_NET_NS_PID = 3, 18, 19
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_NODAD = 1, 2, 0x02
_RTA_DST, _RTA_OIF, _RTA_GATEWAY = 1, 4, 5
_RTN_UNICAST, _RTN_LOCAL, _MAIN = 1, 2, 254

OWN_4, OWN_6 = "93.184.215.2", "2620:1::2"
"""The machine's addresses: public ones, as a server's are."""
_WORLD_4, _WORLD_6 = "93.184.215.1", "2620:1::1"
_LAST = "198.41.0.4"  # connected to when all else is done
_PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"


class Impossible(Exception):
    """What this kernel, or this user on it, cannot have; the message names it."""


def _attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def _netlink(kind: int, body: bytes, flags: int = _REQUEST_ACK_CREATE) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.send(struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body)
        answer = kernel.recv(65536)
    (error,) = struct.unpack_from("=i", answer, 16)
    if error:
        raise OSError(-error, os.strerror(-error))


def _link(index: int, *, up: bool, attributes: bytes = b"") -> bytes:
    return struct.pack("=BxHiII", 0, 0, index, int(up), int(up)) + attributes


def set_up(name: str) -> None:
    _netlink(_NEWLINK, _link(socket.if_nametoindex(name), up=True), flags=0x5)


def add_address(name: str, text: str) -> None:
    """``text`` is an address with its prefix length."""
    host, _, length = text.partition("/")
    address = ip_address(host)
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    head = struct.pack("=BBBBI", family, int(length), _IFA_NODAD, 0, socket.if_nametoindex(name))
    _netlink(
        _NEWADDR, head + _attribute(_IFA_LOCAL, address.packed) + _attribute(_IFA_ADDRESS, address.packed)
    )


def _add_route(network: str, name: str, gateway: str | None = None, *, local: bool = False) -> None:
    to = ip_network(network)
    family = socket.AF_INET if to.version == 4 else socket.AF_INET6
    scope = 254 if local and to.version == 4 else 0  # RT_SCOPE_HOST
    head = struct.pack(
        "=BBBBBBBBI", family, to.prefixlen, 0, 0, _MAIN, 3, scope, _RTN_LOCAL if local else _RTN_UNICAST, 0
    )
    attributes = _attribute(_RTA_OIF, struct.pack("=i", socket.if_nametoindex(name)))
    if to.prefixlen:
        attributes += _attribute(_RTA_DST, to.network_address.packed)
    if gateway is not None:
        attributes += _attribute(_RTA_GATEWAY, ip_address(gateway).packed)
    _netlink(_NEWROUTE, head + attributes)


def _cable(name: str, other: str, other_pid: int) -> None:
    peer = (
        _link(0, up=False)
        + _attribute(_IFLA_IFNAME, other.encode())
        + _attribute(_IFLA_NET_NS_PID, struct.pack("=I", other_pid))
    )
    info = _attribute(_INFO_KIND, b"veth") + _attribute(_INFO_DATA, _attribute(_VETH_PEER, peer))
    _netlink(
        _NEWLINK,
        _link(0, up=False) + _attribute(_IFLA_IFNAME, name.encode()) + _attribute(_IFLA_LINKINFO, info),
    )


def enter() -> None:
    """Go into an empty network, as root of it. Raises Impossible."""
    uid, gid = os.getuid(), os.getgid()
    try:
        syscall("unshare", _CLONE_NEWNET | (_CLONE_NEWUSER if uid else 0))
        if uid:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
    except OSError as error:
        raise Impossible(f"network namespaces for this user: {error.strerror}") from None


class World:
    """Made by a process that has entered. ``pages`` are what a server anywhere gives for a path."""

    def __init__(self, pages: dict[str, tuple[str, bytes]] | None = None) -> None:
        self._pages = pages or {}
        self._children: list[int] = []
        self._said, self._says = os.pipe()

    @contextlib.contextmanager
    def exists(self) -> Iterator[None]:
        """Raises Impossible where there is no veth."""
        try:
            set_up("lo")
            outside = self._fork_listener(apart=True)
            try:
                _cable("cable", "cable", outside)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.ENODEV):
                    raise
                raise Impossible("veth") from None
            set_up("cable")
            add_address("cable", f"{OWN_4}/30")
            add_address("cable", f"{OWN_6}/64")
            os.kill(outside, signal.SIGCONT)
            self._wait_for("listening")
            _add_route("0.0.0.0/0", "cable", _WORLD_4)
            _add_route("::/0", "cable", _WORLD_6)
            self._fork_listener(apart=False)
            self._wait_for("listening")
            yield
        finally:
            for pid in self._children:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            os.close(self._said)
            os.close(self._says)

    def reached(self) -> list[str]:
        """The addresses that were connected to since this was asked last, in order."""
        found: list[str] = []
        for last in (_LAST, "127.0.0.9"):  # out there, and here
            socket.create_connection((last, 80), timeout=10).close()
            found += self._wait_for(last)
        return found

    def _wait_for(self, last: str) -> list[str]:
        found: list[str] = []
        line = b""
        while True:
            if not select.select([self._said], [], [], 10)[0]:
                raise TimeoutError(f"nobody said {last}, but {found}")
            piece = os.read(self._said, 1)
            if piece != b"\n":
                line += piece
            elif line.decode() == last:
                return found
            else:
                found.append(line.decode())
                line = b""
                continue
            if piece == b"\n":
                line = b""

    def _fork_listener(self, *, apart: bool) -> int:
        pid = os.fork()
        if pid:
            self._children.append(pid)
            if apart:
                os.waitpid(pid, os.WUNTRACED)
            return pid
        try:
            syscall("prctl", 1, signal.SIGKILL)  # PR_SET_PDEATHSIG
            if apart:
                syscall("unshare", _CLONE_NEWNET)
                os.kill(os.getpid(), signal.SIGSTOP)  # until the cable is there
                for name in ("lo", "cable"):
                    set_up(name)
                add_address("cable", f"{_WORLD_4}/30")
                add_address("cable", f"{_WORLD_6}/64")
                # Any address is this machine's, but for those that a longer route knows.
                _add_route("0.0.0.0/0", "lo", local=True)
                _add_route("::/0", "lo", local=True)
            self._listen()
        finally:
            os._exit(1)

    def _listen(self) -> None:
        with socket.create_server(
            ("::", 80), family=socket.AF_INET6, backlog=1024, dualstack_ipv6=True
        ) as here:
            os.write(self._says, b"listening\n")
            while True:
                connection, _ = here.accept()
                address: IPv4Address | IPv6Address = IPv6Address(connection.getsockname()[0])
                assert isinstance(address, IPv6Address)
                os.write(self._says, f"{address.ipv4_mapped or address}\n".encode())
                connection.settimeout(5)
                with connection, contextlib.suppress(OSError):
                    self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        asked = b""
        while b"\r\n\r\n" not in asked:
            if not (piece := connection.recv(4096)):
                return
            asked += piece
        path = asked.split()[1].decode()
        kind, body = self._pages.get(path, ("text/plain", b"here"))
        connection.sendall(_PAGE % (kind.encode(), len(body)) + body)
