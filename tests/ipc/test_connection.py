"""A connection: requests matched by id, deadlines, cancellation, events, and the end of whoever breaks the rules."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.shortage import only

from cloister.errors import BadMessage, ChannelClosed, OutOfDescriptors, RequestFailed, TimeoutError
from cloister.interfaces.base import (
    Blob,
    Descriptor,
    Event,
    FailureCode,
    Interface,
    Reply,
    Request,
)
from cloister.ipc import Channel, Connection, Descriptors, blob, memory
from cloister.ipc.codec import Packet, codec
from cloister.ipc.connection import MAX_IN_FLIGHT


class Doubled(Reply, frozen=True):
    number: int


class Double(Request[Doubled], frozen=True):
    number: int


class Held(Reply, frozen=True):
    descriptors = (Descriptor.SEALED_MEMFD,)


class Hold(Request[Held], frozen=True):
    pass


class Echoed(Reply, frozen=True):
    body: Blob


class Echo(Request[Echoed], frozen=True):
    body: Blob


class Given(Event, frozen=True):
    descriptors = (Descriptor.SEALED_MEMFD,)


class Stall(Request[Doubled], frozen=True):
    pass


class Note(Event, frozen=True):
    text: str


TEST = Interface("test", client=(Double, Hold, Echo, Stall, Note), server=(Note,))


async def double(message: Double, _fds: Descriptors) -> Doubled:
    await asyncio.sleep(0.01 if message.number == 1 else 0)  # the first asked is the last answered
    if message.number < 0:
        raise RequestFailed(FailureCode.BAD_URL, "negative")
    return Doubled(message.number * 2)


async def hold(_message: Hold, _fds: Descriptors) -> tuple[Held, list[int]]:
    return Held(), [memory.sealed(b"kept")]


async def echo(message: Echo, fds: Descriptors) -> tuple[Echoed, list[int]]:
    body, give = blob.pack(blob.unpack(message.body, fds, 2**20))
    return Echoed(body), give


class Pair:
    """Both ends; ``ended`` has the error that the server's end closed for."""

    def __init__(self) -> None:
        self.ended: list[Exception | None] = []
        self.notes: list[str] = []
        self.cancelled = asyncio.Event()
        client, server = Channel.pair()
        self.client = Connection(client, TEST, "client", {Note: lambda m, _f: self.notes.append(m.text)})
        handlers: dict[Any, Any] = {
            Double: double,
            Hold: hold,
            Echo: echo,
            Stall: self._stall,
            Note: lambda m, _f: self.notes.append(m.text),
        }
        self.server = Connection(server, TEST, "server", handlers, self.ended.append)

    async def _stall(self, _message: Stall, _fds: Descriptors) -> Doubled:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return Doubled(0)


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    both = Pair()
    try:
        yield both
    finally:
        both.client.close()
        both.server.close()


@asynccontextmanager
async def raw_peer() -> AsyncIterator[tuple[socket.socket, Connection, list[Exception | None]]]:
    """A peer that says whatever the test wants, and the connection that has to bear it."""
    ended: list[Exception | None] = []
    liar, honest = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection = Connection(Channel(honest.detach()), TEST, "server", {Double: double}, ended.append)
    with liar:
        yield liar, connection, ended
    connection.close()


async def until(what: Callable[[], bool]) -> None:
    while not what():
        await asyncio.sleep(0.001)


def run(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 20))


def test_three_requests_get_the_replies_that_belong_to_them_in_whatever_order() -> None:
    async def go() -> None:
        async with pair() as both:
            answers = await asyncio.gather(*(both.client.request(Double(n), timeout=5) for n in (1, 2, 3)))
            assert [reply.number for reply, _ in answers] == [2, 4, 6]

    run(go())


def test_a_handler_that_has_its_reply_at_once_need_not_be_a_coroutine() -> None:
    async def go() -> None:
        client, server = Channel.pair()
        asker = Connection(client, TEST, "client")
        answerer = Connection(server, TEST, "server", {Double: lambda m, _fds: Doubled(m.number * 2)})
        try:
            reply, _ = await asker.request(Double(21), timeout=5)
            assert reply.number == 42
        finally:
            asker.close()
            answerer.close()

    run(go())


def test_a_failure_raises_its_code_and_detail_where_it_was_asked() -> None:
    async def go() -> None:
        async with pair() as both:
            with pytest.raises(RequestFailed, match="negative") as caught:
                await both.client.request(Double(-1), timeout=5)
            assert caught.value.code == FailureCode.BAD_URL

    run(go())


