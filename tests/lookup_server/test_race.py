"""Which connection is the first (RFC 8305), with real sockets on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import pytest

from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode
from cloister.lookup_server import race
from cloister.lookup_server.addresses import Address
from cloister.lookup_server.resolver import Unknown

from .conftest import CanaryMaker

Answers = dict[int, list[str] | RequestFailed]


def connect(
    port: int,
    answers: Answers,
    *,
    before: Callable[[int], Awaitable[None]] | None = None,
    judge: Callable[[Address], str | None] = lambda _address: None,
) -> str:
    """The address that a connection led to, of a host with ``answers`` in IPv6 and IPv4."""

    async def look_up(version: int) -> tuple[Address, ...]:
        if before is not None:
            await before(version)
        found = answers[version]
        if isinstance(found, RequestFailed):
            raise found
        return tuple(map(ip_address, found))

    async def run() -> str:
        made, address = await asyncio.wait_for(race.connect("a.example", port, look_up, judge), 10)
        with made:
            assert made.getpeername()[0] == str(address)
        return str(address)

    return asyncio.run(run())


def failure(port: int, answers: Answers, **how: Any) -> RequestFailed:
    with pytest.raises(RequestFailed) as caught:
        connect(port, answers, **how)
    return caught.value


@pytest.fixture
def port(canary: CanaryMaker) -> int:
    """Of listeners on ::1, 127.0.0.1 and 127.0.0.2."""
    first = canary("127.0.0.1")
    canary("127.0.0.2", first.port)
    canary("::1", first.port)
    return first.port


@contextlib.contextmanager
def silent(address: str, port: int) -> Iterator[None]:
    """A port there whose backlog is full: the kernel drops what else comes, as a silent firewall would."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server((address, port), backlog=0))
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield


async def never() -> None:
    await asyncio.Event().wait()


def late(version: int, wait: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[int], Awaitable[None]]:
    async def before(asked: int) -> None:
        if asked == version:
            await wait()

    return before


def test_ipv6_goes_first(port: int) -> None:
    assert connect(port, {6: ["::1"], 4: ["127.0.0.1"]}) == "::1"


def test_ipv6_may_come_a_moment_after_ipv4(port: int) -> None:
    before = late(6, lambda: asyncio.sleep(0.01))
    assert connect(port, {6: ["::1"], 4: ["127.0.0.1"]}, before=before) == "::1"


@pytest.mark.parametrize("version", [4, 6])
def test_a_look_up_that_never_ends_does_not_hold_up_the_other(port: int, version: int) -> None:
    answers: Answers = {6: ["::1"], 4: ["127.0.0.1"]}
    assert connect(port, answers, before=late(version, never)) == answers[10 - version][0]  # type: ignore[index]


def test_addresses_that_come_late_are_tried_as_well(canary: CanaryMaker) -> None:
    listener = canary("::1")
    started = asyncio.Event()

    def judge(address: Address) -> None:
        if isinstance(address, IPv4Address):
            started.set()

    async def until_then() -> None:
        await started.wait()

    with silent("127.0.0.2", listener.port):
        answers: Answers = {6: ["::1"], 4: ["127.0.0.2"]}
        before = late(6, until_then)
        assert connect(listener.port, answers, before=before, judge=judge) == "::1"


def test_an_address_that_does_not_answer_is_overtaken(canary: CanaryMaker) -> None:
    listener = canary("127.0.0.3")
    with silent("127.0.0.2", listener.port):
        assert connect(listener.port, {6: [], 4: ["127.0.0.2", "127.0.0.3"]}) == "127.0.0.3"


def test_families_take_turns(port: int) -> None:
    tried: list[Address] = []

    def judge(address: Address) -> str:
        tried.append(address)
        return "no"

    failure(port, {6: ["2001:db8::1", "2001:db8::2"], 4: ["192.0.2.1", "192.0.2.2"]}, judge=judge)
    assert [type(address) for address in tried] == [IPv6Address, IPv4Address] * 2


def test_each_address_is_judged_right_before_it_is_connected_to(port: int) -> None:
    judged: list[Address] = []

    def judge(address: Address) -> str | None:
        judged.append(address)
        return "no" if address == ip_address("127.0.0.1") else None

    assert connect(port, {6: [], 4: ["127.0.0.1", "127.0.0.2", "127.0.0.3"]}, judge=judge) == "127.0.0.2"
    assert list(map(str, judged)) == ["127.0.0.1", "127.0.0.2"]


def test_of_two_connections_that_stand_one_is_closed(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "_ATTEMPT_DELAY", 0)
    made: list[socket.socket] = []

    async def both_at_once(_address: Address, _port: int) -> socket.socket:
        mine = socket.socket()
        made.append(mine)
        while len(made) < 2:
            await asyncio.sleep(0)
        return mine

    monkeypatch.setattr(race, "connect_tcp", both_at_once)

    async def look_up(version: int) -> tuple[Address, ...]:
        return (ip_address("127.0.0.1"), ip_address("127.0.0.2")) if version == 4 else ()

    async def run() -> None:
        winner, _ = await race.connect("a.example", port, look_up, lambda _address: None)
        await asyncio.sleep(0)
        winner.close()

    asyncio.run(run())
    assert len(made) == 2
    assert all(one.fileno() == -1 for one in made)


UNKNOWN = Unknown("a.example", "the name does not exist")
FAILED = RequestFailed(FailureCode.DNS_FAILED, "SERVFAIL")


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        ({6: [], 4: []}, "unknown_host"),
        ({6: UNKNOWN, 4: UNKNOWN}, "unknown_host"),
        ({6: FAILED, 4: FAILED}, "dns_failed"),
        ({6: FAILED, 4: []}, "dns_failed"),
        ({6: [], 4: FAILED}, "dns_failed"),
        ({6: FAILED, 4: ["127.0.0.9"]}, "connection_refused"),
        ({6: ["::1"], 4: UNKNOWN}, "connection_refused"),
    ],
)
def test_what_failed_is_told_by_what_says_most(answers: Answers, code: str) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.9", 0))
        assert failure(held.getsockname()[1], answers).code == code


@pytest.mark.parametrize("version", [4, 6])
def test_that_a_name_does_not_exist_is_known_without_the_other_answer(version: int) -> None:
    answers: Answers = {version: UNKNOWN, 10 - version: []}
    assert failure(80, answers, before=late(10 - version, never)).code == "unknown_host"


def test_a_refused_address_is_told_when_nothing_better_was(port: int) -> None:
    error = failure(port, {6: FAILED, 4: ["127.0.0.1"]}, judge=lambda address: f"{address} is private")
    assert (error.code, error.detail) == ("address_refused", "127.0.0.1 is private")


def test_whoever_gives_up_leaves_nothing_behind(canary: CanaryMaker) -> None:
    async def look_up(version: int) -> tuple[Address, ...]:
        if version == 6:
            await never()
        return (ip_address("127.0.0.2"),)

    async def run() -> None:
        before = asyncio.all_tasks()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await race.connect("a.example", listener.port, look_up, lambda _address: None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before

    listener = canary("127.0.0.3")
    with silent("127.0.0.2", listener.port):
        asyncio.run(run())
