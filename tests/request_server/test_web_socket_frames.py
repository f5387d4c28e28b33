"""WebSocket's frames, without a process: the ``websockets`` library is the other side, and an enemy is."""

from __future__ import annotations

import contextlib
import itertools
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import CLIENT, SERVER, Protocol

from cloister.request_server.web_socket_frames import (
    CLOSE,
    OFFER,
    PING,
    PONG,
    Control,
    Deflate,
    Fault,
    Piece,
    Reader,
    Writer,
)

LIMIT = 1 << 20
MESSAGES = st.lists(st.one_of(st.text(max_size=400), st.binary(max_size=400)), max_size=6)


def frame(first: int, payload: bytes = b"", length: int | None = None) -> bytes:
    """One from a server; ``length`` is what it says, where that is not the truth."""
    size = len(payload) if length is None else length
    if size <= 125:
        return struct.pack("!BB", first, size) + payload
    if size <= 0xFFFF:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload


def read(data: bytes, limit: int = LIMIT, deflate: Deflate | None = None) -> list[str | bytes | Control]:
    """What it says, messages in whole."""
    return read_all([data], limit, deflate)


def read_all(
    pieces: list[bytes], limit: int = LIMIT, deflate: Deflate | None = None
) -> list[str | bytes | Control]:
    reader, found, parts = Reader(limit, deflate), list[str | bytes | Control](), list[bytes]()
    for piece in pieces:
        for got in reader.feed(piece):
            if isinstance(got, Control):
                found.append(got)
                continue
            assert isinstance(got, Piece)
            parts.append(got.data)
            if got.is_last:
                whole = b"".join(parts)
                found.append(whole.decode() if got.is_text else whole)
                parts.clear()
    return found


def cut(data: bytes, at: list[int]) -> list[bytes]:
    borders = sorted({0, len(data), *(each % (len(data) + 1) for each in at)})
    return [data[a:b] for a, b in itertools.pairwise(borders)]


def deflated(data: bytes, *, final: bool = False) -> bytes:
    compressor = zlib.compressobj(wbits=-15)
    made = compressor.compress(data)
    if final:
        return made + compressor.flush(zlib.Z_FINISH) + b"\0"
    return (made + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]


# ── with a real other side ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("deflate", [None, Deflate(), Deflate(server_forgets=True, client_forgets=True)])
@given(messages=MESSAGES, at=st.lists(st.integers(0, 10_000), max_size=20), in_pieces=st.booleans())
def test_what_a_server_sends_is_read_however_it_is_cut(
    deflate: Deflate | None, messages: list[str | bytes], at: list[int], in_pieces: bool
) -> None:
    server = Protocol(SERVER)
    if deflate is not None:
        server.extensions = [PerMessageDeflate(deflate.client_forgets, deflate.server_forgets, 15, 15)]
    for message in messages:
        send, data = (
            (server.send_text, message.encode())
            if isinstance(message, str)
            else (server.send_binary, message)
        )
        if in_pieces:
            send(data[:7], fin=False)
            server.send_ping(b"between")
            server.send_continuation(data[7:], fin=True)
        else:
            send(data)
    sent = b"".join(server.data_to_send())
    pings = [Control(PING, b"between")] * len(messages) if in_pieces else []
    found = read_all(cut(sent, at), deflate=deflate)
    assert [each for each in found if not isinstance(each, Control)] == messages
    assert [each for each in found if isinstance(each, Control)] == pings


@pytest.mark.parametrize("deflate", [None, Deflate(), Deflate(client_forgets=True, client_bits=9)])
@given(messages=MESSAGES)
def test_a_server_reads_what_we_send(deflate: Deflate | None, messages: list[str | bytes]) -> None:
    server, writer = Protocol(SERVER, max_size=None), Writer(deflate)
    if deflate is not None:
        server.extensions = [PerMessageDeflate(deflate.client_forgets, False, deflate.client_bits, 15)]
    for message in messages:
        data = message.encode() if isinstance(message, str) else message
        for piece in writer.message(data, is_text=isinstance(message, str)):
            server.receive_data(piece)
    server.receive_data(writer.control(PING, b"?"))
    server.receive_data(writer.close(4321, b"why"))
    events = server.events_received()
    frames = [event for event in events if isinstance(event, Frame)]
    assert [(each.opcode, each.data) for each in frames[:-2]] == [
        (Opcode.TEXT, each.encode()) if isinstance(each, str) else (Opcode.BINARY, each) for each in messages
    ]
    assert (frames[-2].opcode, frames[-2].data) == (Opcode.PING, b"?")
    assert server.close_rcvd is not None
    assert (server.close_rcvd.code, server.close_rcvd.reason) == (4321, "why")


