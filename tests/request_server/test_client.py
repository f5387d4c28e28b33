"""A fetch ends in a response within the page's limits, or in one sentence that names what refused it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
from tests import servers
from tests.request_server.conftest import Fetched, Opener
from tests.servers import ARTICLE, COMPRESSORS, SITE, Authority, Page, Server, redirect

from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode
from cloister.interfaces.fetch import Destination, Fetch

PAGES = {path: page for path, page in SITE.items() if isinstance(page, Page)}
MIB = 1024 * 1024


def fetch(client: Opener, *urls: str, referrer: str = "", **limits: int) -> list[Fetched]:
    """Fetch ``urls`` one after another with one client."""

    async def run() -> list[Fetched]:
        async with client(**limits) as made:
            return [await made.fetch(Fetch(url, Destination.DOCUMENT, referrer)) for url in urls]

    return asyncio.run(run())


def failure(client: Opener, url: str, **limits: int) -> RequestFailed:
    with pytest.raises(RequestFailed) as caught:
        fetch(client, url, referrer="", **limits)
    assert "\n" not in caught.value.detail
    return caught.value


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


# ── responses ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_page_comes_with_its_status_type_headers_and_body(client: Opener) -> None:
    with Server() as site:
        page, error, missing = fetch(client, *map(site.url, ("/article", "/error", "/no-such-page")))
    assert (page.status, page.url, page.requests) == (200, site.url("/article"), 1)
    assert page.content_type == "text/html; charset=utf-8"
    assert ("content-length", str(len(ARTICLE))) in page.headers
    assert page.body == ARTICLE
    assert error.status == 500
    assert error.body == b"<p>broken"
    assert missing.status == 404


@pytest.mark.parametrize("name", sorted(COMPRESSORS))
def test_a_compressed_page_is_decoded(client: Opener, name: str) -> None:
    with Server() as site:
        (page,) = fetch(client, site.url(f"/encoded/{name}"))
    assert page.body == ARTICLE


def test_the_referrer_reaches_the_server(client: Opener) -> None:
    with Server() as site:
        fetch(client, site.url("/"), referrer=site.url("/from#here"))
        fetch(client, site.url("/"), referrer="https://elsewhere.example/private")
        fetch(client, site.url("/"), referrer="http://elsewhere.example/private")
    referrers = [request.headers.get("referer") for request in site.requests]
    assert referrers == [site.url("/from"), None, "http://elsewhere.example/"]


def test_credentials_in_a_url_are_not_sent(client: Opener) -> None:
    with Server() as site:
        (page,) = fetch(client, site.url("/").replace("127.0.0.1", "user:secret@127.0.0.1"))
    assert page.url == site.url("/")
    assert "authorization" not in site.requests[0].headers


def test_one_connection_serves_one_request_after_another(client: Opener) -> None:
    with Server() as site:
        fetch(client, *[site.url("/article")] * 5, site.url("/redirect"))
    assert {request.connection for request in site.requests} == {1}


def test_a_kept_connection_that_the_server_closed_is_replaced(client: Opener) -> None:
    async def goodbye(_request: servers.Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with Server({"/": goodbye}) as site:
        assert [page.body for page in fetch(client, *[site.url("/")] * 3)] == [b"ok"] * 3
    assert [request.connection for request in site.requests] == [1, 2, 3]


def test_a_kept_connection_that_the_server_closes_while_it_is_used_is_replaced_once(client: Opener) -> None:
    async def drop(_request: servers.Request, _writer: asyncio.StreamWriter) -> None:
        pass

    async def drop_first(request: servers.Request, writer: asyncio.StreamWriter) -> None:
        if request.connection > 1:
            await servers.respond(writer, Page(b"ok"))

    with Server({"/": Page(), "/drop": drop, "/drop-first": drop_first}) as site:
        assert fetch(client, site.url("/"), site.url("/drop-first"))[1].body == b"ok"
        assert [request.connection for request in site.requests] == [1, 1, 2]
        assert failure(client, site.url("/drop")).code == FailureCode.CONNECTION_RESET
        assert site.paths().count("/drop") == 1


def test_many_requests_at_once_share_at_most_six_connections(client: Opener) -> None:
    async def run() -> list[Fetched]:
        async with client() as made:
            wanted = Fetch(site.url("/large"), Destination.IMAGE)
            return await asyncio.gather(*(made.fetch(wanted) for _ in range(20)))

    with Server() as site:
        assert all(len(page.body) == 3 * MIB for page in asyncio.run(run()))
    assert 2 <= len({request.connection for request in site.requests}) <= 6


# ── redirects ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_redirects_are_followed_and_counted(client: Opener) -> None:
    with Server() as site:
        once, twice, kept, fragment = fetch(
            client,
            *map(site.url, ("/redirect", "/redirect-twice", "/redirect-307#mine", "/redirect-fragment#mine")),
        )
    assert [page.body for page in (once, twice, kept, fragment)] == [ARTICLE] * 4
    assert [page.requests for page in (once, twice, kept)] == [2, 3, 2]
    assert kept.url == site.url("/article#mine")
    assert fragment.url == site.url("/article#there")


def test_a_redirect_without_a_location_is_a_response(client: Opener) -> None:
    with Server({"/": Page(b"<p>choose", status=302)}) as site:
        (page,) = fetch(client, site.url("/"))
    assert page.status == 302
    assert page.body == b"<p>choose"


def test_a_redirect_loop_ends_at_the_limit(client: Opener) -> None:
    with Server() as site:
        failed = failure(client, site.url("/loop"), max_redirects=3)
    assert failed.code == FailureCode.TOO_MANY_REDIRECTS
    assert "3 redirects" in failed.detail
    assert len(site.requests) == 4


def test_a_redirect_to_another_scheme_is_refused_by_name(client: Opener) -> None:
    with Server() as site:
        failed = failure(client, site.url("/redirect-file"))
    assert failed.code == FailureCode.UNSUPPORTED_SCHEME
    assert "redirected to file:///etc/passwd" in failed.detail


def test_a_redirect_to_a_refused_address_says_where_it_led(client: Opener) -> None:
    with Server() as site:
        failed = failure(client, site.url("/redirect-private"))
    assert failed.code == FailureCode.ADDRESS_REFUSED
    assert failed.detail == "redirected to http://10.0.0.1/: 10.0.0.1 is a private address"


def test_a_redirect_to_nonsense_is_refused(client: Opener) -> None:
    with Server({"/": redirect("http://[nonsense/")}) as site:
        assert failure(client, site.url("/")).code == FailureCode.BAD_URL


# ── limits ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "path", ["/endless", "/endless-empty-gzip", *(path for path in SITE if "/bomb/" in path)]
)
def test_an_endless_body_ends_at_the_limit(client: Opener, path: str) -> None:
    with Server() as site:
        failed = failure(client, site.url(path), max_response_bytes=2 * MIB)
    assert failed.code == FailureCode.TOO_LARGE
    assert "2,097,152 bytes" in failed.detail


def test_all_bodies_together_have_a_limit(client: Opener) -> None:
    with Server() as site:
        failed = failure(client, *[site.url("/large")], max_total_bytes=2 * MIB)
        assert "all that this page fetched exceeds 2,097,152 bytes" in failed.detail
        with pytest.raises(RequestFailed) as caught:
            fetch(client, *[site.url("/large")] * 3, max_total_bytes=8 * MIB)
    assert caught.value.code == FailureCode.TOO_LARGE
    assert len(site.requests) == 4


def test_requests_have_a_limit_and_redirects_count(client: Opener) -> None:
    with Server() as site, pytest.raises(RequestFailed) as caught:
        fetch(client, site.url("/redirect"), site.url("/"), site.url("/"), max_requests=3)
    assert caught.value.code == FailureCode.TOO_MANY_REQUESTS
    assert len(site.requests) == 3


@pytest.mark.parametrize("path", ["/slow", "/slow-header", "/silent"])
def test_a_server_that_takes_its_time_is_given_up(client: Opener, path: str) -> None:
    with Server() as site:
        failed = failure(client, site.url(path), request_timeout=300)
    assert failed.code == FailureCode.TIMED_OUT
    assert "after 0.3 s" in failed.detail


def test_the_deadline_covers_all_redirects(client: Opener) -> None:
    async def slow_loop(_request: servers.Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n")

    with Server({"/": slow_loop}) as site:
        failed = failure(client, site.url("/"), request_timeout=350, max_redirects=100)
    assert failed.code == FailureCode.TIMED_OUT
    assert len(site.requests) < 100


# ── servers that do it wrong ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/huge-header", FailureCode.BAD_RESPONSE),
        ("/huge-headers", FailureCode.BAD_RESPONSE),
        ("/garbage", FailureCode.BAD_RESPONSE),
        ("/truncated", FailureCode.BAD_RESPONSE),
        ("/truncated-chunk", FailureCode.BAD_RESPONSE),
        ("/truncated-gzip", FailureCode.BAD_RESPONSE),
        ("/damaged-gzip", FailureCode.BAD_RESPONSE),
        ("/upgrade", FailureCode.BAD_RESPONSE),
        ("/endless-continue", FailureCode.BAD_RESPONSE),
        ("/no-answer", FailureCode.CONNECTION_RESET),
        ("/reset", FailureCode.CONNECTION_RESET),
    ],
)
def test_a_broken_response_is_refused_and_the_next_one_is_not(
    client: Opener, path: str, code: FailureCode
) -> None:
    async def run() -> RequestFailed:
        async with client() as made:
            with pytest.raises(RequestFailed) as caught:
                await made.fetch(Fetch(site.url(path), Destination.DOCUMENT))
            page = await made.fetch(Fetch(site.url("/article"), Destination.DOCUMENT))
            assert page.body == ARTICLE
            return caught.value

    with Server() as site:
        failed = asyncio.run(run())
    assert failed.code == code
    assert f"127.0.0.1:{site.port}" in failed.detail


def test_a_refused_connection_is_reported_as_the_lookup_server_says_it(client: Opener) -> None:
    with servers.closed_port() as port:
        failed = failure(client, f"http://127.0.0.1:{port}/")
    assert (failed.code, failed.detail) == (
        FailureCode.CONNECTION_REFUSED,
        "127.0.0.1 refused the connection",
    )


# ── TLS and HTTP/2 ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("http_2", "version"), [(True, "HTTP/2"), (False, "HTTP/1.1")])
def test_https_works_over_what_the_server_offers(
    client: Opener, authority: Authority, http_2: bool, version: str
) -> None:
    with Server(PAGES, tls=authority.context(http_2=http_2)) as site:
        pages = fetch(
            client, site.url("/article", "localhost"), *map(site.url, ("/article", "/redirect", "/large"))
        )
    assert [page.body for page in pages[:3]] == [ARTICLE] * 3
    assert len(pages[3].body) == 3 * MIB
    assert {request.version for request in site.requests} == {version}


def test_a_trailing_dot_of_the_host_is_not_part_of_the_certificate(
    client: Opener, authority: Authority
) -> None:
    with Server(PAGES, tls=authority.context()) as site:
        (page,) = fetch(client, site.url("/article", "localhost."))
    assert page.body == ARTICLE


def test_many_requests_share_one_http_2_connection(client: Opener, authority: Authority) -> None:
    async def run() -> list[Fetched]:
        async with client() as made:
            wanted = Fetch(site.url("/large"), Destination.IMAGE)
            return await asyncio.gather(*(made.fetch(wanted) for _ in range(10)))

    with Server(PAGES, tls=authority.context()) as site:
        assert all(len(page.body) == 3 * MIB for page in asyncio.run(run()))
    assert {request.connection for request in site.requests} == {1}


def test_an_abandoned_http_2_response_is_reset_and_leaves_the_connection_usable(
    client: Opener, authority: Authority
) -> None:
    routes = {"/huge": Page(bytes(40 * MIB)), "/": Page(b"small")}

    async def run() -> None:
        async with client(max_response_bytes=MIB) as made:
            for _ in range(4):
                with pytest.raises(RequestFailed, match="1,048,576"):
                    await made.fetch(Fetch(site.url("/huge"), Destination.IMAGE))
                assert (await made.fetch(Fetch(site.url("/"), Destination.IMAGE))).body == b"small"

    with Server(routes, tls=authority.context()) as site:
        asyncio.run(run())
    assert site.paths().count("reset") == 4
    assert {request.connection for request in site.requests} == {1}


def tls_failure(client: Opener, context: ssl.SSLContext, host: str = "localhost") -> RequestFailed:
    with Server(PAGES, tls=context) as site:
        return failure(client, site.url("/", host))


def test_an_expired_certificate_is_refused_by_name(client: Opener, authority: Authority) -> None:
    failed = tls_failure(client, authority.context(days=-1))
    assert (failed.code, failed.detail) == (
        FailureCode.CERTIFICATE_EXPIRED,
        "the certificate of localhost has expired",
    )


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_certificate_for_another_host_is_refused_by_name(
    client: Opener, authority: Authority, host: str
) -> None:
    failed = tls_failure(client, authority.context("other.example"), host)
    assert failed.code == FailureCode.CERTIFICATE_WRONG_HOST
    assert host in failed.detail


def test_a_certificate_that_nobody_vouches_for_is_refused_by_name(client: Opener, tmp_path: Path) -> None:
    stranger = tls_failure(client, Authority().context())
    assert stranger.code == FailureCode.CERTIFICATE_UNTRUSTED
    own = tls_failure(client, servers.self_signed(str(tmp_path)))
    assert (own.code, own.detail) == (
        FailureCode.CERTIFICATE_UNTRUSTED,
        "the certificate of localhost is self-signed",
    )


def test_a_server_that_speaks_no_tls_is_refused(client: Opener) -> None:
    with Server() as site:
        failed = failure(client, site.url("/").replace("http:", "https:"))
    assert failed.code == FailureCode.TLS_FAILED
    assert "127.0.0.1" in failed.detail


# ── cancellation ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["/silent", "/slow", "/endless"])
def test_a_cancelled_fetch_closes_its_connection(client: Opener, path: str) -> None:
    async def run() -> None:
        async with client(max_response_bytes=2**40) as made:
            task = asyncio.create_task(made.fetch(Fetch(site.url(path), Destination.DOCUMENT)))
            await until(lambda: bool(site.requests))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            if path != "/silent":  # whose server never looks at its connection
                await until(lambda: site.open_connections == 0)

    with Server() as site:
        asyncio.run(run())


def test_a_cancelled_fetch_leaves_the_others_of_its_http_2_connection_alone(
    client: Opener, authority: Authority
) -> None:
    async def run() -> None:
        async with client() as made:
            await made.fetch(Fetch(site.url("/"), Destination.DOCUMENT))
            tasks = [
                asyncio.create_task(made.fetch(Fetch(site.url(path), Destination.IMAGE)))
                for path in ("/larger", "/large") * 3
            ]
            await until(lambda: len(site.requests) == 7)
            for task in tasks[::2]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [isinstance(result, Fetched) for result in results] == [False, True] * 3

    with Server(PAGES | {"/larger": Page(bytes(60 * 1024 * 1024))}, tls=authority.context()) as site:
        asyncio.run(run())
    assert {request.connection for request in site.requests} == {1}
