"""Packets: a five-byte header (what it is, which request it belongs to), then one message in msgpack."""

from __future__ import annotations

import enum
import functools
import struct
from typing import Any, TypeVar, Union

import msgspec

from ..errors import BadMessage, printable
from ..interfaces.base import MAX_PACKET, Event, FailureCode, Interface, Message, Reply, Request

__all__ = ["Codec", "Packet", "codec", "decoded", "failure_code"]

T = TypeVar("T")

_HEADER = struct.Struct("<BI")


class Packet(enum.IntEnum):
    """The first byte. CANCEL has no message; the peer still answers, with its reply or with CANCELLED."""

    EVENT = 0
    REQUEST = 1
    REPLY = 2
    CANCEL = 3


_PACKETS = {int(packet): packet for packet in Packet}  # a look-up takes a tenth of what Packet(number) does

_SHAPE: dict[Packet, type[Message]] = {Packet.EVENT: Event, Packet.REQUEST: Request, Packet.REPLY: Reply}


class Codec:
    """Encodes what one side of an interface sends and decodes what the other side may."""

    def __init__(self, interface: Interface, side: str) -> None:
        self.interface = interface
        self._mine = frozenset(interface.sent_by(side))
        theirs = interface.sent_by("server" if side == "client" else "client")
        self._decoder: msgspec.msgpack.Decoder[Any] | None = (
            msgspec.msgpack.Decoder(Union[theirs]) if theirs else None  # noqa: UP007 - a union made at run time
        )
        self._encoder = msgspec.msgpack.Encoder()

    def encode(self, packet: Packet, request_id: int, message: Message | None) -> bytes:
        """The bytes of one packet. TypeError or ValueError when it is not ours to send: a bug on this side."""
        head = _HEADER.pack(packet, request_id)
        if message is None:
            return head
        if type(message) not in self._mine:
            raise TypeError(f"{type(message).__name__} is not sent on {self.interface.name} by this side")
        data = head + self._encoder.encode(message)
        if len(data) > MAX_PACKET:
            raise ValueError(f"{type(message).__name__} takes {len(data)} bytes; a packet holds {MAX_PACKET}")
        return data

    def decode(self, data: bytes) -> tuple[Packet, int, Message | None]:
        """What the peer said, or :class:`BadMessage`."""
        if len(data) < _HEADER.size:
            raise BadMessage(f"a packet of {len(data)} bytes came on {self.interface.name}")
        first, request_id = _HEADER.unpack_from(data)
        packet = _PACKETS.get(first)
        if packet is None:
            raise BadMessage(f"a packet of unknown type {first} came on {self.interface.name}")
        if (request_id == 0) is not (packet is Packet.EVENT):
            raise BadMessage(f"a {packet.name} with number {request_id} came on {self.interface.name}")
        if packet is Packet.CANCEL:
            if len(data) != _HEADER.size:
                raise BadMessage(f"a cancellation with a body came on {self.interface.name}")
            return packet, request_id, None
        if self._decoder is None:
            raise BadMessage(f"a message came on {self.interface.name} from a side that sends none")
        message: Message = decoded(
            self._decoder, memoryview(data)[_HEADER.size :], f"a message came on {self.interface.name} that"
        )
        if not isinstance(message, _SHAPE[packet]):
            raise BadMessage(f"{type(message).__name__} came on {self.interface.name} as a {packet.name}")
        return packet, request_id, message


@functools.cache
def codec(interface: Interface, side: str) -> Codec:
    """The codec of one side of an interface; building a decoder costs half a millisecond, so once."""
    return Codec(interface, side)


def decoded(decoder: msgspec.msgpack.Decoder[T], data: bytes | memoryview, what: str) -> T:
    """``data`` as the decoder's type, or a :class:`BadMessage` which says that ``what`` "does not decode"."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # It quotes the peer: an unknown name is in it as it came, however long.
        raise BadMessage(f"{what} does not decode: {printable(str(error), 200)}") from None


def failure_code(text: str) -> FailureCode:
    """The code that ``text`` names; INTERNAL for what none has."""
    try:
        return FailureCode(text)
    except ValueError:
        return FailureCode.INTERNAL
