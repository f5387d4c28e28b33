"""Real servers on loopback, good ones and hostile ones, for every test that needs a network.

``with Server() as site: site.url("/page")`` serves :data:`SITE` over HTTP/1.1; with ``tls=`` over HTTPS, and over
HTTP/2 too if that context offers it. A route is a :class:`Page`, or a coroutine function that writes what it likes.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime
import io
import itertools
import socket
import ssl
import struct
import threading
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, Self

import brotli
import h2.config
import h2.connection
import h2.events
import h2.exceptions
import trustme
import zstandard
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Request:
    """One request as the server saw it. ``connection`` numbers the connections of a server from 1."""

    target: str
    headers: Mapping[str, str]
    version: str
    connection: int


@dataclasses.dataclass(frozen=True)
class Page:
    """A response that is sent as it should be."""

    body: bytes = b""
    content_type: str = "text/html; charset=utf-8"
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


Handler = Callable[[Request, asyncio.StreamWriter], Awaitable[None]]
Routes = Mapping[str, Page | Handler]


class Server:
    """Serves ``routes`` (path to what answers it) from a thread until it is left. ``requests`` are those it got."""

    def __init__(self, routes: Routes | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        self.routes = SITE if routes is None else routes
        self.requests: list[Request] = []
        self.open_connections = 0
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._numbers = itertools.count(1)
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="test server")

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"{'https' if self._tls else 'http'}://{host}:{self.port}{path}"

    def paths(self) -> list[str]:
        """The targets asked for, in order."""
        return [request.target for request in self.requests]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        self._loop.set_exception_handler(
            lambda _loop, _context: None
        )  # clients leave in the middle of things
        server = self._loop.run_until_complete(
            asyncio.start_server(self._connected, sock=self._listener, ssl=self._tls)
        )
        self._loop.run_forever()
        self._loop.run_until_complete(self._shut_down(server))
        self._loop.close()

    async def _shut_down(self, server: asyncio.Server) -> None:
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0)  # transports close in the next turn

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.open_connections += 1
        tls = writer.get_extra_info("ssl_object")
        is_http_2 = tls is not None and tls.selected_alpn_protocol() == "h2"
        try:
            await (self._http_2 if is_http_2 else self._http_1)(reader, writer, next(self._numbers))
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            self.open_connections -= 1
            self._tasks.discard(task)
            writer.transport.abort()

    async def _http_1(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int
    ) -> None:
        while True:
            head = (await reader.readexactly(3)).decode("latin-1")
            if not head.isalpha():  # TLS where none is spoken: answer as servers do
                await respond(writer, Page(b"<p>plain HTTP only", status=400))
                return
            head += (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.strip().split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
            }
            request = Request(first.split()[1], headers, "HTTP/1.1", connection)
            self.requests.append(request)
            route = self._route(request)
            if not isinstance(route, Page):
                await route(request, writer)
                await writer.drain()
                writer.close()
                await writer.wait_closed()
                return
            # What is left unread when it closes resets the connection, and may take the answer along.
            await reader.readexactly(int(headers.get("content-length", "0")))
            await respond(writer, route)

    def _route(self, request: Request) -> Page | Handler:
        return self.routes.get(request.target.partition("?")[0], Page(b"<p>not found", status=404))

    async def _http_2(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: int
    ) -> None:
        """Pages only. A body waits for the client's window, as everything does that a server sends."""
        state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        state.initiate_connection()
        waiting: dict[int, memoryview] = {}
        while True:
            writer.write(state.data_to_send())
            await writer.drain()
            if not (data := await reader.read(65536)):
                return
            for event in state.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    headers = {name.decode(): value.decode() for name, value in event.headers or []}
                    request = Request(headers[":path"], headers, "HTTP/2", connection)
                    self.requests.append(request)
                    page = self._route(request)
                    assert isinstance(page, Page), "HTTP/2 serves pages only"
                    assert event.stream_id is not None
                    fields = [
                        (":status", str(page.status)),
                        ("content-type", page.content_type),
                        *page.headers,
                    ]
                    state.send_headers(event.stream_id, fields)
                    waiting[event.stream_id] = memoryview(page.body)
                elif isinstance(event, h2.events.StreamReset):
                    assert event.stream_id is not None
                    self.requests.append(Request("reset", {}, "HTTP/2", connection))
                    waiting.pop(event.stream_id, None)
            for stream in list(waiting):
                self._send_body(state, stream, waiting)

    @staticmethod
    def _send_body(state: h2.connection.H2Connection, stream: int, waiting: dict[int, memoryview]) -> None:
        while window := min(state.local_flow_control_window(stream), state.max_outbound_frame_size):
            data, waiting[stream] = waiting[stream][:window], waiting[stream][window:]
            state.send_data(stream, bytes(data), end_stream=not waiting[stream])
            if not waiting[stream]:
                del waiting[stream]
                return


