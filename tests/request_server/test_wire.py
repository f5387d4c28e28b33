"""Handed sockets: whoever waits on one is woken when it closes, and nobody is left with another's descriptor."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.servers import Authority

from cloister.errors import ChannelClosed
from cloister.interfaces.lookup_server import LOOKUP, Connect, Connected
from cloister.ipc import Channel, Connection, Descriptors
from cloister.request_server import tls
from cloister.request_server.dial import Dialer
from cloister.request_server.exchange import Broken
from cloister.request_server.urls import parse
from cloister.request_server.wire import Link

MUCH = bytes(64 * 1024 * 1024)


@asynccontextmanager
async def handed(
    url: str = "http://[::1]/", says: bytes = b"", authority: Authority | None = None
) -> AsyncIterator[tuple[asyncio.Task[Link], socket.socket]]:
    """A connection that is being dialled, and the other end of its socket, which ``says`` something at once."""
    listener = socket.create_server(("127.0.0.1", 0))
    peers: asyncio.Queue[socket.socket] = asyncio.Queue()

    async def connect(message: Connect, _fds: Descriptors) -> tuple[Connected, list[int]]:
        assert message.host == "::1"  # without its brackets
        made = socket.create_connection(listener.getsockname())
        peer = listener.accept()[0]
        peer.settimeout(10)
        peer.sendall(says)
        peers.put_nowait(peer)
        return Connected("127.0.0.1"), [made.detach()]

    ours, theirs = Channel.pair()
    lookup = Connection(theirs, LOOKUP, "server", {Connect: connect})
    asking = Connection(ours, LOOKUP, "client")
    context = tls.context(authority.roots if authority else "")
    dialling = asyncio.create_task(Dialer(asking, context, 10).dial(parse(url)))
    peer = await peers.get()
    try:
        yield dialling, peer
    finally:
        dialling.cancel()
        await asyncio.wait([dialling])
        if not dialling.cancelled() and not dialling.exception():
            dialling.result().close()
        for connection in (asking, lookup):
            connection.close()
        for end in (listener, peer):
            end.close()


def received(peer: socket.socket) -> int:
    """Bytes that come until the end."""
    size = 0
    while data := peer.recv(2**20):
        size += len(data)
    return size


def test_what_is_written_arrives_and_what_is_answered_is_read() -> None:
    async def run() -> None:
        async with handed() as (dialling, peer):
            link = await dialling
            link.write(b"question")
            assert peer.recv(100) == b"question"
            assert not link.is_readable()
            peer.sendall(b"answer")
            assert await link.receive(3) == b"ans"
            assert link.is_readable()
            assert await link.receive(100) == b"wer"
            peer.close()
            assert await link.receive(100) == b""
            assert link.is_readable()

    asyncio.run(run())


def test_closing_wakes_a_reader_and_a_writer() -> None:
    async def run() -> None:
        async with handed() as (dialling, _peer):
            link = await dialling
            link.write(MUCH)
            reader = asyncio.create_task(link.receive(100))
            writers = [asyncio.create_task(link.drain()) for _ in range(2)]
            await asyncio.sleep(0.01)
            assert not any(task.done() for task in (reader, *writers))
            link.close()
            async with asyncio.timeout(10):
                results = await asyncio.gather(reader, *writers, return_exceptions=True)
            assert [type(result) for result in results[1:]] == [Broken, Broken]
            assert isinstance(results[0], Broken) or results[0] == b""
            with pytest.raises(Broken, match="was closed"):
                await link.receive(100)
            with pytest.raises(Broken, match="was closed"):
                link.write(b"x")

    asyncio.run(run())


def test_what_is_written_goes_out_in_order_though_whoever_wrote_it_is_gone() -> None:
    async def run() -> None:
        async with handed() as (dialling, peer):
            link = await dialling
            link.write(MUCH)
            waiting = asyncio.create_task(link.drain())
            await asyncio.sleep(0.01)
            waiting.cancel()
            link.write(b"the end")
            reading = asyncio.create_task(asyncio.to_thread(received, peer))
            await link.drain()
            link.close()
            assert await reading == len(MUCH) + len(b"the end")

    asyncio.run(run())


def test_what_a_peer_said_before_it_left_is_read_though_nothing_can_be_sent_to_it_any_more() -> None:
    """A server that refuses an upload answers, and closes with what it has not read (RFC 9112, 9.6)."""

    async def run() -> None:
        async with handed() as (dialling, peer):
            link = await dialling
            link.write(MUCH)
            peer.sendall(b"too much")
            peer.close()
            with pytest.raises(Broken):
                await link.drain()
            with pytest.raises(Broken):
                link.write(b"more")
            assert await link.receive(100) == b"too much"
            assert await link.receive(100) == b""

    asyncio.run(run())


def test_a_peer_that_is_gone_breaks_whoever_writes() -> None:
    async def run() -> None:
        async with handed() as (dialling, peer):
            link = await dialling
            peer.close()
            with pytest.raises(Broken):
                async with asyncio.timeout(10):
                    while True:
                        link.write(bytes(65536))
                        await link.drain()

    asyncio.run(run())


@pytest.mark.parametrize("says", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b""])
def test_a_failed_handshake_closes_the_socket(authority: Authority, says: bytes) -> None:
    async def run() -> None:
        async with handed("https://[::1]/", says, authority) as (dialling, peer):
            if not says:
                await asyncio.to_thread(peer.recv, 4096)
                peer.shutdown(socket.SHUT_WR)
            with pytest.raises(Exception, match="TLS"):
                await dialling
            assert await asyncio.to_thread(received, peer) < 4096

    asyncio.run(run())


def test_a_handshake_that_is_given_up_leaves_no_socket(authority: Authority) -> None:
    async def run() -> None:
        async with handed("https://[::1]/", authority=authority) as (dialling, peer):
            await asyncio.to_thread(peer.recv, 4096)
            before = len(os.listdir("/proc/self/fd"))
            dialling.cancel()
            await asyncio.wait([dialling])
            assert await asyncio.to_thread(received, peer) == 0
            assert len(os.listdir("/proc/self/fd")) == before - 1

    asyncio.run(run())


def test_without_a_lookup_server_there_is_no_connection() -> None:
    async def run() -> None:
        ours, theirs = Channel.pair()
        asking = Connection(ours, LOOKUP, "client")
        theirs.close()
        with pytest.raises(ChannelClosed):
            await Dialer(asking, tls.context(), 10).dial(parse("http://127.0.0.1/"))
        asking.close()

    asyncio.run(run())
