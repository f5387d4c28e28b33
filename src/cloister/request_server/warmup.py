"""Every library does once, in the zygote, what it will do after lock-down: nothing can be imported by then."""

from __future__ import annotations

import asyncio
import codecs
import socket
import ssl
import zlib
from collections.abc import Sequence

import ada_url
import brotli
import h2.config
import h2.connection
import zstandard

from ..interfaces.cookies import Cookie
from ..interfaces.fetch import Destination, Fetch
from ..interfaces.http_cache import CacheUse
from ..interfaces.request_server import DocumentAllowed, Options
from . import decoding, tls
from .client import Client
from .cookies import DocumentCookies
from .wire import Link, Wire

__all__ = ["Nowhere", "no_cookies", "run"]

_BODY = b"warm"
_COOKIE = b"a=b; Expires=Sun, 06 Nov 2033 08:49:37 GMT"
_HTTP_1 = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\nCache-Control: max-age=1\r\n"
    b"Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nSet-Cookie: " + _COOKIE + b"\r\n\r\n" + _BODY
)


class Nowhere:
    """Where nothing is kept."""

    async def get(self, _key: bytes) -> bytes:
        return b""

    async def put(self, _key: bytes, _entry: bytes) -> None:
        pass


def no_cookies(document: str) -> DocumentCookies:
    async def ask() -> tuple[str, tuple[Cookie, ...]]:
        return document, ()

    async def tell(_cookies: tuple[Cookie, ...]) -> None:
        pass

    return DocumentCookies(ask, tell)


def run(context: ssl.SSLContext) -> None:
    """A response over HTTP/1.1 and one over HTTP/2, half a handshake, and every decoder.

    None for a host in another script, nor a cookie for more than its host: who needs them has ada's tables and the list
    of public suffixes made when they come, which takes 4 ms each and no file.
    """
    for name in ("idna", "punycode"):
        codecs.lookup(name)
    asyncio.run(_fetch_both())
    _begin_handshake(context)
    _decode()


async def _fetch_both() -> None:
    await _fetch("http://warm.example/", _HTTP_1, "")
    await _fetch("https://warm.example/", _http_2(), "h2")


async def _fetch(url: str, said: bytes, protocol: str) -> None:
    """Fetch ``url`` from a server that has said what it says before it was asked."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(said)

        async def dial(_url: ada_url.URL, _protocols: Sequence[str] = tls.PROTOCOLS) -> Link:
            wire = Wire(ours)
            wire.protocol = protocol
            return wire

        async def announce(_url: str, _redirects: int) -> DocumentAllowed:
            return DocumentAllowed(cache=CacheUse.ON, has_cookies=True)

        options = Options(user_agent="warm-up", document=url)
        client = Client(options, dial, announce, Nowhere(), no_cookies(url))
        async with client.open(Fetch(url, Destination.DOCUMENT, referrer=url)) as response:
            async for _ in response.body:
                pass
        client.close()
        await asyncio.sleep(0)  # what reads the connection ends


def _http_2() -> bytes:
    """What a server says on its first stream. It knows of one once it has been asked."""
    ours, theirs = (
        h2.connection.H2Connection(h2.config.H2Configuration(client_side=is_client))
        for is_client in (True, False)
    )
    ours.initiate_connection()
    ours.send_headers(
        1, [(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", "/")], end_stream=True
    )
    theirs.initiate_connection()
    theirs.receive_data(ours.data_to_send())
    theirs.send_headers(1, [(":status", "200"), ("content-type", "text/plain")])
    theirs.send_data(1, _BODY, end_stream=True)
    return theirs.data_to_send()


def _begin_handshake(context: ssl.SSLContext) -> None:
    """Up to the ClientHello: it needs the codec for host names, a key and randomness, but no root yet."""
    try:
        begun = ssl.SSLContext.wrap_bio(
            context, ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="warm.example"
        )
        begun.do_handshake()
    except ssl.SSLWantReadError:
        pass


def _decode() -> None:
    deflated = {
        "gzip": zlib.compress(_BODY, wbits=16 + zlib.MAX_WBITS),
        "deflate": zlib.compress(_BODY),
        "br": brotli.compress(_BODY),
        "zstd": zstandard.compress(_BODY),
    }
    for name, data in deflated.items():
        decoder = decoding.decoder([name], lambda _piece: None)
        decoder.feed(data)
        decoder.finish()
