"""Packets made from the message types: whole ones, spoiled ones, and bytes that are none. And a judge of them that
shares no code with the product's: it unpacks without types, then walks the types itself."""

from __future__ import annotations

import dataclasses
import enum
import functools
import re
import struct
from random import Random
from typing import Any

import msgspec
from msgspec import inspect

from cloister.interfaces.base import Event, Failure, Interface, Message, Reply, Request, reply_type

__all__ = [
    "BOUNDARIES",
    "EVENT",
    "REPLY",
    "REQUEST",
    "Boundary",
    "Forger",
    "Verdict",
    "judge",
    "patterns_of",
    "whole",
]

EVENT, REQUEST, REPLY, CANCEL = range(4)
_NASTY = (
    "\x1b[2J",
    "\n",
    "\0",
    "\u202e",
    "é",
    "\U0001f600",
    "a",
    "/",
    "..",
    "%s",
    "{}",
    " ",
    "\x7f",
    "\ufeff",
    "\r",
)


@dataclasses.dataclass(frozen=True)
class Boundary:
    """One interface, and the side that sends."""

    interface: Interface
    sender: str

    @property
    def receiver(self) -> str:
        return "server" if self.sender == "client" else "client"

    @functools.cached_property
    def messages(self) -> tuple[type[Message], ...]:
        return self.interface.sent_by(self.sender)

    def __str__(self) -> str:
        return f"{self.interface.name} from its {self.sender}"


def _boundaries() -> list[Boundary]:
    from cloister.interfaces import (
        control,
        image_decoder,
        lookup_server,
        monitor,
        request_server,
        requests,
        web_content,
        zygote,
    )

    modules = (control, image_decoder, lookup_server, monitor, request_server, requests, web_content, zygote)
    interfaces = {
        found.name: found
        for module in modules
        for found in vars(module).values()
        if isinstance(found, Interface)
    }
    every = [Boundary(interface, side) for interface in interfaces.values() for side in ("client", "server")]
    return [boundary for boundary in every if boundary.messages]


BOUNDARIES = _boundaries()
"""Every direction in which anything may be sent."""


# ── what is whole ────────────────────────────────────────────────────────────────────────────────────────────────


@functools.cache
def _shape(cls: type) -> inspect.StructType:
    found = inspect.type_info(cls)
    assert isinstance(found, inspect.StructType)
    return found


def _bounds(kind: Any) -> tuple[int, int]:
    return kind.min_length or 0, kind.max_length if kind.max_length is not None else 64


def value(kind: inspect.Type, random: Random) -> Any:
    """Something that ``kind`` allows; its bounds more often than chance would have it."""
    match kind:
        case inspect.IntType(ge=ge, le=le):
            low, high = ge if ge is not None else 0, le if le is not None else 2**40
            return random.choice((low, high, min(high, low + 1), random.randint(low, high)))
        case inspect.FloatType(ge=ge, le=le):
            return random.choice((ge or 0.0, le or 1e9, int(ge or 0), random.uniform(ge or 0.0, le or 1e9)))
        case inspect.StrType(pattern=pattern) if pattern is not None:
            return random.choice(
                [word for word in ("web_content", "a", "cloister.x", "PNG", "A") if re.search(pattern, word)]
            )
        case inspect.StrType() | inspect.BytesType():
            low, high = _bounds(kind)
            size = random.choice(
                (low, min(high, low + 1), min(high, 9000), random.randint(low, min(high, 60)))
            )
            text = "".join(random.choice(_NASTY) for _ in range(min(size, 12)))
            text = (text + "x" * size)[:size]
            return text if isinstance(kind, inspect.StrType) else text.encode(errors="replace")[:size]
        case inspect.BoolType():
            return random.random() < 0.5
        case inspect.NoneType():
            return None
        case inspect.EnumType(cls=cls):
            return random.choice([each.value for each in cls])
        case inspect.UnionType(types=types):
            return value(random.choice(types), random)
        case inspect.TupleType(item_types=types):
            return [value(each, random) for each in types]
        case inspect.VarTupleType(item_type=item):
            low, high = _bounds(kind)
            return [value(item, random) for _ in range(random.randint(low, min(high, low + 3)))]
        case inspect.StructType():
            return _struct(kind, random)
    raise AssertionError(f"no message has had a field of {kind} so far")


