"""What bench/network.py fetches: over HTTP/1.1 on one port, over TLS and HTTP/2 on another. On a third, messages
of a WebSocket come back.


``/large`` has 50 MB, ``/page`` is the page of mixed_page.py, which has what that refers to, and everything else has a
kilobyte. A process of its own, so that its work is in nobody's figure. Prints the ports and the path of its
certificate authority's certificate, and serves until its standard input closes.
"""

from __future__ import annotations

import asyncio
import ssl
import sys
import tempfile
from pathlib import Path

import h2.config
import h2.connection
import h2.events
import trustme
import websockets.asyncio.server

from mixed_page import files

LARGE = bytes(50_000_000)
SMALL = b"x" * 1024
FILES = {path.encode(): (kind.encode(), body) for path, (kind, body) in files().items()} | {
    b"/large": (b"text/plain", LARGE)
}
OTHERS = (b"text/plain", SMALL)


async def http_1(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            kind, body = FILES.get(head.split(None, 2)[1], OTHERS)
            said = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
            writer.write(said % (kind, len(body)) + body)
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        writer.close()


async def http_2(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    state = h2.connection.H2Connection(
        h2.config.H2Configuration(client_side=False, validate_inbound_headers=False)
    )
    state.initiate_connection()
    waiting: dict[int, memoryview] = {}
    try:
        while True:
            writer.write(state.data_to_send())
            await writer.drain()
            if not (data := await reader.read(65536)):
                return
            for event in state.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    kind, body = FILES.get(dict(event.headers or [])[b":path"], OTHERS)
                    length = str(len(body)).encode()
                    fields = [(b":status", b"200"), (b"content-type", kind), (b"content-length", length)]
                    state.send_headers(event.stream_id, fields)
                    waiting[event.stream_id] = memoryview(body)
            for stream in list(waiting):
                await send(state, stream, waiting, writer)
    except (ConnectionError, ssl.SSLError):
        pass
    finally:
        writer.transport.abort()


async def send(
    state: h2.connection.H2Connection,
    stream: int,
    waiting: dict[int, memoryview],
    writer: asyncio.StreamWriter,
) -> None:
    """As much as the windows take."""
    while window := min(state.local_flow_control_window(stream), state.max_outbound_frame_size):
        data, rest = waiting[stream][:window], waiting[stream][window:]
        state.send_data(stream, bytes(data), end_stream=not rest)
        waiting[stream] = rest
        if not rest:
            del waiting[stream]
            return
        writer.write(state.data_to_send())
        await writer.drain()


async def echo(connection: websockets.asyncio.server.ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)


async def serve(roots: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(roots))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2"])
    authority.issue_cert("localhost").configure_cert(context)
    plain = await asyncio.start_server(http_1, "127.0.0.1", 0)
    secure = await asyncio.start_server(http_2, "127.0.0.1", 0, ssl=context)
    async with websockets.asyncio.server.serve(echo, "127.0.0.1", 0) as sockets:
        ports = (next(iter(server.sockets)).getsockname()[1] for server in (plain, secure, sockets))
        print(*ports, roots, flush=True)
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(serve(Path(folder) / "roots.pem"))


if __name__ == "__main__":
    main()
