"""A way through a proxy: HTTP CONNECT (RFC 9110, section 9.3.6) and SOCKS5 (RFC 1928, RFC 1929).

The proxy is the user's choice, and judged all the same: what is read of it is bounded, and it may say nothing on the
tunnel before it was spoken to.
"""

from __future__ import annotations

import asyncio
import base64
import re
import socket
from ipaddress import IPv4Address

from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode
from cloister.interfaces.lookup_server import Proxy

from .addresses import Address
from .sockets import said

__all__ = ["open_tunnel"]

_MAX_HEAD = 16 * 1024  # bytes of an answer to CONNECT
_STATUS = re.compile(rb"HTTP/1\.[01] ([0-9]{3})(?: [^\r\n]*)?\r?\n")
_HEAD_END = re.compile(rb"\r?\n\r?\n")

_NO_METHOD, _NO_AUTHENTICATION, _PASSWORD = 0xFF, 0, 2
_CONNECT = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
# RFC 1928, section 6
_REPLIES = {
    1: (FailureCode.PROXY_FAILED, "something is wrong with it"),
    2: (FailureCode.PROXY_FAILED, "its rules do not allow that"),
    3: (FailureCode.UNREACHABLE, "it has no route to that network"),
    4: (FailureCode.UNREACHABLE, "it cannot reach that host"),
    5: (FailureCode.CONNECTION_REFUSED, "the server refused its connection"),
    6: (FailureCode.TIMED_OUT, "the server did not answer it"),
    7: (FailureCode.PROXY_FAILED, "it makes no connections"),
    8: (FailureCode.PROXY_FAILED, "it knows no such address"),
}


async def open_tunnel(there: socket.socket, proxy: Proxy, host: Address | str, port: int) -> None:
    """On ``there``, connected to ``proxy``, ask for a connection to ``host``; then ``there`` is that connection.

    Raises RequestFailed, with PROXY_FAILED unless the proxy says what became of its own connection. There is no
    deadline but the canceller's.
    """
    shake_hands = _socks5 if proxy.scheme == "socks5" else _http_connect
    try:
        await shake_hands(there, proxy, host, port)
    except OSError as error:
        raise _failed(f"the connection broke: {said(error)}") from None


def _failed(why: str, code: FailureCode = FailureCode.PROXY_FAILED) -> RequestFailed:
    return RequestFailed(code, why)


async def _http_connect(there: socket.socket, proxy: Proxy, host: Address | str, port: int) -> None:
    bracketed = f"[{host}]" if not isinstance(host, str) and host.version == 6 else str(host)
    lines = [f"CONNECT {bracketed}:{port} HTTP/1.1", f"Host: {bracketed}:{port}"]
    if proxy.username or proxy.password:
        secret = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
        lines.append(f"Proxy-Authorization: Basic {secret}")
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(there, "\r\n".join([*lines, "", ""]).encode())
    head = b""
    while (end := _HEAD_END.search(head)) is None:
        if len(head) > _MAX_HEAD:
            raise _failed(f"an answer of over {_MAX_HEAD:,} bytes to CONNECT")
        piece = await loop.sock_recv(there, 4096)
        if not piece:
            raise _failed("it closed the connection instead of answering CONNECT")
        head += piece
        await asyncio.sleep(0)
    status = _STATUS.match(head)
    if status is None:
        raise _failed("it does not speak HTTP/1.1")
    code = int(status[1])
    if code == 407:
        raise _failed("it wants a username and a password, or others than it got (407)")
    if not 200 <= code <= 299:
        raise _failed(f"it answered CONNECT with {code}")
    if end.end() != len(head):
        raise _failed("it spoke in the tunnel before it was spoken to")


async def _socks5(there: socket.socket, proxy: Proxy, host: Address | str, port: int) -> None:
    username, password = proxy.username.encode(), proxy.password.encode()
    methods = bytes([_NO_AUTHENTICATION, _PASSWORD] if username else [_NO_AUTHENTICATION])
    await _send(there, bytes([5, len(methods)]) + methods)
    version, method = await _receive(there, 2)
    if version != 5:
        raise _failed("it does not speak SOCKS5")
    if method == _NO_METHOD:
        raise _failed("it wants to be shown in another way than by username and password" if username
                      else "it wants a username and a password")  # fmt: skip
    if method not in methods:
        raise _failed("it chose a way to log in that it was not offered")
    if method == _PASSWORD:
        await _send(there, b"\1" + _counted(username) + _counted(password))
        if (await _receive(there, 2))[1] != 0:
            raise _failed("it does not accept this username and password")
    await _send(there, bytes([5, _CONNECT, 0]) + _address(host) + port.to_bytes(2))
    version, reply, _, kind = await _receive(there, 4)
    if version != 5:
        raise _failed("it does not speak SOCKS5")
    if reply != 0:
        code, why = _REPLIES.get(reply, (FailureCode.PROXY_FAILED, f"it failed with {reply}"))
        raise _failed(why, code)
    if kind == _NAME:
        (size,) = await _receive(there, 1)
    elif (size := {_IPV4: 4, _IPV6: 16}.get(kind, 0)) == 0:
        raise _failed("it answered with an address of unknown kind")
    await _receive(there, size + 2)  # where it connected from: nobody asks


def _address(host: Address | str) -> bytes:
    if isinstance(host, str):
        return bytes([_NAME]) + _counted(host.encode("ascii"))
    return bytes([_IPV4 if isinstance(host, IPv4Address) else _IPV6]) + host.packed


def _counted(data: bytes) -> bytes:
    return bytes([len(data)]) + data


async def _send(there: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(there, data)


async def _receive(there: socket.socket, size: int) -> bytes:
    """Exactly so many bytes: the next one is the tunnel's."""
    data = b""
    while len(data) < size:
        piece = await asyncio.get_running_loop().sock_recv(there, size - len(data))
        if not piece:
            raise _failed("it closed the connection in the middle of the handshake")
        data += piece
    return data
