"""What is kept from one page load to the next: by real servers that count, through every process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.servers import SITE, Handler, Page, Request, Server, respond

from cloister.browser import Browser
from cloister.browser import Page as BrowserPage
from cloister.browser.http_cache import CacheAccess, HttpCache
from cloister.errors import BadMessage
from cloister.interfaces.base import Blob
from cloister.interfaces.http_cache import MAX_ENTRY, Cached, CacheGet, CachePut, CacheUse
from cloister.ipc import Descriptors

KEPT = (("Cache-Control", "max-age=600"), ("ETag", '"1"'))
PNG = SITE["/image.png"]
assert isinstance(PNG, Page)
HTML = (
    b"<!doctype html><title>a page</title><link rel=stylesheet href=/style.css><img src=/image.png><p>words"
)


async def asks(request: Request, writer: asyncio.StreamWriter) -> None:
    """One that wants to be asked each time, and says that it has not changed."""
    said = (("Cache-Control", "no-cache"), ("ETag", '"2"'))
    has_it = request.headers.get("if-none-match") == '"2"'
    await respond(writer, Page(b"" if has_it else HTML, status=304 if has_it else 200, headers=said))


ROUTES: dict[str, Page | Handler] = {
    "/page": Page(HTML, headers=KEPT),
    "/other-page": Page(HTML + b"2", headers=KEPT),
    "/large": Page(HTML + b"x" * 300_000, headers=KEPT),
    "/never": Page(HTML, headers=(("Cache-Control", "no-store"),)),
    "/asks": asks,
    "/style.css": Page(b"p { color: red }", "text/css", headers=KEPT),
    "/image.png": Page(PNG.body, "image/png", headers=KEPT),
    "/moved": Page(b"", status=301, headers=(("Location", "/page"), *KEPT)),
}


@pytest.fixture(scope="module")
def counting() -> Iterator[Server]:
    with Server(ROUTES) as server:
        yield server


def asked(server: Server) -> list[str]:
    """What the server was asked for since this was called last."""
    found = sorted(server.paths())
    server.requests.clear()
    return found


ALL = ["/image.png", "/page", "/style.css"]


def test_what_is_fresh_is_not_asked_for_again(page: BrowserPage, counting: Server) -> None:
    page.goto(counting.url("/page"))
    first = page.screenshot()
    assert asked(counting) == ALL
    response = page.goto(counting.url("/page"))
    assert response.status == 200
    assert response.headers["age"] == "0"
    assert page.screenshot() == first
    assert page.title() == "a page"
    assert asked(counting) == []
    page.goto(counting.url("/other-page"))
    assert asked(counting) == ["/other-page"]
    page.go_back()
    assert asked(counting) == []


def test_a_reload_asks_whether_anything_has_changed(page: BrowserPage, counting: Server) -> None:
    for _ in range(2):
        page.goto(counting.url("/asks"))
    assert [
        ("if-none-match" in request.headers) for request in counting.requests if request.target == "/asks"
    ] == [
        False,
        True,
    ]
    assert page.content().count("words") == 1
    asked(counting)
    page.goto(counting.url("/page"))
    counting.requests.clear()
    page.reload()
    assert {request.headers.get("if-none-match") for request in counting.requests} == {'"1"'}
    assert asked(counting) == ALL


@pytest.mark.parametrize(("path", "again"), [("/large", []), ("/never", ["/never"]), ("/moved", [])])
def test_what_is_kept(page: BrowserPage, counting: Server, path: str, again: list[str]) -> None:
    page.goto(counting.url(path))
    text = page.text()
    asked(counting)
    page.goto(counting.url(path))
    assert asked(counting) == again
    assert page.text() == text


def test_no_page_has_what_another_kept(browser: Browser, page: BrowserPage, counting: Server) -> None:
    page.goto(counting.url("/page"))
    asked(counting)
    with browser.new_page() as another:
        another.goto(counting.url("/page"))
    assert asked(counting) == ALL


def test_no_site_can_tell_what_another_loaded(page: BrowserPage, counting: Server) -> None:
    """The same image, from the page of each: each has it fetched for itself."""
    html = f"<!doctype html><img src='{counting.url('/image.png')}'>".encode()
    with Server({"/": Page(html)}) as one, Server({"/": Page(html)}) as two:
        for url in [one.url("/"), two.url("/", "localhost")] * 2:
            page.goto(url)
        assert asked(counting) == ["/image.png"] * 2
    page.set_content(html.decode(), base_url=counting.url("/page"))
    page.set_content(html.decode(), base_url=counting.url("/page"))
    assert asked(counting) == ["/image.png"] * 2


def test_what_was_forged_is_dropped(page: BrowserPage, counting: Server) -> None:
    """As if a request_server of this site had been taken over, and had put away what it likes."""
    cache = page._page.context.http_cache
    page.goto(counting.url("/page"))
    for forged in (b"x" * 1000, msgspec.msgpack.encode(["https://a.example/"]), bytes(2_000_000)):
        for site, key in list(cache._entries):
            cache.put(site, key, forged)
        asked(counting)
        assert page.goto(counting.url("/page")).status == 200
        assert page.title() == "a page"
        assert asked(counting) == ALL


# ── the browser's side ───────────────────────────────────────────────────────────────────────────────────────────

KEY, ANOTHER = b"k" * 32, b"l" * 32


def test_what_was_not_used_for_longest_goes_first() -> None:
    cache = HttpCache(max_bytes=10_000)
    for number in range(4):
        cache.put("a", bytes([number]) * 32, bytes(1500))
    cache.get("a", bytes(32))
    cache.put("b", KEY, bytes(3000))
    left = [number for number in range(4) if cache.get("a", bytes([number]) * 32)]
    assert left == [0, 2, 3]
    cache.put("b", ANOTHER, bytes(20_000))
    assert not cache.has_any("a")
    assert not cache.has_any("b")


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.integers(0, 3000)), max_size=60))
def test_it_is_never_larger_than_it_may_be(puts: list[tuple[str, int, int]]) -> None:
    cache = HttpCache(max_bytes=8000)
    for site, number, size in puts:
        cache.put(site, bytes([number]) * 32, bytes(size))
        entries = cache._entries
        assert cache._left == 8000 - sum(512 + len(entry) for entry in entries.values()) >= 0
        assert {site for site in "abc" if cache.has_any(site)} == {site for site, _ in entries}
        assert all(entries.values())
    cache.clear()
    assert cache._left == 8000


def test_a_document_has_what_is_its_sites_and_only_once_the_browser_knows_which() -> None:
    cache = HttpCache()
    cache.put("https://a.example", KEY, b"of a")
    access = CacheAccess()
    handlers = access.handlers()

    def kept() -> bytes | None:
        reply, _ = asyncio.run(handlers[CacheGet](CacheGet(KEY), Descriptors()))
        assert isinstance(reply, Cached)
        return reply.body.inline

    def keep(entry: Blob) -> None:
        asyncio.run(handlers[CachePut](CachePut(KEY, entry), Descriptors()))

    uses = [access.begin("https://a.example")]  # nobody has said that it may use any
    keep(Blob(4, b"of a"))
    access = CacheAccess()
    handlers = access.handlers()
    access.open(cache, is_reload=False)
    keep(Blob(5, b"early"))
    assert kept() == b""
    uses += [access.use, access.begin("https://b.example")]
    assert kept() == b""
    keep(Blob(4, b"of b"))
    uses.append(access.begin("https://a.example"))
    assert kept() == b"of a"
    access.open(cache, is_reload=True)
    uses += [access.use, access.begin(None)]
    assert kept() == b""
    assert uses == [
        CacheUse.OFF,
        CacheUse.OFF,
        CacheUse.EMPTY,
        CacheUse.ON,
        CacheUse.REVALIDATE,
        CacheUse.OFF,
    ]
    with pytest.raises(BadMessage):
        keep(Blob(MAX_ENTRY + 1, b""))
