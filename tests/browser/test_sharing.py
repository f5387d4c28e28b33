"""Where memory is short, pages of one origin share a process; nothing else ever does, whatever a page says."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import ada_url
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.servers import SITE, Authority, Server, redirect
from tests.servers import Page as Served

from cloister import (
    AsyncBrowser,
    BadMessage,
    Browser,
    BrowserContext,
    NetworkPolicy,
    Page,
    PageCrashed,
    TimeoutError,
)
from cloister.browser import content_process, memory
from cloister.browser.async_page import AsyncPage
from cloister.browser.checks import origin_of
from cloister.browser.processes import Processes
from cloister.ends import Crashed, Killed
from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode, Message
from cloister.interfaces.fetch import Destination, Fetch, Fetched
from cloister.interfaces.request_server import REQUEST_CONTROL, DocumentFrom
from cloister.interfaces.requests import REQUESTS
from cloister.interfaces.web_content import PAGE, Load, Loaded, NewRequestServer, SetContent
from cloister.ipc import Channel, Connection, Descriptors
from cloister.ipc.codec import Packet, codec
from cloister.process import ChildProcess

from .conftest import pixels
from .test_supervision import eventually, pid_of

RED, GREEN = (255, 0, 0), (0, 255, 0)
ROUTES = {
    **SITE,
    "/red": Served(b'<title>red</title><body style="margin:0;background:rgb(255,0,0)">'),
    "/green": Served(b'<title>green</title><body style="margin:0;background:rgb(0,255,0)">'),
    "/within": redirect("/green"),
}
HOSTS = ["127.0.0.1", "localhost"]


@pytest.fixture(scope="module")
def site() -> Iterator[Server]:
    with Server(ROUTES) as server:
        yield server


@pytest.fixture(scope="module")
def elsewhere(site: Server) -> Iterator[Server]:
    """Another origin, whose ``/out`` leads to ``site``."""
    with Server({**ROUTES, "/out": redirect(site.url("/green"))}) as server:
        yield server


@pytest.fixture(autouse=True)
def memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SHARE_FROM", -1.0)  # always


@pytest.fixture
def browser(ca_file: str) -> Iterator[Browser]:
    network = NetworkPolicy(allow_hosts=HOSTS, request_timeout=5)
    with Browser(network=network, ca_certs=ca_file, viewport={"width": 200, "height": 100}) as browser:
        browser._browser.share_sites(True)
        yield browser


@pytest.fixture
def context(browser: Browser) -> BrowserContext:
    return browser.new_context()


def open_at(context: BrowserContext, url: str) -> Page:
    page = context.new_page()
    page.goto(url)
    return page


def colour(page: Page) -> object:
    return pixels(page.screenshot()).getpixel((1, 1))


# ── who shares ───────────────────────────────────────────────────────────────────────────────────────────────


def test_pages_of_one_origin_share_a_process_and_each_shows_its_own(
    context: BrowserContext, site: Server
) -> None:
    pages = [open_at(context, site.url(path)) for path in ("/red", "/green", "/within")]
    assert len({pid_of(page) for page in pages}) == 1
    assert [page.title() for page in pages] == ["red", "green", "green"]
    assert [colour(page) for page in pages] == [RED, GREEN, GREEN]
    assert len({pid_of(page, "request_server") for page in pages}) == 3
    assert pages[2].url == site.url("/green")


def test_nobody_shares_unless_memory_is_short(
    browser: Browser, context: BrowserContext, site: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "SHARE_FROM", 1.0)
    browser._browser.share_sites(False)
    assert pid_of(open_at(context, site.url("/red"))) != pid_of(open_at(context, site.url("/red")))


def test_another_host_port_or_scheme_never_shares(
    context: BrowserContext, site: Server, elsewhere: Server, authority: Authority
) -> None:
    with Server({"/red": ROUTES["/red"]}, tls=authority.context()) as https:
        urls = [
            site.url("/red"),
            site.url("/red", "localhost"),
            elsewhere.url("/red"),
            https.url("/red"),
            https.url("/red", "localhost"),
        ]
        pages = [open_at(context, url) for url in urls]
        assert len({pid_of(page) for page in pages}) == len(urls)


def test_pages_of_two_contexts_never_share(browser: Browser, context: BrowserContext, site: Server) -> None:
    mine = open_at(context, site.url("/red"))
    with browser.new_context() as other, browser.new_page() as alone:
        alone.goto(site.url("/red"))
        assert len({pid_of(mine), pid_of(open_at(other, site.url("/red"))), pid_of(alone)}) == 3


def test_what_was_not_fetched_never_shares(context: BrowserContext, site: Server) -> None:
    page = context.new_page()
    page.set_content("<p>mine", base_url=site.url("/red"))
    assert page.url == site.url("/red")
    other = open_at(context, site.url("/red"))
    third = context.new_page()
    third.set_content("<p>mine too", base_url=site.url("/red"))
    assert len({pid_of(page), pid_of(other), pid_of(third)}) == 3


def test_a_page_that_was_redirected_from_another_origin_is_joined_by_none(
    context: BrowserContext, site: Server, elsewhere: Server
) -> None:
    page = open_at(context, elsewhere.url("/out"))
    assert page.url == site.url("/green")
    assert pid_of(open_at(context, site.url("/red"))) != pid_of(page)
    assert pid_of(open_at(context, elsewhere.url("/red"))) != pid_of(page)


def test_a_page_that_is_led_out_of_its_site_gets_a_process_of_its_own(
    context: BrowserContext, site: Server, elsewhere: Server
) -> None:
    page = open_at(context, elsewhere.url("/red"))
    out = open_at(context, elsewhere.url("/out"))
    assert out.url == site.url("/green")
    assert colour(out) == GREEN
    assert pid_of(out) != pid_of(page)
    assert colour(page) == RED
    assert pid_of(open_at(context, elsewhere.url("/green"))) == pid_of(page)


def test_a_page_that_goes_to_another_site_leaves(
    context: BrowserContext, site: Server, elsewhere: Server
) -> None:
    page, other = open_at(context, site.url("/red")), open_at(context, site.url("/red"))
    shared = pid_of(page)
    other.goto(elsewhere.url("/green"))
    assert pid_of(other) != shared
    assert (colour(page), colour(other)) == (RED, GREEN)


def test_a_process_holds_no_more_pages_than_may_crash_together(
    context: BrowserContext, site: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(content_process, "MOST_DOCUMENTS", 2)
    pages = [open_at(context, site.url("/red")) for _ in range(3)]
    assert pid_of(pages[0]) == pid_of(pages[1]) != pid_of(pages[2])


# ── how it ends ──────────────────────────────────────────────────────────────────────────────────────────────


def test_the_first_page_closes_and_the_last_one_takes_the_process_along(
    context: BrowserContext, site: Server
) -> None:
    page, other = open_at(context, site.url("/red")), open_at(context, site.url("/green"))
    pid = pid_of(page)
    page.close()
    assert colour(other) == GREEN
    assert pid_of(other) == pid
    other.close()
    eventually(lambda: not os.path.exists(f"/proc/{pid}"))


def test_a_discarded_page_leaves_the_others_their_process(context: BrowserContext, site: Server) -> None:
    page, other = open_at(context, site.url("/red")), open_at(context, site.url("/green"))
    pid = pid_of(page)
    assert page.discard()
    assert page.processes == []
    assert colour(other) == GREEN
    assert colour(page) == RED  # loaded again, where its site is
    assert pid_of(page) == pid_of(other) == pid


def test_a_crash_takes_every_page_of_the_process_and_each_reloads(
    context: BrowserContext, site: Server
) -> None:
    pages = [open_at(context, site.url("/red")), open_at(context, site.url("/green"))]
    alone = open_at(context, site.url("/red", "localhost"))
    crashes: list[object] = []
    for page in pages:
        page.on("crash", crashes.append)
    os.kill(pid_of(pages[0]), signal.SIGSEGV)
    eventually(lambda: len(crashes) == 2)
    assert set(crashes) == set(pages)
    for page in pages:
        with pytest.raises(PageCrashed) as caught:
            page.text()
        assert caught.value.end == Crashed(signal.SIGSEGV)
        page.reload()
    assert [colour(page) for page in (*pages, alone)] == [RED, GREEN, RED]
    assert pid_of(pages[0]) == pid_of(pages[1])


def test_a_page_that_is_stopped_at_its_deadline_takes_the_busy_process_along(
    context: BrowserContext, site: Server
) -> None:
    page, other = open_at(context, site.url("/red")), open_at(context, site.url("/green"))
    crashes: list[object] = []
    other.on("crash", crashes.append)
    os.kill(pid_of(page), signal.SIGSTOP)
    with pytest.raises(TimeoutError, match="within 100 ms"):
        page.text(timeout=100)
    eventually(lambda: crashes)
    with pytest.raises(PageCrashed, match="shared its process was stopped: .* within 100 ms") as caught:
        other.text()
    assert isinstance(caught.value.end, Killed)
    assert caught.value.retriable
    other.reload()
    assert colour(other) == GREEN


def test_a_page_whose_server_is_slow_takes_nobody_along(context: BrowserContext, site: Server) -> None:
    page, slow = open_at(context, site.url("/red")), context.new_page()
    pid = pid_of(page)
    with pytest.raises(TimeoutError, match="within 300 ms"):
        slow.goto(site.url("/silent"), timeout=300)
    time.sleep(content_process._ANSWERS_WITHIN + 0.1)
    assert colour(page) == RED
    assert pid_of(page) == pid_of(open_at(context, site.url("/green"))) == pid


# ── who may be believed ──────────────────────────────────────────────────────────────────────────────────────


class TakenOver:
    """A page's process in other hands: it speaks on the real page channel, and does with it what it likes."""

    def __init__(self, act: Callable[[TakenOver, str], Awaitable[str]], of: Processes | None) -> None:
        self._act = act
        self._of = of  # another browser of these tests may fork pages ahead meanwhile
        self._fork = Processes.fork
        self.page: Connection
        self.channel: Channel
        self.real: Channel
        self.servers: list[Connection] = []

    async def fork(self, processes: Processes, kind: str, *given: Any, **named: Any) -> ChildProcess:
        """In place of :meth:`Processes.fork`: the process is there, and somebody else has its page channel."""
        if kind != "web_content" or processes is not self._of:
            return await self._fork(processes, kind, *given, **named)
        options, (self.channel,) = given
        self.real, there = Channel.pair()  # open, or the process would end
        child = await self._fork(processes, kind, options, [there], **named)
        handlers: dict[type[Message], Any] = {Load: self._load, SetContent: self._set_content}
        self.page = Connection(self.channel, PAGE, "server", handlers)
        return child

    async def fetch(self, url: str, destination: Destination = Destination.DOCUMENT) -> Fetched:
        """Through a request_server of its own."""
        _, fds = await self.page.request(NewRequestServer(), timeout=10)
        server = Connection(Channel(fds.take()), REQUESTS, "client")
        self.servers.append(server)
        reply, _ = await server.request(Fetch(url, destination), timeout=10)
        return reply

    async def _load(self, message: Load, _fds: Descriptors) -> Loaded:
        return Loaded(await self._act(self, message.url), 200, "", (), 200, 100)

    async def _set_content(self, message: SetContent, _fds: Descriptors) -> Loaded:
        return Loaded(await self._act(self, message.base_url), 0, "", (), 200, 100)

    def close(self) -> None:
        self.real.close()
        for connection in (self.page, *self.servers):
            connection.close()


