"""httpcore's network, over sockets that the lookup server connected and handed to us."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import httpcore

from ..errors import RequestFailed
from ..interfaces.base import FailureCode
from ..interfaces.lookup_server import Connect
from ..ipc import Connection
from . import tls

__all__ = ["LookupBackend"]

_RECORDS = 64 * 1024  # bytes read at once: four TLS records


class LookupBackend(httpcore.AsyncNetworkBackend):
    """Asks ``lookup`` for each connection. Whatever it refuses surfaces as its :class:`RequestFailed`.

    httpcore's timeouts per operation are not used: the deadline is that of the fetch as a whole, so a server
    cannot stretch it by a byte a second.
    """

    def __init__(self, lookup: Connection, timeout: float) -> None:
        self._lookup = lookup
        self._timeout = timeout

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.AsyncNetworkStream:
        wanted = Connect(host.removeprefix("[").removesuffix("]"), port)
        _, fds = await self._lookup.request(wanted, timeout=self._timeout)
        # With its family given, Python asks the kernel nothing about the socket; send and recv need none of it.
        handed = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=fds.take())
        handed.setblocking(False)
        return _Plain(_Wire(handed))


class _Wire:
    """A connected socket that may be closed while others wait on it."""

    def __init__(self, handed: socket.socket) -> None:
        self._socket = handed
        self._loop = asyncio.get_running_loop()
        self._sending = asyncio.Lock()
        self._users = 0
        self._closed = False
        self._unanswered = False

    async def receive(self, size: int) -> bytes:
        """Up to ``size`` bytes; b"" when the peer has said all. Raises ``httpcore.ReadError``."""
        # sock_recv returns at once while there is data: a server that floods us would otherwise keep every
        # other task from running, the deadline's included.
        await asyncio.sleep(0)
        with self._using(httpcore.ReadError):
            data = await self._loop.sock_recv(self._socket, size)
        if not data and self._unanswered:
            raise httpcore.ReadError("it closed the connection without an answer")
        self._unanswered = False
        return data

    async def send(self, data: bytes) -> None:
        """Send all of ``data``. Raises ``httpcore.WriteError``."""
        self._unanswered = True
        async with self._sending:
            with self._using(httpcore.WriteError):
                try:
                    await self._loop.sock_sendall(self._socket, data)
                except BaseException:
                    self.close()  # the peer may hold half a frame: nothing can follow it
                    raise

    def is_readable(self) -> bool:
        """Whether a receive would return at once: with data, the end, or an error."""
        if self._closed:
            return True
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def close(self) -> None:
        """Wake whoever waits on the socket; the last of them closes it, so that no number is reused under one."""
        if self._closed:
            return
        self._closed = True
        if self._users:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:  # ENOTCONN: the peer was faster, and that wakes them too
                pass
        else:
            self._socket.close()

    @contextlib.contextmanager
    def _using(self, failed: type[httpcore.NetworkError]) -> Iterator[None]:
        if self._closed:
            raise failed("the connection was closed")
        self._users += 1
        try:
            yield
        except OSError as error:
            raise failed(error.strerror) from error
        finally:
            self._users -= 1
            if self._closed and not self._users:
                self._socket.close()


class _Plain(httpcore.AsyncNetworkStream):
    def __init__(self, wire: _Wire) -> None:
        self._wire = wire

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await self._wire.receive(max_bytes)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if buffer:
            await self._wire.send(buffer)

    async def aclose(self) -> None:
        self._wire.close()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        host = server_hostname or ""
        try:
            secure = _Tls(self._wire, ssl_context, host)
            await secure.handshake(host)
        except BaseException:
            self._wire.close()
            raise
        return secure

    def get_extra_info(self, info: str) -> Any:
        return self._wire.is_readable() if info == "is_readable" else None


class _Tls(httpcore.AsyncNetworkStream):
    """TLS over a wire. OpenSSL sees memory only: every system call is the wire's."""

    def __init__(self, wire: _Wire, ssl_context: ssl.SSLContext, host: str) -> None:
        self._wire = wire
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        try:
            self._tls = ssl_context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        except ValueError as error:  # a label over 63 characters, an empty one
            raise RequestFailed(FailureCode.BAD_URL, f"{host} is not a host name: {error}") from None

    async def handshake(self, host: str) -> None:
        """Raises :class:`RequestFailed` with TLS_FAILED or one of CERTIFICATE_*."""
        try:
            while True:
                try:
                    self._tls.do_handshake()
                except ssl.SSLWantReadError:
                    await self._flush()
                    await self._fill()
                else:
                    break
        except ssl.SSLError as error:
            await self._say_goodbye()
            raise tls.failure(error, host) from error
        await self._flush()

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        while True:
            try:
                return self._tls.read(max_bytes)
            except ssl.SSLWantReadError:
                await self._flush()  # the answer to a key update
                await self._fill()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""  # like browsers, take a close without close_notify: HTTP knows its own lengths
            except ssl.SSLError as error:
                raise httpcore.ReadError(f"TLS: {error.reason}") from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:
            return
        try:
            self._tls.write(buffer)
        except ssl.SSLError as error:
            raise httpcore.WriteError(f"TLS: {error.reason}") from error
        await self._flush()

    async def aclose(self) -> None:
        self._wire.close()

    def get_extra_info(self, info: str) -> Any:
        if info == "ssl_object":
            return self._tls
        return self._wire.is_readable() if info == "is_readable" else None

    async def _fill(self) -> None:
        data = await self._wire.receive(_RECORDS)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def _flush(self) -> None:
        if self._outgoing.pending:
            await self._wire.send(self._outgoing.read())

    async def _say_goodbye(self) -> None:
        """Send the alert that says why, if the peer still listens."""
        try:
            await self._flush()
        except httpcore.WriteError:
            pass