def test_events_travel_in_both_directions_in_order() -> None:
    async def go() -> None:
        async with pair() as both:
            for text in ("a", "b"):
                both.client.send(Note(text))
            await both.client.request(Double(0), timeout=5)
            assert both.notes == ["a", "b"]
            both.server.send(Note("c"))
            await both.client.request(Double(0), timeout=5)
            assert both.notes == ["a", "b", "c"]

    run(go())


def test_a_request_past_its_deadline_raises_and_cancels_the_work_on_the_other_side() -> None:
    async def go() -> None:
        async with pair() as both:
            with pytest.raises(TimeoutError, match=r"Stall was not answered on test within 0\.01 s"):
                await both.client.request(Stall(), timeout=0.01)
            await asyncio.wait_for(both.cancelled.wait(), 5)
            assert (await both.client.request(Double(4), timeout=5))[0].number == 8
            assert both.ended == []

    run(go())


def test_each_request_has_its_own_deadline_whichever_was_asked_first() -> None:
    over: list[float] = []

    async def ask(both: Pair, timeout: float) -> None:
        with pytest.raises(TimeoutError):
            await both.client.request(Stall(), timeout=timeout)
        over.append(timeout)

    async def go() -> None:
        async with pair() as both:
            patient = asyncio.ensure_future(both.client.request(Stall(), timeout=60))
            await asyncio.gather(ask(both, 0.02), ask(both, 0.01), ask(both, 0.03))
            await ask(both, 0.04)
            assert over == [0.01, 0.02, 0.03, 0.04]
            assert not patient.done()
            patient.cancel()

    run(go())


def test_a_peer_that_says_much_does_not_keep_another_waiting() -> None:
    async def go() -> None:
        async with pair() as talker, pair() as other:
            for number in range(100):
                talker.client.send(Note(str(number)))
            other.client.send(Note("me too"))
            while not other.notes:
                await asyncio.sleep(0)
            assert len(talker.notes) < 100
            await until(lambda: len(talker.notes) == 100)

    run(go())


def test_what_a_peer_said_before_its_end_can_be_taken_in_at_once() -> None:
    async def go() -> None:
        async with pair() as both:
            for number in range(100):
                both.client.send(Note(str(number)))
            both.client.close()
            both.server.drain()
            assert both.notes == [str(number) for number in range(100)]
            assert both.ended == [None]

    run(go())


def test_a_request_cancelled_in_the_same_breath_is_answered_and_leaves_nothing_behind() -> None:
    async def go() -> None:
        async with pair() as both:
            for _ in range(MAX_IN_FLIGHT + 10):
                task = asyncio.ensure_future(both.client.request(Stall(), timeout=5))
                await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                await both.client.request(Double(1), timeout=5) if _ % 100 == 0 else None
            assert (await both.client.request(Double(4), timeout=5))[0].number == 8
            assert both.server._working == {}
            assert both.client._abandoned == set()

    run(go())


def test_an_answer_that_comes_as_its_asker_is_cancelled_leaves_no_descriptor() -> None:
    async def go() -> None:
        async with pair() as both:
            before = len(os.listdir("/proc/self/fd"))
            asking = asyncio.ensure_future(both.client.request(Hold(), timeout=5))
            while both.server.sent == 0:
                await asyncio.sleep(0)
            both.client.drain()  # the answer is there, and its asker has not run since
            asking.cancel()
            with pytest.raises(asyncio.CancelledError) as kept:
                await asking
            assert len(os.listdir("/proc/self/fd")) == before
            del kept

    asyncio.run(go())


def test_a_blocking_request_is_answered_while_no_task_runs_and_others_keep_their_replies() -> None:
    """The server runs in another thread, as another process would."""
    import threading

    client, server = Channel.pair()
    done = threading.Event()

    def serve() -> None:
        async def go() -> None:
            connection = Connection(server, TEST, "server", {Double: double})
            while not done.is_set():
                await asyncio.sleep(0.005)
            connection.close()

        asyncio.run(go())

    thread = threading.Thread(target=serve)
    thread.start()

    async def go() -> None:
        connection = Connection(client, TEST, "client")
        slow = asyncio.ensure_future(connection.request(Double(1), timeout=5))
        await asyncio.sleep(0)
        assert connection.request_blocking(Double(5), timeout=5)[0].number == 10
        assert (await slow)[0].number == 2
        with pytest.raises(RequestFailed, match="negative"):
            connection.request_blocking(Double(-5), timeout=5)
        connection.close()

    try:
        run(go())
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("size", [0, 1, 40 * 1024, 40 * 1024 + 1, 2**20])
def test_a_body_of_any_size_arrives_whole(size: int) -> None:
    async def go() -> None:
        async with pair() as both:
            data = os.urandom(size)
            body, give = blob.pack(data)
            reply, fds = await both.client.request(Echo(body), give, timeout=5)
            assert blob.unpack(reply.body, fds, 2**20) == data

    run(go())


