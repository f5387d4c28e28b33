"""Handed sockets: whoever waits on one is woken when it closes, and nobody is left with another's descriptor."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpcore
import pytest
from tests.servers import Authority

from cloister.errors import ChannelClosed
from cloister.interfaces.lookup_server import LOOKUP, Connect, Connected
from cloister.ipc import Channel, Connection, Descriptors
from cloister.request_server import tls
from cloister.request_server.backend import LookupBackend


@asynccontextmanager
async def handed() -> AsyncIterator[tuple[httpcore.AsyncNetworkStream, socket.socket]]:
    """A stream from the backend, and the other end of its socket."""
    listener = socket.create_server(("127.0.0.1", 0))
    peers: list[socket.socket] = []

    async def connect(message: Connect, _fds: Descriptors) -> tuple[Connected, list[int]]:
        assert message.host == "::1"  # without its brackets
        made = socket.create_connection(listener.getsockname())
        peers.append(listener.accept()[0])
        return Connected("127.0.0.1"), [made.detach()]

    ours, theirs = Channel.pair()
    lookup = Connection(theirs, LOOKUP, "server", {Connect: connect})
    asking = Connection(ours, LOOKUP, "client")
    stream = await LookupBackend(asking, 10).connect_tcp("[::1]", 80)
    try:
        yield stream, peers[0]
    finally:
        await stream.aclose()
        for connection in (asking, lookup):
            connection.close()
        for end in (listener, *peers):
            end.close()


def test_what_is_written_arrives_and_what_is_answered_is_read() -> None:
    async def run() -> None:
        async with handed() as (stream, peer):
            await stream.write(b"question")
            assert peer.recv(100) == b"question"
            assert stream.get_extra_info("is_readable") is False
            peer.sendall(b"answer")
            assert await stream.read(3) == b"ans"
            assert stream.get_extra_info("is_readable") is True
            assert await stream.read(100) == b"wer"
            peer.close()
            assert await stream.read(100) == b""
            assert stream.get_extra_info("is_readable") is True

    asyncio.run(run())


def test_a_close_without_an_answer_is_an_error() -> None:
    async def run() -> None:
        async with handed() as (stream, peer):
            await stream.write(b"question")
            peer.recv(100)
            peer.close()
            with pytest.raises(httpcore.ReadError, match="without an answer"):
                await stream.read(100)

    asyncio.run(run())


def test_closing_wakes_a_reader_and_a_writer() -> None:
    async def run() -> None:
        async with handed() as (stream, _peer):
            await stream.write(b"x")
            reader = asyncio.create_task(stream.read(100))
            writer = asyncio.create_task(stream.write(bytes(64 * 1024 * 1024)))
            await asyncio.sleep(0.01)
            assert not reader.done()
            assert not writer.done()
            await stream.aclose()
            async with asyncio.timeout(10):
                results = await asyncio.gather(reader, writer, return_exceptions=True)
            assert [type(result) for result in results] == [httpcore.ReadError, httpcore.WriteError]
            with pytest.raises(httpcore.ReadError, match="was closed"):
                await stream.read(100)
            with pytest.raises(httpcore.WriteError, match="was closed"):
                await stream.write(b"x")

    asyncio.run(run())


def test_a_cancelled_write_closes_the_connection() -> None:
    async def run() -> None:
        async with handed() as (stream, _peer):
            writer = asyncio.create_task(stream.write(bytes(64 * 1024 * 1024)))
            await asyncio.sleep(0.01)
            writer.cancel()
            with pytest.raises(asyncio.CancelledError):
                await writer
            with pytest.raises(httpcore.WriteError, match="was closed"):
                await stream.write(b"the other half")

    asyncio.run(run())


def test_a_failed_handshake_closes_the_socket(authority: Authority) -> None:
    async def run() -> None:
        async with handed() as (stream, peer):
            peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            with pytest.raises(Exception, match="TLS"):
                await stream.start_tls(tls.context(authority.roots), "localhost")
            peer.settimeout(10)
            while peer.recv(4096):
                pass

    asyncio.run(run())


def test_without_a_lookup_server_there_is_no_connection() -> None:
    async def run() -> None:
        ours, theirs = Channel.pair()
        asking = Connection(ours, LOOKUP, "client")
        theirs.close()
        with pytest.raises(ChannelClosed):
            await LookupBackend(asking, 10).connect_tcp("127.0.0.1", 80)
        asking.close()

    asyncio.run(run())
