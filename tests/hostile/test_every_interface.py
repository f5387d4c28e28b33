"""Every direction of every interface, from a peer that was taken over: whatever it sends on its real channel, what a
judge that shares no code with the receiver calls whole is handled, once and as it was sent, and everything else ends
the connection with :class:`BadMessage`. Nothing is raised elsewhere, and nothing is left open."""

from __future__ import annotations

import asyncio
import functools
import os
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from cloister.errors import BadMessage
from cloister.interfaces.base import Descriptor, Failure, FailureCode, Message, Request
from cloister.ipc import Channel, Connection, Descriptors
from cloister.ipc.codec import codec
from tests.hostile.messages import BOUNDARIES, REQUEST, Boundary, Forger, Verdict, judge, patterns_of, whole
from tests.hostile.things import Things, things

INTERFACES = {boundary.interface.name: boundary.interface for boundary in BOUNDARIES}
MESSAGES = 20_000
"""For each interface, both directions together."""
EXAMPLES = 10
ON_ONE_CONNECTION = 8
"""Packets at the most: the first bad one is the last."""


@pytest.fixture(scope="module")
def given_things() -> Iterator[Things]:
    with things() as found:
        yield found


def held() -> tuple[int, int]:
    """Open descriptors, and memfds that are mapped."""
    return len(os.listdir("/proc/self/fd")), Path("/proc/self/maps").read_text().count("/memfd:")


@pytest.mark.parametrize("name", INTERFACES)
def test_what_is_whole_is_handled_and_all_else_ends_the_sender(name: str, given_things: Things) -> None:
    boundaries = [each for each in BOUNDARIES if each.interface.name == name]
    each_time = -(-MESSAGES // EXAMPLES // len(boundaries))
    judged = 0

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**63))
    def fuzz(seed: int) -> None:
        nonlocal judged
        for boundary in boundaries:
            judged += asyncio.run(Fuzz(boundary, Random(seed), given_things).run(each_time))

    before = held()
    fuzz()
    assert judged >= MESSAGES
    assert held() == before


class Fuzz:
    """One boundary, from the sender's end."""

    def __init__(self, boundary: Boundary, random: Random, given: Things) -> None:
        self._boundary = boundary
        self._random = random
        self._given = given
        self._forger = Forger(boundary, random)
        self._raised: list[dict[str, Any]] = []

    async def run(self, count: int) -> int:
        """Send ``count`` packets, on one connection after the other."""
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: self._raised.append(context))
        judged = 0
        while judged < count:
            judged += await self._one_connection()
        assert not self._raised, self._raised
        return judged

    async def _one_connection(self) -> int:
        boundary, side = self._boundary, self._boundary.receiver
        handled: list[Message] = []
        ended: list[Exception | None] = []
        liar, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection = Connection(
            Channel(ours.detach()),
            boundary.interface,
            "server" if side == "server" else "client",
            dict.fromkeys(boundary.messages, lambda message, _fds: _handled(handled, message)),
            on_close=ended.append,
        )
        waiting, answers = self._ask(connection)
        sent: list[tuple[bytes, Verdict, list[int]]] = []
        expected: list[Any] = []
        for _ in range(ON_ONE_CONNECTION):
            packet = self._forger.packet(waiting)
            verdict, body = judge(packet, boundary, waiting)
            fds = self._descriptors(packet, verdict)
            if verdict is not Verdict.BAD and not self._are_right(packet, fds):
                verdict = Verdict.BAD
            socket.send_fds(liar, [packet], fds)
            sent.append((packet, verdict, fds))
            if verdict is Verdict.BAD:
                break
            if verdict is Verdict.REPLY:
                del waiting[struct.unpack_from("<BI", packet)[1]]
            elif verdict is not Verdict.CANCEL:
                expected.append(body)
        for _ in range(len(sent) + 2):  # one packet for each turn of the loop
            await asyncio.sleep(0)
        what = str(boundary), sent
        is_bad = sent[-1][1] is Verdict.BAD
        assert len(handled) == len(expected), what
        assert all(map(_is_same, map(_builtin, handled), expected)), what
        assert connection.closed == is_bad == len(ended), what
        for error in ended:
            assert isinstance(error, BadMessage), what
            assert str(error).isprintable(), what
            assert len(str(error)) < 500, what
        if not is_bad:
            assert sum(answer.done() for answer in answers) == len(answers) - len(waiting), what
        connection.close()
        liar.close()
        for answer in answers:
            if answer.exception() is None:
                answer.result()[1].close()
        return len(sent)

    def _ask(self, connection: Connection) -> tuple[dict[int, type[Request[Any]]], list[asyncio.Future[Any]]]:
        """Have the receiver wait for answers: what it asked by number."""
        mine = self._boundary.interface.sent_by(self._boundary.receiver)
        asked = [cls for cls in mine if issubclass(cls, Request)]
        answers = [connection.ask(_example(cls)) for cls in asked]
        return dict(enumerate(asked, 1)), answers

    def _descriptors(self, packet: bytes, verdict: Verdict) -> list[int]:
        random, given = self._random, self._given
        right = [] if verdict is Verdict.BAD else [given.right[kind] for kind in self._expected(packet)]
        if random.random() < 0.9:
            return right
        every = [*given.right.values(), *given.wrong.values()]
        match random.randrange(4):
            case 0:
                return right[:-1]
            case 1:
                return [*right, random.choice(every)]
            case 2:
                return random.choices(every, k=len(right) or 1)
            case _:
                return random.choices(every, k=random.randint(5, 20))

    def _expected(self, packet: bytes) -> tuple[Descriptor, ...]:
        _, _, message = codec(self._boundary.interface, self._boundary.receiver).decode(packet)
        return () if message is None else message.expected_descriptors()

    def _are_right(self, packet: bytes, fds: list[int]) -> bool:
        expected = self._expected(packet)
        return len(fds) == len(expected) and all(map(self._given.is_right, fds, expected))


