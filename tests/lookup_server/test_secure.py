"""Name servers over TLS and HTTPS: one connection for all, and nothing asked of whom nobody vouches for."""

from __future__ import annotations

import asyncio
import ssl
import struct
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import TypeVar

import h2.config
import h2.connection
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.lookup_server import kept as kept_module
from cloister.lookup_server.dns_over_https import DnsOverHttps
from cloister.lookup_server.dns_over_tls import DnsOverTls
from cloister.lookup_server.kept import Framing, KeptServer, Unreadable
from cloister.lookup_server.message import A, NoAnswer, Question
from cloister.lookup_server.secure import context, make
from cloister.lookup_server.servers import Server
from tests.servers import Authority

from .conftest import Zone
from .secure_servers import Secure

T = TypeVar("T")
BOTH = pytest.mark.parametrize("protocol", ["tls", "https"])


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def contexts(authority: Authority) -> dict[str, ssl.SSLContext]:
    return {protocol: context(protocol, authority.roots) for protocol in ("tls", "https")}


@pytest.fixture
def secure(zone: Zone, authority: Authority) -> Secure:
    zone.records = {f"{n}.example": [f"A 192.0.2.{n}"] for n in range(100)}
    return Secure(zone, authority.context("127.0.0.1", "dns.example", http_2=False))


def with_server(
    secure: Secure,
    protocol: str,
    contexts: dict[str, ssl.SSLContext],
    work: Callable[[KeptServer], Awaitable[T]],
    *,
    name: str = "",
    lifetime: float = 5,
) -> T:
    async def run() -> T:
        async with secure.serve(protocol) as port:
            path = "/dns-query" if protocol == "https" else ""
            server = Server(ip_address("127.0.0.1"), port, protocol, name, path)
            kept = make(server, lifetime, contexts[protocol])
            try:
                return await work(kept)
            finally:
                await let_go(kept)

    return asyncio.run(run())


async def let_go(kept: KeptServer) -> None:
    """End its connection, as the end of the process would."""
    for stream in list(kept._live):
        stream._close()
        await asyncio.gather(stream.reading, return_exceptions=True)
    await asyncio.sleep(0)


async def ask(kept: KeptServer, number: int) -> str:
    answer = await kept.ask(Question(f"{number}.example", A))
    return str(answer.addresses[0])


def why(
    secure: Secure, protocol: str, contexts: dict[str, ssl.SSLContext], *, name: str = "", lifetime: float = 5
) -> str:
    with pytest.raises(NoAnswer) as caught:
        with_server(secure, protocol, contexts, lambda kept: ask(kept, 1), name=name, lifetime=lifetime)
    return str(caught.value)


@BOTH
def test_many_questions_go_over_one_connection(
    secure: Secure, protocol: str, contexts: dict[str, ssl.SSLContext]
) -> None:
    secure.hold = 4  # their order is not that of the questions (TLS)

    async def work(kept: KeptServer) -> list[str]:
        first = await asyncio.gather(*(ask(kept, n) for n in range(8)))
        return [*first, *await asyncio.gather(*(ask(kept, n) for n in range(8, 16)))]

    told = with_server(secure, protocol, contexts, work, name="dns.example")
    assert told == [f"192.0.2.{n}" for n in range(16)]
    assert secure.connections == 1
    assert set(secure.sizes) == {128}
    assert {transport for _, _, transport in secure.zone.asked} == {protocol}


def test_https_names_the_server_as_its_certificate_does(
    secure: Secure, contexts: dict[str, ssl.SSLContext]
) -> None:
    with_server(secure, "https", contexts, lambda kept: ask(kept, 1), name="dns.example")
    ((host, path),) = secure.targets
    assert (host.partition(":")[0], path) == ("dns.example", "/dns-query")


@BOTH
def test_a_server_without_a_name_is_known_by_its_address(
    secure: Secure, protocol: str, contexts: dict[str, ssl.SSLContext]
) -> None:
    assert with_server(secure, protocol, contexts, lambda kept: ask(kept, 1)) == "192.0.2.1"