@pytest.mark.parametrize("deflate", [None, Deflate()])
def test_a_large_message_goes_in_fragments_that_are_masked_each_by_a_key_of_its_own(
    deflate: Deflate | None,
) -> None:
    data = bytes(range(256)) * 4096
    frames = list(Writer(deflate).message(data, is_text=False))
    server = Protocol(SERVER, max_size=None)
    if deflate is not None:
        server.extensions = [PerMessageDeflate(False, False, 15, 15)]
    for each in frames:
        server.receive_data(each)
    received = [event for event in server.events_received() if isinstance(event, Frame)]
    assert b"".join(bytes(each.data) for each in received) == data
    assert [each.fin for each in received] == [False] * (len(received) - 1) + [True]
    if deflate is None:
        assert len({each[10:14] for each in frames}) == len(frames) == 16


def test_a_window_that_zlib_cannot_write_leaves_messages_as_they_are() -> None:
    (sent,) = Writer(Deflate(client_bits=8)).message(b"a" * 1000, is_text=True)
    assert sent[0] == 0x81


# ── agreeing ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("said", "agreed"),
    [
        ([], None),
        ([""], None),
        (["permessage-deflate"], Deflate()),
        (["Permessage-Deflate ; server_no_context_takeover"], Deflate(server_forgets=True)),
        (["permessage-deflate; client_no_context_takeover"], Deflate(client_forgets=True)),
        (['permessage-deflate; client_max_window_bits="10"'], Deflate(client_bits=10)),
        (["permessage-deflate; server_max_window_bits=9;client_max_window_bits=8"], Deflate(client_bits=8)),
    ],
)
def test_what_a_server_may_agree_to(said: list[str], agreed: Deflate | None) -> None:
    assert Deflate.agreed(said) == agreed


@pytest.mark.parametrize(
    "said",
    [
        "x-webkit-deflate-frame",
        "permessage-bzip2",
        "permessage-deflate, permessage-deflate",
        "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
        "permessage-deflate; server_no_context_takeover=1",
        "permessage-deflate; client_max_window_bits",
        "permessage-deflate; client_max_window_bits=7",
        "permessage-deflate; client_max_window_bits=16",
        "permessage-deflate; client_max_window_bits=010",
        "permessage-deflate; server_max_window_bits=99999999999999999999",
        "permessage-deflate; unknown",
        "permessage-deflate; ",
        'permessage-deflate; client_max_window_bits="10',
        "; permessage-deflate",
    ],
)
def test_what_no_server_may_agree_to(said: str) -> None:
    with pytest.raises(ValueError, match="permessage-deflate|offered"):
        Deflate.agreed([said])


def test_two_headers_are_one_list() -> None:
    with pytest.raises(ValueError, match="not offered"):
        Deflate.agreed(["permessage-deflate", "permessage-deflate"])
    assert OFFER.decode().startswith("permessage-deflate")


# ── what an enemy sends ──────────────────────────────────────────────────────────────────────────────────────────

PROTOCOL_ERROR, INVALID_DATA, TOO_BIG = 1002, 1007, 1009
ZEROS = deflated(bytes(4 * LIMIT))

