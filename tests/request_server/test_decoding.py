"""Content encodings are undone whole, in bounded steps, and never beyond what the sink accepts."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.servers import COMPRESSORS, compress

from cloister.request_server.decoding import MAX_STEP, decoder, encodings

TOKENS = {name: name.removeprefix("raw-") for name in COMPRESSORS}
names = st.sampled_from(sorted(COMPRESSORS))


class Enough(Exception):
    pass


def decode(tokens: Sequence[str], pieces: Sequence[bytes], limit: int = 2**30) -> bytes:
    taken = bytearray()

    def take(piece: bytes) -> None:
        nonlocal taken
        assert len(piece) <= MAX_STEP
        if len(taken) + len(piece) > limit:
            raise Enough
        taken += piece

    decoding = decoder(tokens, take)
    for piece in pieces:
        decoding.feed(piece)
    decoding.finish()
    return bytes(taken)


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@settings(deadline=None)
@given(name=names, data=st.binary(max_size=5000), size=st.integers(1, 600))
def test_a_body_comes_out_as_it_went_in_however_it_is_cut(name: str, data: bytes, size: int) -> None:
    assert decode([TOKENS[name]], cut(compress(name, data), size)) == data


@settings(deadline=None)
@given(
    layers=st.lists(names.filter(lambda name: name != "raw-deflate"), max_size=3),
    data=st.binary(max_size=2000),
)
def test_stacked_encodings_are_undone_last_one_first(layers: list[str], data: bytes) -> None:
    packed = data
    for name in layers:
        packed = compress(name, packed)
    assert decode(layers, [packed]) == data


@settings(max_examples=300, deadline=None)
@given(name=names, prefix=st.binary(max_size=40), noise=st.binary(max_size=400), size=st.integers(1, 400))
def test_arbitrary_bytes_are_decoded_within_the_limit_or_refused(
    name: str, prefix: bytes, noise: bytes, size: int
) -> None:
    begun = compress(name, prefix)[: len(prefix)] + noise
    try:
        assert len(decode([TOKENS[name]], cut(begun, size), limit=1000)) <= 1000
    except (ValueError, Enough):
        pass


@settings(deadline=None)
@given(name=names, data=st.binary(min_size=1, max_size=500), kept=st.floats(0, 0.99))
def test_a_body_that_lacks_its_end_is_refused(name: str, data: bytes, kept: float) -> None:
    packed = compress(name, data)
    part = packed[: int(len(packed) * kept)]
    if part:
        with pytest.raises(ValueError, match=r"ends early|damaged"):
            decode([TOKENS[name]], [part])
    else:
        assert decode([TOKENS[name]], [part]) == b""  # some servers name an encoding for no body at all


@pytest.mark.parametrize("name", sorted(COMPRESSORS))
def test_a_bomb_stops_at_the_limit_and_not_when_it_is_over(name: str) -> None:
    bomb = compress(name, bytes(200 * 1024 * 1024))
    assert len(bomb) < 1024 * 1024
    with pytest.raises(Enough):
        decode([TOKENS[name]], [bomb], limit=5 * 1024 * 1024)


def test_what_zlib_still_holds_when_its_input_is_over_is_not_lost() -> None:
    for size in range(64 * 1024, 64 * 1024 + 600):
        assert decode(["deflate"], [compress("raw-deflate", bytes(size))]) == bytes(size)


def test_a_bomb_in_a_bomb_stops_at_the_limit() -> None:
    bomb = bytes(100 * 1024 * 1024)
    for name in ("gzip", "br", "zstd"):
        bomb = compress(name, bomb)
    assert len(bomb) < 10_000
    with pytest.raises(Enough):
        decode(["gzip", "br", "zstd"], [bomb], limit=1024 * 1024)


@pytest.mark.parametrize("name", ["gzip", "zstd"])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_members_that_follow_one_another_are_one_body(name: str, size: int) -> None:
    packed = compress(name, b"one, ") + compress(name, b"") + compress(name, b"two")
    assert decode([name], cut(packed, size)) == b"one, two"


@pytest.mark.parametrize("name", ["gzip", "deflate"])
def test_padding_after_the_end_is_ignored(name: str) -> None:
    assert decode([name], [compress(name, b"all") + bytes(10), b"\x1f\x8b more"]) == b"all"


def test_data_after_the_end_of_brotli_is_refused() -> None:
    with pytest.raises(ValueError, match="damaged"):
        decode(["br"], [compress("br", b"all"), b"more"])


def test_zstd_may_not_ask_for_more_memory_than_the_standard_gives_it() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=24, write_content_size=False)
    greedy = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    with pytest.raises(ValueError, match="damaged"):
        decode(["zstd"], [greedy.compress(b"x" * 1000) + greedy.flush()])


# ── formats that are not what they say ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("said", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize("sent", ["gzip", "deflate", "br", "zstd"])
def test_a_body_in_another_encoding_than_it_says_is_refused(said: str, sent: str) -> None:
    if said == sent:
        return
    with pytest.raises(ValueError, match=r"damaged|ends early"):
        decode([said], [compress(sent, b"some words, and then some more words")])


ZSTD = b"\x28\xb5\x2f\xfd"  # RFC 8878, 3.1.1
SKIPPED = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"  # 3.1.2
GZIP = compress("gzip", b"words")
DAMAGED = {
    "a checksum that is wrong": ("gzip", GZIP[:-8] + bytes(4) + GZIP[-4:]),
    "a length that is wrong": ("gzip", GZIP[:-4] + bytes(4)),
    "a checksum of zlib's that is wrong": ("deflate", compress("deflate", b"words")[:-4] + bytes(4)),
    "a dictionary that nobody has": ("deflate", b"\x78\xbb" + bytes(4) + compress("raw-deflate", b"words")),
    "a dictionary of zstd's": ("zstd", ZSTD + b"\x21\x07\x05" + b"\x29\0\0words"),
    "a window of 1 GiB": ("zstd", ZSTD + b"\0\xa0" + b"\x29\0\0words"),
    "a block of a reserved kind": ("zstd", ZSTD + b"\x20\x05" + b"\x2f\0\0words"),
    "another size than it says": ("zstd", ZSTD + b"\x20\x06" + b"\x29\0\0words"),
    "a large window": ("br", b"\x11\x1e" + compress("br", b"words")),  # not of RFC 7932
    "nothing but a name": ("gzip", b"\x1f\x8b\x08\x08" + bytes(6) + b"n" * 100_000),
    "nothing but what is skipped, and a half": ("zstd", SKIPPED * 1000 + SKIPPED[:6]),
    "a second member that is damaged": ("gzip", GZIP + GZIP[:-8] + bytes(8)),
}


@pytest.mark.parametrize("size", [1, 100_000])
@pytest.mark.parametrize(("name", "packed"), DAMAGED.values(), ids=DAMAGED)
def test_what_is_damaged_is_refused_however_it_comes(name: str, packed: bytes, size: int) -> None:
    with pytest.raises(ValueError, match=r"damaged|ends early"):
        decode([name], cut(packed, size))


def test_what_the_formats_allow_beside_their_data_is_passed_over() -> None:
    named = b"\x1f\x8b\x08\x1e" + bytes(6) + b"\x02\0ab" + b"name\0" + b"comment\0"
    named += (zlib.crc32(named) & 0xFFFF).to_bytes(2, "little") + GZIP[10:]  # RFC 1952, 2.3.1
    assert decode(["gzip"], [named]) == b"words"
    assert decode(["zstd"], [SKIPPED + compress("zstd", b"words") + SKIPPED]) == b"words"


@pytest.mark.parametrize("name", ["gzip", "deflate", "br", "zstd"])
@pytest.mark.parametrize("outer", ["gzip", "br"])
def test_a_bomb_of_any_kind_in_another_stops_at_the_limit(name: str, outer: str) -> None:
    bomb = compress(outer, compress(name, bytes(40 * 1024 * 1024)))
    with pytest.raises(Enough):
        decode([name, outer], [bomb], limit=1024 * 1024)


def test_the_header_names_encodings_in_any_case_and_over_several_lines() -> None:
    assert encodings(["GZIP, br", " zstd "]) == ["gzip", "br", "zstd"]
    assert encodings(["identity", "", "deflate"]) == ["deflate"]
    assert encodings([]) == []


def test_a_body_with_an_unknown_encoding_is_taken_as_it_is() -> None:
    assert encodings(["utf-8"]) == []
    assert encodings(["gzip, rot13"]) == []


def test_more_than_three_encodings_are_refused() -> None:
    with pytest.raises(ValueError, match="4 times over"):
        encodings(["gzip, gzip", "gzip, gzip"])