@BOTH
def test_a_certificate_for_somebody_else_is_asked_nothing(
    secure: Secure, protocol: str, contexts: dict[str, ssl.SSLContext]
) -> None:
    assert "certificate is not trusted" in why(secure, protocol, contexts, name="other.example")
    assert secure.zone.asked == []


@BOTH
def test_a_certificate_that_nobody_vouches_for_is_asked_nothing(
    zone: Zone, protocol: str, contexts: dict[str, ssl.SSLContext]
) -> None:
    stranger = Secure(zone, Authority().context("127.0.0.1", http_2=False))
    assert "certificate is not trusted" in why(stranger, protocol, contexts)
    assert zone.asked == []


@BOTH
def test_a_connection_that_was_closed_meanwhile_is_followed_by_another(
    secure: Secure, protocol: str, contexts: dict[str, ssl.SSLContext]
) -> None:
    async def work(kept: KeptServer) -> list[str]:
        told = [await ask(kept, 1)]
        assert kept._opening is not None
        stream = await kept._opening
        stream._writer.transport.abort()
        return [*told, await ask(kept, 2)]

    assert with_server(secure, protocol, contexts, work) == ["192.0.2.1", "192.0.2.2"]
    assert secure.connections == 2


@BOTH
def test_a_connection_that_nobody_uses_is_closed(
    secure: Secure, protocol: str, contexts: dict[str, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_module, "_IDLE", 0.05)

    async def work(kept: KeptServer) -> str:
        await ask(kept, 1)
        (stream,) = kept._live
        await asyncio.wait_for(asyncio.shield(stream.reading), 5)
        assert kept._live == set()
        return await ask(kept, 2)

    assert with_server(secure, protocol, contexts, work) == "192.0.2.2"
    assert secure.connections == 2


@BOTH
def test_a_connection_that_is_silent_is_followed_by_another(
    secure: Secure, protocol: str, contexts: dict[str, ssl.SSLContext]
) -> None:
    async def work(kept: KeptServer) -> str:
        secure.zone.script = lambda _query: None
        with pytest.raises(NoAnswer, match="no answer within"):
            await ask(kept, 1)
        secure.zone.script = None
        return await ask(kept, 2)

    assert with_server(secure, protocol, contexts, work, lifetime=0.3) == "192.0.2.2"
    assert secure.connections == 2 or protocol == "https"  # whose settings may come late: a sign of life


@BOTH
def test_one_question_that_is_not_answered_delays_no_other(
    secure: Secure, protocol: str, contexts: dict[str, ssl.SSLContext]
) -> None:
    answer = secure.zone.answer

    async def work(kept: KeptServer) -> tuple[str, bool]:
        secure.zone.script = lambda query: (
            None if str(query.question[0].name).startswith("1.") else answered(query.to_wire())
        )
        slow = asyncio.create_task(ask(kept, 1))
        await asyncio.sleep(0)
        told = await ask(kept, 2)
        waits = not slow.done()
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        assert await ask(kept, 3) == "192.0.2.3"
        return told, waits

    def answered(wire: bytes) -> bytes | None:
        script, secure.zone.script = secure.zone.script, None
        try:
            return answer(wire, protocol)
        finally:
            secure.zone.script = script

    assert with_server(secure, protocol, contexts, work) == ("192.0.2.2", True)
    assert secure.connections == 1


@pytest.mark.parametrize(
    ("misbehave", "told"),
    [
        (lambda _answer: b"\xff\xff" + bytes(100), "an answer of 65,535 bytes"),
        (lambda _answer: None, "closed the connection"),
        (lambda answer: struct.pack("!H", 12) + answer[:12], "another question"),
        (lambda answer: struct.pack("!H", 30) + answer[:30], "malformed"),
        (
            lambda answer: b"\0\0\0\1\0" + len(answer).to_bytes(2) + answer[:2] + b"\0" + answer[3:],
            "another question",
        ),
    ],
)
def test_what_a_server_over_tls_does_wrong_is_said(
    secure: Secure,
    contexts: dict[str, ssl.SSLContext],
    misbehave: Callable[[bytes], bytes | None],
    told: str,
) -> None:
    secure.misbehave = misbehave
    assert told in why(secure, "tls", contexts)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"status": "503"}, "HTTP status 503"),
        ({"status": "301"}, "HTTP status 301"),
        ({"content_type": "text/html"}, "no application/dns-message"),
        ({"reset": True}, "gave up"),
        ({"misbehave": lambda _answer: bytes(20_000)}, "over 16,384 bytes"),
        ({"misbehave": lambda answer: b"\0\1" + answer[2:]}, "without its id"),
        ({"misbehave": lambda _answer: b""}, "without its id"),
        ({"misbehave": lambda answer: answer[:30]}, "malformed"),
    ],
)
def test_what_a_server_over_https_does_wrong_is_said(
    secure: Secure, contexts: dict[str, ssl.SSLContext], wrong: dict[str, object], told: str
) -> None:
    for name, value in wrong.items():
        setattr(secure, name, value)
    assert told in why(secure, "https", contexts)