def _struct(kind: inspect.StructType, random: Random) -> Any:
    fields = kind.fields
    if all(not field.required for field in fields[-1:]) and random.random() < 0.3:
        fields = fields[: sum(field.required for field in fields)]
    values = [value(field.type, random) for field in fields]
    if kind.array_like:
        return [kind.tag, *values] if kind.tag is not None else values
    return {field.encode_name: each for field, each in zip(fields, values, strict=False)}


def patterns_of(cls: type[Message]) -> set[str]:
    """Of every text in it."""
    found: set[str] = set()
    left: list[Any] = [_shape(cls)]
    while left:
        match left.pop():
            case inspect.StrType(pattern=pattern) if pattern is not None:
                found.add(pattern)
            case inspect.StructType(fields=fields):
                left += [field.type for field in fields]
            case inspect.VarTupleType(item_type=item):
                left.append(item)
            case inspect.TupleType(item_types=types) | inspect.UnionType(types=types):
                left += types
    return found


# ── what is not ──────────────────────────────────────────────────────────────────────────────────────────────────


def _wrong(random: Random) -> Any:
    """Something that hardly anybody expects."""
    return random.choice(
        (
            None,
            True,
            -1,
            0,
            2**31,
            2**63,
            2**64 - 1,
            -(2**63),
            0.5,
            float("nan"),
            float("inf"),
            "",
            "\x1b]0;owned\x07\n",
            "x" * 9000,
            b"",
            b"\xff" * 50,
            [],
            [[]],
            {},
            {"a": 1},
            {1: 2},
            [None] * 40,
            msgspec.msgpack.Ext(5, b"x"),
            msgspec.msgpack.Ext(-1, b"\0\0\0\0"),
        )
    )


def _spoiled(whole: Any, random: Random) -> Any:
    """``whole`` with one node of it replaced, removed, repeated or added to."""
    if isinstance(whole, list) and whole and random.random() < 0.8:
        at, copy = random.randrange(len(whole)), list(whole)
        match random.randrange(8):
            case 0:
                del copy[at]
            case 1:
                copy.insert(at, _wrong(random))
            case 2:
                copy.append(copy[at])
            case _:
                copy[at] = _spoiled(copy[at], random)
        return copy
    if isinstance(whole, int) and not isinstance(whole, bool) and random.random() < 0.5:
        return max(-(2**63), min(2**64 - 1, whole + random.choice((-1, 1, -(2**32), 2**32))))
    if isinstance(whole, str) and random.random() < 0.5:
        return random.choice((whole + "\n", whole + "x" * 600, whole.encode(errors="replace"), whole[:-1]))
    return _wrong(random)


def _mangled(data: bytes, random: Random) -> bytes:
    """Bytes changed, cut, doubled."""
    changed = bytearray(data)
    for _ in range(random.randint(1, 3)):
        at = random.randrange(len(changed) + 1)
        match random.randrange(5):
            case 0:
                del changed[at:]
            case 1:
                changed[at:at] = random.randbytes(random.randint(1, 9))
            case 2:
                changed[at:at] = changed
            case _:
                changed[at : at + 1] = bytes([random.randrange(256)])
    return bytes(changed[:60_000]) or b"\0"


def whole(cls: type[Message], random: Random) -> bytes:
    """A message as it should be, without its header."""
    return msgspec.msgpack.encode(value(_shape(cls), random))


class Forger:
    """Makes packets of one boundary. ``waiting`` are the numbers of requests to which the receiver waits for an
    answer, and what it asked."""

    def __init__(self, boundary: Boundary, random: Random) -> None:
        self._random = random
        self._messages = boundary.messages

    def packet(self, waiting: dict[int, type[Request[Any]]]) -> bytes:
        random = self._random
        if random.random() < 0.03:
            return random.randbytes(random.randint(0, 40)) or b"\0"
        if random.random() < 0.05:
            return struct.pack("<BI", CANCEL, random.choice((0, 1, 7, 2**32 - 1))) + b"x" * random.choice(
                (0, 0, 1)
            )
        cls = random.choice(self._messages)
        body = value(_shape(cls), random)
        if random.random() < 0.3:
            body = _spoiled(body, random)
        data = self._head(cls, waiting) + msgspec.msgpack.encode(body)
        return _mangled(data, random) if random.random() < 0.1 else data

    def _head(self, cls: type[Message], waiting: dict[int, type[Request[Any]]]) -> bytes:
        random = self._random
        kind, number = (
            _SHAPES[_sort(cls)],
            0 if issubclass(cls, Event) else random.choice((1, 2, 3, 2**32 - 1)),
        )
        if issubclass(cls, Reply) and waiting:
            fitting = [number for number, asked in waiting.items() if cls in (reply_type(asked), Failure)]
            number = random.choice(fitting or list(waiting))
        if random.random() < 0.05:
            kind = random.choice((EVENT, REQUEST, REPLY, CANCEL, 4, 255))
        if random.random() < 0.05:
            number = random.choice((0, 1, 5, 2**32 - 1))
        return struct.pack("<BI", kind, number)


