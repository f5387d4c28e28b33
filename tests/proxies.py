"""An HTTP and a SOCKS5 proxy on loopback, which connect where a table says and can misbehave."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import ip_address

Speak = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class ProxyServer:
    """``leads_to`` is the port of loopback that every tunnel ends at. ``asked`` are the hosts and ports, ``given`` the
    credentials. With ``credentials`` it wants these. ``speak`` replaces all that it does."""

    leads_to: int = 0
    credentials: tuple[str, str] | None = None
    speak: Speak | None = None
    asked: list[tuple[str, int]] = field(default_factory=list)
    given: list[tuple[str, str]] = field(default_factory=list)
    connections: int = 0

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[int]:
        """The port, for as long as the block runs; one port speaks both."""
        tasks: set[asyncio.Task[None]] = set()

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            try:
                await (self.speak or self._speak)(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass
            finally:
                tasks.discard(task)
                writer.transport.abort()

        server = await asyncio.start_server(connected, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(0)

    async def _speak(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readexactly(1)
        await (self._socks5 if first == b"\5" else self._http)(reader, writer)

    async def _http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (b"C" + await reader.readuntil(b"\r\n\r\n")).decode()
        assert head.startswith("CONNECT "), head
        target = head.split()[1]
        headers = dict(line.split(": ", 1) for line in head.strip().split("\r\n")[1:])
        assert headers["Host"] == target
        host, _, port = target.rpartition(":")
        self.asked.append((host.strip("[]"), int(port)))
        if "Proxy-Authorization" in headers:
            kind, _, encoded = headers["Proxy-Authorization"].partition(" ")
            assert kind == "Basic"
            username, _, password = base64.b64decode(encoded).decode().partition(":")
            self.given.append((username, password))
        if self.credentials is not None and self.given[-1:] != [self.credentials]:
            writer.write(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            return
        await self._carry(reader, writer, b"HTTP/1.1 200 Connection established\r\nVia: a test\r\n\r\n")

    async def _socks5(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        methods = await reader.readexactly((await reader.readexactly(1))[0])
        method = 0 if self.credentials is None else 2
        writer.write(bytes([5, method if method in methods else 0xFF]))
        if method not in methods:
            await writer.drain()
            return
        if method == 2:
            assert await reader.readexactly(1) == b"\1"
            username = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
            password = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
            self.given.append((username, password))
            accepted = (username, password) == self.credentials
            writer.write(bytes([1, not accepted]))
            if not accepted:
                await writer.drain()
                return
        assert await reader.readexactly(3) == b"\5\1\0"
        kind = (await reader.readexactly(1))[0]
        if kind == 3:
            host = (await reader.readexactly((await reader.readexactly(1))[0])).decode()
        else:
            host = str(ip_address(await reader.readexactly({1: 4, 4: 16}[kind])))
        self.asked.append((host, int.from_bytes(await reader.readexactly(2))))
        await self._carry(reader, writer, b"\5\0\0\1\x7f\0\0\1\0\0")

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, reply: bytes) -> None:
        further, there = await asyncio.open_connection("127.0.0.1", self.leads_to)
        writer.write(reply)

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with contextlib.suppress(ConnectionError):
                while data := await source.read(65536):
                    target.write(data)
                    await target.drain()
                target.write_eof()

        try:
            await asyncio.gather(pump(reader, there), pump(further, writer))
        finally:
            there.transport.abort()