@asynccontextmanager
async def taken_over(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[TakenOver, str], Awaitable[str]]
) -> AsyncIterator[AsyncPage]:
    """A browser, and its first page, whose process will ``act`` when it is asked for a document, and then say that it
    is at the URL that this returns."""
    async with AsyncBrowser(network=NetworkPolicy(allow_hosts=HOSTS, request_timeout=5)) as browser:
        enemy = TakenOver(act, browser._processes)
        browser.share_sites(True)
        page = await browser.new_page()
        with monkeypatch.context() as patch:
            # A function, so that it is given the Processes as the method is.
            patch.setattr(Processes, "fork", lambda *given, **named: enemy.fork(*given, **named))  # noqa: PLW0108
            try:
                yield page
            finally:
                enemy.close()


def would_join(enemy: AsyncPage, url: str) -> bool:
    """Whether another page that goes to ``url`` would be put into the process of ``enemy``."""
    origin = origin_of(url)
    assert origin is not None
    content = enemy.content_process
    return content is not None and content.can_be_joined(origin)


def test_a_page_that_says_that_it_is_somewhere_else_is_ended(
    monkeypatch: pytest.MonkeyPatch, site: Server, elsewhere: Server
) -> None:
    async def lie(enemy: TakenOver, url: str) -> str:
        await enemy.fetch(url)
        return site.url("/red")

    async def run() -> None:
        async with taken_over(monkeypatch, lie) as page:
            with pytest.raises(BadMessage, match="says that it is at"):
                await page.goto(elsewhere.url("/red"))
            assert page.url == elsewhere.url("/red")
            assert page.processes == []
            assert not would_join(page, site.url("/red"))

    asyncio.run(run())


