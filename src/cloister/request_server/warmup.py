"""Every library does once, in the zygote, what it will do after lock-down: nothing can be imported by then."""

from __future__ import annotations

import asyncio
import importlib.util
import ssl
import sys
import zlib
from collections.abc import Sequence

import brotli
import hpack
import httpcore
import zstandard
from hyperframe.frame import DataFrame, HeadersFrame, SettingsFrame

from ..interfaces.request_server import Destination, Fetch, Options
from . import decoding
from .client import Client

__all__ = ["run"]

_BODY = b"warm"
_HTTP_1 = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\n" + _BODY


def run(context: ssl.SSLContext) -> None:
    """A response over HTTP/1.1 and one over HTTP/2, half a handshake, and every decoder."""
    asyncio.run(_fetch_both(context))
    _begin_handshake(context)
    _decode()
    _settle_sniffio()


async def _fetch_both(context: ssl.SSLContext) -> None:
    await _fetch("http://b\u00fccher.example/", httpcore.AsyncMockBackend([_HTTP_1]), context)
    await _fetch("https://b\u00fccher.example/", httpcore.AsyncMockBackend(_http_2(), http2=True), context)


async def _fetch(url: str, backend: httpcore.AsyncNetworkBackend, context: ssl.SSLContext) -> None:
    async def announce(_url: str, _redirects: int) -> None:
        pass

    client = Client(Options(user_agent="warm-up"), backend, context, announce)
    await client.fetch(Fetch(url, Destination.DOCUMENT, referrer=url))
    await client.close()


def _http_2() -> list[bytes]:
    head = hpack.Encoder().encode([(":status", "200"), ("content-type", "text/plain")])
    frames: Sequence[SettingsFrame | HeadersFrame | DataFrame] = (
        SettingsFrame(0),
        HeadersFrame(1, head, flags=["END_HEADERS"]),
        DataFrame(1, _BODY, flags=["END_STREAM"]),
    )
    return [frame.serialize() for frame in frames]


def _begin_handshake(context: ssl.SSLContext) -> None:
    """Up to the ClientHello: it needs the codec for host names, a key and randomness."""
    try:
        context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="warm.example").do_handshake()
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


def _settle_sniffio() -> None:
    """httpcore imports it anew for every request. Where it is missing, each time is a search through files."""
    if importlib.util.find_spec("sniffio") is None:
        sys.modules["sniffio"] = None  # type: ignore[assignment]  # the import system's way to say: there is none