BAD: dict[str, tuple[bytes, int]] = {
    "a mask": (b"\x81\x85\x01\x02\x03\x04hello", PROTOCOL_ERROR),
    "RSV1 though nothing was agreed on": (frame(0xC1, b"a"), PROTOCOL_ERROR),
    "RSV2": (frame(0xA1, b"a"), PROTOCOL_ERROR),
    "RSV3": (frame(0x91, b"a"), PROTOCOL_ERROR),
    "RSV1 on a ping": (frame(0xC9), PROTOCOL_ERROR),
    **{
        f"opcode {code}": (frame(0x80 | code), PROTOCOL_ERROR) for code in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    },
    "a ping in two fragments": (frame(0x09, b"a"), PROTOCOL_ERROR),
    "a close in two fragments": (frame(0x08), PROTOCOL_ERROR),
    "a ping of 126 bytes": (frame(0x89, bytes(126)), PROTOCOL_ERROR),
    "a close of 4 GiB": (frame(0x88, length=1 << 32), PROTOCOL_ERROR),
    "a continuation of nothing": (frame(0x80, b"a"), PROTOCOL_ERROR),
    "a continuation after the end": (frame(0x81, b"a") + frame(0x80, b"b"), PROTOCOL_ERROR),
    "a message inside a message": (frame(0x01, b"a") + frame(0x81, b"b"), PROTOCOL_ERROR),
    "a short length in two bytes": (b"\x82\x7e\x00\x7d", PROTOCOL_ERROR),
    "a short length in eight bytes": (b"\x82\x7f" + bytes(6) + b"\xff\xff", PROTOCOL_ERROR),
    "a length with the highest bit": (b"\x82\x7f\x80" + bytes(7), PROTOCOL_ERROR),
    "a close of one byte": (frame(0x88, b"\x03"), PROTOCOL_ERROR),
    **{
        f"a close with {code}": (frame(0x88, struct.pack("!H", code)), PROTOCOL_ERROR)
        for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535)
    },
    "a close in Latin-1": (frame(0x88, b"\x03\xe8caf\xe9"), INVALID_DATA),
    "a text in Latin-1": (frame(0x81, b"caf\xe9 au lait"), INVALID_DATA),
    "a text that ends inside a letter": (frame(0x81, "é".encode()[:1]), INVALID_DATA),
    "a text that ends inside a letter, in fragments": (frame(0x01, b"\xe2\x82") + frame(0x80), INVALID_DATA),
    "a letter split wrongly": (frame(0x01, b"\xe2\x82") + frame(0x80, b"\xe2\x82\xac"), INVALID_DATA),
    "a surrogate": (frame(0x81, b"\xed\xa0\x80"), INVALID_DATA),
    "an overlong letter": (frame(0x81, b"\xc0\xaf"), INVALID_DATA),
    "beyond Unicode": (frame(0x81, b"\xf4\x90\x80\x80"), INVALID_DATA),
    "more than the limit in one frame": (frame(0x82, length=LIMIT + 1), TOO_BIG),
    "2**63 bytes": (frame(0x82, length=2**63 - 1), TOO_BIG),
    "more than the limit in fragments": (
        frame(0x02, bytes(LIMIT)) + frame(0x00, bytes(1)),
        TOO_BIG,
    ),
}
BAD_DEFLATED: dict[str, tuple[bytes, int]] = {
    "a bomb": (frame(0xC2, ZEROS), TOO_BIG),
    "a bomb in fragments": (frame(0x42, ZEROS[:100]) + frame(0x00, ZEROS[100:]), TOO_BIG),
    "one byte too much": (frame(0xC2, deflated(bytes(LIMIT + 1))), TOO_BIG),
    "empty blocks without an end": (
        frame(0x42, b"\0\0\0\xff\xff" * 10) + frame(0x00, b"\0\0\0\xff\xff" * (LIMIT // 10)) * 3,
        TOO_BIG,
    ),
    "no DEFLATE": (frame(0xC2, b"\xff\xff\xff\xff"), INVALID_DATA),
    "a text that is none, once inflated": (frame(0xC1, deflated(b"\xff\xfe")), INVALID_DATA),
    "RSV1 on a continuation": (frame(0x41, deflated(b"a")) + frame(0xC0, b"b"), PROTOCOL_ERROR),
    "RSV1 on a close": (frame(0xC8), PROTOCOL_ERROR),
    "a distance before the beginning": (frame(0xC2, b"\x4b\x04\x62\x00"), INVALID_DATA),
}


@pytest.mark.parametrize(
    ("data", "code", "deflate"),
    [
        *(pytest.param(*case, None, id=name) for name, case in BAD.items()),
        *(pytest.param(*case, Deflate(), id=f"deflated: {name}") for name, case in BAD_DEFLATED.items()),
    ],
)
def test_what_nobody_may_send_is_a_fault(data: bytes, code: int, deflate: Deflate | None) -> None:
    with pytest.raises(Fault) as caught:
        read(data, deflate=deflate)
    assert caught.value.code == code
    with pytest.raises(Fault):  # the same in single bytes, of as much as is not too long for it
        read_all([data[i : i + 1] for i in range(min(len(data), 2000))] + [data[2000:]], deflate=deflate)


def test_a_bomb_is_never_in_memory() -> None:
    bomb = frame(0xC2, ZEROS)
    tracemalloc.start()
    try:
        with pytest.raises(Fault):
            read(bomb, 100_000, Deflate())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 500_000


def _head_is_enough(data: bytes) -> bool:
    try:
        read(data)
    except Fault:
        return True
    return False


def test_a_fault_is_seen_in_the_head_and_nothing_is_waited_for() -> None:
    assert _head_is_enough(b"\x81\x80")  # masked
    assert _head_is_enough(b"\x89\x7e")  # a ping of 126 bytes or more
    assert _head_is_enough(frame(0x82, length=LIMIT + 1))


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (frame(0x88), [Control(CLOSE, b"", 1005)]),
        (frame(0x88, struct.pack("!H", 1000)), [Control(CLOSE, b"", 1000)]),
        (frame(0x88, struct.pack("!H", 1014) + "grüße".encode()), [Control(CLOSE, "grüße".encode(), 1014)]),
        (frame(0x88, struct.pack("!H", 4999)) + frame(0x81, b"after"), [Control(CLOSE, b"", 4999)]),
        (frame(0x88) + b"\xff\xff\xff", [Control(CLOSE, b"", 1005)]),
        (frame(0x8A, b"unasked"), [Control(PONG, b"unasked")]),
        (frame(0x01) + frame(0x00) + frame(0x89) + frame(0x80), [Control(PING, b""), ""]),
        (frame(0x82, bytes(126)), [bytes(126)]),
        (frame(0x82, bytes(65536)), [bytes(65536)]),
        (frame(0x82, bytes(LIMIT)), [bytes(LIMIT)]),
    ],
)
def test_what_is_unusual_and_right(data: bytes, found: list[str | bytes | Control]) -> None:
    assert read(data) == found


