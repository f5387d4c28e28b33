"""Streams of events over a real channel, from real servers: begun, lost, begun anew, ended."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from tests.request_server.sockets import Channelled, channelled
from tests.request_server.test_process import start
from tests.request_server.test_web_socket import run
from tests.servers import Authority, Handler, Page, Request, Server, redirect

from cloister.errors import BadMessage, RequestFailed
from cloister.interfaces.base import FailureCode
from cloister.interfaces.event_source import (
    MAX_EVENT_SOURCES,
    CloseEventSource,
    EventNews,
    NextEvent,
    OpenEventSource,
)
from cloister.request_server import event_source

STREAM = "text/event-stream"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked anew at once."""
    monkeypatch.setattr(event_source, "_RETRY", 0.01)
    monkeypatch.setattr(event_source, "_MIN_RETRY", 0.01)
    monkeypatch.setattr(event_source, "_MAX_BACKOFF", 0.02)


def events(data: bytes, content_type: str = STREAM, status: int = 200) -> Page:
    return Page(data, content_type, status)


def in_turn(*pages: Page | Handler) -> Handler:
    """One after another; the last for ever."""
    left = list(pages)

    async def serve(request: Request, writer: asyncio.StreamWriter) -> None:
        page = left.pop(0) if len(left) > 1 else left[0]
        if not isinstance(page, Page):
            await page(request, writer)
            return
        head = f"HTTP/1.1 {page.status} X\r\nContent-Type: {page.content_type}\r\nContent-Length: {len(page.body)}\r\n"
        writer.write(head.encode() + b"Connection: close\r\n\r\n" + page.body)

    return serve


def endless(piece: bytes, pause: float = 0.0) -> Handler:
    async def serve(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return serve


async def all_of(page: Channelled, number: int, count: int = 1000) -> list[tuple[str, ...]]:
    """What comes, to the end or ``count`` of it."""
    found: list[tuple[str, ...]] = []
    while len(found) < count:
        reply = await page.event(number)
        if reply.news is EventNews.EVENT:
            found.append((reply.name, page.body.decode(), reply.last_event_id))
        else:
            found.append((str(reply.news), reply.reason))
        if reply.news is EventNews.CLOSED:
            break
    return found


def listen(
    routes: dict[str, Page | Handler], path: str = "/", *, count: int = 1000, **more: Any
) -> tuple[list[tuple[str, ...]], Server]:
    """What comes from ``path``, for a page whose document is on the same server."""
    options = more.pop("options", {})

    async def go() -> list[tuple[str, ...]]:
        async with channelled(**options) as page:
            await page.load(server.url("/document"))
            return await all_of(page, await page.listen(server.url(path), **more), count)

    with Server({"/document": Page(b"<p>"), **routes}) as server:
        return run(go()), server


def test_events_come_and_the_stream_is_asked_for_anew_from_the_last_id() -> None:
    first = events("id: é1\nevent: add\ndata: a\n\ndata: b\n\ndata: lost".encode())
    found, server = listen({"/": in_turn(first, events(b"data: c\n\n"), events(b"", status=204))})
    assert found == [
        ("add", "a", "é1"),
        ("message", "b", "é1"),
        ("reconnecting", ""),
        ("message", "c", "é1"),
        ("reconnecting", ""),
        ("closed", ""),
    ]
    asked = [request.headers for request in server.requests if request.target == "/"]
    assert [each.get("last-event-id") for each in asked] == [None, *["é1".encode().decode("latin-1")] * 2]
    assert {each["accept"] for each in asked} == {STREAM}
    assert {each["cache-control"] for each in asked} == {"no-cache"}


def test_it_listens_from_inside_the_sandbox(authority: Authority) -> None:
    async def go() -> list[str]:
        async with start(authority.roots) as child:
            await child.fetch(server.url("/document"))
            opened, _ = await child.page.request(OpenEventSource(server.url("/")), timeout=20)
            news = []
            for _ in range(2):
                reply, _ = await child.page.request(NextEvent(opened.source), timeout=20)
                news.append(f"{reply.news} {(reply.body.inline or b'').decode()}")
            await child.page.request(CloseEventSource(opened.source), timeout=20)
            return news

    stream = events(b"retry: 500\ndata: \xff1\n\n")
    with Server({"/document": Page(b"<p>"), "/": stream}, tls=authority.context()) as server:
        assert run(go()) == ["event \ufffd1", "reconnecting "]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (events(b"data: a\n\n", "text/html"), FailureCode.BAD_RESPONSE),
        (events(b"data: a\n\n", ""), FailureCode.BAD_RESPONSE),
        (events(b"data: a\n\n", "text/event-streams"), FailureCode.BAD_RESPONSE),
        (events(b"data: a\n\n", status=404), FailureCode.BAD_RESPONSE),
        (events(b"data: a\n\n", status=503), FailureCode.BAD_RESPONSE),
        (events(b"", status=204), FailureCode.BAD_RESPONSE),
        (redirect("http://10.0.0.1/"), FailureCode.ADDRESS_REFUSED),
        (redirect("http://localhost:1/"), FailureCode.CONNECTION_REFUSED),
        (redirect("/"), FailureCode.TOO_MANY_REDIRECTS),
    ],
    ids=["HTML", "no type", "another type", "404", "503", "204", "private", "closed", "loop"],
)
def test_what_is_no_stream_is_a_failure(answer: Page, code: str) -> None:
    with pytest.raises(RequestFailed) as caught:
        listen({"/": answer})
    assert caught.value.code == code


