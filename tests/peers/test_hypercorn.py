"""Our client and hypercorn: one table over HTTP/1.1 and over HTTP/2, and what only a real server does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cloister.interfaces.base import FailureCode
from tests.peers.app import ENCODINGS, HTML, WORDS
from tests.peers.conftest import Asker, Came, Peer, asking

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def asker(hypercorn: Peer) -> Iterator[Asker]:
    with asking(hypercorn.roots, max_response_bytes=4 * MIB) as asker:
        yield asker


@pytest.fixture(params=["HTTP/1.1", "HTTP/2"])
def base(request: pytest.FixtureRequest, hypercorn: Peer) -> str:
    return hypercorn.plain if request.param == "HTTP/1.1" else hypercorn.secure


def has(status: int, body: bytes | None = None, requests: int = 1, **headers: str) -> Callable[[Came], None]:
    def check(came: Came) -> None:
        assert (came.status, came.fetched.requests) == (status, requests)
        assert body is None or came.body == body
        for name, value in headers.items():
            assert came.headers[name.replace("_", "-")] == value

    return check


WHOLE = bytes(number % 251 for number in range(1000))

TABLE: dict[str, Callable[[Came], None]] = {
    **{f"/encoded/{name}": has(200, WORDS.encode()) for name in ENCODINGS},
    **{f"/status/{status}": has(status) for status in (200, 201, 204, 304, 400, 404, 418, 500, 503, 599)},
    **{f"/{kind}/5": has(200, requests=6) for kind in ("redirect", "absolute-redirect", "relative-redirect")},
    "/redirect-to?url=/utf8&status=307": has(200, WORDS.encode(), requests=2),
    "/utf8": has(200, WORDS.encode(), content_type="text/plain; charset=utf-8"),
    "/html": has(200, HTML.encode(), content_type="text/html"),
    "/image/png": has(200, content_type="image/png"),
    "/stream-bytes/1000000": has(200, b"x" * 1_000_000),
    "/drip/5": has(200, b"*****"),
    "/delay/20": has(200, b"late"),
    "/cookies-set?a=1&b=2": has(200, b"set"),
    "/cache": has(200, b"fresh", etag='"one"'),
    "/range/1000": has(200, WHOLE),
    "/early-hint": has(200, b"after a hint"),
    "/large-headers/60": has(200, b"below them"),
    "/no/such/page": has(404, b"not here"),
}


@pytest.mark.parametrize("path", TABLE)
def test_it_comes_as_it_was_sent(asker: Asker, base: str, path: str) -> None:
    TABLE[path](asker.get(base + path))


def told(came: Came) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(came.body)
    return made


def test_the_server_sees_what_a_page_asks(asker: Asker, base: str) -> None:
    body = bytes(range(256)) * 4096
    seen = told(asker.get(f"{base}/get?a=%C3%BC&b=c%20d#part", ("X-Own", "1"), method="PUT", body=body))
    assert (seen["method"], seen["path"], seen["query"]) == ("PUT", "/get", "a=%C3%BC&b=c%20d")
    assert seen["version"] == ("2" if base.startswith("https:") else "1.1")
    assert seen["body"] == hashlib.sha256(body).hexdigest()
    assert seen["headers"]["x-own"] == "1"
    assert seen["headers"]["content-length"] == str(len(body))
    assert seen["headers"]["user-agent"] == "Cloister tests"


def test_a_redirect_of_a_post_is_one_there_or_a_get(asker: Asker, base: str) -> None:
    for status, method in ((301, "GET"), (302, "GET"), (303, "GET"), (307, "POST"), (308, "POST")):
        came = asker.get(f"{base}/redirect-to?url=/get&status={status}", method="POST", body=b"words")
        assert told(came)["method"] == method
        assert (told(came)["body"] == hashlib.sha256(b"words").hexdigest()) is (method == "POST")


def test_conditions_ranges_and_passwords(asker: Asker, base: str) -> None:
    assert asker.get(f"{base}/cache", ("If-None-Match", '"one"')).status == 304
    part = asker.get(f"{base}/range/1000", ("Range", "bytes=10-19"))
    assert (part.status, part.body) == (206, WHOLE[10:20])
    assert part.headers["content-range"] == "bytes 10-19/1000"
    assert asker.get(f"{base}/range/1000", ("Range", "bytes=2000-")).status == 416
    assert asker.get(f"{base}/basic-auth/me:secret").status == 401
    assert asker.get(f"{base}/basic-auth/me:secret", ("Authorization", "Basic bWU6c2VjcmV0")).status == 200
    head = asker.get(f"{base}/range/1000", method="HEAD")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", "1000")


FAILURES = {
    "/early-close": {FailureCode.BAD_RESPONSE},
    "/forever": {FailureCode.TOO_LARGE},
    "/redirect/30": {FailureCode.TOO_MANY_REDIRECTS},
    "/redirect-to?url=file:///etc/passwd": {FailureCode.UNSUPPORTED_SCHEME},
    "/redirect-to?url=http://10.0.0.1/": {FailureCode.ADDRESS_REFUSED},
    "/large-headers/200": {FailureCode.BAD_RESPONSE},
}


@pytest.mark.parametrize("path", FAILURES)
def test_it_fails_by_its_name_and_the_next_request_does_not(asker: Asker, base: str, path: str) -> None:
    assert asker.failure(base + path) in FAILURES[path]
    assert asker.get(f"{base}/html").body == HTML.encode()


def test_many_at_once(asker: Asker, base: str) -> None:
    wanted = [(f"{base}/stream-bytes/{number * 1000}", (), "GET", b"") for number in range(60)]
    sizes = [len(came.body) for came in asker.fetch_all(wanted) if isinstance(came, Came)]
    assert sizes == [number * 1000 for number in range(60)]
