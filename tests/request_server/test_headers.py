"""Headers: what a request says of us, and what of a response's headers the page gets."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode
from cloister.interfaces.fetch import Destination, Fetch, Method
from cloister.interfaces.request_server import ClientHints, Options
from cloister.request_server.exchange import Headers
from cloister.request_server.headers import forwarded, method, own, request
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


HINTS = ClientHints(brands=(("Cloister", "1"), ("Not A;Brand", "8")), platform="Linux")


def test_client_hints_are_told_if_there_are_any_and_over_https_only() -> None:
    options = Options(user_agent="Agent/1", client_hints=HINTS)
    told = dict(request(parse("https://example.com/"), Destination.DOCUMENT, options))
    assert told[b"Sec-CH-UA"] == b'"Cloister";v="1", "Not A;Brand";v="8"'
    assert told[b"Sec-CH-UA-Mobile"] == b"?0"
    assert told[b"Sec-CH-UA-Platform"] == b'"Linux"'
    assert not any("sec-" in name for name in asked("https://example.com/"))
    plain = dict(request(parse("http://example.com/"), Destination.DOCUMENT, options))
    assert not any(b"Sec-" in name for name in plain)


@pytest.mark.parametrize("text", ['a"b', "a\\b", "a\r\nb", "a\n", "\u00e4", "a" * 65])
def test_a_client_hint_cannot_be_anything_but_itself(text: str) -> None:
    made = msgspec.msgpack.encode(ClientHints(brands=((text, "1"),), platform="Linux"))
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(made, type=ClientHints)


def fetch(*headers: tuple[str, str], method: str = "GET") -> Fetch:
    return Fetch("http://example.com/", Destination.DOCUMENT, headers=headers, method=method)


def test_a_page_may_send_headers_of_its_own_and_replace_some_of_ours() -> None:
    mine = own(fetch(("X-Mine", " a b "), ("accept", "x/y")))
    told = request(parse("http://example.com/"), Destination.DOCUMENT, Options(user_agent="Agent/1"), mine)
    assert [value for name, value in told if name.lower() == b"accept"] == [b"x/y"]
    assert (b"X-Mine", b"a b") in told


@pytest.mark.parametrize(
    "name",
    ["Host", "Content-Length", "TRANSFER-ENCODING", "Cookie", "Connection", "Referer", "Origin", "Te", "Upgrade",
     "Expect", "Proxy-Authorization", "Sec-Fetch-Site", "Sec-CH-UA", "Via", "Accept-Encoding", "Keep-Alive"],
)  # fmt: skip
def test_a_page_may_not_speak_of_the_connection_or_in_our_name(name: str) -> None:
    with pytest.raises(RequestFailed, match=name) as caught:
        own(fetch((name, "x")))
    assert caught.value.code == FailureCode.BAD_REQUEST


@pytest.mark.parametrize(
    ("name", "value"),
    [("X", "a\r\nHost: b"), ("X", "a\0"), ("X Y", "a"), ("X:", "a"), ("X", "\u00e4"), ("\u00e4", "a")],
)
def test_what_is_no_header_is_refused(name: str, value: str) -> None:
    with pytest.raises(RequestFailed, match="is not a header"):
        own(fetch((name, value)))


@pytest.mark.parametrize("name", ["CONNECT", "trace", "TRACK"])
def test_no_page_connects_or_traces(name: str) -> None:
    with pytest.raises(RequestFailed, match=name):
        own(fetch(method=name))
    with pytest.raises(RequestFailed, match=name):
        own(fetch(("X-HTTP-Method-Override", f"GET, {name}")))


@pytest.mark.parametrize("name", ["", "GET\n", "GET /x", "GE T", "\u00e4", "G" * 33])
def test_a_method_is_a_token(name: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(name, Method)


@pytest.mark.parametrize(("said", "meant"), [("post", "POST"), ("Head", "HEAD"), ("patch", "patch")])
def test_common_methods_are_in_capitals(said: str, meant: str) -> None:
    assert method(fetch(method=said)) == meant


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