def test_a_deflated_message_may_end_in_a_final_block_and_the_window_stays() -> None:
    first = deflated(b"some words that come again", final=True)
    compressor = zlib.compressobj(wbits=-15, zdict=b"some words that come again")
    again = (compressor.compress(b"some words that come again") + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
    assert len(again) < 10
    found = read(frame(0xC1, first) + frame(0xC1, again) + frame(0x81, b"plain"), deflate=Deflate())
    assert found == ["some words that come again"] * 2 + ["plain"]


@given(data=st.binary(max_size=300), flag=st.booleans())
def test_nothing_but_a_fault_is_raised(data: bytes, flag: bool) -> None:
    with contextlib.suppress(Fault):
        read(data, 1000, Deflate() if flag else None)


@given(data=st.binary(max_size=300), at=st.lists(st.integers(0, 300), max_size=8))
def test_however_bytes_are_cut_they_say_the_same(data: bytes, at: list[int]) -> None:
    def outcome(reading: Callable[[], list[str | bytes | Control]]) -> object:
        try:
            return reading()
        except Fault as fault:
            return fault.code

    data = b"\x01\x02hi" + data
    assert outcome(lambda: read(data)) == outcome(lambda: read_all(cut(data, at)))


def test_the_other_side_is_the_one_it_says() -> None:
    client = Protocol(CLIENT)
    client.send_text(b"masked")
    with pytest.raises(Fault):
        read(b"".join(client.data_to_send()))
