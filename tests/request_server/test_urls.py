"""URLs: what is fetched, where a redirect leads, and what the other side learns of where we come from."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode
from cloister.request_server.urls import parse, port, redirect

BASE = parse("https://example.com/a/b?q#part")


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("http://0x7f.1/", "http://127.0.0.1/"),
        ("http://2130706433/", "http://127.0.0.1/"),
        ("http://0177.0.0.1/", "http://127.0.0.1/"),
        ("http://127.1/", "http://127.0.0.1/"),
        ("http://[0:0:0:0:0:ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/"),
        ("http://①②⑦.0.0.1/", "http://127.0.0.1/"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("HTTP://EXAMPLE.com:80/x y", "http://example.com/x%20y"),
        ("http:\\\\example.com\\x", "http://example.com/x"),
        ("http://exa\nmple.com/", "http://example.com/"),
        ("http://user:secret@example.com/", "http://example.com/"),
    ],
)
def test_every_spelling_of_a_host_becomes_the_one_that_is_connected_to(text: str, normal: str) -> None:
    assert parse(text).href == normal


@pytest.mark.parametrize(
    "text", ["file:///etc/passwd", "ftp://a/", "javascript:1", "data:,x", "ws://a/", "gopher:x"]
)
def test_other_schemes_are_refused_by_name(text: str) -> None:
    with pytest.raises(RequestFailed, match=text.partition(":")[0] + " is not a scheme") as caught:
        parse(text)
    assert caught.value.code == FailureCode.UNSUPPORTED_SCHEME


@pytest.mark.parametrize(
    "text",
    ["", "x", "//host/", "http://", "http://a b/", "http://a:99999/", "http://a:0/", "http://1.2.3.4.5/"],
)
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(RequestFailed) as caught:
        parse(text)
    assert caught.value.code == FailureCode.BAD_URL


def test_a_host_name_longer_than_dns_allows_is_refused() -> None:
    with pytest.raises(RequestFailed) as caught:
        parse(f"http://{'a.' * 200}com/")
    assert caught.value.code == FailureCode.BAD_URL


def test_the_port_is_the_one_named_or_the_schemes() -> None:
    assert [
        port(parse(f"{url}/")) for url in ("http://a", "https://a", "https://a:80", "http://[::1]:8080")
    ] == [
        80,
        443,
        80,
        8080,
    ]


@pytest.mark.parametrize(
    ("location", "target"),
    [
        (b"c", "https://example.com/a/c#part"),
        (b"/c#other", "https://example.com/c#other"),
        (b"//host/", "https://host/#part"),
        (b"http://host/x", "http://host/x#part"),
        (b"?r", "https://example.com/a/b?r#part"),
        (b"", "https://example.com/a/b?q#part"),
        ("/ü".encode(), "https://example.com/%C3%BC#part"),
        ("/ü".encode("latin-1"), "https://example.com/%C3%BC#part"),
        (b"http://0x0a000001/", "http://10.0.0.1/#part"),
    ],
)
def test_a_location_is_resolved_and_the_fragment_carries_over(location: bytes, target: str) -> None:
    assert redirect(BASE, location).href == target


@settings(deadline=None)
@given(
    location=st.one_of(
        st.binary(max_size=200), st.text(max_size=100).map(lambda t: t.encode("utf-8", "replace"))
    )
)
@example(location=b"//user:pw@host:0/")
@example(location=b"https://\xff/")
@example(location=b"/" + b"\xff" * 4000)
def test_any_location_leads_to_a_fetchable_url_or_is_refused(location: bytes) -> None:
    try:
        target = redirect(BASE, location)
    except RequestFailed:
        return
    assert target.protocol in {"http:", "https:"}
    assert 1 <= len(target.hostname) <= 255
    assert 1 <= port(target) <= 65535
    assert target.href.isascii()
    assert len(target.href) <= 8192
    assert not target.username
    assert not target.password
