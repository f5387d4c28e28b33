"""Contexts, and the cookies in them as a program and its files have them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.servers import Page as Served
from tests.servers import Server

from cloister import (
    AsyncBrowser,
    Browser,
    BrowserClosed,
    BrowserContext,
    CloisterError,
    InvalidArgument,
    NetworkPolicy,
)
from cloister.browser.cookie_files import as_param, cookies_of, read
from cloister.browser.cookies import MOST, CookieAccess, CookieStore
from cloister.interfaces.cookies import MAX_COOKIES

WORD = {"name": "a", "value": "1"}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser(network=NetworkPolicy(allow_hosts=["*.localhost"])) as browser:
        yield browser


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context() as context:
        yield context


def shown(context: BrowserContext, *urls: str) -> list[str]:
    return [
        f"{each['partitionKey']} {each['name']}={each['value']}" for each in context.cookies(urls or None)
    ]


# ── contexts ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_context_has_pages_and_takes_them_along(browser: Browser) -> None:
    before = browser.contexts
    context = browser.new_context(viewport={"width": 300, "height": 200})
    assert browser.contexts == [*before, context]
    first, second = context.new_page(), context.new_page(viewport={"width": 10, "height": 10})
    assert context.pages == [first, second]
    assert first.context is second.context is context
    assert (first.viewport_size["width"], second.viewport_size["width"]) == (300, 10)
    first.close()
    assert context.pages == [second]
    context.close()
    context.close()
    assert second.is_closed()
    assert browser.contexts == before
    with pytest.raises(BrowserClosed):
        context.new_page()
    with pytest.raises(BrowserClosed):
        context.add_cookies([{**WORD, "url": "https://a.example/"}])  # type: ignore[typeddict-item]
    assert context.cookies() == []


def test_a_page_of_its_own_has_a_context_of_its_own_which_ends_with_it(browser: Browser) -> None:
    page = browser.new_page()
    assert page.context.pages == [page]
    assert page.context in browser.contexts
    with pytest.raises(InvalidArgument, match="new_context"):
        page.context.new_page()
    page.close()
    assert browser.contexts == []


def test_the_same_for_asyncio() -> None:
    async def run() -> list[Any]:
        async with AsyncBrowser() as browser, await browser.new_context() as context:
            page = await context.new_page()
            assert page.context is context
            assert browser.contexts == [context]
            await context.add_cookies([{"name": "a", "value": "1", "url": "https://a.example/"}])
            alone = await browser.new_page(storage_state=await context.storage_state())
            return await alone.context.cookies("https://a.example/")

    assert [each["name"] for each in asyncio.run(run())] == ["a"]


# ── cookies ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"url": "https://www.a.example/b/c"}, ["https://a.example www.a.example /b/ True"]),
        ({"url": "http://www.a.example"}, ["http://a.example www.a.example / False"]),
        ({"url": "http://[::1]:1/"}, ["http://[::1] [::1] / False"]),
        ({"url": "https://0x7f.1/"}, ["https://127.0.0.1 127.0.0.1 / True"]),
        (
            {"domain": ".Bücher.example", "path": "/"},
            [
                "https://xn--bcher-kva.example .xn--bcher-kva.example / False",
                "http://xn--bcher-kva.example .xn--bcher-kva.example / False",
            ],
        ),
        ({"domain": "a.example", "path": "/", "secure": True}, ["https://a.example a.example / True"]),
        ({"domain": "co.uk", "path": "/", "secure": True}, ["https://co.uk co.uk / True"]),
        (
            {"domain": "localhost", "path": "/", "secure": True},
            ["https://localhost localhost / True", "http://localhost localhost / True"],
        ),
        (
            {"domain": "t.example", "path": "/", "partitionKey": "https://a.example"},
            ["https://a.example t.example / False"],
        ),
    ],
)
def test_a_cookie_is_for_the_pages_of_its_site_or_of_the_one_it_names(
    given: dict[str, Any], where: list[str]
) -> None:
    made = [as_param(site, cookie) for site, cookie in cookies_of({**WORD, **given})]  # type: ignore[typeddict-item]
    assert [
        f"{each['partitionKey']} {each['domain']} {each['path']} {each['secure']}" for each in made
    ] == where


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"domain": "a.example"},
        {"path": "/"},
        {"url": "https://a.example/", "domain": "a.example"},
        {"url": "https://a.example/", "path": "/"},
        {"url": "ftp://a.example/"},
        {"url": "a.example"},
        {"domain": "", "path": "/"},
        {"domain": ".", "path": "/"},
        {"domain": "a/b", "path": "/"},
        {"domain": "a.example:80", "path": "/"},
        {"domain": "me@a.example", "path": "/"},
        {"domain": ".co.uk", "path": "/"},
        {"domain": ".github.io", "path": "/"},
        {"domain": "a.example", "path": "b"},
        {"domain": "a.example", "path": "/", "name": "a;b"},
        {"domain": "a.example", "path": "/", "name": "a=b"},
        {"domain": "a.example", "path": "/", "value": "a\r\nHost: b"},
        {"domain": "a.example", "path": "/", "value": "a; b=c"},
        {"domain": "a.example", "path": "/", "value": "a" * 4096},
        {"domain": "a.example", "path": "/", "value": 1},
        {"domain": "a.example", "path": "/", "expires": float("nan")},
        {"domain": "a.example", "path": "/", "expires": "tomorrow"},
        {"domain": "a.example", "path": "/", "sameSite": "Maybe"},
        {"domain": "a.example", "path": "/", "value": "\ud800"},
        {"domain": "a.example", "path": "/", "partitionKey": "a.example"},
        {"domain": "a.example", "path": "/", "partitionKey": "https://www.a.example"},
        {"domain": "a.example", "path": "/", "session": True},
    ],
)
def test_what_is_no_cookie_is_refused_and_nothing_is_kept(
    context: BrowserContext, given: dict[str, Any]
) -> None:
    several: list[Any] = [{**WORD, "url": "https://a.example/"}, {**WORD, **given}]
    with pytest.raises(InvalidArgument) as caught:
        context.add_cookies(several)
    assert str(caught.value).isprintable()
    assert context.cookies() == []


@given(st.text(max_size=20), st.text(max_size=20))
def test_what_is_given_comes_back(name: str, value: str) -> None:
    try:
        ((site, cookie),) = cookies_of({"name": name, "value": value, "url": "https://a.example/"})
    except InvalidArgument:
        return
    again = as_param(site, cookie)
    assert (again["name"], again["value"]) == (name, value)
    assert cookies_of(again)[0][1].name == cookie.name


def test_cookies_are_found_by_where_they_go(context: BrowserContext) -> None:
    context.add_cookies(
        [
            {"name": "a", "value": "1", "url": "https://a.example/"},
            {"name": "b", "value": "2", "url": "https://www.a.example/deep/"},
            {"name": "c", "value": "3", "domain": ".a.example", "path": "/", "secure": True},
        ]
    )
    assert shown(context, "https://www.a.example/deep/er") == [
        "https://a.example b=2",
        "https://a.example c=3",
    ]
    assert shown(context, "http://a.example/") == []
    assert shown(context, "https://b.example/", "https://a.example/") == [
        "https://a.example a=1",
        "https://a.example c=3",
    ]
    assert shown(context) == shown(context, "https://a.example/", "https://www.a.example/deep/")
    with pytest.raises(InvalidArgument):
        context.cookies("a.example")


def test_cookies_are_cleared_by_name_domain_and_path(context: BrowserContext) -> None:
    names = ["session", "session-id", "theme"]
    hosts = ["a.example", "b.example"]

    def fill() -> None:
        context.add_cookies([{"name": n, "value": "", "url": f"https://{h}/"} for n in names for h in hosts])

    def left() -> set[tuple[str, str]]:
        return {(each["name"], each["domain"]) for each in context.cookies()}

    fill()
    context.clear_cookies(name="session")
    assert left() == {(name, host) for name in names[1:] for host in hosts}
    fill()
    context.clear_cookies(name=re.compile("^session"), domain="a.example")
    assert left() == {("theme", "a.example"), *((name, "b.example") for name in names)}
    context.clear_cookies(path="/other")
    assert len(left()) == 4
    context.clear_cookies()
    assert left() == set()


def test_a_cookie_that_is_over_is_gone(context: BrowserContext) -> None:
    context.add_cookies([{"name": "a", "value": "1", "url": "https://a.example/"}])
    context.add_cookies([{"name": "a", "value": "1", "url": "https://a.example/", "expires": 1}])
    assert context.cookies() == []


def test_what_is_added_goes_to_the_server(context: BrowserContext) -> None:
    with Server({"/": Served(b"")}) as site:
        context.add_cookies(
            [
                {"name": "open", "value": "ä", "domain": ".a.localhost", "path": "/"},
                {"name": "secure", "value": "2", "domain": "a.localhost", "path": "/", "secure": True},
                {"name": "other", "value": "3", "domain": "b.localhost", "path": "/"},
            ]
        )
        there = {"http://a.localhost secure=2", "https://a.localhost secure=2"}
        assert there < set(shown(context, site.url("/", "a.localhost")))
        page = context.new_page()
        page.goto(site.url("/", "www.a.localhost"))
        page.goto(site.url("/", "a.localhost"))
    sent = [request.headers.get("cookie") for request in site.requests]
    mine = "open=ä".encode().decode("latin-1")
    assert sent == [mine, f"{mine}; secure=2"]  # this machine is as good as https


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_storage_state_brings_everything_into_another_context(
    browser: Browser, context: BrowserContext, tmp_path: Path
) -> None:
    context.add_cookies(
        [
            {
                "name": "a",
                "value": "ü\udcff",
                "url": "https://a.example/",
                "expires": int(time.time()) + 1000,
            },
            {
                "name": "b",
                "value": "2",
                "domain": ".b.example",
                "path": "/x",
                "sameSite": "Strict",
                "httpOnly": True,
            },
        ]
    )
    path = tmp_path / "state.json"
    path.write_text("what was there before")
    path.chmod(0o644)
    state = context.storage_state(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["state.json"]
    assert json.loads(path.read_text()) == state == {"cookies": context.cookies(), "origins": []}
    assert len(state["cookies"]) == 3
    for source in (state, path, str(path)):
        with browser.new_context(storage_state=source) as other:
            assert other.cookies() == context.cookies()


def test_a_storage_state_that_cannot_be_written_is_an_error(context: BrowserContext, tmp_path: Path) -> None:
    with pytest.raises(CloisterError, match="No such file"):
        context.storage_state(tmp_path / "no" / "folder")


def test_what_playwright_wrote_is_read(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    cookie = {
        **WORD,
        "domain": ".a.example",
        "path": "/",
        "expires": 1999999999.5,
        "httpOnly": False,
        "secure": True,
    }
    origins = [{"origin": "https://a.example", "localStorage": [{"name": "x", "value": "y"}]}]
    path.write_text(json.dumps({"cookies": [{**cookie, "sameSite": "Lax"}], "origins": origins}))
    with browser.new_context(storage_state=path) as context:
        assert shown(context, "https://www.a.example/") == ["https://a.example a=1"]


NETSCAPE = """\
# Netscape HTTP Cookie File
# a comment

