"""What a redirect does to a request (Fetch standard, "HTTP-redirect fetch")."""

from __future__ import annotations

import asyncio
import socket

import pytest
from tests.request_server.conftest import Fetched
from tests.request_server.peers import ask, led_to, peer, read_head

from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode
from cloister.interfaces.fetch import Destination, Fetch, ReferrerPolicy
from cloister.request_server.exchange import BadResponse, Headers
from cloister.request_server.redirects import follow
from cloister.request_server.step import Step
from cloister.request_server.urls import parse

OWN: Headers = [(b"Authorization", b"Bearer x"), (b"Content-Type", b"text/plain"), (b"X-Own", b"1")]


def step(method: str = "GET", url: str = "https://a.example/x#part") -> Step:
    default = ReferrerPolicy.STRICT_ORIGIN_WHEN_CROSS_ORIGIN
    return Step(parse(url), method, OWN, b"body" if method in {"POST", "PUT"} else b"", default)


def to(location: str, *more: tuple[bytes, bytes]) -> Headers:
    return [(b"Location", location.encode()), *more]


def followed(method: str, status: int, location: str = "/y", *more: tuple[bytes, bytes]) -> Step:
    further = follow(step(method), status, to(location, *more))
    assert further is not None
    return further


@pytest.mark.parametrize(
    ("method", "status", "then"),
    [
        ("POST", 301, "GET"),
        ("POST", 302, "GET"),
        ("POST", 303, "GET"),
        ("POST", 307, "POST"),
        ("POST", 308, "POST"),
        ("PUT", 301, "PUT"),
        ("PUT", 302, "PUT"),
        ("PUT", 303, "GET"),
        ("PUT", 307, "PUT"),
        ("HEAD", 303, "HEAD"),
        ("GET", 303, "GET"),
        ("DELETE", 302, "DELETE"),
    ],
)
def test_the_method_and_with_it_the_body_go_along_or_do_not(method: str, status: int, then: str) -> None:
    further = followed(method, status)
    assert further.method == then
    has_changed = then != method
    assert further.body == (b"" if has_changed else step(method).body)
    assert (b"Content-Type" in dict(further.headers)) is not has_changed
    assert b"X-Own" in dict(further.headers)


@pytest.mark.parametrize(
    ("location", "is_told"),
    [
        ("/y", True),
        ("https://a.example:443/y", True),
        ("https://a.example:444/y", False),
        ("http://a.example/y", False),
        ("https://b.a.example/y", False),
        ("https://user:secret@b.example/", False),
    ],
)
def test_authorization_stays_with_its_origin(location: str, is_told: bool) -> None:
    further = followed("GET", 302, location)
    assert (b"Authorization" in dict(further.headers)) is is_told
    assert further.is_tainted is not is_told
    assert not further.url.username
    assert not further.url.password


def test_the_fragment_goes_along_unless_there_is_a_new_one() -> None:
    assert followed("GET", 302).url.href == "https://a.example/y#part"
    assert followed("GET", 302, "/y#new").url.href == "https://a.example/y#new"


@pytest.mark.parametrize(
    "location", ["file:///etc/passwd", "data:,x", "javascript:1", "ftp://a/", "blob:https://a/1"]
)
def test_nothing_but_http_is_followed(location: str) -> None:
    with pytest.raises(RequestFailed, match=r"a\.example redirected to") as caught:
        followed("GET", 302, location)
    assert caught.value.code == FailureCode.UNSUPPORTED_SCHEME


TRICKS = {
    "//b.example/y": "https://b.example/y#part",
    "\\\\b.example\\y": "https://b.example/y#part",
    "/\\b.example/y": "https://b.example/y#part",
    "https:\\\\b.example\\y": "https://b.example/y#part",
    "https:///b.example/": "https://b.example/#part",
    "https:b.example": "https://a.example/b.example#part",  # the scheme is the same: so this is a path
    "https:/b.example/": "https://a.example/b.example/#part",
    "http:b.example": "http://b.example/#part",
    "\thttps://b.exa\tmple/ ": "https://b.example/#part",
    "ht\ntps://b.example/": "https://b.example/#part",
    "HTTPS://B.EXAMPLE/": "https://b.example/#part",
    "https://a.example@b.example/": "https://b.example/#part",
    "https://b.example\\@a.example/": "https://b.example/@a.example/#part",
    "https://b.example#@a.example/": "https://b.example/#@a.example/",
    "https://b.example?@a.example/": "https://b.example/?@a.example/#part",
    "https://a.example%2f@b.example/": "https://b.example/#part",
    "https://0x7f.1/": "https://127.0.0.1/#part",
    "https://127\u30020\u30020\u30021/": "https://127.0.0.1/#part",
    "../../../etc/passwd": "https://a.example/etc/passwd#part",
    "": "https://a.example/x#part",
    "#new": "https://a.example/x#new",
}
"""Where browsers go; what is judged as another origin is exactly what is asked."""


