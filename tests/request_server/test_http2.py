"""HTTP/2: what servers do to many requests on one connection, and what hostile ones would have us do for ever."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading

import h2.errors
import h2.events
import h2.settings
import hpack
import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.request_server.conftest import Fetched
from tests.request_server.peers import Handler, Http2Server, ask, led_to, outcome, peer

from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode
from cloister.interfaces.fetch import Destination, Fetch

URL = "https://site.example/"
MIB = 1024 * 1024
HEAD = hpack.Encoder().encode([(":status", "200")])
Settings = h2.settings.SettingCodes


def wanted(method: str = "GET") -> Fetch:
    return Fetch(URL, Destination.IMAGE, method=method)


def saying(*frames: Frame | bytes, settings: dict[Settings, int] | None = None) -> Fetched | RequestFailed:
    """Fetch from a server that answers the first connection's request with ``frames`` as they are. After a failure,
    another fetch must go well."""

    def serve(connection: socket.socket, number: int) -> None:
        server = Http2Server(connection, settings)
        server.request()
        if number == 1:
            server.say(b"".join(f if isinstance(f, bytes) else f.serialize() for f in frames))
        else:
            server.answer(1)
        server.serve()

    async def run() -> Fetched | RequestFailed:
        async with led_to(port, http_2=True, request_timeout=5000) as made:
            came = await outcome(made.fetch(wanted()))
            if isinstance(came, RequestFailed):
                assert (await made.fetch(wanted())).body == b"ok"
            return came

    with peer(serve) as port:
        return asyncio.run(run())


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────


def head(
    *fields: tuple[str, str], flags: tuple[str, ...] = ("END_HEADERS",), stream: int = 1
) -> HeadersFrame:
    return HeadersFrame(stream, hpack.Encoder().encode(list(fields)), flags=list(flags))


PLAIN = HeadersFrame(1, HEAD, flags=["END_HEADERS"])
BOMB = (  # one entry of 4,000 bytes, and 16,000 times its number
    hpack.Encoder().encode([(":status", "200"), ("x", "y" * 4000)]) + b"\xbe" * 16_000
)

REFUSED: dict[str, tuple[Frame | bytes, ...]] = {
    "a header that grows to megabytes": (HeadersFrame(1, BOMB, flags=["END_HEADERS"]),),
    "more headers than anybody needs": (head((":status", "200"), *[("x", "1")] * 600),),
    "a frame longer than was allowed": (PLAIN, b"\xff\xff\xff" + DataFrame(1).serialize()[3:]),
    "headers in more pieces than anybody needs": (
        HeadersFrame(1, HEAD),
        *[ContinuationFrame(1, bytes(60_000))] * 3,
    ),
    "no status": (head(("content-type", "text/html")),),
    "two statuses": (head((":status", "200"), (":status", "200")),),
    "a status that is no number": (head((":status", "2x0")),),
    "a status of 99": (head((":status", "099")),),
    "a name in capitals": (HeadersFrame(1, HEAD + b"\x00\x01X\x01y", flags=["END_HEADERS"]),),
    "a line break in a value": (HeadersFrame(1, HEAD + b"\x00\x01x\x04a\r\nb", flags=["END_HEADERS"]),),
    "a NUL in a value": (HeadersFrame(1, HEAD + b"\x00\x01x\x03a\0b", flags=["END_HEADERS"]),),
    "headers that cannot be read": (HeadersFrame(1, b"\xff\xff\xff\xff\xff\xff", flags=["END_HEADERS"]),),
    "headers of the connection": (head((":status", "200"), ("connection", "close")),),
    "an end without a head": (head((":status", "103"), flags=("END_HEADERS", "END_STREAM")),),
    "a body before its head": (DataFrame(1, b"ok", flags=["END_STREAM"]),),
    "more than it announced": (
        head((":status", "200"), ("content-length", "1")),
        DataFrame(1, b"ok", flags=["END_STREAM"]),
    ),
    "less than it announced": (
        head((":status", "200"), ("content-length", "3")),
        DataFrame(1, b"ok", flags=["END_STREAM"]),
    ),
    "a stream that nobody opened": (HeadersFrame(7, HEAD, flags=["END_HEADERS"]),),
    "a stream of its own": (HeadersFrame(2, HEAD, flags=["END_HEADERS"]),),
    "a push": (PushPromiseFrame(1, 2, HEAD, flags=["END_HEADERS"]),),
    "a frame between headers": (HeadersFrame(1, HEAD), PingFrame(0, b"12345678")),
    "a window beyond its limit": (PLAIN, WindowUpdateFrame(1, 2**31 - 1)),
    "a window of nothing": (PLAIN, WindowUpdateFrame(0, 1).serialize()[:-1] + b"\0"),
    "a setting that is none": (SettingsFrame(0, settings={5: 1}),),
    "a GOAWAY that is none": (b"\0\0\4\7\0\0\0\0\0abcd",),
    "what is no HTTP/2": (b"HTTP/1.1 400 Bad Request\r\n\r\n",),
    "more interim responses than anybody needs": (*[head((":status", "103"))] * 20, PLAIN),
    "the end of a stream instead of an answer": (RstStreamFrame(1, 2),),
    "the end of a stream in the middle of a body": (PLAIN, DataFrame(1, b"o"), RstStreamFrame(1, 8)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(name: str) -> None:
    came = saying(*REFUSED[name])
    assert isinstance(came, RequestFailed), came
    assert came.code == FailureCode.BAD_RESPONSE
    assert "site.example sent a response that cannot be read" in came.detail


UNKNOWN = b"\0\0\1\xbe\0\0\0\0\0?"
OK = DataFrame(1, b"ok", flags=["END_STREAM"])
END = DataFrame(1, b"", flags=["END_STREAM"])

READ: dict[str, tuple[Frame | bytes, ...]] = {
    "interim responses first": (head((":status", "103")), PLAIN, OK),
    "trailers, which are dropped": (
        PLAIN,
        DataFrame(1, b"ok"),
        head(("x", "y"), flags=("END_HEADERS", "END_STREAM")),
    ),
    "padding": (PLAIN, *[DataFrame(1, b"", pad_length=200, flags=["PADDED"])] * 50, OK),
    "frames of a byte": (PLAIN, DataFrame(1, b"o"), DataFrame(1, b""), DataFrame(1, b"k"), END),
    "headers in pieces": (HeadersFrame(1, b""), ContinuationFrame(1, HEAD, flags=["END_HEADERS"]), OK),
    "frames that nobody knows": (UNKNOWN, PLAIN, OK),
    "an end that says no more of the request is wanted": (PLAIN, OK, RstStreamFrame(1, 0)),
    "a GOAWAY in the middle, which lets it go on": (PLAIN, GoAwayFrame(0, 1), OK),
    "two GOAWAYs, the first before anything": (
        GoAwayFrame(0, 2**31 - 1),
        PLAIN,
        DataFrame(1, b"ok"),
        GoAwayFrame(0, 1, additional_data=b"bye"),
        END,
    ),
}


@pytest.mark.parametrize("size", [65536, 1, 5])
@pytest.mark.parametrize("name", READ)
def test_it_is_read(name: str, size: int) -> None:
    """In packets of ``size`` bytes, too: a frame may come in any pieces."""
    said = b"".join(frame if isinstance(frame, bytes) else frame.serialize() for frame in READ[name])

    def serve(connection: socket.socket, _number: int) -> None:
        server = Http2Server(connection)
        server.request()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, min(len(said), 400 * size), size):
            server.say(said[start : start + size])
        server.say(said[400 * size :])
        server.until_closed()

    (came,) = ask(serve, URL, http_2=True)
    assert isinstance(came, Fetched), came
    assert came.body == b"ok"
    assert came.headers == ()


# ── floods ───────────────────────────────────────────────────────────────────────────────────────────────────────


def many(frame: Frame) -> bytes:
    data = frame.serialize()
    return data * (1 + 65536 // len(data))


FLOODS: dict[str, tuple[bytes, bytes]] = {
    "pings (CVE-2019-9512)": (b"", many(PingFrame(0, b"12345678"))),
    "settings (CVE-2019-9515)": (b"", many(SettingsFrame(0, settings={3: 100}))),
    "empty settings": (b"", many(SettingsFrame(0))),
    "long settings": (b"", SettingsFrame(0, settings=dict.fromkeys(range(100, 2000), 1)).serialize() * 10),
    "empty frames (CVE-2019-9518)": (PLAIN.serialize(), many(DataFrame(1))),
    "padding (CVE-2019-9518)": (PLAIN.serialize(), many(DataFrame(1, pad_length=255, flags=["PADDED"]))),
    "frames of one byte": (PLAIN.serialize(), many(DataFrame(1, b"x"))),
    "windows": (b"", many(WindowUpdateFrame(0, 1))),
    "windows of the stream": (PLAIN.serialize(), many(WindowUpdateFrame(1, 1))),
    "priorities (CVE-2019-9513)": (b"", many(PriorityFrame(1, 0, 5))),
    "frames that nobody knows": (b"", UNKNOWN * 6000),
    "continuations (CVE-2024-27316)": (HeadersFrame(1, HEAD).serialize(), many(ContinuationFrame(1, b""))),
    "long continuations": (HeadersFrame(1, HEAD).serialize(), ContinuationFrame(1, bytes(60_000)).serialize()),
    "resets (CVE-2023-44487)": (RstStreamFrame(1, 8).serialize(), many(RstStreamFrame(1, 8))),
    "GOAWAYs": (b"", many(GoAwayFrame(0, 1))),
    "trailers": (PLAIN.serialize(), many(HeadersFrame(1, HEAD[:0], flags=["END_HEADERS"]))),
    "heads": (b"", many(HeadersFrame(1, HEAD, flags=["END_HEADERS"]))),
}  # fmt: skip


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_cut_off(name: str) -> None:
    """While somebody waits. The server writes until the connection is closed under it, long before the time limit."""
    first, again = FLOODS[name]
    sent: list[int] = [0]

    def serve(connection: socket.socket, number: int) -> None:
        server = Http2Server(connection)
        server.request()
        if number > 1:
            server.answer(1)
            server.serve()
        reading = threading.Thread(target=server.until_closed)
        reading.start()
        try:
            server.say(first)
            while sent[0] < 64 * MIB:
                server.say(again)
                sent[0] += len(again)
        finally:
            reading.join()

    async def run() -> None:
        async with led_to(port, http_2=True, request_timeout=20_000) as made:
            came = await outcome(made.fetch(wanted()))
            assert isinstance(came, RequestFailed)
            assert came.code == FailureCode.BAD_RESPONSE, came
            await outcome(made.fetch(wanted()))  # where the flood ended a stream, its connection ends now
            assert (await made.fetch(wanted())).body == b"ok"

    with peer(serve) as port:
        asyncio.run(run())
    assert sent[0] < 16 * MIB


def test_a_flood_while_nobody_waits_is_cut_off_too() -> None:
    over = threading.Event()

    def serve(connection: socket.socket, _number: int) -> None:
        server = Http2Server(connection)
        server.answer(server.request())
        reading = threading.Thread(target=server.until_closed)
        reading.start()
        with contextlib.suppress(OSError):
            while True:
                server.say(many(PingFrame(0, b"12345678")))
        reading.join()
        over.set()

    async def run() -> None:
        async with led_to(port, http_2=True) as made:
            await made.fetch(wanted())
            assert await asyncio.to_thread(over.wait, 20)

    with peer(serve) as port:
        asyncio.run(run())


def test_a_server_that_sends_more_than_the_window_is_refused() -> None:
    def serve(connection: socket.socket, _number: int) -> None:
        server = Http2Server(connection)
        server.request()
        server.say(PLAIN.serialize())
        with contextlib.suppress(OSError):
            while True:
                server.say(DataFrame(1, bytes(60_000)).serialize() * 10)

    async def run() -> None:
        async with led_to(port, http_2=True) as made, made.client.open(wanted()) as response:
            await asyncio.sleep(0.3)  # nobody reads meanwhile
            with pytest.raises(ValueError, match=r"(?i)flow control|window"):
                async for _ in response.body:
                    await asyncio.sleep(0.05)

    with peer(serve) as port:
        asyncio.run(run())


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────


def gather(serve: Handler, count: int, fetch: Fetch, body: bytes = b"") -> list[Fetched | RequestFailed]:
    async def run() -> list[Fetched | RequestFailed]:
        async with led_to(port, http_2=True) as made:
            return await asyncio.gather(*(outcome(made.fetch(fetch, body)) for _ in range(count)))

    with peer(serve) as port:
        return asyncio.run(run())


def test_no_more_streams_are_open_than_the_server_allows() -> None:
    most = 0

    def serve(connection: socket.socket, number: int) -> None:
        nonlocal most
        server = Http2Server(connection, {Settings.MAX_CONCURRENT_STREAMS: 3})
        assert number == 1
        server.answer(server.request())
        while True:
            streams = [server.request()]
            with contextlib.suppress(TimeoutError):
                connection.settimeout(0.05)
                while True:
                    streams.append(server.request())
            connection.settimeout(10)
            most = max(most, len(streams))
            for stream in streams:
                server.answer(stream)

    async def run() -> None:
        async with led_to(port, http_2=True) as made:
            await made.fetch(wanted())  # its settings are known from here on
            await asyncio.gather(*(made.fetch(wanted()) for _ in range(10)))

    with peer(serve) as port:
        asyncio.run(run())
    assert most == 3


def test_a_refused_stream_is_sent_again_whatever_its_method_but_not_for_ever() -> None:
    refused: list[int] = []

    def serve(connection: socket.socket, _number: int) -> None:
        server = Http2Server(connection)
        while True:
            stream = server.request()
            if len(refused) < times:
                refused.append(stream)
                server.state.reset_stream(stream, h2.errors.ErrorCodes.REFUSED_STREAM)
                server.flush()
            else:
                server.answer(stream)

    times = 1
    (came,) = gather(serve, 1, wanted("POST"), b"body")
    assert isinstance(came, Fetched)
    times = 1000
    (came,) = gather(serve, 1, wanted("POST"), b"body")
    assert isinstance(came, RequestFailed)
    assert len(refused) < 10


def test_what_a_goaway_leaves_unanswered_goes_to_a_new_connection_and_the_rest_is_answered() -> None:
    connections: list[list[int]] = []

    def serve(connection: socket.socket, number: int) -> None:
        server = Http2Server(connection)
        streams: list[int] = []
        connections.append(streams)
        while True:
            streams.append(server.request())
            if number > 1:
                server.answer(streams[-1])
            elif len(streams) == 4:
                server.say(GoAwayFrame(0, streams[1]).serialize())
                for stream in streams[:2]:
                    server.answer(stream, b"late")
                server.until_closed()
                return

    came = gather(serve, 4, wanted("POST"), b"body")
    assert [fetched.body for fetched in came if isinstance(fetched, Fetched)] == [
        b"late",
        b"late",
        b"ok",
        b"ok",
    ]
    assert [len(streams) for streams in connections] == [4, 2]


def test_an_answer_that_has_come_in_full_is_whole_though_the_connection_has_ended_before_it_is_read() -> None:
    """As nginx ends one after its last request."""

    def serve(connection: socket.socket, _number: int) -> None:
        server = Http2Server(connection)
        server.answer(server.request(), b"all of it")

    async def run() -> list[bytes]:
        async with led_to(port, http_2=True) as made, made.client.open(wanted()) as response:
            for _ in range(100):  # turns, in which whoever reads the connection comes to its end
                await asyncio.sleep(0.001)
            return [piece async for piece in response.body]

    with peer(serve) as port:
        assert asyncio.run(run()) == [b"all of it"]


@pytest.mark.parametrize("always", [False, True])
def test_a_kept_connection_that_ends_when_it_is_used_again_is_replaced_once(always: bool) -> None:
    def serve(connection: socket.socket, number: int) -> None:
        server = Http2Server(connection)
        if number == 1 or not always:
            server.answer(server.request())
        server.request()

    first, second = ask(serve, URL, URL, http_2=True)
    assert isinstance(first, Fetched)
    assert isinstance(second, RequestFailed if always else Fetched)


def test_a_fetch_that_is_given_up_before_its_answer_is_reset() -> None:
    told = threading.Event()

    def serve(connection: socket.socket, _number: int) -> None:
        server = Http2Server(connection)
        silent = server.request()
        server.answer(server.request())
        while not server.resets:
            server.take()
        assert server.resets == [(silent, h2.errors.ErrorCodes.CANCEL)]
        told.set()
        server.serve()

    async def run() -> None:
        async with led_to(port, http_2=True) as made:
            task = asyncio.create_task(made.fetch(wanted()))
            await asyncio.sleep(0)
            assert (await made.fetch(wanted())).body == b"ok"
            task.cancel()
            await asyncio.wait([task])
            assert await asyncio.to_thread(told.wait, 10)
            assert (await made.fetch(wanted())).body == b"ok"

    with peer(serve) as port:
        asyncio.run(run())


def test_a_body_is_sent_as_the_server_gives_room() -> None:
    body = bytes(range(256)) * 4096
    got: list[bytes] = []

    def serve(connection: socket.socket, _number: int) -> None:
        server = Http2Server(connection, {Settings.INITIAL_WINDOW_SIZE: 1000})
        server.answer(server.request())
        while sum(map(len, got)) < len(body):
            for event in server.take():
                if isinstance(event, h2.events.DataReceived):
                    got.append(event.data or b"")
                    server.state.acknowledge_received_data(event.flow_controlled_length or 0, 3)
            server.flush()
        server.answer(3)
        server.until_closed()

    async def run() -> None:
        async with led_to(port, http_2=True) as made:
            await made.fetch(wanted())  # its settings are known from here on
            assert (await made.fetch(wanted("PUT"), body)).body == b"ok"

    with peer(serve) as port:
        asyncio.run(run())
    assert b"".join(got) == body


def test_an_answer_may_come_before_the_request_is_sent() -> None:
    def serve(connection: socket.socket, _number: int) -> None:
        server = Http2Server(connection)
        server.answer(server.request(), b"no")
        server.answer(server.request(), b"yes")
        resets.extend(server.resets)
        server.until_closed()

    async def run() -> None:
        async with led_to(port, http_2=True) as made:
            assert (await made.fetch(wanted("POST"), bytes(MIB))).body == b"no"
            assert (await made.fetch(wanted())).body == b"yes"

    resets: list[tuple[int, int]] = []
    with peer(serve) as port:
        asyncio.run(run())
    assert resets == [(1, h2.errors.ErrorCodes.CANCEL)]  # of the rest, nobody sends any


def test_responses_that_nobody_reads_hold_up_no_other() -> None:
    """More than a stream's window is not sent; what of the connection's was taken is given back."""

    def serve(connection: socket.socket, number: int) -> None:
        assert number == 1
        server = Http2Server(connection)
        for _ in range(4):
            large = server.request()
            server.state.send_headers(large, [(":status", "200")])
            while window := min(server.state.local_flow_control_window(large), 16384):
                server.state.send_data(large, bytes(window))
                server.flush()
            server.answer(server.request())

    async def run() -> None:
        async with led_to(port, http_2=True) as made:
            for _ in range(4):
                async with made.client.open(wanted()):
                    assert (await made.fetch(wanted())).body == b"ok"

    with peer(serve) as port:
        asyncio.run(run())


def frames() -> st.SearchStrategy[bytes]:
    """Frames of any type, with any flags, of streams that are there or not."""
    kinds, flags = st.integers(0, 12), st.integers(0, 255)
    streams = st.sampled_from([0, 1, 1, 1, 2, 3, 2**31 - 1])
    payloads = st.one_of(st.binary(max_size=40), st.just(HEAD), st.just(bytes(4)))
    return st.builds(
        lambda kind, flag, stream, payload: (
            len(payload).to_bytes(3, "big") + bytes([kind, flag]) + stream.to_bytes(4, "big") + payload
        ),
        kinds,
        flags,
        streams,
        payloads,
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(frames(), max_size=20).map(b"".join), st.binary(max_size=20))
def test_whatever_frames_come_there_is_an_answer_or_a_name_for_what_was_wrong(
    said: bytes, more: bytes
) -> None:
    def serve(connection: socket.socket, _number: int) -> None:
        server = Http2Server(connection)
        server.request()
        server.say(said + more)

    (came,) = ask(serve, URL, http_2=True, request_timeout=5000)
    if isinstance(came, RequestFailed):
        assert came.code in {FailureCode.BAD_RESPONSE, FailureCode.CONNECTION_RESET}
