"""Our client and nginx: one table over HTTP/1.1 and over HTTP/2, and how it ends, limits and refuses."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloister import Browser, NetworkPolicy
from cloister.browser.identity import HttpCredentials
from cloister.interfaces.base import FailureCode
from tests.peers.conftest import FILES, WORDS, Asker, Came, Peer, asking, nginx_in

PLAIN, LARGE = FILES["plain.txt"], FILES["large.bin"]


@pytest.fixture(scope="module")
def asker(nginx: Peer) -> Iterator[Asker]:
    with asking(nginx.roots) as asker:
        yield asker


@pytest.fixture(params=["HTTP/1.1", "HTTP/2"])
def base(request: pytest.FixtureRequest, nginx: Peer) -> str:
    return nginx.plain if request.param == "HTTP/1.1" else nginx.secure


def has(status: int, body: bytes | None = None, requests: int = 1) -> Callable[[Came], None]:
    def check(came: Came) -> None:
        assert (came.status, came.fetched.requests) == (status, requests)
        assert body is None or came.body == body

    return check


TABLE: dict[str, Callable[[Came], None]] = {
    "/": has(200, WORDS),
    "/plain.txt": has(200, PLAIN),
    "/empty": has(200, b""),
    "/large.bin": has(200, LARGE),
    "/slow": has(200, LARGE),
    "/compressed": has(200, WORDS),  # in chunks, over HTTP/1.1
    "/packed.txt": has(200, b"packed in advance"),
    "/trailers": has(200, WORDS),
    "/closes": has(200, PLAIN),
    "/nothing": has(204, b""),
    "/teapot": has(418, b"short and stout"),
    "/broken": has(500),
    "/gone": has(502),
    "/missing": has(404),
    **{f"/{status}": has(200, PLAIN, 2) for status in (301, 302, 303, 307, 308)},
    "/absolute": has(200, PLAIN, 2),
    "/scheme-relative": has(200, PLAIN, 2),
    "/folder": has(200, PLAIN, 2),
    "/long": has(200, PLAIN),
}


@pytest.mark.parametrize("path", TABLE)
def test_it_comes_as_it_was_sent(asker: Asker, base: str, path: str) -> None:
    came = asker.get(base + path)
    TABLE[path](came)
    if path != "/long":  # which has its own headers only
        assert came.headers["x-protocol"] == ("HTTP/2.0" if base.startswith("https:") else "HTTP/1.1")


FAILURES = {
    "/silent": {FailureCode.CONNECTION_RESET, FailureCode.BAD_RESPONSE},  # of a connection, or of a stream
    "/loop": {FailureCode.TOO_MANY_REDIRECTS},
    "/to-file": {FailureCode.UNSUPPORTED_SCHEME},
}


@pytest.mark.parametrize("path", FAILURES)
def test_it_fails_by_its_name_and_the_next_request_does_not(asker: Asker, base: str, path: str) -> None:
    assert asker.failure(base + path) in FAILURES[path]
    assert asker.get(f"{base}/plain.txt").body == PLAIN


def test_conditions_ranges_and_passwords(asker: Asker, base: str) -> None:
    tag = asker.get(f"{base}/plain.txt").headers["etag"]
    assert asker.get(f"{base}/plain.txt", ("If-None-Match", tag)).status == 304
    part = asker.get(f"{base}/large.bin", ("Range", "bytes=1000-1999"))
    assert (part.status, part.body) == (206, LARGE[1000:2000])
    parts = asker.get(f"{base}/large.bin", ("Range", "bytes=0-9, 20-29"))
    assert parts.fetched.content_type.startswith("multipart/byteranges")
    assert asker.get(f"{base}/large.bin", ("Range", "bytes=99999999-")).status == 416
    assert asker.get(f"{base}/locked").status == 401
    assert asker.get(f"{base}/locked", ("Authorization", "Basic bWU6c2VjcmV0")).body == PLAIN
    assert asker.get(f"{base}/302#mine").fetched.url == f"{base}/plain.txt#mine"
    assert asker.get(f"{base}/fragment#mine").fetched.url == f"{base}/plain.txt#there"
    head = asker.get(f"{base}/large.bin", method="HEAD")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(LARGE)))


@pytest.mark.parametrize("size", [2000, 200_000, 20_000_000])
def test_a_body_that_is_too_large_is_answered_and_not_a_broken_connection(
    asker: Asker, base: str, size: int
) -> None:
    assert asker.get(f"{base}/small", method="POST", body=bytes(size)).status == 413


def test_one_connection_serves_many_requests(asker: Asker, base: str) -> None:
    connections = {asker.get(f"{base}/plain.txt").headers["x-connection"] for _ in range(10)}
    assert len(connections) == 1


def test_a_connection_that_the_server_ends_after_some_requests_is_replaced(asker: Asker, nginx: Peer) -> None:
    """nginx says ``Connection: close`` and GOAWAY, the latter with more under way already."""
    for base in (nginx.plain, nginx.secure):
        few = base.replace("localhost", "127.0.0.1")  # eight on a connection: nginx.conf
        came = asker.fetch_all([(f"{few}/plain.txt", (), "GET", b"") for _ in range(20)])
        came += [asker.fetch(f"{few}/plain.txt") for _ in range(10)]
        assert [each.body if isinstance(each, Came) else each for each in came] == [PLAIN] * 30
        assert len({each.headers["x-connection"] for each in came if isinstance(each, Came)}) >= 4


def test_a_server_that_shuts_down_answers_what_it_had_begun_with(tmp_path: Path) -> None:
    """And lets nobody in from then on."""
    with nginx_in(tmp_path) as peer, asking(peer.roots) as asker:
        bases = (peer.plain, peer.secure)
        for base in bases:
            asker.get(f"{base}/plain.txt")
        asker.call_later(0.1, lambda: peer.process.send_signal(signal.SIGQUIT))
        begun = asker.fetch_all([(f"{base}/slow", (), "GET", b"") for base in bases])
        assert [came.body if isinstance(came, Came) else came for came in begun] == [LARGE] * 2
        peer.process.wait(10)
        for base in bases:
            assert asker.failure(f"{base}/plain.txt") == FailureCode.CONNECTION_REFUSED


def test_http_on_the_port_of_https_and_the_other_way_round(asker: Asker, nginx: Peer) -> None:
    assert asker.get(nginx.secure.replace("https:", "http:") + "/").status == 400
    assert asker.failure(nginx.plain.replace("http:", "https:") + "/") == FailureCode.TLS_FAILED


def test_a_browser_with_a_password_shows_what_nginx_locks(nginx: Peer, tmp_path: Path) -> None:
    roots = tmp_path / "roots.pem"
    roots.write_text(nginx.roots)
    mine: HttpCredentials = {"origin": nginx.secure, "username": "me", "password": "secret"}
    network = NetworkPolicy(allow_hosts=["localhost"])
    with Browser(network=network, ca_certs=str(roots), http_credentials=mine) as browser:
        page = browser.new_page()
        assert page.goto(f"{nginx.secure}/locked").status == 200
        assert page.text().strip() == PLAIN.decode()
        assert page.goto(f"{nginx.secure}/compressed").headers["x-protocol"] == "HTTP/2.0"
        assert page.title() == "nginx"
        assert page.goto(f"{nginx.plain}/locked").status == 401
