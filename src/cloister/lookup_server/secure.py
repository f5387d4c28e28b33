"""Name servers that are asked over TLS: what they need is loaded only where the user names one."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial

from cloister import trust

from .dns_over_https import DnsOverHttps
from .dns_over_tls import DnsOverTls
from .kept import Framing, KeptServer
from .message import A, Question
from .servers import Server

__all__ = ["context", "make"]

_TIMEOUT = 3.0  # seconds for one question, a new connection included


def context(over: str, extra_roots: str) -> ssl.SSLContext:
    """What verifies the certificates of those that are asked ``over`` ``tls`` or ``https``, with all that is loaded
    lazily in use once. Comes before lock-down. Raises OSError if a root cannot be read."""
    made = trust.context(extra_roots)
    made.set_alpn_protocols(["h2" if over == "https" else "dot"])
    try:
        made.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="warm.example").do_handshake()
    except ssl.SSLWantReadError:
        pass
    framing = DnsOverHttps(Server.parse("https://192.0.2.1/"))
    framing.opening()
    framing.ask(Question("warm.example", A).padded())
    return made


def make(server: Server, lifetime: float, context: ssl.SSLContext) -> KeptServer:
    """``server``, asked over one connection for all."""
    framing: Callable[[], Framing] = DnsOverTls
    if server.over == "https":
        framing = partial(DnsOverHttps, server)
    return KeptServer(server, min(_TIMEOUT, lifetime), context, framing)
