"""What goes by https though it says http, and what is refused over http."""

from __future__ import annotations

import asyncio
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.request_server.conftest import Fetched
from tests.request_server.peers import Http2Server, led_to, outcome, peer

from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode
from cloister.interfaces.fetch import Destination, Fetch
from cloister.request_server.upgrades import StrictTransport, without_mixed_content
from cloister.request_server.urls import parse


def noted(value: str, url: str = "https://site.example/", *more: str) -> StrictTransport:
    known = StrictTransport(lambda: now)
    known.note(
        parse(url), [(b"Strict-Transport-Security", each.encode("latin-1")) for each in (value, *more)]
    )
    return known


def upgraded(known: StrictTransport, url: str = "http://site.example/") -> str:
    return str(known.upgraded(parse(url)).href)


now = 1000.0


@pytest.mark.parametrize(
    "value",
    [
        "max-age=1",
        "Max-Age=1; includeSubDomains; preload",
        'max-age="31536000"',
        ";; max-age=1;;",
        ' max-age = 1 ; future="a;b" ',
        "max-age=99999999999999999999999",
    ],
)
def test_a_host_that_wants_https_gets_it(value: str) -> None:
    assert upgraded(noted(value)) == "https://site.example/"


@pytest.mark.parametrize(
    "value",
    ["", "includeSubDomains", "max-age", "max-age=", "max-age=-1", "max-age=1x",
     "max-age=1; max-age=2", "max-age=0", "max-age=١", "(max-age=1)"],
)  # fmt: skip
def test_what_is_no_such_wish_changes_nothing(value: str) -> None:
    known = StrictTransport(lambda: now)
    known.note(parse("https://site.example/"), [(b"Strict-Transport-Security", value.encode())])
    assert upgraded(known) == "http://site.example/"


@pytest.mark.parametrize(
    ("url", "then"),
    [
        ("http://site.example./x?y#z", "https://site.example./x?y#z"),
        ("http://site.example:80/", "https://site.example/"),
        ("http://site.example:8080/", "https://site.example:8080/"),
        ("http://below.site.example/", "https://below.site.example/"),
        ("http://other-site.example/", "http://other-site.example/"),
        ("http://example/", "http://example/"),
    ],
)
def test_ports_stay_and_names_below_are_meant_if_it_says_so(url: str, then: str) -> None:
    assert upgraded(noted("max-age=1; includeSubDomains"), url) == then
    below = url if "below" in url else then
    assert upgraded(noted("max-age=1"), url) == below


def test_it_is_believed_over_https_only_and_of_names_only() -> None:
    assert upgraded(noted("max-age=9", "http://site.example/")) == "http://site.example/"
    assert upgraded(noted("max-age=9", "https://192.0.2.1/"), "http://192.0.2.1/") == "http://192.0.2.1/"
    assert upgraded(noted("max-age=9", "https://[2001:db8::1]/"), "http://[2001:db8::1]/").startswith("http:")


def test_the_first_header_counts_and_a_later_response_may_take_it_back() -> None:
    known = noted("max-age=9", "https://site.example/", "max-age=0")
    assert upgraded(known) == "https://site.example/"
    known.note(parse("https://site.example/"), [(b"strict-transport-security", b"max-age=0")])
    assert upgraded(known) == "http://site.example/"


def test_it_holds_for_as_long_as_it_says() -> None:
    global now  # noqa: PLW0603
    known = noted("max-age=60")
    try:
        now += 59
        assert upgraded(known).startswith("https:")
        now += 2
        assert upgraded(known).startswith("http:")
    finally:
        now = 1000.0


@given(st.text(max_size=100))
def test_any_header_is_read_or_not(value: str) -> None:
    upgraded(noted(value.encode("utf-8", "replace").decode("latin-1")))


def test_a_page_whose_host_wants_https_has_its_subresources_by_https_and_the_browser_is_told_so() -> None:
    asked: list[str] = []

    def serve(connection: socket.socket, _number: int) -> None:
        if connection.recv(3, socket.MSG_PEEK) != b"PRI":
            asked.append("plain")
            return
        server = Http2Server(connection)
        while True:
            server.answer(server.request(), b"ok", ("strict-transport-security", "max-age=60"))

    async def run() -> list[Fetched]:
        async with led_to(port, http_2=True) as made:
            urls = ["https://site.example/", "http://site.example/style.css", "http://site.example/next#x"]
            return [await made.fetch(Fetch(url, Destination.DOCUMENT)) for url in urls]

    with peer(serve) as port:
        pages = asyncio.run(run())
    assert [page.url for page in pages[1:]] == [
        "https://site.example/style.css",
        "https://site.example/next#x",
    ]
    assert asked == []


# ── mixed content ────────────────────────────────────────────────────────────────────────────────────────────────

PAGE = "https://page.example/"


def test_images_of_a_page_of_https_come_by_https() -> None:
    url = without_mixed_content(parse("http://a.example:8080/i.png"), Destination.IMAGE, PAGE)
    assert url.href == "https://a.example:8080/i.png"


@pytest.mark.parametrize(
    ("url", "destination"),
    [
        ("http://a.example/s.css", Destination.STYLE),
        ("http://a.example/f.woff", Destination.FONT),
        ("http://192.0.2.1/i.png", Destination.IMAGE),
        ("http://[2001:db8::1]/i.png", Destination.IMAGE),
        ("http://localhost.example/s.css", Destination.STYLE),
    ],
)
def test_the_rest_is_refused(url: str, destination: Destination) -> None:
    with pytest.raises(RequestFailed, match="the page came by https") as caught:
        without_mixed_content(parse(url), destination, PAGE)
    assert caught.value.code == FailureCode.MIXED_CONTENT


@pytest.mark.parametrize(
    ("url", "destination", "page"),
    [
        ("https://a.example/s.css", Destination.STYLE, PAGE),
        ("http://a.example/s.css", Destination.STYLE, "http://page.example/"),
        ("http://a.example/s.css", Destination.STYLE, ""),
        ("http://a.example/", Destination.DOCUMENT, PAGE),
        ("http://localhost:8000/s.css", Destination.STYLE, PAGE),
        ("http://a.localhost/s.css", Destination.STYLE, PAGE),
        ("http://127.8.8.8/s.css", Destination.STYLE, PAGE),
        ("http://[::1]/s.css", Destination.STYLE, PAGE),
    ],
)
def test_what_is_not_mixed_goes_as_it_says(url: str, destination: Destination, page: str) -> None:
    assert without_mixed_content(parse(url), destination, page).href == url


def test_a_redirect_to_http_is_mixed_too() -> None:
    def serve(connection: socket.socket, _number: int) -> None:
        server = Http2Server(connection)
        stream = server.request()
        server.state.send_headers(
            stream, [(":status", "302"), ("location", "http://b.example/")], end_stream=True
        )
        server.flush()
        server.until_closed()

    async def run() -> RequestFailed | Fetched:
        async with led_to(port, http_2=True, document=PAGE, for_browser=False) as made:
            return await outcome(made.fetch(Fetch(PAGE, Destination.STYLE)))

    with peer(serve) as port:
        failed = asyncio.run(run())
    assert isinstance(failed, RequestFailed)
    assert failed.code == FailureCode.MIXED_CONTENT
    assert failed.detail.startswith("redirected to http://b.example/: ")
