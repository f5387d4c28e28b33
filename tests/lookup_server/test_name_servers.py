"""Name servers that are slow, broken or hostile, each over real sockets; what is kept, and what is shared."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from ipaddress import ip_address
from typing import Any, TypeVar

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset
import pytest

from cloister.errors import RequestFailed
from cloister.lookup_server import cache as cache_module
from cloister.lookup_server.cache import Cache
from cloister.lookup_server.message import A, Answer, NoAnswer, Question
from cloister.lookup_server.name_servers import NameServers
from cloister.lookup_server.plain import PlainServer
from cloister.lookup_server.servers import Server

from .conftest import Zone, both, resolver_at

T = TypeVar("T")


def with_servers(
    zones: list[Zone], work: Callable[[NameServers], Awaitable[T]], *, over: str = "udp", **how: Any
) -> T:
    how = {"attempts": 2, "rotate": False, "lifetime": 5, "timeout": 1.5} | how
    timeout = how.pop("timeout")

    async def run() -> T:
        async with contextlib.AsyncExitStack() as stack:
            ports = [await stack.enter_async_context(zone.serve()) for zone in zones]
            servers = [PlainServer(Server(ip_address("127.0.0.1"), port, over), timeout) for port in ports]
            return await work(NameServers(servers, **how))

    return asyncio.run(run())


def why(zone: Zone, **how: Any) -> str:
    async def work(servers: NameServers) -> None:
        await servers.ask("a.example", A)

    with pytest.raises(NoAnswer) as caught:
        with_servers([zone], work, **{"lifetime": 0.5, "timeout": 0.3, "attempts": 1} | how)
    return str(caught.value)


def address(answer: Answer) -> str:
    return str(answer.addresses[0])


def answered(query: dns.message.Message, *records: str, ttl: int = 60) -> dns.message.Message:
    response = dns.message.make_response(query)
    for record in records:
        response.answer.append(dns.rrset.from_text(query.question[0].name, ttl, "IN", "A", record))
    return response


# ── what goes wrong, by its name ─────────────────────────────────────────────────────────────────────────────────


def forge_id(query: dns.message.Message) -> dns.message.Message:
    response = answered(query, "192.0.2.66")
    response.id ^= 1
    return response


def forge_question(query: dns.message.Message) -> bytes:
    other = dns.message.make_query("b.example.", "A", id=query.id)
    return answered(other, "192.0.2.66").to_wire()


def forge_type(query: dns.message.Message) -> bytes:
    other = dns.message.make_query(query.question[0].name, "AAAA", id=query.id)
    return dns.message.make_response(other).to_wire()


@pytest.mark.parametrize(
    "forge", [forge_id, forge_question, forge_type, lambda query: query.to_wire(), lambda _: b"x"]
)
def test_an_answer_to_something_else_is_waited_past(forge: Callable[[dns.message.Message], Any]) -> None:
    assert "no answer within" in why(Zone(script=forge))


async def answering_several(
    datagrams: Callable[[bytes], list[bytes]],
) -> tuple[asyncio.DatagramTransport, int]:
    class Udp(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, sender: Any) -> None:
            for answer in datagrams(data):
                self.transport.sendto(answer, sender)

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(Udp, local_addr=("127.0.0.1", 0))
    return transport, transport.get_extra_info("sockname")[1]


def test_the_right_answer_counts_however_many_wrong_ones_come_before_it() -> None:
    def datagrams(data: bytes) -> list[bytes]:
        query = dns.message.from_wire(data)
        return [forge_id(query).to_wire()] * 9 + [
            forge_question(query),
            answered(query, "192.0.2.1").to_wire(),
        ]

    async def run() -> str:
        transport, port = await answering_several(datagrams)
        try:
            server = PlainServer(Server(ip_address("127.0.0.1"), port), 2)
            return address(await server.ask(Question("a.example", A)))
        finally:
            transport.close()

    assert asyncio.run(run()) == "192.0.2.1"


def test_where_somebody_guesses_the_question_is_asked_over_tcp(zone: Zone) -> None:
    guesses = 0

    def script(query: dns.message.Message) -> dns.message.Message:
        if len(zone.asked) == 1:  # over UDP, the first time
            nonlocal guesses
            guesses += 1
            return forge_id(query)
        return answered(query, "192.0.2.1")

    zone.script = script

    async def run() -> str:
        def datagrams(data: bytes) -> list[bytes]:
            return [zone.answer(data, "udp") or b""] * 40 if not zone.asked else []

        async with zone.serve() as port:
            transport, _ = await answering_several(datagrams)
            udp = transport.get_extra_info("sockname")[1]
            try:
                server = PlainServer(Server(ip_address("127.0.0.1"), port), 2)
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(
                        "cloister.lookup_server.plain.connect_udp",
                        lambda *_: _connected_udp(udp),
                    )
                    return address(await server.ask(Question("a.example", A)))
            finally:
                transport.close()

    assert asyncio.run(run()) == "192.0.2.1"
    assert [transport for _, _, transport in zone.asked] == ["udp", "tcp"]


def _connected_udp(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    made.connect(("127.0.0.1", port))
    return made


def test_an_answer_from_another_port_does_not_arrive(zone: Zone) -> None:
    async def run() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:

            def datagrams(data: bytes) -> list[bytes]:
                query = dns.message.from_wire(data)
                other.sendto(answered(query, "192.0.2.66").to_wire(), senders[-1])
                return []

            senders: list[Any] = []

            class Udp(asyncio.DatagramProtocol):
                def datagram_received(self, data: bytes, sender: Any) -> None:
                    senders.append(sender)
                    datagrams(data)

            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                Udp, local_addr=("127.0.0.1", 0)
            )
            try:
                port = transport.get_extra_info("sockname")[1]
                with pytest.raises(NoAnswer, match="no answer"):
                    await PlainServer(Server(ip_address("127.0.0.1"), port), 0.2).ask(
                        Question("a.example", A)
                    )
            finally:
                transport.close()
            assert len(senders) == 1

    asyncio.run(run())


def test_each_question_has_a_port_and_an_id_of_its_own() -> None:
    seen: list[tuple[int, int]] = []

    async def run() -> None:
        class Udp(asyncio.DatagramProtocol):
            def connection_made(self, transport: Any) -> None:
                self.transport = transport

            def datagram_received(self, data: bytes, sender: Any) -> None:
                query = dns.message.from_wire(data)
                seen.append((sender[1], query.id))
                self.transport.sendto(answered(query, "192.0.2.1").to_wire(), sender)

        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            Udp, local_addr=("127.0.0.1", 0)
        )
        try:
            server = PlainServer(Server(ip_address("127.0.0.1"), transport.get_extra_info("sockname")[1]), 2)
            await asyncio.gather(*(server.ask(Question(f"{n}.example", A)) for n in range(40)))
        finally:
            transport.close()

    asyncio.run(run())
    assert len({port for port, _ in seen}) == 40
    assert len({number for _, number in seen}) > 35


def test_a_server_that_changes_the_case_of_letters_is_asked_over_tcp(zone: Zone) -> None:
    def script(query: dns.message.Message) -> bytes:
        wire = answered(query, "192.0.2.1").to_wire()
        return wire[:12] + wire[12:28].lower() + wire[28:]

    zone.script = script

    async def work(servers: NameServers) -> str:
        return address(await servers.ask("abcdefghij.example", A))

    assert with_servers([zone], work) == "192.0.2.1"
    assert [transport for _, _, transport in zone.asked] == ["udp", "tcp"]


def test_a_truncated_answer_whose_rest_is_not_to_be_had_is_none(zone: Zone) -> None:
    def script(query: dns.message.Message) -> dns.message.Message | None:
        if zone.asked[-1][2] == "tcp":
            return None
        response = answered(query, "192.0.2.66")
        response.flags |= dns.flags.TC
        return response

    zone.script = script
    assert "closed the connection in the middle of an answer" in why(zone)


def test_a_truncated_answer_of_a_server_without_tcp_says_so() -> None:
    async def run() -> None:
        def datagrams(data: bytes) -> list[bytes]:
            response = dns.message.make_response(dns.message.from_wire(data))
            response.flags |= dns.flags.TC
            return [response.to_wire()]

        transport, port = await answering_several(datagrams)
        try:
            with pytest.raises(NoAnswer, match=r"over TCP.*Connection refused"):
                await PlainServer(Server(ip_address("127.0.0.1"), port), 2).ask(Question("a.example", A))
        finally:
            transport.close()

    asyncio.run(run())


def test_a_huge_answer_is_not_read(zone: Zone) -> None:
    zone.records = {"a.example": [f"A 10.{n // 250}.1.{n % 250}" for n in range(2000)]}
    assert "an answer of" in why(zone, over="tcp", lifetime=5, timeout=5)


def test_thousands_of_addresses_are_a_few(zone: Zone) -> None:
    zone.records = {"a.example": [f"A 10.{n // 250}.1.{n % 250}" for n in range(900)]}
    zone.truncate_udp = True

    async def work(servers: NameServers) -> int:
        return len((await servers.ask("a.example", A)).addresses)

    assert with_servers([zone], work) == 64


@pytest.mark.parametrize(
    "records",
    [
        {"a.example": ["CNAME a.example."]},
        {f"{n or 'a'}.example": [f"CNAME {n + 1}.example."] for n in range(40)},
    ],
    ids=["loop", "chain"],
)
def test_aliases_without_an_end_are_told_so(zone: Zone, records: dict[str, list[str]]) -> None:
    zone.records = records
    assert "aliases" in why(zone)


def test_a_pointer_loop_is_malformed(zone: Zone) -> None:
    def script(query: dns.message.Message) -> bytes:
        wire = dns.message.make_response(query).to_wire()
        loop = len(wire)
        return wire[:6] + b"\0\1" + wire[8:] + (0xC000 | loop).to_bytes(2) + bytes(10)

    zone.script = script
    assert "malformed" in why(zone)


def test_a_server_over_tcp_that_sends_a_byte_a_while_ends_at_its_time(zone: Zone) -> None:
    async def run() -> None:
        async def tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while True:
                    writer.write(b"\1")
                    await writer.drain()
                    await asyncio.sleep(0.02)
            except ConnectionError:
                pass
            finally:
                writer.transport.abort()

        server = await asyncio.start_server(tcp, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            with pytest.raises(NoAnswer, match=r"no answer within 0\.2 s"):
                await PlainServer(Server(ip_address("127.0.0.1"), port, "tcp"), 0.2).ask(
                    Question("a.example", A)
                )
        finally:
            server.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0.01)

    asyncio.run(run())


# ── several servers ──────────────────────────────────────────────────────────────────────────────────────────────


def failing(code: dns.rcode.Rcode) -> Zone:
    def script(query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        response.set_rcode(code)
        return response

    return Zone(script=script)


async def ask_a(servers: NameServers) -> str:
    return address(await servers.ask("a.example", A))


GOOD = {"a.example": ["A 192.0.2.1"], "b.example": ["A 192.0.2.2"]}


@pytest.mark.parametrize(
    "bad", [failing(dns.rcode.SERVFAIL), failing(dns.rcode.REFUSED), Zone(script=lambda _: None)]
)
def test_the_next_server_is_asked_where_one_does_not_answer(bad: Zone) -> None:
    assert with_servers([bad, Zone(GOOD)], ask_a, timeout=0.2) == "192.0.2.1"


def test_a_server_that_says_a_name_does_not_exist_is_believed() -> None:
    other = Zone(GOOD)

    async def work(servers: NameServers) -> bool:
        return (await servers.ask("a.example", A)).exists

    assert with_servers([Zone(), other], work) is False
    assert other.asked == []


def test_what_each_server_did_is_told() -> None:
    with pytest.raises(NoAnswer, match=r"127\.0\.0\.1: SERVFAIL"):
        with_servers([failing(dns.rcode.SERVFAIL)], ask_a)


def test_a_question_is_asked_as_often_as_the_settings_say() -> None:
    zone = failing(dns.rcode.SERVFAIL)
    with pytest.raises(NoAnswer):
        with_servers([zone], ask_a, attempts=3)
    assert len(zone.asked) == 3


@pytest.mark.parametrize("rotate", [False, True])
def test_servers_take_turns_where_the_settings_say_so(rotate: bool) -> None:
    zones = [Zone(GOOD), Zone(GOOD)]

    async def work(servers: NameServers) -> None:
        await servers.ask("a.example", A)
        await servers.ask("b.example", A)

    with_servers(zones, work, rotate=rotate)
    assert [len(zone.asked) for zone in zones] == ([1, 1] if rotate else [2, 0])


# ── what is kept, and what is shared ─────────────────────────────────────────────────────────────────────────────


def test_an_answer_is_kept_for_its_time_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    kept = Cache()
    answer = Answer((ip_address("192.0.2.1"),), 60)
    kept.put("a.example", A, answer)
    now += 59.9
    assert kept.get("a.example", A) == answer
    assert kept.get("a.example", 28) is None
    now += 0.1
    assert kept.get("a.example", A) is None


def test_no_answer_is_kept_for_long_and_one_for_no_time_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    kept = Cache()
    kept.put("a.example", A, Answer((), 2**31 - 1))
    kept.put("b.example", A, Answer((), 0))
    assert kept.get("b.example", A) is None
    now += 3600
    assert kept.get("a.example", A) is None


def test_so_many_answers_are_kept_and_the_least_used_goes() -> None:
    kept = Cache()
    answer = Answer((), 60)
    for number in range(cache_module.MAX_ENTRIES):
        kept.put(f"{number}.example", A, answer)
    assert kept.get("0.example", A)
    kept.put("one.more", A, answer)
    assert kept.get("0.example", A)
    assert kept.get("1.example", A) is None


def test_a_name_is_asked_for_once_while_its_answer_holds(zone: Zone) -> None:
    zone.records = GOOD

    async def work(servers: NameServers) -> None:
        for _ in range(3):
            await servers.ask("a.example", A)

    with_servers([zone], work)
    assert len(zone.asked) == 1


@pytest.mark.parametrize("soa", [True, False])
def test_that_a_name_does_not_exist_is_kept_as_its_zone_says(zone: Zone, soa: bool) -> None:
    def script(query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        response.set_rcode(dns.rcode.NXDOMAIN)
        if soa:
            response.authority.append(
                dns.rrset.from_text("example.", 60, "IN", "SOA", "a.example. b.example. 1 2 3 4 60")
            )
        return response

    zone.script = script

    async def work(servers: NameServers) -> None:
        for _ in range(2):
            assert not (await servers.ask("a.example", A)).exists

    with_servers([zone], work)
    assert len(zone.asked) == (1 if soa else 2)


def test_what_may_not_be_kept_is_asked_for_each_time(zone: Zone) -> None:
    zone.script = lambda query: answered(query, "192.0.2.1", ttl=0)

    async def work(servers: NameServers) -> None:
        await servers.ask("a.example", A)
        await servers.ask("a.example", A)

    with_servers([zone], work)
    assert len(zone.asked) == 2


def test_who_asks_at_once_shares_one_question(zone: Zone) -> None:
    zone.script = lambda query: answered(query, "192.0.2.1", ttl=0)

    async def work(servers: NameServers) -> set[str]:
        return set(await asyncio.gather(*(ask_a(servers) for _ in range(20))))

    assert with_servers([zone], work) == {"192.0.2.1"}
    assert len(zone.asked) == 1


def test_a_shared_question_outlives_who_asked_first_and_ends_with_who_waits_last(zone: Zone) -> None:
    zone.script = lambda _query: None

    async def work(servers: NameServers) -> None:
        first, second = (asyncio.create_task(servers.ask("a.example", A)) for _ in range(2))
        await asyncio.sleep(0.05)
        first.cancel()
        await asyncio.sleep(0)
        assert len(servers._asking) == 1
        (asking,) = servers._asking.values()
        second.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        assert servers._asking == {}
        await asyncio.gather(asking.task, return_exceptions=True)
        assert asking.task.cancelled()

    with_servers([zone], work)
    assert len(zone.asked) == 1


def test_a_name_that_moves_between_two_look_ups_moves(zone: Zone) -> None:
    answers = iter(["192.0.2.1", "192.0.2.2"])
    zone.script = lambda query: answered(query, next(answers), ttl=0)

    async def work(servers: NameServers) -> list[str]:
        return [await ask_a(servers), await ask_a(servers)]

    assert with_servers([zone], work) == ["192.0.2.1", "192.0.2.2"]


# ── nobody else waits ────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.asynccontextmanager
async def late_server(delay: float) -> AsyncIterator[int]:
    """Says of ``late.example`` that it does not exist, but late; knows every other name at once."""
    loop = asyncio.get_running_loop()

    class Udp(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, sender: Any) -> None:
            query = dns.message.from_wire(data)
            if "late" in str(query.question[0].name).lower():
                response = dns.message.make_response(query)
                response.set_rcode(dns.rcode.NXDOMAIN)
                loop.call_later(delay, self.transport.sendto, response.to_wire(), sender)
            else:
                self.transport.sendto(answered(query, "192.0.2.1").to_wire(), sender)

    transport, _ = await loop.create_datagram_endpoint(Udp, local_addr=("127.0.0.1", 0))
    try:
        yield transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


def test_a_hundred_names_that_wait_delay_no_other() -> None:
    async def run() -> None:
        async with late_server(0.3) as port:
            resolver = resolver_at(port)
            waiting = [asyncio.create_task(both(resolver, f"late{n}.example")) for n in range(100)]
            await asyncio.sleep(0)
            assert await resolver.look_up("quick.example", 4) == (ip_address("192.0.2.1"),)
            assert not any(task.done() for task in waiting)
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)
            assert all(isinstance(one, RequestFailed) and one.code == "unknown_host" for one in outcomes)

    asyncio.run(run())
