"""Sockets that the lookup server connected and handed to us: bare, and with TLS over them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from ..errors import RequestFailed
from ..interfaces.base import FailureCode
from . import stapled, tls
from .exchange import Broken

__all__ = ["READ", "Link", "TlsWire", "Wire"]

READ: Final = 256 * 1024
"""Bytes that are read at once, at most."""

_MAX_IDLE_TLS: Final = 1024 * 1024
"""Bytes of TLS that may come in a row without a byte of HTTP in them: tickets, key updates, alerts."""


class Link(Protocol):
    """A way to a server's port. Once it is closed, everything raises :class:`Broken`."""

    protocol: str
    """What was agreed on by ALPN (RFC 7301), or ""."""

    async def receive(self, size: int = READ) -> bytes:
        """About ``size`` bytes at most; b"" when the peer has said all."""

    def write(self, data: bytes) -> None:
        """Send ``data``, or what the socket does not take yet as soon as it does, after what was written before.

        Raises :class:`Broken` where the peer takes no more; what it said before can still be received.
        """

    async def drain(self) -> None:
        """Wait until all is sent. Raises :class:`Broken` as :meth:`write` does."""

    def is_readable(self) -> bool:
        """Whether a receive would return at once: with data, the end, or an error."""

    def close(self) -> None:
        """Wake whoever waits. Closing twice is fine."""


class Wire:
    """A connected socket that may be closed while others wait on it."""

    protocol = ""

    def __init__(self, handed: socket.socket) -> None:
        handed.setblocking(False)
        self._socket = handed
        self._loop = asyncio.get_running_loop()
        self._unsent = bytearray()
        self._sent: asyncio.Future[None] | None = None
        self._is_waiting = False
        """Whether the loop tells when the socket takes more."""
        self._readers = 0
        self._closed = False
        self._cut: Broken | None = None
        """Why nothing more can be written."""

    async def receive(self, size: int = READ) -> bytes:
        # sock_recv returns at once while there is data: a server that floods us would otherwise keep every
        # other task from running, the deadline's included.
        await asyncio.sleep(0)
        with self._reading():
            return await self._loop.sock_recv(self._socket, size)

    def write(self, data: bytes) -> None:
        self._require_writable()
        sent = 0
        if not self._unsent:
            try:
                sent = self._socket.send(data)
            except BlockingIOError:
                pass
            except OSError as error:
                self._cut = Broken(error.strerror)
                raise self._cut from error
            if sent == len(data):
                return
            self._loop.add_writer(self._socket.fileno(), self._on_writable)
            self._is_waiting = True
        self._unsent += memoryview(data)[sent:]

    async def drain(self) -> None:
        if self._unsent:
            if self._sent is None:
                self._sent = self._loop.create_future()
            await asyncio.shield(self._sent)  # others may wait for the same
        self._require_writable()

    def is_readable(self) -> bool:
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
        """Wake whoever waits; the last reader closes the socket, so that no number is reused under one."""
        if self._closed:
            return
        self._closed = True
        self._sent_all()
        if self._readers:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:  # ENOTCONN: the peer was faster, and that wakes them too
                pass
        else:
            self._socket.close()

    def _on_writable(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            return
        except OSError as error:  # the peer is gone; what it said before is still there to be read
            self._cut = Broken(error.strerror)
            self._sent_all()
            return
        del self._unsent[:sent]
        if not self._unsent:
            self._sent_all()

    def _require_writable(self) -> None:
        if self._closed:
            raise Broken("the connection was closed")
        if self._cut is not None:
            raise self._cut

    def _sent_all(self) -> None:
        if self._is_waiting:
            self._loop.remove_writer(self._socket.fileno())
            self._is_waiting = False
        self._unsent.clear()
        if self._sent is not None:
            self._sent.set_result(None)
            self._sent = None

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        if self._closed:
            raise Broken("the connection was closed")
        self._readers += 1
        try:
            yield
        except OSError as error:
            raise Broken(error.strerror) from error
        finally:
            self._readers -= 1
            if self._closed and not self._readers:
                self._socket.close()


class TlsWire:
    """TLS over a wire. OpenSSL sees memory only: every system call is the wire's."""

    protocol = ""

    def __init__(
        self, wire: Wire, context: ssl.SSLContext, host: str, protocols: Sequence[str] = tls.PROTOCOLS
    ) -> None:
        """``protocols`` are offered by ALPN. Raises :class:`RequestFailed` (BAD_URL) if ``host`` cannot be a host's
        name."""
        self._wire = wire
        self._host = host
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._broken: Broken | None = None
        context.set_alpn_protocols(protocols)  # OpenSSL copies them into what is made of it
        try:
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        except ValueError as error:  # a label over 63 characters, an empty one
            raise RequestFailed(FailureCode.BAD_URL, f"{host} is not a host name: {error}") from None
        stapled.ask(self._tls)

    async def handshake(self) -> None:
        """Raises :class:`RequestFailed` with TLS_FAILED or one of CERTIFICATE_*, or :class:`Broken`."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                await self._fill()
            except ssl.SSLError as error:
                with contextlib.suppress(Broken):
                    self._flush()  # the alert that says why
                raise tls.failure(error, self._host) from error
            else:
                break
        self._flush()
        tls.check_word(stapled.word(self._tls), self._host)
        self.protocol = self._tls.selected_alpn_protocol() or ""

    async def receive(self, size: int = READ) -> bytes:
        idle = 0
        while not (data := self._decrypt(size)):
            if data is None:
                return b""
            self._flush()  # the answer to a key update
            idle += await self._fill()
            if idle > _MAX_IDLE_TLS:
                raise Broken("TLS: nothing comes but TLS itself")
        return data

    def _decrypt(self, size: int) -> bytes | None:
        """What has come of HTTP, b"" for nothing yet, None at the end."""
        pieces: list[bytes] = []  # a record each: 16 KiB at most
        if self._broken is not None:
            raise self._broken
        while size > 0:
            try:
                piece = self._tls.read(size)
            except ssl.SSLWantReadError:
                break
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                piece = b""  # like browsers, take a close without close_notify: HTTP knows its own lengths
            except ssl.SSLError as error:
                self._broken = tls.broken(error)  # OpenSSL says so once, and calls it an end from then on
                if pieces:
                    break
                raise self._broken from error
            if not piece:
                return b"".join(pieces) or None
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def write(self, data: bytes) -> None:
        try:
            self._tls.write(data)
        except ssl.SSLError as error:
            raise tls.broken(error) from error
        self._flush()

    async def drain(self) -> None:
        await self._wire.drain()

    def is_readable(self) -> bool:
        return self._wire.is_readable()

    def close(self) -> None:
        self._wire.close()

    async def _fill(self) -> int:
        data = await self._wire.receive()
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()
        return len(data)

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._wire.write(self._outgoing.read())