@pytest.mark.parametrize("content_type", [STREAM, "Text/Event-Stream", "text/event-stream ; charset=latin-1"])
def test_a_type_is_one_however_it_is_written_and_it_is_always_utf_8(content_type: str) -> None:
    found, _ = listen({"/": events("data: ü\n\n".encode(), content_type)}, count=1)
    assert found == [("message", "ü", "")]


@pytest.mark.parametrize(
    ("then", "why"),
    [
        (events(b"data: a\n\n", "text/html"), "text/html"),
        (events(b"", status=500), "500"),
        (redirect("http://10.0.0.1/"), "address_refused"),
        (endless(b"data: " + b"x" * 65536), "too long"),
    ],
    ids=["HTML", "500", "private", "too long"],
)
def test_what_is_refused_later_ends_it(then: Page | Handler, why: str) -> None:
    found, _ = (
        listen({"/": in_turn(events(b"data: a\n\n"), then)})
        if callable(then)
        else listen({"/": in_turn(events(b"data: a\n\n"), _with_headers(then))})
    )
    assert found[:2] == [("message", "a", ""), ("reconnecting", "")]
    assert found[2][0] == "closed"
    assert why in found[2][1]


def _with_headers(page: Page) -> Handler:
    async def serve(_request: Request, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {page.status} X\r\nContent-Type: {page.content_type}\r\nContent-Length: {len(page.body)}\r\n"
        more = "".join(f"{name}: {value}\r\n" for name, value in page.headers)
        writer.write((head + more).encode() + b"Connection: close\r\n\r\n" + page.body)

    return serve


async def _cut(_request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 1000\r\n\r\ndata: cut\n\n"
    )


async def _nothing(_request: Request, writer: asyncio.StreamWriter) -> None:
    pass


def test_what_breaks_is_tried_again_and_again_within_the_limit_of_requests() -> None:
    routes: dict[str, Page | Handler] = {"/": in_turn(events(b"data: a\n\n"), _cut, _nothing, _nothing)}
    found, server = listen(routes, options={"max_requests": 12})
    assert found[:4] == [
        ("message", "a", ""),
        ("reconnecting", ""),
        ("message", "cut", ""),
        ("reconnecting", ""),
    ]
    assert found[-1][0] == "closed"
    assert "12 requests" in found[-1][1]
    assert 11 <= len(server.requests) <= 12 + 10  # what was asked on a kept connection may be sent twice


def test_retries_wait_longer_each_time_and_no_longer_than_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        if seconds:
            waited.append(seconds)
        await sleep(0)

    monkeypatch.setattr(event_source, "_MIN_RETRY", 0.5)
    monkeypatch.setattr(event_source, "_MAX_BACKOFF", 4.0)
    monkeypatch.setattr(asyncio, "sleep", noted)
    answers = in_turn(
        events(b"retry: 1\ndata: a\n\n"), *[_nothing] * 5, events(b"data: b\n\n"), events(b"", status=204)
    )
    listen({"/": answers})
    assert waited == [0.5, 1, 2, 4, 4, 4, 0.5]
    waited.clear()
    listen({"/": in_turn(events(b"retry: 99999999999\n\n"), events(b"", status=204))})
    assert waited == [3600]


def test_a_page_reads_another_origins_streams_only_where_that_agrees() -> None:
    def agreeing(origin: str, *more: tuple[str, str]) -> Handler:
        return _with_headers(
            Page(b"data: a\n\n", STREAM, headers=(("Access-Control-Allow-Origin", origin), *more))
        )

    async def go() -> list[str]:
        async with channelled() as page:
            asked = OpenEventSource(other.url("/"))
            codes = [await page.code_of(asked)]  # without a document
            await page.load(own.url("/document"))
            routes["/mine"] = agreeing(own.url("").rstrip("/"), ("Access-Control-Allow-Credentials", "true"))
            for url in (other.url("/"), own.url("/away"), other.url("/mine"), other.url("/all")):
                codes.append(await page.code_of(OpenEventSource(url)))
            for path in ("/mine", "/all"):
                codes.append(await page.code_of(OpenEventSource(other.url(path), with_credentials=True)))
            codes.append(await page.code_of(OpenEventSource(own.url("/"), headers=(("X-Key", "1"),))))
            codes.append(await page.code_of(OpenEventSource("ws://127.0.0.1/")))
            return codes

    stream = events(b"data: a\n\n")
    routes: dict[str, Page | Handler] = {"/": stream, "/all": agreeing("*")}
    with (
        Server(routes) as other,
        Server({"/document": Page(b"<p>"), "/": stream, "/away": redirect(other.url("/"))}) as own,
    ):
        codes = run(go())
    refused = FailureCode.CORS_REFUSED
    assert codes == [
        refused,
        *[refused, refused, "", ""],
        *["", refused],  # a password, or a cookie, needs more than "*"
        FailureCode.BAD_REQUEST,
        FailureCode.UNSUPPORTED_SCHEME,
    ]


def test_the_program_is_announced_like_a_document_and_says_what_it_likes() -> None:
    async def go() -> list[str]:
        async with channelled(for_browser=True) as program:
            number = await program.listen(
                server.url("/"), last_event_id="7", headers=(("Authorization", "Bearer x"), ("Accept", "a/b"))
            )
            assert await all_of(program, number, 1) == [("message", "a", "7")]
            return program.announced

    with Server({"/": events(b"data: a\n\n")}) as server:
        assert run(go())[0] == server.url("/")
    told = server.requests[0].headers
    assert (told["authorization"], told["accept"], told["last-event-id"]) == ("Bearer x", "a/b", "7")


def test_an_endless_stream_has_no_time_limit_but_a_limit_of_bytes() -> None:
    options = {"request_timeout": 300, "max_total_bytes": 240_000, "max_response_bytes": 1000}
    found, _ = listen({"/": endless(b"data: " + b"x" * 9993 + b"\n", 0.02)}, options=options, count=1)
    assert found[0][0] == "closed"
    assert "240,000 bytes" in found[0][1]


def test_a_stream_that_falls_silent_is_asked_for_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_source, "_IDLE", 0.1)

    async def silent(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD + b"data: a\n\n")
        await asyncio.Event().wait()

    found, _ = listen({"/": in_turn(silent, events(b"data: b\n\n"))}, count=3)
    assert found == [("message", "a", ""), ("reconnecting", ""), ("message", "b", "")]


