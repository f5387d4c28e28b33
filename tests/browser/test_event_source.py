"""Server-sent events of a program: from real servers, each stream in a process of its own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.servers import Page, Request, Server, redirect

from cloister import AsyncBrowser, Browser, InvalidArgument, NavigationError, NetworkPolicy, TimeoutError
from cloister.browser.event_source import ServerEvent

STREAM = "text/event-stream"


def in_turn(*pages: Page) -> Any:
    left = list(pages)

    async def serve(_request: Request, writer: asyncio.StreamWriter) -> None:
        page = left.pop(0)
        head = f"HTTP/1.1 {page.status} X\r\nContent-Type: {page.content_type}\r\nContent-Length: {len(page.body)}\r\n"
        writer.write(head.encode() + b"Connection: close\r\n\r\n" + page.body)

    return serve


def stream(data: bytes) -> Page:
    return Page(data, STREAM)


async def silent(_request: Request, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: hello\n\ndata: only\n\n")
    await asyncio.Event().wait()


def test_events_come_across_connections_until_the_server_ends_them(browser: Browser) -> None:
    first = stream(b"retry: 1\nid: 1\nevent: add\ndata: \xc3\xa4\ndata: b\n\n")
    pages = in_turn(first, stream(b"data: c\n\n"), Page(b"", STREAM, 204))
    with Server({"/": pages}) as server, browser.events(server.url("/"), headers={"X-Key": "1"}) as events:
        assert list(events) == [ServerEvent("add", "ä\nb", "1"), ServerEvent("message", "c", "1")]
        assert (events.last_event_id, events.url) == ("1", server.url("/"))
        assert events.recv() is None
        (process,) = (each for each in browser.processes() if each.page_url == server.url("/"))
        assert process.kind == "request_server"
    assert [request.headers.get("last-event-id") for request in server.requests] == [None, "1", "1"]
    assert {request.headers["x-key"] for request in server.requests} == {"1"}
    assert not any(each.page_url for each in browser.processes())


def test_who_has_read_a_redirect_does_not_get_to_the_other_origin(browser: Browser) -> None:
    with (
        Server({"/": stream(b"data: there\n\n")}) as second,
        Server({"/": redirect(second.url("/"))}) as first,
        browser.events(first.url("/"), headers={"X-Key": "1"}, last_event_id="é7") as events,
    ):
        assert events.recv() == ServerEvent("message", "there", "é7")
        assert events.url == second.url("/")
        assert len([each for each in browser.processes() if each.page_url]) == 1
    told = second.requests[0].headers
    assert "x-key" not in told
    assert told["last-event-id"] == "é7".encode().decode("latin-1")


def test_a_circle_of_redirects_ends(browser: Browser) -> None:
    routes: dict[str, Any] = {}
    with Server(routes) as first, Server({"/": redirect(first.url("/"))}) as second:
        routes["/"] = redirect(second.url("/"))
        with pytest.raises(NavigationError) as caught, browser.events(first.url("/")):
            pass
    assert caught.value.code == "too_many_redirects"
    assert len(first.requests) + len(second.requests) == 11


def test_who_gives_up_loses_no_event_and_no_time(browser: Browser) -> None:
    with Server({"/": silent}) as server, browser.events(server.url("/")) as events:
        assert events.recv(timeout=10_000) == ServerEvent("message", "only", "")
        with pytest.raises(TimeoutError, match="no event came within 20 ms"):
            events.recv(timeout=20)
        events.close()
        with pytest.raises(InvalidArgument):
            events.recv()


@pytest.mark.parametrize(
    ("page", "code"),
    [
        (Page(b"<p>"), "bad_response"),
        (Page(b"", STREAM, 204), "bad_response"),
        (redirect("http://10.0.0.1/"), "address_refused"),
        (redirect("file:///etc/passwd"), "unsupported_scheme"),
    ],
)
def test_what_is_no_stream_is_an_error(browser: Browser, page: Page, code: str) -> None:
    with (
        Server({"/": page}) as server,
        pytest.raises(NavigationError) as caught,
        browser.events(server.url("/")),
    ):
        pass
    assert caught.value.code == code


def test_what_is_refused_later_is_an_error_after_what_came() -> None:
    async def go() -> list[str]:
        found = []
        network = NetworkPolicy(allow_hosts=["127.0.0.1"])
        async with AsyncBrowser(network=network) as browser, browser.events(server.url("/")) as events:
            with pytest.raises(NavigationError, match="status 404") as caught:
                async for event in events:
                    found.append(event.data)
            assert caught.value.code == "not_open"
        return found

    with Server({"/": in_turn(stream(b"retry: 1\ndata: a\n\n"), Page(b"", status=404))}) as server:
        assert asyncio.run(go()) == ["a"]
