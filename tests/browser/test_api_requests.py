"""``browser.request``: what servers hear of it, what a program gets, and what is refused."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.echo import Echo, echo
from tests.servers import ARTICLE, SITE, Authority, Page, Server, redirect

from cloister import (
    AddressRefused,
    AsyncBrowser,
    Browser,
    BrowserClosed,
    InvalidArgument,
    NavigationError,
    NetworkPolicy,
    TimeoutError,
)
from cloister.browser import request_servers

PAGES = {path: page for path, page in SITE.items() if isinstance(page, Page)}


@pytest.fixture(scope="module")
def site() -> Iterator[Server]:
    with Server() as server:
        yield server


@pytest.fixture(scope="module")
def peer() -> Iterator[Echo]:
    with echo() as server:
        yield server


@pytest.fixture(scope="module")
def browser(ca_file: str) -> Iterator[Browser]:
    network = NetworkPolicy(
        allow_hosts=["127.0.0.1", "localhost"],
        max_response_bytes=4 * 1024 * 1024,
        request_timeout=5,
        max_redirects=5,
    )
    credentials = [{"origin": "http://localhost:1", "username": "me", "password": "word"}]
    with Browser(network=network, ca_certs=ca_file, http_credentials=credentials) as browser:  # type: ignore[arg-type]
        yield browser


def pids(browser: Browser) -> set[int]:
    return {process.pid for process in browser._browser.request.servers.processes}


# ── what is asked, and what comes ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("method", ["get", "post", "put", "patch", "delete", "head"])
def test_each_method_is_sent_and_its_answer_is_there_in_whole(
    browser: Browser, peer: Echo, method: str
) -> None:
    response = getattr(browser.request, method)(
        peer.url("/a?x=1#there"), params={"y": "ü&"}, headers={"X-Mine": "yes", "user-agent": "me"}
    )
    asked = peer.asked[-1]
    assert (asked.method, asked.target) == (method.upper(), "/a?x=1&y=%C3%BC%26")
    assert (asked.headers["x-mine"], asked.headers["user-agent"]) == ("yes", "me")
    assert asked.headers["accept"] == "*/*"
    assert not {"origin", "referer", "authorization"} & set(asked.headers)
    assert asked.headers.get("cookie", "a=1; b=2") == "a=1; b=2"  # what it was told to keep
    assert (response.status, response.status_text, response.ok) == (200, "OK", True)
    assert response.url == peer.url("/a?x=1&y=%C3%BC%26#there")
    assert response.body() == (b"" if method == "head" else b"echo")
    assert response.headers["x-twice"] == "one, two"
    assert response.headers["set-cookie"] == "a=1\nb=2"
    assert [each for each in response.headers_array if each["name"] == "x-twice"] == [
        {"name": "x-twice", "value": "one"},
        {"name": "x-twice", "value": "two"},
    ]


def test_bodies_are_sent_as_what_they_are(browser: Browser, peer: Echo, tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    file.write_bytes(b"from a file")
    ask = browser.request
    ask.post(peer.url(), data={"a": 1})
    ask.post(peer.url(), data=b"raw")
    ask.post(peer.url(), data="text", headers={"content-type": "text/x"})
    ask.post(peer.url(), form={"a": "b"})
    ask.put(peer.url(), data=file)
    ask.post(peer.url(), multipart={"a": "b", "file": file})
    ask.post(peer.url())
    found = [
        (asked.headers.get("content-type", "").partition(";")[0], asked.body) for asked in peer.asked[-7:]
    ]
    assert found[:5] == [
        ("application/json", b'{"a": 1}'),
        ("application/octet-stream", b"raw"),
        ("text/x", b"text"),
        ("application/x-www-form-urlencoded", b"a=b"),
        ("text/plain", b"from a file"),
    ]
    assert found[5][0] == "multipart/form-data"
    assert (
        b'name="file"; filename="file.txt"\r\nContent-Type: text/plain\r\n\r\nfrom a file\r\n' in found[5][1]
    )
    assert found[6] == ("", b"")
    assert peer.asked[-1].headers["content-length"] == "0"


def test_an_answer_is_decompressed_and_comes_by_https_and_http_2(
    browser: Browser, site: Server, authority: Authority
) -> None:
    assert browser.request.get(site.url("/encoded/br")).body() == ARTICLE
    with Server(PAGES, tls=authority.context()) as secure:
        response = browser.request.get(secure.url("/large", "localhost"))
        assert len(response.text()) == 3 * 1024 * 1024
        assert {request.version for request in secure.requests} == {"HTTP/2"}


def test_a_body_is_there_until_it_is_disposed_of(browser: Browser, site: Server) -> None:
    response = browser.request.get(site.url("/article"))
    assert response.body() == response.body() == ARTICLE
    with Browser(network=NetworkPolicy(allow_hosts=["127.0.0.1"])) as other:
        kept = other.request.get(site.url("/article"))
    assert kept.text() == ARTICLE.decode()  # though that browser is closed
    response.dispose()
    with pytest.raises(InvalidArgument, match="disposed"):
        response.body()


def test_any_status_is_an_answer_unless_success_is_asked_for(browser: Browser, site: Server) -> None:
    response = browser.request.get(site.url("/nowhere"))
    assert (response.status, response.ok, response.text()) == (404, False, "<p>not found")
    with pytest.raises(NavigationError, match="404 Not Found") as caught:
        browser.request.get(site.url("/nowhere"), fail_on_status_code=True)
    assert caught.value.code == "http_status"


def test_an_answer_can_be_read_as_it_comes_and_left(browser: Browser, site: Server) -> None:
    with browser.request.stream("GET", site.url("/large")) as response:
        assert response.ok
        pieces = list(response)
    assert b"".join(pieces) == b"x" * (3 * 1024 * 1024)
    with browser.request.stream("GET", site.url("/endless")) as response:
        for number, piece in enumerate(response):
            assert piece
            if number == 100:
                break
    assert browser.request.get(site.url("/article")).body() == ARTICLE


def test_a_stream_that_breaks_says_so_after_what_came(browser: Browser, site: Server) -> None:
    got = b""
    with (
        pytest.raises(NavigationError) as caught,
        browser.request.stream("GET", site.url("/truncated")) as response,
    ):
        for piece in response:
            got += piece
    assert caught.value.code == "bad_response"
    assert got == b"<p>the beginning"


# ── redirects ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_redirect_to_another_origin_goes_on_in_another_process_without_what_was_for_the_first(
    browser: Browser, peer: Echo, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"again")
    secrets = {"Authorization": "Bearer x", "Cookie": "a=b", "X-Mine": "yes"}
    with echo() as other:
        peer.answers["/away"] = (307, other.url("/there"))
        response = browser.request.put(peer.url("/away"), data=file, headers=secrets)
        assert response.url == other.url("/there")
        first, second = peer.asked[-1], other.asked[-1]
        assert (second.method, second.body) == ("PUT", b"again")
        assert first.headers["cookie"] == "a=b"
        assert set(first.headers) - set(second.headers) - {"cookie"} == {"authorization"}
        assert second.headers.get("cookie") != "a=b"
        assert second.headers["x-mine"] == "yes"
        peer.answers["/see"] = (303, other.url("/there"))
        browser.request.put(peer.url("/see"), data=file)
        assert (other.asked[-1].method, other.asked[-1].body) == ("GET", b"")
        assert "content-type" not in other.asked[-1].headers
        assert len(pids(browser)) >= 2


def test_redirects_are_counted_over_all_processes(browser: Browser, peer: Echo) -> None:
    with echo() as other:
        peer.answers["/ping"] = (302, other.url("/pong"))
        other.answers["/pong"] = (302, peer.url("/ping"))
        peer.asked.clear()
        with pytest.raises(NavigationError) as caught:
            browser.request.get(peer.url("/ping"))
        assert caught.value.code == "too_many_redirects"
        assert len(peer.asked) + len(other.asked) == 6  # the first, and five redirects
        peer.asked.clear()
        other.asked.clear()
        with pytest.raises(NavigationError):
            browser.request.get(peer.url("/ping"), max_redirects=1)
        assert len(peer.asked) + len(other.asked) == 2
        response = browser.request.get(peer.url("/ping"), max_redirects=0)
        assert (response.status, response.headers["location"]) == (302, other.url("/pong"))


def test_the_network_policy_holds_also_where_a_redirect_leads(browser: Browser) -> None:
    with Server({"/": redirect("http://10.0.0.1/"), "/file": redirect("file:///etc/passwd")}) as site:
        for url in ("http://10.0.0.1/", site.url()):
            with pytest.raises(AddressRefused, match=r"10\.0\.0\.1"):
                browser.request.get(url)
        with pytest.raises(NavigationError) as caught:
            browser.request.get(site.url("/file"))
        assert caught.value.code == "unsupported_scheme"


def test_a_password_goes_to_its_origin_alone_and_only_where_it_is_asked_for(ca_file: str) -> None:
    page = Page(b"in", status=401, headers=(("WWW-Authenticate", 'Basic realm="x"'),))
    network = NetworkPolicy(allow_hosts=["127.0.0.1"])
    with Server({"/": page}) as mine, Server({"/": page, "/go": redirect(mine.url())}) as other:
        given = {"origin": mine.url(), "username": "me", "password": "word"}
        with Browser(network=network, http_credentials=given) as browser:  # type: ignore[arg-type]
            browser.request.get(other.url())
            browser.request.get(other.url("/go"))
    assert not any("authorization" in request.headers for request in other.requests)
    assert [request.headers.get("authorization") for request in mine.requests] == [None, "Basic bWU6d29yZA=="]


# ── processes ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_origin_has_one_process_that_keeps_its_connection_for_a_while(
    site: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_servers, "_IDLE", 0.3)

    async def run() -> None:
        async with AsyncBrowser(network=NetworkPolicy(allow_hosts=["127.0.0.1"])) as browser:
            servers = browser.request.servers
            site.requests.clear()
            for _ in range(3):
                await browser.request.get(site.url("/article"))
            assert len({request.connection for request in site.requests}) == 1
            assert len(servers.processes) == 1
            assert servers.processes[0].pid in {info.pid for info in browser.processes()}
            await asyncio.gather(*(browser.request.get(site.url("/article")) for _ in range(20)))
            assert len(servers.processes) == 1
            async with asyncio.timeout(20):
                while servers.processes:
                    await asyncio.sleep(0.02)
            assert "request_server" not in {info.kind for info in browser.processes()}

    asyncio.run(run())


def test_so_many_are_under_way_at_once_and_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_servers, "_MOST_KEPT", 2)
    monkeypatch.setattr(request_servers, "_PATIENCE", 0.1)
    monkeypatch.setattr(request_servers, "AT_ONCE", 3)

    async def run() -> None:
        async with AsyncBrowser(network=NetworkPolicy(allow_hosts=["127.0.0.1"])) as browser:
            with Server() as one, Server() as two, Server() as three:
                for server in (one, two, three):
                    await browser.request.get(server.url("/article"))
                assert len(browser.request.servers.processes) == 2
                streams = [browser.request.stream("GET", one.url("/endless")) for _ in range(3)]
                for stream in streams:
                    await stream.__aenter__()
                with pytest.raises(TimeoutError, match="3 requests"):
                    await browser.request.get(one.url("/article"))
                await streams.pop().__aexit__(None, None, None)
                assert (await browser.request.get(one.url("/article"))).ok
                for stream in streams:
                    await stream.__aexit__(None, None, None)

    asyncio.run(run())


def test_a_process_that_has_ended_is_replaced(browser: Browser, site: Server) -> None:
    browser.request.get(site.url("/article"))
    before = pids(browser)
    for process in browser._browser.request.servers.processes:
        process.kill()
    assert browser.request.get(site.url("/article")).ok
    deadline = time.monotonic() + 10
    while before & pids(browser):  # the kernel takes its time to end them
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_request_that_is_given_up_ends_its_connection(browser: Browser, site: Server) -> None:
    with pytest.raises(TimeoutError, match="300 ms"):
        browser.request.get(site.url("/slow"), timeout=300)
    stream = browser.request.stream("GET", site.url("/silent"), timeout=300)
    with pytest.raises(TimeoutError, match="300 ms"), stream:
        pass
    assert browser.request.get(site.url("/article")).ok


def test_what_is_under_way_when_the_browser_closes_is_told(site: Server) -> None:
    async def run() -> None:
        browser = await AsyncBrowser(network=NetworkPolicy(allow_hosts=["127.0.0.1"])).start()
        asking = asyncio.ensure_future(browser.request.get(site.url("/silent")))
        await asyncio.sleep(0.1)
        await browser.close()
        with pytest.raises((BrowserClosed, NavigationError)):
            await asking
        with pytest.raises(BrowserClosed):
            await browser.request.get(site.url("/article"))

    asyncio.run(run())


# ── limits and refusals ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", ["/endless", "/bomb/gzip", "/bomb/zstd", "/endless-empty-gzip"])
def test_an_answer_in_whole_has_a_limit(browser: Browser, site: Server, path: str) -> None:
    with pytest.raises(NavigationError) as caught:
        browser.request.get(site.url(path))
    assert caught.value.code == "too_large"


REFUSED: dict[str, tuple[Callable[[Any, str], object], str]] = {
    "no URL": (lambda ask, _url: ask.get("example"), "not an absolute URL"),
    "another scheme": (lambda ask, _url: ask.get("file:///etc/passwd"), "not a scheme"),
    "a line break": (lambda ask, url: ask.get(url + "/a\r\nX: y"), "control characters"),
    "another method": (lambda ask, url: ask.fetch(url, method="GET /\r\n"), "not a method"),
    "a proxy's method": (lambda ask, url: ask.fetch(url, method="CONNECT"), "for proxies"),
    "a name of a header": (lambda ask, url: ask.get(url, headers={"a b": "c"}), "no name of one"),
    "a value of a header": (lambda ask, url: ask.get(url, headers={"a": "b\r\nc: d"}), "other letters"),
    "a length": (lambda ask, url: ask.post(url, headers={"Content-Length": "5"}), "not the program's to set"),
    "a coding": (
        lambda ask, url: ask.post(url, headers={"transfer-encoding": "x"}),
        "not the program's to set",
    ),
    "an option": (lambda ask, url: ask.get(url, verify=False), "no verify"),
    "no time": (lambda ask, url: ask.get(url, timeout=0), "timeout"),
    "redirects": (lambda ask, url: ask.get(url, max_redirects=-1), "max_redirects"),
    "a file that is none": (lambda ask, url: ask.post(url, data=Path("/dev/zero")), "not a regular file"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_asked_is_refused_and_no_server_hears_of_it(
    browser: Browser, site: Server, name: str
) -> None:
    ask, words = REFUSED[name]
    before = len(site.requests)
    with pytest.raises((InvalidArgument, NavigationError), match=re.escape(words)):
        ask(browser.request, site.url(""))
    assert len(site.requests) == before


def test_a_host_may_be_another_than_the_address(browser: Browser, peer: Echo) -> None:
    browser.request.get(peer.url(), headers={"Host": "virtual.example"})
    assert peer.asked[-1].headers["host"] == "virtual.example"


# ── uploads ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_large_file_is_in_nobodys_memory(browser: Browser, peer: Echo, tmp_path: Path) -> None:
    """100 MB, of which neither this process nor the one that sends them has more than a few at once."""
    file = tmp_path / "large"
    file.touch()
    os.truncate(file, 100_000_000)
    browser.request.get(peer.url())
    (sender,) = (
        process
        for process in browser._browser.request.servers.processes
        if process.site == peer.url("").rstrip("/")
    )
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM counts from now on; the sender is young
    before = {pid: peak(pid) for pid in ("self", sender.pid)}
    browser.request.post(peer.url(), multipart={"a": "b", "file": file})
    asked = peer.asked[-1]
    assert asked.size > 100_000_000
    assert asked.headers["content-length"] == str(asked.size)
    for pid, size in before.items():
        assert peak(pid) - size < 10_000_000, pid


def peak(pid: int | str) -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def test_a_file_that_becomes_shorter_while_it_is_sent_is_an_error_with_a_name(
    browser: Browser, peer: Echo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 1000)
    dup = os.dup

    def cuts(fd: int) -> int:
        os.truncate(file, 10)
        return dup(fd)

    monkeypatch.setattr(os, "dup", cuts)
    with pytest.raises(NavigationError, match="10 bytes now; it had 1,000") as caught:
        browser.request.post(peer.url(), data=file)
    assert caught.value.code == "file_changed"


def test_what_arrives_is_what_was_in_the_files(browser: Browser, peer: Echo, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    files = [tmp_path / str(number) for number in range(20)]
    for file in files:
        file.write_bytes(data[:100_000])
    browser.request.put(peer.url(), data=data)
    assert peer.asked[-1].sha256 == hashlib.sha256(data).hexdigest()
    browser.request.post(peer.url(), multipart={"files": files})
    assert peer.asked[-1].size > 2_000_000