@pytest.mark.parametrize(("location", "target"), TRICKS.items())
def test_a_location_that_looks_like_another_place_leads_where_browsers_go(location: str, target: str) -> None:
    further = followed("GET", 302, location)
    assert further.url.href == target
    leaves = not target.startswith("https://a.example/")
    assert (b"Authorization" in dict(further.headers)) is not leaves


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("about:blank", FailureCode.UNSUPPORTED_SCHEME),
        ("about:srcdoc", FailureCode.UNSUPPORTED_SCHEME),
        ("wss://b.example/", FailureCode.UNSUPPORTED_SCHEME),
        ("view-source:https://a.example/", FailureCode.UNSUPPORTED_SCHEME),
        ("java\nscript://a.example/%0aalert(1)", FailureCode.UNSUPPORTED_SCHEME),
        ("\x01data:text/html,x", FailureCode.UNSUPPORTED_SCHEME),
        ("filesystem:https://a.example/temporary/x", FailureCode.UNSUPPORTED_SCHEME),
        ("https://", FailureCode.BAD_URL),
        ("https://[::1", FailureCode.BAD_URL),
        ("https://b.example:0/", FailureCode.BAD_URL),
        ("https://b.example:99999/", FailureCode.BAD_URL),
        ("https://b exa mple/", FailureCode.BAD_URL),
        ("/" + "y" * 9000, FailureCode.BAD_URL),
    ],
)
def test_where_nobody_can_go_is_refused_by_name(location: str, code: FailureCode) -> None:
    with pytest.raises(RequestFailed) as caught:
        followed("GET", 302, location)
    assert caught.value.code == code, caught.value


@pytest.mark.parametrize("status", [200, 300, 304, 305, 306, 399])
def test_other_statuses_are_answers(status: int) -> None:
    assert follow(step(), status, to("/y")) is None


def test_one_place_twice_is_one_place_and_two_are_none() -> None:
    assert followed("GET", 302, "/y", (b"location", b"/y")).url.pathname == "/y"
    with pytest.raises(BadResponse, match="several places"):
        followed("GET", 302, "/y", (b"location", b"/z"))


@pytest.mark.parametrize(
    ("said", "policy"),
    [
        (b"no-referrer", ReferrerPolicy.NO_REFERRER),
        (b"no-referrer, UNSAFE-URL", ReferrerPolicy.UNSAFE_URL),
        (b"origin, future-policy", ReferrerPolicy.ORIGIN),
        (b"nonsense", ReferrerPolicy.STRICT_ORIGIN_WHEN_CROSS_ORIGIN),
        (b"", ReferrerPolicy.STRICT_ORIGIN_WHEN_CROSS_ORIGIN),
    ],
)
def test_a_redirect_may_say_what_its_target_is_told(said: bytes, policy: ReferrerPolicy) -> None:
    assert followed("GET", 302, "/y", (b"Referrer-Policy", said)).policy is policy


def test_a_post_that_is_redirected_is_a_post_there_or_a_get() -> None:
    """On the wire, with what frames its body, and with what says which page it comes from."""
    heads: list[bytes] = []

    def serve(connection: socket.socket, _number: int) -> None:
        while head := read_head(connection):
            heads.append(head)
            if b"Content-Length: 4" in head:
                assert connection.recv(4) == b"body"
            status = {b"/307": b"307", b"/302": b"302"}.get(head.split()[1], b"200")
            location = b"http://b.example/done" if status != b"200" else b"/"
            connection.sendall(
                b"HTTP/1.1 " + status + b" X\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n"
            )

    async def run(path: str) -> Fetched:
        async with led_to(port) as made:
            return await made.fetch(
                Fetch(
                    f"http://a.example/{path}",
                    Destination.DOCUMENT,
                    referrer="http://a.example/page",
                    method="post",
                    headers=(("Content-Type", "text/x"), ("Authorization", "Bearer x")),
                ),
                b"body",
            )

    with peer(serve) as port:
        asyncio.run(run("307"))
        asyncio.run(run("302"))
    first, kept, again, changed = heads
    for head in (first, again):
        assert head.startswith(b"POST /30")
        assert b"Content-Type: text/x" in head
        assert b"Authorization: Bearer x" in head
        assert b"Referer: http://a.example/page\r\n" in head
    assert kept.startswith(b"POST /done")
    assert b"Content-Length: 4" in kept
    assert b"Referer: http://a.example/\r\n" in kept
    assert b"Bearer" not in kept
    assert changed.startswith(b"GET /done")
    assert b"Content-Length" not in changed
    assert b"Content-Type" not in changed


def test_a_redirect_to_itself_is_followed_as_long_as_it_counts() -> None:
    """As sites do that set a cookie first. Neither what a redirect has for a body nor a Refresh counts for anything."""
    asked: list[bytes] = []

    def serve(connection: socket.socket, _number: int) -> None:
        while head := read_head(connection):
            asked.append(head.split()[1])
            again = b"302 X\r\nLocation: \r\nSet-Cookie: n=%d" % len(asked)
            said = b"200 OK\r\nRefresh: 0; url=/other" if len(asked) == 5 else again
            connection.sendall(b"HTTP/1.1 " + said + b"\r\nContent-Length: 4\r\n\r\nbody")

    (came,) = ask(serve, "http://a.example/me")
    assert isinstance(came, Fetched)
    assert (came.status, came.requests, came.url) == (200, 5, "http://a.example/me")
    assert asked == [b"/me"] * 5


def test_redirects_end_after_twenty() -> None:
    count = 0

    def serve(connection: socket.socket, _number: int) -> None:
        nonlocal count
        while read_head(connection):
            count += 1
            connection.sendall(b"HTTP/1.1 302 X\r\nContent-Length: 0\r\nLocation: /%d\r\n\r\n" % count)

    (failed,) = ask(serve, "http://a.example/")
    assert isinstance(failed, RequestFailed)
    assert failed.code == FailureCode.TOO_MANY_REDIRECTS
    assert count == 21
