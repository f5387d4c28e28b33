"""Values between a program and a plugin: what arrives is what was sent, and what is no value is told."""

from __future__ import annotations

import array
import collections
import contextlib
import datetime
import decimal
import enum
import fcntl
import math
import mmap
import os
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cloister.errors import BadMessage, NotSendable
from cloister.ipc import memory, values
from cloister.ipc.descriptors import F_ADD_SEALS, F_SEAL_WRITE, Descriptors
from cloister.ipc.shared_buffer import SharedBuffer

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
zones = st.none() | st.integers(-1439, 1439).map(lambda m: datetime.timezone(datetime.timedelta(minutes=m)))
dates = st.datetimes(timezones=zones)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | text
    | st.binary(max_size=20)
    | dates
)
keys = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | text | st.binary(max_size=9)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(keys, inner, max_size=5),
    max_leaves=20,
)


def sent(value: object) -> Any:
    body, memfds = values.pack(value, "value")
    return values.unpack(body, Descriptors(memfds), trusted=True)


@settings(max_examples=60, deadline=None)
@given(anything)
@example(2**64)
@example([-(2**63) - 1, {"x": 10**40}])
def test_what_arrives_is_what_was_sent(value: object) -> None:
    found = sent(value)
    assert found == value
    assert type(found) is type(value)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\x91" * 100_000)
@example(b"\x81\x91\x91\xc0\xc0")
@example(b"\xc7\x00\x02")
@example(b"\xc7\x00\x01")
@example(b"\xd7\xff\xff\xff\xff\xff\xff\xff\xff\xff")
def test_any_bytes_are_a_value_or_a_bad_message(data: bytes) -> None:
    try:
        values.unpack(data, Descriptors())
    except BadMessage as error:
        told = str(error)
    else:
        told = ""
    assert told.isprintable() or not told


class Colour(enum.IntEnum):
    RED = 1


class Word(str):
    pass


Pair = collections.namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    "value",
    [Colour.RED, Word("x"), Pair(1, 2), {1}, frozenset(), 1j, decimal.Decimal(1), datetime.date.today(), object(), len,
     int, range(3), collections.OrderedDict(), iter([]), NotImplemented, ...,
     msgspec.msgpack.Ext(3, b""), "\ud800", {"\udfff": 1}, {2**70: 1}, {(1,): 1}, {Word("x"): 1}],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_nothing_else_is_sent(value: object) -> None:
    """Not even what msgpack would write as something else: it would arrive as another thing than was sent."""
    for each in (value, [0, value], {"k": value}):
        with pytest.raises(NotSendable):
            values.pack(each, "value")


def test_the_error_says_where() -> None:
    with pytest.raises(NotSendable, match=r'^args\[1\]\["a"\]\[2\] is a object, which'):
        values.pack_call([0, {"a": [0, 1, object()]}], {})
    with pytest.raises(NotSendable, match=r'^named\["b"\] is a set'):
        values.pack_call([], {"b": set()})
    with pytest.raises(NotSendable, match="a memoryview without a dimension"):
        values.pack(memoryview(b"x").cast("B", ()), "value")
    with pytest.raises(NotSendable, match="elements 'c'"):
        values.pack(memoryview(b"abc").cast("c"), "value")


@pytest.mark.parametrize("code", "bBhHiIlLqQfd")
@pytest.mark.parametrize("length", [0, 3, 40_000])
def test_every_kind_of_number_arrives(code: str, length: int) -> None:
    numbers = (
        array.array(code, range(100)) * (length // 100)
        if length > 3
        else array.array(code, [1, 2, 3][:length])
    )
    found = sent(numbers)
    assert found.format == code
    assert found.tolist() == numbers.tolist()
    assert found.readonly


def test_shapes_and_slices_arrive() -> None:
    cube = memoryview(bytes(range(24))).cast("B", [2, 3, 4])
    assert sent(cube).tolist() == cube.tolist()
    assert sent(memoryview(bytes(range(20)))[::-2]).tolist() == [*range(19, 0, -2)]
    assert sent([cube, {"x": cube}])[1]["x"].shape == (2, 3, 4)


def test_a_shared_buffer_is_the_same_memory() -> None:
    shared = SharedBuffer(100_000)
    found = sent(memoryview(shared))
    shared[5] = 7
    assert found[5] == 7
    part = sent(memoryview(shared)[:80_000])
    shared[5] = 8
    assert (part[5], found[5]) == (7, 8), "a part of it is copied"


def test_a_shared_buffer_is_written_to_only_where_that_was_meant() -> None:
    shared = SharedBuffer(100_000)
    for writable in (False, True):
        _, (fd,) = values.pack(memoryview(shared), "value", writable=writable)
        with contextlib.closing(Descriptors([fd])):
            assert attempts(fd) == ([] if not writable else ["map", "write"])
    body, memfds = values.pack(memoryview(shared), "value", writable=True)
    found = values.unpack(body, Descriptors(memfds), trusted=True)
    found[3] = 4
    assert shared[3] == 4


def attempts(fd: int) -> list[str]:
    """What can be done by ``fd``. A memfd that shrinks ends who reads where it was (SIGBUS); one that is sealed by
    somebody else, ends who wants to map it."""
    done = []
    for name, attempt in (
        ("map", lambda: mmap.mmap(fd, 4096)),
        ("write", lambda: os.pwrite(fd, b"x", 0)),
        ("shrink", lambda: os.ftruncate(fd, 4096)),
        ("grow", lambda: os.ftruncate(fd, 200_000)),
        ("seal", lambda: fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE)),
    ):
        with contextlib.suppress(OSError):
            attempt()
            done.append(name)
    return done


def test_an_untrusted_buffer_must_be_sealed_and_of_its_size() -> None:
    body, memfds = values.pack(bytearray(100_000), "value")
    (good,) = memfds
    unsealed = memory.create_bitmap(100_000)
    short = memory.sealed(bytes(90_000))
    for wrong in (unsealed, short):
        with pytest.raises(BadMessage):
            values.unpack(body, Descriptors([wrong]))
    with pytest.raises(BadMessage):
        values.unpack(body, Descriptors())
    assert len(values.unpack(body, Descriptors([good]))) == 100_000


def test_a_refused_value_leaves_no_descriptor() -> None:
    before = os.listdir("/proc/self/fd")
    large = bytearray(100_000)
    for wrong in ([large, object()], [large] * 7, [large, {1: {2}}]):
        with pytest.raises(NotSendable):
            values.pack(wrong, "value")
    assert os.listdir("/proc/self/fd") == before


def test_not_a_number_arrives() -> None:
    assert math.isnan(sent(math.nan))
    assert math.copysign(1, sent(-0.0)) == -1