def test_a_server_that_does_not_speak_http_2_is_said_so(
    zone: Zone, authority: Authority, contexts: dict[str, ssl.SSLContext]
) -> None:
    async def run() -> None:
        async def page(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(100)
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()

        server = await asyncio.start_server(
            page, "127.0.0.1", 0, ssl=authority.context("127.0.0.1", http_2=False)
        )
        port = server.sockets[0].getsockname()[1]
        kept = make(Server(ip_address("127.0.0.1"), port, "https", "", "/"), 5, contexts["https"])
        try:
            with pytest.raises(NoAnswer, match="does not speak h2"):
                await ask(kept, 1)
        finally:
            await let_go(kept)
            server.close()
            await asyncio.sleep(0.01)

    asyncio.run(run())


def test_a_server_that_takes_few_questions_at_once_gets_more_connections(
    secure: Secure, contexts: dict[str, ssl.SSLContext]
) -> None:
    secure.max_streams = 2

    async def work(kept: KeptServer) -> list[str]:
        await ask(kept, 0)
        return list(await asyncio.gather(*(ask(kept, n) for n in range(7))))

    assert with_server(secure, "https", contexts, work) == [f"192.0.2.{n}" for n in range(7)]
    assert 2 <= secure.connections <= 5


FRAMINGS: list[Callable[[], Framing]] = [
    DnsOverTls,
    lambda: DnsOverHttps(Server(ip_address("192.0.2.1"), 443, "https", "dns.example", "/dns-query")),
]
# The beginning of what an honest server sends, so that what follows is read as more of it.
GREETING = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
GREETING.initiate_connection()
BEGINNINGS = [b"", GREETING.data_to_send()]


@settings(max_examples=200, deadline=None)
@given(
    which=st.integers(0, 1),
    pieces=st.lists(
        st.binary(max_size=60)
        | st.builds(
            lambda kind, flags, stream, body: (
                len(body).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + body
            ),
            st.integers(0, 12),
            st.integers(0, 255),
            st.sampled_from([0, 1, 2, 3, 5]),
            st.binary(max_size=30),
        ),
        max_size=6,
    ),
)
def test_whatever_a_server_sends_is_an_answer_or_not_the_protocol(which: int, pieces: list[bytes]) -> None:
    framing = FRAMINGS[which]()
    framing.opening()
    numbers = [framing.ask(Question(f"{n}.example", A).padded())[0] for n in range(2)]
    try:
        for piece in (BEGINNINGS[which], *pieces):
            answers, _ = framing.received(piece)
            assert set(answers) <= set(numbers)
    except Unreadable:
        return
    for number in numbers:
        framing.forget(number)


def test_a_server_that_takes_no_questions_is_left_alone(
    secure: Secure, contexts: dict[str, ssl.SSLContext]
) -> None:
    secure.max_streams = 0
    assert "takes no questions" in why(secure, "https", contexts)
    assert secure.connections == 1


@BOTH
def test_a_port_where_nobody_listens_says_so(
    secure: Secure, protocol: str, contexts: dict[str, ssl.SSLContext]
) -> None:
    async def run() -> None:
        async with secure.serve(protocol) as port:
            pass
        server = Server(ip_address("127.0.0.1"), port, protocol, "", "/" if protocol == "https" else "")
        with pytest.raises(NoAnswer, match="refused"):
            await make(server, 5, contexts[protocol]).ask(Question("a.example", A))

    asyncio.run(run())
