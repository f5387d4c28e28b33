"""Headers: what a request says of us, and what of a response's headers the page gets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.interfaces.request_server import Destination, Options
from cloister.request_server.exchange import Headers
from cloister.request_server.headers import forwarded, request
from cloister.request_server.urls import parse


def asked(url: str, destination: Destination = Destination.DOCUMENT) -> dict[str, str]:
    made = request(parse(url), destination, Options(user_agent="Agent/1"))
    return {name.decode().lower(): value.decode() for name, value in made}


def test_a_request_says_who_asks_and_what_it_takes() -> None:
    headers = asked("http://example.com:8080/")
    assert headers["host"] == "example.com:8080"
    assert headers["user-agent"] == "Agent/1"
    assert headers["accept"].startswith("text/html")
    assert headers["accept-encoding"] == "gzip, deflate, br, zstd"
    assert headers["accept-language"] == "en"
    assert "referer" not in headers


def test_the_host_header_has_brackets_around_an_ipv6_address() -> None:
    assert asked("http://[2001:db8::1]:81/")["host"] == "[2001:db8::1]:81"


@pytest.mark.parametrize(
    ("destination", "wanted"),
    [(Destination.STYLE, "text/css"), (Destination.IMAGE, "image/"), (Destination.FONT, "*/*")],
)
def test_what_is_accepted_depends_on_what_it_is_for(destination: Destination, wanted: str) -> None:
    assert wanted in asked("http://example.com/", destination)["accept"]


def test_the_page_gets_lower_case_names_and_no_connection_or_cookie_headers() -> None:
    sent: Headers = [
        (b"Content-Type", b"text/html"),
        (b"Set-Cookie", b"id=1"),
        (b"Connection", b"close, X-Private"),
        (b"X-Private", b"1"),
        (b"Transfer-Encoding", b"chunked"),
        (b"ETAG", b'"\xe4"'),
    ]
    assert forwarded(sent) == (("content-type", "text/html"), ("etag", '"ä"'))


def test_headers_that_http_does_not_allow_are_left_out() -> None:
    sent: Headers = [(b"a b", b"1"), (b"", b"1"), (b"x", b"1\r\ny: 2"), (b"x", b"\0"), (b"tab", b"a\tb")]
    assert forwarded(sent) == (("tab", "a\tb"),)


def test_a_header_that_does_not_fit_is_left_out_whole_and_shorter_ones_still_go() -> None:
    sent: Headers = [(b"x-long", b"v" * 5000), (b"x-a", b"v" * 4096), (b"x-b", b"v" * 4096), (b"x-c", b"v")]
    assert [name for name, _ in forwarded(sent)] == ["x-a", "x-c"]


@settings(deadline=None)
@given(st.lists(st.tuples(st.binary(max_size=200), st.binary(max_size=5000)), max_size=100))
def test_whatever_a_server_sends_the_page_gets_at_most_64_headers_and_8_kib(sent: Headers) -> None:
    kept = forwarded(sent)
    assert len(kept) <= 64
    assert sum(len(name) + len(value.encode()) for name, value in kept) <= 8192
    assert all(1 <= len(name) <= 128 and len(value) <= 4096 for name, value in kept)