.a.example\tTRUE\t/\tTRUE\t1999999999\ta\t1
a.example\tFALSE\t/x\tTRUE\t0\tsession\tlong; value
#HttpOnly_a.example\tTRUE\t/\tTRUE\t1999999999\thidden\t
"""


def test_a_cookies_txt_is_read(tmp_path: Path) -> None:
    path = tmp_path / "cookies.txt"
    path.write_text(NETSCAPE.replace("long; value", "value").replace("\n", "\r\n"))
    found = read(path)
    assert [(each["name"], each["domain"], each["expires"], each["httpOnly"]) for each in found] == [
        ("a", ".a.example", 1999999999, False),
        ("session", "a.example", -1, False),
        ("hidden", ".a.example", 1999999999, True),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "a.example TRUE / TRUE 0 a 1",
        "a.example\tTRUE\t/\tTRUE\t0\ta",
        "a.example\tyes\t/\tTRUE\t0\ta\t1",
        "a.example\tTRUE\t/\tTRUE\tnever\ta\t1",
        "a.example\tTRUE\t/\tTRUE\t0\ta\t1\t2",
        "a.example\tTRUE\t/\tTRUE\t0\ta\t1; 2",
        "com\tTRUE\t/\tTRUE\t0\ta\t1",
        "{",
        '{"cookies": 1}',
        '{"cookies": [], "more": []}',
        '{"cookies": [1]}',
        '{"cookies": ' + "[" * 100_000,
        json.dumps({"cookies": [WORD] * 3001}),
        "\x00",
    ],
)
def test_a_file_that_is_something_else_is_refused(browser: Browser, tmp_path: Path, text: str) -> None:
    path = tmp_path / "cookies"
    path.write_text(text)
    before = browser.contexts
    with pytest.raises(InvalidArgument) as caught:
        browser.new_context(storage_state=path)
    assert str(caught.value).isprintable()
    assert browser.contexts == before


@pytest.mark.parametrize("given", [1, [], {"cookies": {}}, "/no/such/file", "/dev/null", "/"])
def test_so_is_what_is_no_storage_state(browser: Browser, given: Any) -> None:
    with pytest.raises(InvalidArgument):
        browser.new_context(storage_state=given)


# ── how many ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_site_that_sets_too_many_loses_its_own_before_others_do() -> None:
    store = CookieStore()
    for number in range(10):
        store.put(f"https://{number}.example", _many(f"{number}.example", 250))
    assert len(store.all()) == 2500
    for number in range(MAX_COOKIES):
        store.put("https://greedy.example", _many(f"g{number}.example", 1))
    assert len(store.all()) == MOST
    left = [len(store.jar(f"https://{number}.example")) for number in range(10)]
    assert left == [250] * 10


def _many(domain: str, count: int) -> list[Any]:
    hosts = [f"h{number // 50}.{domain}" for number in range(count)]
    return [
        cookies_of({"name": f"n{number}", "value": "", "url": f"https://{host}/"})[0][1]
        for number, host in enumerate(hosts)
    ]


def test_only_those_are_told_of_a_change_who_know_what_was_there_and_once() -> None:
    store, told = CookieStore(), [0, 0, 0]

    def access(number: int, url: str | None) -> CookieAccess:
        def forget() -> None:
            told[number] += 1

        made = CookieAccess(forget)
        made.use(store)
        if url is not None:
            made.begin(url)
        return made

    first, second, _idle = (
        access(0, "https://a.example/"),
        access(1, "https://www.a.example/"),
        access(2, None),
    )
    store.put("https://a.example", _many("a.example", 1), first)
    store.put("https://a.example", _many("a.example", 1), first)
    assert told == [0, 1, 0]
    store.put("https://b.example", _many("b.example", 1))
    assert told == [0, 1, 0]
    second.close()
    store.remove(lambda _: True)
    assert told == [1, 1, 0]
    assert store.is_empty


# ── requests without a page ──────────────────────────────────────────────────────────────────────────────────────


def test_requests_of_a_context_have_the_cookies_of_its_pages_and_leave_theirs_to_them(
    browser: Browser,
) -> None:
    pages = {
        "/login": Served(b"in", headers=(("Set-Cookie", "session=1; HttpOnly"),)),
        "/page": Served(b"<title>page</title>", headers=(("Set-Cookie", "page=2"),)),
    }
    with Server(pages) as site, browser.new_context() as context, browser.new_context() as another:
        url = f"http://shop.localhost:{site.port}"

        def sent() -> str | None:
            return site.requests[-1].headers.get("cookie")

        assert context.request.post(f"{url}/login").ok
        page = context.new_page()
        page.goto(f"{url}/page")
        assert sent() == "session=1"
        context.request.get(f"{url}/page")
        assert sent() == "session=1; page=2"
        context.add_cookies([{"name": "page", "value": "3", "url": f"{url}/"}])
        context.request.get(f"{url}/page")
        assert sent() == "session=1; page=3"
        context.request.get(f"{url}/page", headers={"Cookie": "mine=4"})
        assert sent() == "mine=4"
        for stranger in (another.request, browser.request):
            stranger.get(f"{url}/page")
            assert sent() is None
        browser.request.get(f"{url}/page")
        assert sent() == "page=2"
        site_name = "http://shop.localhost"
        assert shown(context) == [f"{site_name} session=1", f"{site_name} page=2"]
