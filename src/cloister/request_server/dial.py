"""New connections: the lookup server connects, we shake hands."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence

import ada_url

from ..interfaces.lookup_server import Connect
from ..ipc import Connection
from . import tls, urls
from .wire import Link, TlsWire, Wire

__all__ = ["Dialer"]


class Dialer:
    """Asks ``lookup`` for each connection. ``timeout`` is in seconds."""

    def __init__(self, lookup: Connection, context: ssl.SSLContext, timeout: float) -> None:
        self._lookup = lookup
        self._context = context
        self._timeout = timeout

    async def dial(self, url: ada_url.URL, protocols: Sequence[str] = tls.PROTOCOLS) -> Link:
        """Connect to ``url``'s server, with TLS if that is its scheme, offering ``protocols``.

        Raises :class:`RequestFailed` with whatever the lookup server refused, TLS_FAILED, CERTIFICATE_* or BAD_URL,
        ``Broken``, and ``ChannelClosed`` when the lookup server is gone.
        """
        host = url.hostname.removeprefix("[").removesuffix("]")
        _, fds = await self._lookup.request(Connect(host, urls.port(url)), timeout=self._timeout)
        # With its family given, Python asks the kernel nothing about the socket; send and recv need none of it.
        wire = Wire(socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=fds.take()))
        if url.protocol == "http:":
            return wire
        try:
            # A host's trailing dot is for DNS; certificates and SNI have none (RFC 6066, 3).
            secure = TlsWire(wire, self._context, host.removesuffix("."), protocols)
            await secure.handshake()
        except BaseException:
            wire.close()
            raise
        return secure

    async def dial_http_1(self, url: ada_url.URL) -> Link:
        """As :meth:`dial`, for what cannot be done over HTTP/2."""
        return await self.dial(url, ("http/1.1",))