def _handled(handled: list[Message], message: Message) -> Failure:
    handled.append(message)
    return Failure(FailureCode.INTERNAL)


@functools.cache
def _example(cls: type[Message]) -> Any:
    (boundary, *_) = (each for each in BOUNDARIES if cls in each.messages)
    data = struct.pack("<BI", REQUEST, 1) + whole(cls, Random(1))
    return codec(boundary.interface, boundary.receiver).decode(data)[2]


def _builtin(message: Message) -> Any:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(message))


def _is_same(got: Any, sent: Any) -> bool:
    """But for what was left out at the end, which has its default now."""
    if isinstance(sent, list):
        return len(got) >= len(sent) and all(map(_is_same, got, sent))
    if isinstance(sent, dict):
        return all(_is_same(got[key], each) for key, each in sent.items())
    return bool(got == sent)


# ── what a message may not come with ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", Descriptor)
def test_nothing_but_the_right_descriptor_is_taken(kind: Descriptor, given_things: Things) -> None:
    every = {**given_things.wrong, **{each.value: fd for each, fd in given_things.right.items()}}
    taken = {name for name, fd in every.items() if _is_taken(fd, kind)}
    assert taken == {name for name, fd in every.items() if given_things.is_right(fd, kind)}
    assert len(taken) < len(every) / 4


def _is_taken(fd: int, kind: Descriptor) -> bool:
    owned = Descriptors([os.dup(fd)])
    try:
        owned.check([kind])
    except BadMessage:
        return False
    finally:
        owned.close()
    return True


def test_no_pattern_lets_a_line_feed_or_an_escape_pass() -> None:
    """Names are printed, and compared; ``$`` would match before a line feed."""
    patterns = {
        pattern for boundary in BOUNDARIES for cls in boundary.messages for pattern in patterns_of(cls)
    }
    assert len(patterns) >= 3
    for pattern in patterns:
        word = next(word for word in ("web_content", "PNG") if re.search(pattern, word))
        may_be_empty = pattern.endswith(r"*\Z")  # a password
        for bad in (word + "\n", "\n" + word, word + "\x1b[2J", word + "\0", *([] if may_be_empty else [""])):
            assert re.search(pattern, bad) is None, (pattern, bad)