async def respond(writer: asyncio.StreamWriter, page: Page) -> None:
    """Send ``page`` and keep the connection."""
    fields = (("Content-Type", page.content_type), ("Content-Length", str(len(page.body))), *page.headers)
    head = "".join(f"{name}: {value}\r\n" for name, value in fields)
    writer.write(f"HTTP/1.1 {page.status} Whatever\r\n{head}\r\n".encode() + page.body)
    await writer.drain()


# ── certificates ─────────────────────────────────────────────────────────────────────────────────────────────────


class Authority:
    """A certificate authority of the tests' own. ``roots`` is what a client must trust, as PEM."""

    def __init__(self) -> None:
        self._ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self.roots = self._ca.cert_pem.bytes().decode()

    def context(self, *names: str, days: int = 30, http_2: bool = True) -> ssl.SSLContext:
        """A server's context for ``names`` (loopback by default), valid for ``days``: negative ones are over."""
        now = datetime.datetime.now(datetime.UTC)
        end = now + datetime.timedelta(days=days)
        cert = self._ca.issue_cert(
            *(names or ("127.0.0.1", "localhost")),
            not_before=min(now, end) - datetime.timedelta(days=30),
            not_after=end,
            key_type=trustme.KeyType.ECDSA,
        )
        context = _server_context(http_2)
        cert.configure_cert(context)
        return context