_SHAPES = {Event: EVENT, Request: REQUEST, Reply: REPLY}


def _sort(cls: type[Message]) -> type[Message]:
    return next(sort for sort in _SHAPES if issubclass(cls, sort))


# ── the judge ────────────────────────────────────────────────────────────────────────────────────────────────────


class Verdict(enum.Enum):
    """What becomes of a packet. Whether its descriptors are right is another question."""

    BAD = "its sender is ended"
    EVENT = "handled"
    REQUEST = "handled, and answered"
    REPLY = "given to whoever asked"
    CANCEL = "nothing is to be cancelled"


def judge(
    data: bytes, boundary: Boundary, waiting: dict[int, type[Request[Any]]] | None
) -> tuple[Verdict, Any]:
    """With the name of the message, and its fields as they were packed. ``waiting``: what the receiver has asked; None
    where that does not matter."""
    bad = Verdict.BAD, None
    if len(data) < 5 or data[0] > CANCEL:
        return bad
    number = int.from_bytes(data[1:5], "little")
    if (number == 0) != (data[0] == EVENT):
        return bad
    if data[0] == CANCEL:
        return (Verdict.CANCEL, None) if len(data) == 5 else bad
    try:
        body = msgspec.msgpack.decode(data[5:])
    except (ValueError, RecursionError, TypeError):  # TypeError: a key of a map that cannot be one
        return bad
    if not isinstance(body, list) or not body or not isinstance(body[0], str):
        return bad
    cls = {each.__name__: each for each in boundary.messages}.get(body[0])
    if cls is None or _SHAPES[_sort(cls)] != data[0] or not _fits(body, _shape(cls)):
        return bad
    if issubclass(cls, Reply) and waiting is not None:
        asked = waiting.get(number)
        if asked is None or cls not in (reply_type(asked), Failure):
            return bad
    return Verdict[_sort(cls).__name__.upper()], body


def _fits(got: Any, kind: inspect.Type) -> bool:
    match kind:
        case inspect.IntType(ge=ge, le=le):
            return type(got) is int and (ge is None or got >= ge) and (le is None or got <= le)
        case inspect.FloatType(ge=ge, le=le):
            return type(got) in (int, float) and (ge is None or got >= ge) and (le is None or got <= le)
        case inspect.StrType(pattern=pattern):
            found = type(got) is str and (pattern is None or re.search(pattern, got) is not None)
            return found and _in_length(got, kind)
        case inspect.BytesType():
            return type(got) is bytes and _in_length(got, kind)
        case inspect.BoolType():
            return type(got) is bool
        case inspect.NoneType():
            return got is None
        case inspect.EnumType(cls=cls):
            return type(got) is str and got in {each.value for each in cls}
        case inspect.UnionType(types=types):
            return any(_fits(got, each) for each in types)
        case inspect.TupleType(item_types=types):
            whole = type(got) is list and len(got) == len(types)
            return whole and all(map(_fits, got, types))
        case inspect.VarTupleType(item_type=item):
            return type(got) is list and _in_length(got, kind) and all(_fits(each, item) for each in got)
        case inspect.StructType(fields=fields, array_like=True, tag=tag):
            if type(got) is not list:
                return False
            values = got[1:] if tag is not None else got
            least = sum(field.required for field in fields)
            return least <= len(values) <= len(fields) and all(
                _fits(each, field.type) for each, field in zip(values, fields, strict=False)
            )
        case inspect.StructType(fields=fields):
            names = {field.encode_name: field for field in fields}
            return (
                type(got) is dict
                and got.keys() <= names.keys()
                and all(field.encode_name in got for field in fields if field.required)
                and all(_fits(each, names[name].type) for name, each in got.items())
            )
    raise AssertionError(f"no message has had a field of {kind} so far")


def _in_length(got: Any, kind: Any) -> bool:
    return (kind.min_length or 0) <= len(got) and (kind.max_length is None or len(got) <= kind.max_length)
