"""What hypercorn serves: an ASGI application whose paths say what they answer, after the manner of httpbin.org.

It is loaded by a hypercorn of the tests, in a process of its own.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import urllib.parse
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import brotli
import zstandard
from PIL import Image

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Pairs = list[tuple[bytes, bytes]]

WORDS = "Some words that repeat, so that they compress: Ünïcode, 文字, 🦀.\n" * 500
HTML = "<!doctype html><html lang=en><meta charset=utf-8><title>A page</title><h1>Héllo</h1><p>" + WORDS


def gzipped(data: bytes) -> bytes:
    return zlib.compress(data, wbits=31)


ENCODINGS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzipped),
    "deflate": ("deflate", zlib.compress),
    "raw-deflate": ("deflate", lambda data: zlib.compress(data, wbits=-15)),
    "brotli": ("br", brotli.compress),
    "zstd": ("zstd", zstandard.compress),
    "twice": ("gzip, br", lambda data: brotli.compress(gzipped(data))),
}


class Exchange:
    """One request, and how to answer it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self.send = send
        self.headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        query = urllib.parse.parse_qs(scope["query_string"].decode())
        self.query = {name: values[-1] for name, values in query.items()}

    @property
    def origin(self) -> str:
        return f"{self.scope['scheme']}://{self.headers.get('host') or self.headers[':authority']}"

    async def start(
        self, status: int = 200, content_type: str = "", *more: tuple[str, str], **how: Any
    ) -> None:
        said = ((("content-type", content_type),) if content_type else ()) + more
        headers: Pairs = [(name.encode(), value.encode("latin-1")) for name, value in said]
        await self.send({"type": "http.response.start", "status": status, "headers": headers, **how})

    async def piece(self, data: bytes, *, more: bool = True) -> None:
        await self.send({"type": "http.response.body", "body": data, "more_body": more})

    async def answer(
        self, data: bytes = b"", content_type: str = "text/plain", status: int = 200, *more: tuple[str, str]
    ) -> None:
        await self.start(status, content_type, ("content-length", str(len(data))), *more)
        await self.piece(data, more=False)

    async def redirect(self, location: str, status: int = 302) -> None:
        await self.answer(b"elsewhere", "text/html", status, ("location", location))

    async def body(self) -> bytes:
        data = bytearray()
        while True:
            message = await self.receive()
            data += message.get("body", b"")
            if not message.get("more_body"):
                return bytes(data)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI application."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    exchange = Exchange(scope, receive, send)
    _, name, argument = (*scope["path"].split("/", 2), "")[:3]
    await ROUTES.get(name, missing)(exchange, argument)


async def missing(exchange: Exchange, _: str) -> None:
    await exchange.answer(b"not here", status=404)


async def said(exchange: Exchange, _: str) -> None:
    """What the request says, in JSON."""
    body = await exchange.body()
    told = {
        "method": exchange.scope["method"],
        "path": exchange.scope["raw_path"].decode(),
        "query": exchange.scope["query_string"].decode(),
        "version": exchange.scope["http_version"],
        "headers": exchange.headers,
        "body": hashlib.sha256(body).hexdigest(),
    }
    await exchange.answer(json.dumps(told).encode(), "application/json")


async def status(exchange: Exchange, number: str) -> None:
    if number in {"204", "304"}:
        await exchange.start(int(number))
        await exchange.piece(b"", more=False)
    else:
        await exchange.answer(f"status {number}".encode(), "text/plain", int(number))


async def redirect(exchange: Exchange, left: str) -> None:
    await exchange.redirect(f"/redirect/{int(left) - 1}" if int(left) > 1 else "/utf8")


async def absolute_redirect(exchange: Exchange, left: str) -> None:
    target = f"/absolute-redirect/{int(left) - 1}" if int(left) > 1 else "/utf8"
    await exchange.redirect(exchange.origin + target, 301)


async def relative_redirect(exchange: Exchange, left: str) -> None:
    await exchange.redirect(str(int(left) - 1) if int(left) > 1 else "../utf8", 308)


async def redirect_to(exchange: Exchange, _: str) -> None:
    await exchange.body()  # hypercorn ends an HTTP/2 connection where more comes for what is answered
    await exchange.redirect(exchange.query["url"], int(exchange.query.get("status", "302")))


async def encoded(exchange: Exchange, name: str) -> None:
    token, encode = ENCODINGS[name]
    await exchange.answer(encode(WORDS.encode()), "text/plain", 200, ("content-encoding", token))


async def stream_bytes(exchange: Exchange, size: str) -> None:
    """In pieces of many sizes, without a length."""
    await exchange.start(200, "application/octet-stream")
    left, step = int(size), 1
    while left:
        step = min(step * 3 % 20_000 + 1, left)
        await exchange.piece(b"x" * step)
        left -= step
    await exchange.piece(b"", more=False)