def self_signed(directory: str) -> ssl.SSLContext:
    """A server's context whose certificate nobody vouches for; its files go into ``directory``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = f"{directory}/self-signed.pem"
    with open(pem, "wb") as file:
        file.write(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        file.write(cert.public_bytes(serialization.Encoding.PEM))
    context = _server_context(http_2=True)
    context.load_cert_chain(pem)
    return context


def _server_context(http_2: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2", "http/1.1"] if http_2 else ["http/1.1"])
    return context


# ── encodings ────────────────────────────────────────────────────────────────────────────────────────────────────


class _Brotli:
    def __init__(self) -> None:
        self._brotli = brotli.Compressor(quality=1)

    def compress(self, data: bytes) -> bytes:
        return bytes(self._brotli.process(data))

    def flush(self) -> bytes:
        return bytes(self._brotli.finish())


COMPRESSORS: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.compressobj(1, wbits=31),
    "deflate": lambda: zlib.compressobj(1),
    "raw-deflate": lambda: zlib.compressobj(1, wbits=-15),
    "br": _Brotli,
    "zstd": lambda: zstandard.ZstdCompressor(level=1).compressobj(),
}
"""Content codings by name; ``raw-deflate`` is what some servers send as ``deflate``."""


def compress(name: str, data: bytes) -> bytes:
    compressor = COMPRESSORS[name]()
    return bytes(compressor.compress(data) + compressor.flush())


def _encoded(name: str) -> Page:
    token = "deflate" if name == "raw-deflate" else name
    return Page(compress(name, ARTICLE), headers=(("Content-Encoding", token),))


def _bomb(name: str) -> Handler:
    """Zeros without an end, compressed as they are sent."""

    async def bomb(_request: Request, writer: asyncio.StreamWriter) -> None:
        compressor = COMPRESSORS[name]()
        zeros = bytes(1024 * 1024)
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Encoding: {name}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode())
        for _ in range(4096):  # GiB, should nobody stop it
            writer.write(compressor.compress(zeros))
            await writer.drain()
            await asyncio.sleep(0)

    return bomb


# ── bad behaviour ────────────────────────────────────────────────────────────────────────────────────────────────


def _raw(data: bytes) -> Handler:
    async def raw(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(data)

    return raw


def _repeating(head: bytes, piece: bytes, pause: float = 0.0) -> Handler:
    """``head``, then ``piece`` until the client is gone."""

    async def repeating(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return repeating


async def _reset(_request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 1000\r\n\r\n<p>the beginning"
    )
    await writer.drain()
    raw: socket.socket = writer.get_extra_info("socket")
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close() sends RST
    writer.transport.abort()


async def _silent(_request: Request, _writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


def redirect(location: str, status: int = 302) -> Page:
    return Page(b"<p>elsewhere", status=status, headers=(("Location", location),))


def _image(format_name: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 8), (200, 30, 40)).save(file, format_name)
    return file.getvalue()


_OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n"

ARTICLE = (
    "<!doctype html><html lang=en><title>An article</title><h1>Héllo, wörld</h1>"
    + "<p>Some words that repeat, so that they compress.</p>" * 40
).encode()

SITE: dict[str, Page | Handler] = {
    "/": Page(b"<!doctype html><title>Home</title><p>Hello"),
    "/article": Page(ARTICLE),
    "/text": Page(b"plain words", "text/plain"),
    "/style.css": Page(b"h1 { color: red }", "text/css"),
    "/image.png": Page(_image("PNG"), "image/png"),
    "/image.jpg": Page(_image("JPEG"), "image/jpeg"),
    "/image.gif": Page(_image("GIF"), "image/gif"),
    "/wrong-charset": Page("<title>Ünïcode</title><p>äöü".encode(), "text/html; charset=iso-2022-kr"),
    "/download.zip": Page(b"PK\x05\x06" + bytes(18), "application/zip"),
    "/malformed": Page(
        b"<!doctype html><p><b>bold<i>both</b>italic<table><p>in a table</div></html><p>after"
    ),
    "/large": Page(b"x" * (3 * 1024 * 1024), "text/plain"),
    "/error": Page(b"<p>broken", status=500),
    "/redirect": redirect("/article"),
    "/redirect-twice": redirect("/redirect", 301),
    "/redirect-307": redirect("/article", 307),
    "/redirect-fragment": redirect("/article#there"),
    "/redirect-nowhere": redirect(""),
    "/redirect-file": redirect("file:///etc/passwd"),
    "/redirect-private": redirect("http://10.0.0.1/"),
    "/loop": redirect("/loop"),
    "/slow": _repeating(_OK + b"Content-Length: 100000\r\n\r\n", b"x", 0.1),
    "/slow-header": _repeating(_OK, b"x", 0.1),
    "/silent": _silent,
    "/endless": _repeating(_OK + b"Connection: close\r\n\r\n", b"x" * 65536),
    "/endless-empty-gzip": _repeating(
        _OK + b"Content-Encoding: gzip\r\n\r\n" + compress("gzip", b""), b"\0" * 65536
    ),
    "/endless-continue": _repeating(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "/huge-header": _repeating(_OK + b"X-Huge: ", b"x" * 65536),
    "/huge-headers": _repeating(_OK, b"X-Many: 1\r\n" * 5000),
    "/garbage": _raw(b"\x16\x03\x01 this is not HTTP\r\n\r\n"),
    "/no-answer": _raw(b""),
    "/reset": _reset,
    "/truncated": _raw(_OK + b"Content-Length: 1000\r\n\r\n<p>the beginning"),
    "/truncated-chunk": _raw(_OK + b"Transfer-Encoding: chunked\r\n\r\n100\r\n<p>the beginning"),
    "/truncated-gzip": Page(compress("gzip", ARTICLE)[:-20], headers=(("Content-Encoding", "gzip"),)),
    "/damaged-gzip": Page(b"this is no gzip", headers=(("Content-Encoding", "gzip"),)),
    "/unknown-encoding": Page(b"<p>as it is", headers=(("Content-Encoding", "utf-8"),)),
    "/upgrade": _raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
    **{f"/encoded/{name}": _encoded(name) for name in COMPRESSORS},
    **{f"/bomb/{name}": _bomb(name) for name in ("gzip", "deflate", "br", "zstd")},
}


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A port of 127.0.0.1 that refuses connections for as long as this is held."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