def test_a_body_larger_than_agreed_is_the_senders_end() -> None:
    async def go() -> None:
        async with pair() as both:
            body, give = blob.pack(bytes(2**20 + 1))
            with pytest.raises(ChannelClosed):
                await both.client.request(Echo(body), give, timeout=5)
            assert isinstance(both.ended[0], BadMessage)

    run(go())


def test_a_closed_peer_fails_what_waits_and_what_comes_after() -> None:
    async def go() -> None:
        async with pair() as both:
            waiting = asyncio.ensure_future(both.client.request(Stall(), timeout=5))
            await asyncio.sleep(0.01)
            both.server.close()
            with pytest.raises(ChannelClosed):
                await waiting
            with pytest.raises(ChannelClosed):
                await both.client.request(Double(1), timeout=5)

    run(go())


def test_a_reply_sent_just_before_the_peer_went_is_still_received() -> None:
    async def go() -> None:
        async with raw_peer() as (liar, connection, ended):
            liar.send(codec(TEST, "client").encode(Packet.REQUEST, 1, Double(2)))
            await asyncio.sleep(0.01)
            assert codec(TEST, "client").decode(liar.recv(100)) == (Packet.REPLY, 1, Doubled(4))
            liar.close()
            await asyncio.sleep(0.01)
            assert connection.closed
            assert ended == [None]

    run(go())


def _head(packet: int, request_id: int = 1) -> bytes:
    return packet.to_bytes(1, "little") + request_id.to_bytes(4, "little")


def _encoded(*values: Any) -> bytes:
    return msgspec.msgpack.encode(values)