def test_a_page_that_fetched_no_document_is_nowhere(monkeypatch: pytest.MonkeyPatch, site: Server) -> None:
    async def lie(_enemy: TakenOver, url: str) -> str:
        return url

    async def run() -> None:
        async with taken_over(monkeypatch, lie) as page:
            with pytest.raises(BadMessage, match="says that it is at"):
                await page.goto(site.url("/red"))

    asyncio.run(run())


@pytest.mark.parametrize("when", ["while it loads", "in place of its content"])
def test_a_page_cannot_have_a_second_document_fetched_to_pass_for_its_site(
    monkeypatch: pytest.MonkeyPatch, site: Server, elsewhere: Server, when: str
) -> None:
    refused: list[str] = []

    async def fetch_the_victim(enemy: TakenOver, url: str) -> str:
        at = (await enemy.fetch(url)).url if when == "while it loads" else url
        with pytest.raises(RequestFailed) as caught:
            await enemy.fetch(site.url("/red"))
        refused.append(caught.value.code)
        with pytest.raises(RequestFailed) as caught:
            await enemy.fetch(site.url("/red"), Destination.STYLE)
        refused.append(caught.value.code)
        return at

    async def run() -> None:
        async with taken_over(monkeypatch, fetch_the_victim) as page:
            if when == "while it loads":
                await page.goto(elsewhere.url("/red"))
            else:
                await page.set_content("<p>hostile", base_url=elsewhere.url("/red"))
            assert page.url == elsewhere.url("/red")
            assert not would_join(page, site.url("/red"))
            assert would_join(page, page.url) is (when == "while it loads")

    asyncio.run(run())
    assert refused == [FailureCode.TOO_MANY_REQUESTS, FailureCode.CROSS_ORIGIN_BLOCKED]