def test_a_server_that_is_not_asked_is_not_listened_to() -> None:
    sent = 0

    async def flood(_request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(HEAD)
        with contextlib.suppress(ConnectionError):
            while True:
                writer.write(b"data: " + b"x" * 60_000 + b"\n\n")
                await writer.drain()
                sent += 1

    async def go() -> None:
        async with channelled() as page:
            await page.load(server.url("/document"))
            number = await page.listen(server.url("/"))
            before = -1
            while before != sent:
                before = sent
                await asyncio.sleep(0.3)
            assert await all_of(page, number, 1) == [("message", "x" * 60_000, "")]

    with Server({"/document": Page(b"<p>"), "/": flood}) as server:
        run(go())
    assert sent * 60_000 < 40 * 2**20  # the kernel's buffers, and ours


@pytest.mark.parametrize(
    "message", [NextEvent(1), NextEvent(2**32 - 1), CloseEventSource(1)], ids=["next", "last", "close"]
)
def test_a_number_that_was_never_given_ends_the_page(message: Any) -> None:
    async def go() -> list[Exception | None]:
        async with channelled() as page:
            with pytest.raises(Exception, match="is gone"):
                await page.ask(message)
            return page.ended

    (error,) = run(go())
    assert isinstance(error, BadMessage)


def test_what_is_closed_stays_closed_and_places_are_few() -> None:
    async def go(until: Callable[[], bool]) -> None:
        async with channelled() as page:
            await page.load(server.url("/document"))
            asked = OpenEventSource(server.url("/"))
            begun = [
                asyncio.create_task(page.ask(asked)) for _ in range(6)
            ]  # what HTTP/1.1 has connections for
            numbers = sorted([(await each).source for each in begun])
            waiting = [asyncio.create_task(page.ask(asked)) for _ in range(MAX_EVENT_SOURCES - 6)]
            await asyncio.sleep(0.05)
            assert await page.code_of(asked) == FailureCode.TOO_MANY_REQUESTS
            for each in waiting:
                each.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            await page.ask(CloseEventSource(numbers[0]))
            assert await page.code_of(CloseEventSource(numbers[0])) == FailureCode.NOT_OPEN
            assert await page.code_of(NextEvent(numbers[0])) == FailureCode.NOT_OPEN
            for number in numbers[1:]:
                await page.ask(CloseEventSource(number))
            async with asyncio.timeout(10):
                while not until():
                    await asyncio.sleep(0.01)
            assert page.ended == []

    with Server({"/document": Page(b"<p>"), "/": endless(b":\n", 0.05)}) as server:
        run(go(lambda: server.open_connections <= 1))