BAD = {
    "an empty message": _head(1),
    "half a header": b"\x01\x00",
    "an unknown packet": _head(9) + _encoded("Double", 1),
    "an unknown message": _head(1) + _encoded("Halve", 1),
    "a field too few": _head(1) + _encoded("Double"),
    "a field too many": _head(1) + _encoded("Double", 1, 2),
    "a field of the wrong type": _head(1) + _encoded("Double", "1"),
    "a request as an event": _head(0) + _encoded("Double", 1),
    "an event as a request": _head(1) + _encoded("Note", "x"),
    "a message without a handler": _head(0) + _encoded("Note", "x"),
    "a message of the other side": _head(2) + _encoded("Doubled", 1),
    "a cancellation with a body": _head(3) + b"x",
    "trailing bytes": _head(1) + _encoded("Double", 1) + b"\x00",
    "text that is not UTF-8": _head(0) + b"\x92\xa4Note\xa2\xff\xfe",
    "nesting without end": _head(1) + b"\x91" * 60_000,
    "a packet over the limit": _head(1) + bytes(65_536),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_not_in_the_interface_ends_its_sender(name: str) -> None:
    async def go() -> None:
        async with raw_peer() as (liar, connection, ended):
            liar.send(BAD[name])
            await asyncio.sleep(0.01)
            assert connection.closed
            assert isinstance(ended[0], BadMessage)

    run(go())


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_message_or_bad(data: bytes) -> None:
    try:
        codec(TEST, "server").decode(data)
    except BadMessage:
        pass


def test_a_reply_that_nobody_asked_for_ends_its_sender() -> None:
    async def go() -> None:
        ended: list[Exception | None] = []
        liar, honest = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with liar:
            connection = Connection(Channel(honest.detach()), TEST, "client", {}, ended.append)
            asked = asyncio.ensure_future(connection.request(Double(1), timeout=5))
            await asyncio.sleep(0)
            liar.send(codec(TEST, "server").encode(Packet.REPLY, 7, Doubled(1)))
            with pytest.raises(BadMessage):
                await asked
            assert isinstance(ended[0], BadMessage)

    run(go())


def test_the_wrong_kind_of_reply_ends_its_sender() -> None:
    async def go() -> None:
        ended: list[Exception | None] = []
        liar, honest = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with liar:
            connection = Connection(Channel(honest.detach()), TEST, "client", {}, ended.append)
            asked = asyncio.ensure_future(connection.request(Double(1), timeout=5))
            await asyncio.sleep(0)
            liar.send(codec(TEST, "server").encode(Packet.REPLY, 1, Echoed(Blob(0, b""))))
            with pytest.raises(BadMessage, match="Echoed answered where Doubled was asked for"):
                await asked
            assert isinstance(ended[0], BadMessage)

    run(go())


def test_a_flood_of_requests_is_cut_off() -> None:
    async def go() -> None:
        async with pair() as both:
            asks = [
                asyncio.ensure_future(both.client.request(Stall(), timeout=5))
                for _ in range(MAX_IN_FLIGHT + 1)
            ]
            results = await asyncio.gather(*asks, return_exceptions=True)
            assert all(isinstance(result, ChannelClosed) for result in results)
            assert "requests came at once" in str(both.ended[0])

    run(go())


def test_a_flood_of_events_is_cut_off() -> None:
    async def go() -> None:
        async with raw_peer() as (liar, connection, ended):
            connection._handlers[Note] = lambda _message, _fds: None
            note = codec(TEST, "client").encode(Packet.EVENT, 0, Note("x"))
            liar.setblocking(False)  # who reads is in this thread

            async def send(count: int) -> None:
                for _ in range(count):
                    with contextlib.suppress(BlockingIOError):
                        liar.send(note)
                        continue
                    await asyncio.sleep(0)

            await send(100)
            await asyncio.sleep(0.02)
            assert not connection.closed
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                for _ in range(20):
                    await send(100)
                    await asyncio.sleep(0.001)
            assert "events a second" in str(ended[0])

    run(go())


def test_a_peer_that_reads_late_gets_everything_and_then_nobody_waits_for_it_to_read() -> None:
    async def go() -> None:
        async with raw_peer() as (late, connection, ended):
            loop, fd = asyncio.get_running_loop(), connection._channel.fileno()
            for _ in range(2):
                texts = [str(number) * 1000 for number in range(600)]
                for text in texts:
                    connection.send(Note(text))
                decode = codec(TEST, "client").decode
                got: list[str] = []
                while len(got) < len(texts):
                    await asyncio.sleep(0)  # the loop sends what had to wait
                    late.settimeout(5)
                    message = decode(late.recv(2**16))[2]
                    assert isinstance(message, Note)
                    got.append(message.text)
                assert got == texts
                assert not loop.remove_writer(fd)
            assert not ended

    run(go())


def test_a_peer_that_never_reads_is_cut_off() -> None:
    async def go() -> None:
        async with raw_peer() as (_liar, connection, ended):
            with pytest.raises(BadMessage, match="does not read"):
                for _ in range(100_000):
                    connection.send(Note("x" * 1000))
            assert isinstance(ended[0], BadMessage)

    run(go())


def _send_fds(sender: socket.socket, data: bytes, fds: list[int]) -> None:
    socket.send_fds(sender, [data], fds)


def wrong_descriptors() -> dict[str, list[int]]:
    reader, writer = os.pipe()
    os.close(writer)
    unsealed = memory.create()
    os.write(unsealed, b"abc")
    return {
        "none": [],
        "a pipe": [reader],
        "a folder": [os.open("/", os.O_RDONLY)],
        "/dev/zero": [os.open("/dev/zero", os.O_RDONLY)],
        "an unsealed memfd": [unsealed],
        "one that may still be written": [memory.create_bitmap(3)],
        "a regular file": [os.open(__file__, os.O_RDONLY)],
        "two": [memory.sealed(b"abc"), memory.sealed(b"abc")],
    }


@pytest.mark.parametrize("name", [*wrong_descriptors()])
def test_a_descriptor_that_is_not_what_the_message_says_ends_its_sender(name: str) -> None:
    async def go() -> None:
        fds = wrong_descriptors()
        async with raw_peer() as (liar, connection, ended):
            connection._handlers[Echo] = echo
            _send_fds(liar, codec(TEST, "client").encode(Packet.REQUEST, 1, Echo(Blob(3))), fds[name])
            for each in fds.values():
                Descriptors(each).close()
            await asyncio.sleep(0.01)
            assert connection.closed
            assert isinstance(ended[0], BadMessage)

    run(go())


def test_a_memfd_of_another_size_than_announced_ends_its_sender() -> None:
    async def go() -> None:
        async with raw_peer() as (liar, connection, ended):
            connection._handlers[Echo] = echo
            fd = memory.sealed(b"abc")
            _send_fds(liar, codec(TEST, "client").encode(Packet.REQUEST, 1, Echo(Blob(4))), [fd])
            os.close(fd)
            await asyncio.sleep(0.01)
            assert connection.closed
            assert isinstance(ended[0], BadMessage)

    run(go())


def test_a_sealed_memfd_cannot_be_changed_and_a_bitmap_cannot_be_resized() -> None:
    fd = memory.sealed(b"abc")
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    os.close(fd)
    fd = memory.create_bitmap(4096)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)
    with memory.map_bitmap(fd, 4096) as bitmap:
        bitmap[0:2] = b"ok"
    with pytest.raises(BadMessage):
        memory.map_bitmap(fd, 8192)
    with pytest.raises(BadMessage):
        memory.read_sealed(fd, 4096)
    os.close(fd)


