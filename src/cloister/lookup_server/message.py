"""A question about a name and the answer to it, as bytes (RFC 1035), and nothing else of DNS.

Read by hand because the time must be bounded: a general library builds every record of an answer, and takes five
seconds over 64 KiB of aliases that point into one another, in which nobody else is served. Here only addresses,
aliases and the SOA record are looked at, and what costs more than reading it once is refused.
"""

from __future__ import annotations

import os
import struct
from ipaddress import IPv4Address, IPv6Address

import msgspec

from .addresses import Address

__all__ = [
    "AAAA",
    "MAX_ANSWER",
    "A",
    "Answer",
    "Forged",
    "NoAnswer",
    "Question",
    "Truncated",
]

MAX_ANSWER = 16 * 1024
"""Bytes of an answer that are read: a thousand addresses. A pointer reaches no further (RFC 1035, 4.1.4)."""

A, AAAA = 1, 28
_CNAME, _SOA, _OPT = 5, 6, 41
_IN = 1
_MAX_NAME = 255  # RFC 1035, 2.3.4
_MAX_POINTERS = 16  # in one name; a name server that compresses needs a few
_MAX_ALIASES = 16  # one after the other; BIND follows as many
_MAX_ADDRESSES = 64  # kept of one name; four are used
_PADDED = 128  # bytes that a question over TLS is a multiple of (RFC 8467, section 4.1)

_HEADER = struct.Struct("!6H")
_RECORD = struct.Struct("!HHIH")
_QR, _TC, _RD, _OPCODE, _RCODE = 0x8000, 0x0200, 0x0100, 0x7800, 0x000F
_NXDOMAIN = 3
_RCODES = {1: "FORMERR", 2: "SERVFAIL", 4: "NOTIMP", 5: "REFUSED"}


class NoAnswer(Exception):
    """The name server has answered, and said nothing that is of use; the message is why."""


class Truncated(Exception):
    """The rest of the answer is to be had over TCP."""


class Forged(Exception):
    """Not what was asked: of somebody who guesses, or late."""


class Answer(msgspec.Struct, frozen=True):
    """What is known of a name for ``ttl`` seconds. Without ``addresses`` it has none of the kind that was asked for;
    without ``exists`` none of any kind."""

    addresses: tuple[Address, ...]
    ttl: int
    exists: bool = True


class Question:
    """One question: recursion desired, one name, one type. ``name`` is lower-case, without its trailing dot.

    The id, and the case of each letter (draft-vixie-dnsext-dns0x20), are for whoever forges an answer to guess.
    """

    def __init__(self, name: str, kind: int) -> None:
        self._kind = kind
        labels = name.encode("ascii").split(b".")
        wire = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
        if not all(0 < len(label) <= 63 for label in labels) or len(wire) > _MAX_NAME:
            raise ValueError(f"{name!r} is no name that can be asked for")
        self._name = wire
        self._id = os.urandom(2)
        self._question = _mixed_case(wire) + struct.pack("!HH", kind, _IN)
        self.wire = self._id + _HEADER.pack(0, _RD, 1, 0, 0, 0)[2:] + self._question

    def padded(self) -> bytes:
        """``wire``, of a length that says less of the name (RFC 7830, RFC 8467): for a channel that is secret."""
        head = self._id + _HEADER.pack(0, _RD, 1, 0, 0, 1)[2:] + self._question
        option = -(len(head) + 11 + 4) % _PADDED
        # Its class is the largest datagram that we take, which no stream looks at; option 12 is padding.
        record = struct.pack("!BHHIHHH", 0, _OPT, 1232, 0, 4 + option, 12, option)
        return head + record + bytes(option)

    def read(self, data: bytes, *, stream: bool) -> Answer:
        """The answer that ``data`` is, from a ``stream`` that nobody else writes to, or from a datagram.

        Raises Forged, Truncated (of a datagram), or NoAnswer.
        """
        if len(data) < _HEADER.size:
            raise Forged
        _, flags, questions, *_ = _HEADER.unpack_from(data)
        if data[:2] != self._id or not flags & _QR or flags & _OPCODE:
            raise Forged
        rcode = flags & _RCODE
        if questions == 0 and rcode in _RCODES:  # some give up before they repeat it
            raise NoAnswer(_RCODES[rcode])
        asked = data[_HEADER.size : _HEADER.size + len(self._question)]
        if questions != 1 or asked.lower() != self._question.lower():
            raise Forged
        if not stream and (flags & _TC or asked != self._question):
            raise Truncated  # or from a server that does not keep the case: over TCP nobody can forge it
        if len(data) > MAX_ANSWER:
            raise NoAnswer(f"an answer of over {MAX_ANSWER:,} bytes")
        if rcode not in (0, _NXDOMAIN):
            raise NoAnswer(_RCODES.get(rcode, f"RCODE {rcode}"))
        try:
            return self._read(_Reader(data), exists=rcode == 0)
        except (IndexError, struct.error):
            raise NoAnswer("a malformed answer: it is cut off") from None

    def _read(self, reader: _Reader, *, exists: bool) -> Answer:
        *_, answers, authorities, _ = _HEADER.unpack_from(reader.data)
        reader.at = _HEADER.size + len(self._question)
        addresses: dict[bytes, list[Address]] = {}
        aliases: dict[bytes, bytes] = {}
        ttls: dict[bytes, int] = {}
        for _ in range(answers):
            owner, kind, ttl, start, end = reader.record()
            if kind == _CNAME:
                aliases.setdefault(owner, reader.name(start, end))
            elif kind == self._kind:
                found = addresses.setdefault(owner, [])
                if len(found) < _MAX_ADDRESSES:
                    found.append(_address(kind, reader.data[start:end]))
            else:
                continue
            ttls[owner] = min(ttl, ttls.get(owner, ttl))
        name, ttl = self._name, 2**31
        for _ in range(_MAX_ALIASES):
            ttl = min(ttl, ttls.get(name, ttl))
            if name in addresses or name not in aliases:
                break
            name = aliases[name]
        else:
            raise NoAnswer(f"over {_MAX_ALIASES} aliases one after the other, or in a circle")
        if exists and name in addresses:
            return Answer(tuple(addresses[name]), ttl)
        # RFC 2308, section 5: the lower of the record's own TTL and its last field; without an SOA not at all.
        negative = 0
        for _ in range(authorities):
            owner, kind, its_ttl, start, end = reader.record()
            if kind == _SOA and end - start >= 22 and name.endswith(owner):
                (minimum,) = struct.unpack_from("!I", reader.data, end - 4)
                negative = min(ttl, its_ttl, minimum)
                break
        return Answer((), negative, exists)