async def drip(exchange: Exchange, count: str) -> None:
    """A byte now and then."""
    await exchange.start(200, "application/octet-stream", ("content-length", count))
    for _ in range(int(count)):
        await exchange.piece(b"*")
        await asyncio.sleep(0.01)
    await exchange.piece(b"", more=False)


async def forever(exchange: Exchange, _: str) -> None:
    """Until the client is gone: hypercorn would let it go on."""
    await exchange.start(200, "application/octet-stream")
    gone = asyncio.create_task(disconnected(exchange))
    while not gone.done():
        await exchange.piece(b"x" * 65536)
        await asyncio.sleep(0)


async def disconnected(exchange: Exchange) -> None:
    while (await exchange.receive())["type"] != "http.disconnect":
        pass


async def delay(exchange: Exchange, milliseconds: str) -> None:
    await asyncio.sleep(int(milliseconds) / 1000)
    await exchange.answer(b"late")


async def set_cookies(exchange: Exchange, _: str) -> None:
    more = [("set-cookie", f"{name}={value}; Path=/") for name, value in exchange.query.items()]
    await exchange.answer(b"set", "text/plain", 200, *more)


async def cache(exchange: Exchange, _: str) -> None:
    tag = ("etag", '"one"')
    if exchange.headers.get("if-none-match") == tag[1]:
        await exchange.start(304, "", tag)
        await exchange.piece(b"", more=False)
    else:
        await exchange.answer(b"fresh", "text/plain", 200, tag)


async def ranged(exchange: Exchange, size: str) -> None:
    whole = bytes(number % 251 for number in range(int(size)))
    wanted = exchange.headers.get("range", "")
    if not wanted.startswith("bytes="):
        await exchange.answer(whole)
        return
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    begin, end = int(first), min(int(last or size), len(whole) - 1)
    if begin > end:
        await exchange.answer(b"", "text/plain", 416, ("content-range", f"bytes */{size}"))
        return
    part = ("content-range", f"bytes {begin}-{end}/{size}")
    await exchange.answer(whole[begin : end + 1], "text/plain", 206, part)


async def basic_auth(exchange: Exchange, expected: str) -> None:
    """``/basic-auth/USER:PASSWORD``"""
    wanted = base64.b64encode(urllib.parse.unquote(expected).encode()).decode()
    if exchange.headers.get("authorization") == f"Basic {wanted}":
        await exchange.answer(b"let in")
    else:
        await exchange.answer(b"who?", "text/plain", 401, ("www-authenticate", 'Basic realm="here"'))


async def utf8(exchange: Exchange, _: str) -> None:
    await exchange.answer(WORDS.encode(), "text/plain; charset=utf-8")


async def html(exchange: Exchange, _: str) -> None:
    await exchange.answer(HTML.encode(), "text/html")


async def image(exchange: Exchange, form: str) -> None:
    if form == "svg":
        svg = b'<svg xmlns="http://www.w3.org/2000/svg" width="16" height="8"><rect width="16" height="8"/></svg>'
        await exchange.answer(svg, "image/svg+xml")
        return
    file = io.BytesIO()
    Image.new("RGB", (16, 8), (200, 30, 40)).save(file, form.upper())
    await exchange.answer(file.getvalue(), f"image/{form}")


async def early_close(exchange: Exchange, _: str) -> None:
    """Less than it promises."""
    await exchange.start(200, "text/plain", ("content-length", "1000"))
    await exchange.piece(b"the beginning", more=False)


async def early_hint(exchange: Exchange, _: str) -> None:
    """A 103 first (RFC 8297); hypercorn sends it over HTTP/2 only."""
    if exchange.scope["http_version"] == "2":
        links = [b"</style.css>; rel=preload; as=style"]
        await exchange.send({"type": "http.response.early_hint", "links": links})
    await exchange.answer(b"after a hint")


async def large_headers(exchange: Exchange, count: str) -> None:
    more = [(f"x-large-{number}", "v" * 1000) for number in range(int(count))]
    await exchange.answer(b"below them", "text/plain", 200, *more)


ROUTES: dict[str, Callable[[Exchange, str], Awaitable[None]]] = {
    "absolute-redirect": absolute_redirect,
    "basic-auth": basic_auth,
    "cache": cache,
    "cookies-set": set_cookies,
    "delay": delay,
    "drip": drip,
    "early-close": early_close,
    "early-hint": early_hint,
    "encoded": encoded,
    "forever": forever,
    "get": said,
    "html": html,
    "image": image,
    "large-headers": large_headers,
    "range": ranged,
    "redirect": redirect,
    "redirect-to": redirect_to,
    "relative-redirect": relative_redirect,
    "status": status,
    "stream-bytes": stream_bytes,
    "utf8": utf8,
}