def test_a_page_cannot_speak_for_its_request_server(
    monkeypatch: pytest.MonkeyPatch, site: Server, elsewhere: Server
) -> None:
    async def forge(enemy: TakenOver, url: str) -> str:
        await enemy.fetch(url)
        forged = codec(REQUEST_CONTROL, "server").encode(
            Packet.REQUEST, 99, DocumentFrom(site.url("/red"), 1)
        )
        enemy.channel.send(forged)
        return site.url("/red")

    async def run() -> None:
        async with taken_over(monkeypatch, forge) as page:
            with pytest.raises(BadMessage):
                await page.goto(elsewhere.url("/red"))
            assert page.url == elsewhere.url("/red")

    asyncio.run(run())


def test_a_page_can_be_joined_only_when_its_document_is_there(
    monkeypatch: pytest.MonkeyPatch, site: Server
) -> None:
    seen: list[bool] = []

    async def run() -> None:
        async def look(enemy: TakenOver, url: str) -> str:
            at = (await enemy.fetch(url)).url
            seen.append(would_join(page, url))
            return at

        async with taken_over(monkeypatch, look) as page:
            await page.goto(site.url("/red"))
            seen.append(would_join(page, site.url("/red")))

    asyncio.run(run())
    assert seen == [False, True]


def test_pages_that_open_at_once_are_all_right(
    context: BrowserContext, site: Server, elsewhere: Server
) -> None:
    first = open_at(context, site.url("/red"))
    pages = [context.new_page() for _ in range(6)]
    paths = ["/green", "/within", "/red"] * 2
    threads = [
        threading.Thread(target=page.goto, args=[site.url(path)])
        for page, path in zip(pages, paths, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {pid_of(page) for page in pages} == {pid_of(first)}
    assert [colour(page) for page in pages] == [GREEN, GREEN, RED] * 2


# ── origins ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://a.example", "http://a.example:80"),
        ("HTTPS://A.example/b?c#d", "https://a.example:443"),
        ("http://a.example:8080#x", "http://a.example:8080"),
        ("http://[::1]:1/", "http://[::1]:1"),
        ("http://user@a.example/", None),
        ("http://a.example\\@b.example/", None),
        ("http://a.example:/", None),
        ("http:/a.example/", None),
        ("http://a%2eexample/", None),
        ("http://ä.example/", None),
        ("http://\u212a.example/", None),
        ("ftp://a.example/", None),
        ("about:blank", None),
        ("http://a.example/\nhttp://b.example/", None),
    ],
)
def test_an_origin_is_read_from_plain_urls_only(url: str, origin: str | None) -> None:
    assert origin_of(url) == origin


@given(st.text(alphabet="htps:/\\@.#?[]ab1% \t\u212a\u0130", max_size=24))
def test_what_is_read_from_a_url_that_is_fetched_is_its_origin(rest: str) -> None:
    try:
        url = ada_url.URL(f"http://{rest}")
    except ValueError:
        return
    port = url.port or {"http:": "80", "https:": "443"}[url.protocol]
    assert origin_of(url.href) in {None, f"{url.protocol}//{url.hostname}:{port}"}