class _Reader:
    """Records, one after the other."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self._names: dict[int, bytes] = {}

    def record(self) -> tuple[bytes, int, int, int, int]:
        """Owner, type, TTL, and where its data begins and ends. Type 0 stands for any of another class than IN."""
        owner, at = self._name(self.at)
        kind, its_class, ttl, size = _RECORD.unpack_from(self.data, at)
        start = at + _RECORD.size
        self.at = start + size
        if self.at > len(self.data):
            raise IndexError
        # RFC 2181, section 8: with the highest bit set, as zero.
        return owner, kind if its_class == _IN else 0, ttl if ttl < 2**31 else 0, start, self.at

    def name(self, start: int, end: int) -> bytes:
        """The name that takes the bytes from ``start`` to ``end``."""
        name, at = self._name(start)
        if at != end:
            raise NoAnswer("a malformed answer: a record of another length than its data")
        return name

    def _name(self, at: int) -> tuple[bytes, int]:
        """Lower-case, uncompressed; and where it ends."""
        length = self.data[at]
        if length < 0xC0:
            return self._expand(at)
        target = (length & 0x3F) << 8 | self.data[at + 1]  # as most of them: to one that was there before
        if target >= at:
            raise NoAnswer("a malformed answer: a name that points ahead")
        if (known := self._names.get(target)) is None:
            known = self._names[target] = self._expand(target)[0]
        return known, at + 2

    def _expand(self, at: int) -> tuple[bytes, int]:
        data, name, end, limit = self.data, b"", 0, at
        for _ in range(_MAX_POINTERS):
            start = at
            while 0 < data[at] < 0x40:
                at += 1 + data[at]
            name += data[start:at]
            if len(name) >= _MAX_NAME:
                raise NoAnswer("a malformed answer: a name of over 255 bytes")
            length = data[at]
            if length == 0:
                return name.lower() + b"\0", end or at + 1
            if length < 0xC0:
                break
            target = (length & 0x3F) << 8 | data[at + 1]
            end = end or at + 2
            if target >= limit:
                raise NoAnswer("a malformed answer: a name that points ahead, or in a circle")
            at = limit = target
        raise NoAnswer("a malformed answer: a name of unknown form")


def _address(kind: int, data: bytes) -> Address:
    if len(data) != (4 if kind == A else 16):
        raise NoAnswer("a malformed answer: an address of the wrong length")
    return IPv4Address(data) if kind == A else IPv6Address(data)


def _mixed_case(wire: bytes) -> bytes:
    """Each letter in upper or lower case, at random. The lengths of labels, at most 63, are no letters."""
    upper = wire.upper()
    chosen = os.urandom(len(wire))
    return bytes(u if c & 1 else w for w, u, c in zip(wire, upper, chosen, strict=True))
