"""Name servers over TLS and HTTPS, on loopback, which answer from a Zone and can misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.settings

from .conftest import Zone

Misbehave = Callable[[bytes], bytes | None]


@dataclass
class Secure:
    """What was asked of a server. ``misbehave`` makes of an answer what is sent instead, framing included."""

    zone: Zone
    context: ssl.SSLContext
    misbehave: Misbehave | None = None
    hold: int = 1
    """Answers that are sent together, the last one first."""
    connections: int = 0
    sizes: list[int] = field(default_factory=list)
    targets: list[tuple[str, str]] = field(default_factory=list)
    status: str = "200"
    content_type: str = "application/dns-message"
    max_streams: int = 100
    reset: bool = False
    close: asyncio.Event = field(default_factory=asyncio.Event)

    @contextlib.asynccontextmanager
    async def serve(self, protocol: str) -> AsyncIterator[int]:
        """The port, for as long as the block runs."""
        tasks: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                await (self._tls if protocol == "tls" else self._https)(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                tasks.discard(task)
                writer.transport.abort()

        if protocol == "https":
            self.context.set_alpn_protocols(["h2"])
        server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=self.context)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0.01)  # transports close in the next turns

    async def _tls(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held: list[bytes] = []
        while True:
            size = int.from_bytes(await reader.readexactly(2))
            query = await reader.readexactly(size)
            self.sizes.append(size)
            answer = self.zone.answer(query, "tls")
            if answer is None:
                continue
            framed = len(answer).to_bytes(2) + answer
            if self.misbehave is not None:
                other = self.misbehave(answer)
                if other is None:
                    return
                framed = other
            held.append(framed)
            if len(held) >= self.hold:
                writer.write(b"".join(reversed(held)))
                held.clear()

    async def _https(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        state = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=False, header_encoding="utf-8")
        )
        state.local_settings = h2.settings.Settings(
            client=False,
            initial_values={h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: self.max_streams},
        )
        state.initiate_connection()
        bodies: dict[int, bytes] = {}
        while True:
            writer.write(state.data_to_send())
            if not (data := await reader.read(65536)):
                return
            for event in state.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    fields = {str(name): str(value) for name, value in event.headers or []}
                    self.targets.append((fields[":authority"], fields[":path"]))
                    assert fields["content-type"] == "application/dns-message"
                    bodies[event.stream_id or 0] = b""
                elif isinstance(event, h2.events.DataReceived):
                    bodies[event.stream_id or 0] += event.data or b""
                elif isinstance(event, h2.events.StreamEnded):
                    self._answer(state, event.stream_id or 0, bodies[event.stream_id or 0])

    def _answer(self, state: h2.connection.H2Connection, stream: int, query: bytes) -> None:
        self.sizes.append(len(query))
        assert query[:2] == b"\0\0"
        answer = self.zone.answer(query, "https")
        if answer is None:
            return
        if self.reset:
            state.reset_stream(stream)
            return
        body = answer if self.misbehave is None else self.misbehave(answer)
        state.send_headers(stream, [(":status", self.status), ("content-type", self.content_type)])
        while body and len(body) > 16384:
            state.send_data(stream, body[:16384])
            body = body[16384:]
        state.send_data(stream, body or b"", end_stream=True)