def test_a_descriptor_that_could_not_be_sent_is_closed_although_the_error_is_kept() -> None:
    async def go() -> None:
        async with pair() as both:
            both.client.close()
            fd = memory.sealed(b"given away")
            with pytest.raises(ChannelClosed) as kept:
                await both.client.request(Hold(), [fd], timeout=5)
            assert kept.tb is not None
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)

    run(go())


def test_who_has_no_room_for_the_descriptors_of_a_reply_is_told_and_the_peer_is_not_to_blame() -> None:
    async def go() -> None:
        async with pair() as both:
            asked = asyncio.ensure_future(both.client.request(Hold(), timeout=5))
            await asyncio.sleep(0)
            both.server._on_readable()
            await asyncio.sleep(0)  # the answer is on its way
            with only(0):
                both.client._on_readable()
            with pytest.raises(OutOfDescriptors):
                await asked
            await both.client.request(Hold(), timeout=5)
            assert both.ended == []

    run(go())


def test_another_thread_that_closes_a_descriptor_meanwhile_does_not_make_the_peer_guilty() -> None:
    here, there = Channel.pair()
    fds = [os.dup(2)]
    here.send(b"x", fds)

    class Socket:
        """Has room again the moment the packet was received."""

        def recvmsg_into(self, *arguments: Any) -> Any:
            with only(0):
                return real.recvmsg_into(*arguments)

    real = there._socket
    there._socket = cast("Any", Socket())
    _, came = there.receive()
    assert came.lost
    there._socket = real
    here.close()
    there.close()
    os.close(fds[0])


def test_descriptors_that_nobody_expects_end_their_sender_also_where_there_is_no_room_for_them() -> None:
    async def go() -> None:
        async with raw_peer() as (liar, _, ended):
            note = codec(TEST, "client").encode(Packet.EVENT, 0, Note("x"))
            socket.send_fds(liar, [note], [liar.fileno()])
            with only(0):
                await until(lambda: bool(ended))
            assert isinstance(ended[0], BadMessage)

    run(go())


def test_an_event_whose_descriptors_were_lost_says_so() -> None:
    taken: list[bool] = []
    interface = Interface("given", client=(Given,))

    async def go() -> None:
        here, there = Channel.pair()
        client = Connection(here, interface, "client")
        handlers: dict[Any, Any] = {Given: lambda _message, fds: taken.append(fds.lost)}
        server = Connection(there, interface, "server", handlers)
        client.send(Given(), [memory.sealed(b"given away")])
        with only(0):
            await until(lambda: bool(taken))
        client.send(Given(), [memory.sealed(b"given away")])
        await until(lambda: len(taken) == 2)
        client.close()
        server.close()

    run(go())
    assert taken == [True, False]


def test_no_descriptor_is_left_open_whatever_happened() -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    async def go() -> None:
        async with pair() as both:
            _, fds = await both.client.request(Hold(), timeout=5)
            assert len(fds) == 1
            del fds
            with pytest.raises(TypeError):
                both.server.send(Double(1), [memory.sealed(b"x")])  # type: ignore[arg-type]
            asked = asyncio.ensure_future(both.client.request(Hold(), timeout=5))
            await asyncio.sleep(0)
            asked.cancel()
            await asyncio.sleep(0.01)

    run(go())
    before = count()
    run(go())
    assert count() == before
