"""Cookies through every process: who gets which, and that who redirected is not there any more when others' come."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping

import pytest
from tests.servers import SITE, Authority, Handler, Request, Server, redirect, respond
from tests.servers import Page as Served

from cloister import AddressRefused, Browser, BrowserContext, NavigationError, NetworkPolicy, Page
from cloister.browser.cookie_files import CookieParam
from cloister.browser.renderer import Renderer
from cloister.interfaces.base import FailureCode
from cloister.interfaces.fetch import Destination
from cloister.interfaces.request_server import DocumentAllowed, DocumentFrom
from cloister.ipc import Descriptors

from .test_sharing import TakenOver, taken_over

A, B, C = "a.localhost", "b.localhost", "c.localhost"  # sites; what is below localhost is this machine


Asked = list[tuple[Renderer, str]]
"""For each document that a request_server asked leave for: whose it is, and the URL."""


@pytest.fixture(scope="module")
def asked_so_far() -> Iterator[Asked]:
    seen: Asked = []
    ask = Renderer._document_from

    async def document_from(self: Renderer, message: DocumentFrom, fds: Descriptors) -> DocumentAllowed:
        seen.append((self, message.url))
        return await ask(self, message, fds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Renderer, "_document_from", document_from)
        yield seen


@pytest.fixture
def asked(asked_so_far: Asked) -> Asked:
    asked_so_far.clear()
    return asked_so_far


@pytest.fixture(scope="module")
def browser(ca_file: str, asked_so_far: Asked) -> Iterator[Browser]:
    network = NetworkPolicy(
        allow_hosts=["127.0.0.1", "localhost", "*.localhost"], request_timeout=5, max_redirects=4
    )
    with Browser(network=network, ca_certs=ca_file, viewport={"width": 200, "height": 100}) as browser:
        yield browser


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    with browser.new_context() as context:
        yield context


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


def sets(*cookies: str, body: bytes = b"<p>words") -> Served:
    return Served(body, headers=tuple(("Set-Cookie", cookie) for cookie in cookies))


def heard(server: Server, path: str) -> list[str | None]:
    """The cookies that came with each request for ``path``."""
    return [request.headers.get("cookie") for request in server.requests if request.target == path]


def cookies(context: BrowserContext) -> set[tuple[str, str]]:
    """Each name, and the site of the pages that have it."""
    return {(cookie["name"], cookie["partitionKey"]) for cookie in context.cookies()}


# ── within a site ────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_a_page_sets_is_known_when_it_is_there_and_goes_to_its_site_from_then_on(
    context: BrowserContext,
) -> None:
    routes = {
        **SITE,
        "/": sets("a=1", "b=2; Domain=a.localhost", "c=3; Path=/deep", body=b"<img src=/image.png>"),
        "/out": sets("a=; Max-Age=0"),
        "/deep/er": Served(b"deep"),
    }
    with Server(routes) as site:
        first, second = context.new_page(), context.new_page()
        first.goto(site.url("/", A))
        assert {each["name"] for each in context.cookies()} == {"a", "b", "c"}
        assert heard(site, "/image.png") == ["a=1; b=2"]
        second.goto(site.url("/deep/er", f"www.{A}"))
        second.goto(site.url("/deep/er", A))
        assert heard(site, "/deep/er") == ["b=2", "c=3; a=1; b=2"]
        second.goto(site.url("/out", A))
        first.reload()
        assert heard(site, "/") == [None, "b=2"]


def test_each_request_server_of_a_page_has_the_cookies_of_its_document(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A page that rested gets another one, which has fetched no document."""

    async def act(page: TakenOver, url: str) -> str:
        at = (await page.fetch(url)).url
        await page.fetch(site.url("/image.png"), Destination.IMAGE)
        await page.fetch(site.url("/image.png", "localhost"), Destination.IMAGE)
        return at

    async def run() -> list[CookieParam]:
        async with taken_over(monkeypatch, act) as page:
            await page.goto(site.url("/"))
            return await page.context.cookies()

    image = SITE["/image.png"]
    assert isinstance(image, Served)
    other = Served(image.body, image.content_type, headers=(("Set-Cookie", "b=2; SameSite=None; Secure"),))
    with Server({"/": sets("a=1"), "/image.png": other}) as site:
        found = asyncio.run(run())
    assert heard(site, "/image.png") == ["a=1", None]
    assert {(each["domain"], each["name"], each["partitionKey"]) for each in found} == {
        ("127.0.0.1", "a", "http://127.0.0.1"),
        ("127.0.0.1", "b", "http://127.0.0.1"),
        ("localhost", "b", "http://127.0.0.1"),
    }


def test_what_came_from_nowhere_has_no_cookies(context: BrowserContext, page: Page) -> None:
    with Server({"/image.png": sets("a=1; SameSite=None; Secure"), "/": Served(b"")}) as site:
        context.add_cookies([{"name": "b", "value": "2", "url": site.url("/", A)}])
        page.set_content(f"<img src={site.url('/image.png', A)}>", base_url=site.url("/", A))
        assert heard(site, "/image.png") == [None]
        assert cookies(context) == {("b", f"http://{A}")}


def test_pages_of_two_contexts_have_nothing_in_common(
    browser: Browser, context: BrowserContext, page: Page
) -> None:
    with Server({"/": sets("a=1")}) as site, browser.new_context() as other, browser.new_page() as alone:
        for each in (page, other.new_page(), alone):
            each.goto(site.url("/", A))
        assert heard(site, "/") == [None] * 3
        alone.reload()
        assert heard(site, "/")[-1] == "a=1"
        other.clear_cookies()
        assert cookies(other) == set()
        assert cookies(context) == {("a", f"http://{A}")}


def test_what_is_changed_meanwhile_goes_with_the_next_request_of_a_page_that_is_loading(
    context: BrowserContext, page: Page
) -> None:
    async def changing(_request: Request, writer: asyncio.StreamWriter) -> None:
        new = {"name": "new", "value": "2", "url": site.url("/", A)}
        await asyncio.to_thread(context.add_cookies, [new])  # type: ignore[list-item]
        await respond(writer, Served(b"@import '/next.css';", "text/css"))

    routes: dict[str, Served | Handler] = {
        "/": sets("old=1", body=b"<link rel=stylesheet href=/changing.css>"),
        "/changing.css": changing,
        "/next.css": Served(b"", "text/css"),
    }
    with Server(routes) as site:
        page.goto(site.url("/", A))
        assert heard(site, "/next.css") == ["old=1; new=2"]


def test_a_name_below_can_set_for_all_of_the_site_but_nothing_that_promises_more(
    context: BrowserContext, authority: Authority
) -> None:
    """Tossed cookies: evil.a.localhost is not to be taken for a.localhost."""
    tossed = (
        "sid=evil; Domain=a.localhost",
        "__Host-sid=evil; Domain=a.localhost; Secure; Path=/",
        "=__Host-sid=evil; Domain=a.localhost; Secure; Path=/",
        "__host-sid=evil; Domain=a.localhost; Secure; Path=/",
        "all=evil; Domain=localhost",
        "other=evil; Domain=b.localhost",
    )
    routes = {
        "/": sets("sid=mine", "__Host-sid=mine; Secure; Path=/"),
        "/toss": sets(*tossed),
        "/look": Served(b""),
    }
    with Server(routes, tls=authority.context(A, f"evil.{A}", B)) as site:
        page = context.new_page()
        for path, host in (("/", A), ("/toss", f"evil.{A}"), ("/look", A), ("/look", B)):
            page.goto(site.url(path, host))
        assert heard(site, "/look") == ["sid=mine; __Host-sid=mine; sid=evil", None]


def test_what_is_set_in_the_open_is_not_for_https(
    context: BrowserContext, page: Page, authority: Authority
) -> None:
    with Server({"/": sets("a=1")}) as site, Server({"/": sets("b=1")}, tls=authority.context(A)) as https:
        page.goto(site.url("/", A))
        page.goto(https.url("/", A))
        page.goto(site.url("/", A))
        page.goto(https.url("/", A))
        assert heard(https, "/") == [None, "b=1"]
        assert heard(site, "/") == [None, "a=1"]
        assert cookies(context) == {("a", f"http://{A}"), ("b", f"https://{A}")}


# ── others on a page ─────────────────────────────────────────────────────────────────────────────────────────────


def test_a_third_party_knows_nobody_again_on_the_page_of_another_site(
    context: BrowserContext, page: Page
) -> None:
    tracker = Served(
        SITE["/image.png"].body,  # type: ignore[union-attr]
        "image/png",
        headers=(("Set-Cookie", "id=1; SameSite=None; Secure"), ("Set-Cookie", "lax=1")),
    )
    with Server({"/track.png": tracker, "/": Served(b"")}) as third:
        html = f"<img src={third.url('/track.png', C)}>".encode()
        with Server({"/": sets("own=1", body=html)}) as site:
            for host in (A, B, A, B):
                page.goto(site.url("/", host))
            page.goto(third.url("/", C))
        assert heard(third, "/track.png") == [None, None, "id=1", "id=1"]
        assert heard(third, "/") == [None]
        assert cookies(context) == {(name, f"http://{host}") for name in ("own", "id") for host in (A, B)}


# ── redirects to other sites ─────────────────────────────────────────────────────────────────────────────────────


def processes_of(renderer: Renderer) -> set[int]:
    return {renderer.web_content.pid, *(child.pid for child in renderer.processes)}


def test_a_redirect_to_another_site_is_followed_by_processes_that_have_read_nothing(
    context: BrowserContext, page: Page, asked: Asked
) -> None:
    routes: dict[str, Served | Handler] = {"/end": sets("end=1; SameSite=Strict")}
    with Server(routes) as site:
        routes["/to-b"] = Served(
            status=302, headers=(("Location", site.url("/hop", B)), ("Set-Cookie", "bounced=1"))
        )
        routes["/hop"] = redirect(site.url("/end#there", f"www.{B}"))
        response = page.goto(site.url("/to-b", A))
        end = site.url("/end#there", f"www.{B}")
        hop = site.url("/hop", B)
        assert [url for _, url in asked] == [site.url("/to-b", A), hop, hop, end]
        first, second, third, last = (renderer for renderer, _ in asked)
        assert first is second is not third is last
        assert not processes_of(first) & processes_of(last)
        assert site.paths() == ["/to-b", "/hop", "/end"]
        assert response.url == page.url == end
        assert cookies(context) == {("bounced", f"http://{A}"), ("end", f"http://{B}")}
        page.reload()
        assert site.paths() == ["/to-b", "/hop", "/end"] * 2
        page.goto(site.url("/end", B))
        page.go_back()
        assert page.url == end
        assert heard(site, "/to-b") == [None, "bounced=1", "bounced=1"]


def test_a_redirect_within_the_site_needs_no_other_processes(page: Page, asked: Asked) -> None:
    routes: dict[str, Served | Handler] = {"/end": Served(b"")}
    with Server(routes) as site, Server({"/end": redirect(site.url("/end", A))}) as other_port:
        routes["/out"] = redirect(other_port.url("/end", f"www.{A}"))
        page.goto(site.url("/out", A))
    assert len(asked) == 3
    assert len({renderer for renderer, _ in asked}) == 1


def test_a_strict_cookie_does_not_go_where_another_site_leads(context: BrowserContext, page: Page) -> None:
    routes: dict[str, Served | Handler] = {
        "/": sets("strict=1; SameSite=Strict", "lax=1", body=b"<img src=/image.png>"),
        "/image.png": SITE["/image.png"],
    }
    with Server(routes) as site:
        routes["/within"] = redirect(site.url("/", A))
        routes["/across"] = redirect(site.url("/", A))
        page.goto(site.url("/", A))
        page.goto(site.url("/within", A))
        page.goto(site.url("/across", B))
        assert heard(site, "/") == [None, "strict=1; lax=1", "lax=1"]
        assert heard(site, "/image.png")[-1] == "strict=1; lax=1"


@pytest.mark.parametrize("hops", [3, 4, 5])
def test_redirects_are_counted_through_every_process(page: Page, hops: int) -> None:
    """Two within a site, one to another, and so on; four is the limit."""
    routes: dict[str, Served | Handler] = {f"/{hops}": Served(b"there")}
    with Server(routes) as site:
        for number in range(hops):
            routes[f"/{number}"] = redirect(site.url(f"/{number + 1}", B if (number + 1) // 2 % 2 else A))
        if hops <= 4:
            assert page.goto(site.url("/0", A)).ok
        else:
            with pytest.raises(NavigationError, match="4 .*limit") as caught:
                page.goto(site.url("/0", A))
            assert caught.value.code == FailureCode.TOO_MANY_REDIRECTS
            assert page.url == site.url("/0", A)
        assert site.paths() == [f"/{number}" for number in range(min(hops, 4) + 1)]


def test_sites_that_send_on_to_one_another_come_to_an_end(page: Page) -> None:
    routes: dict[str, Served | Handler] = {}
    with Server(routes) as site:
        routes["/a"] = redirect(site.url("/b", B))
        routes["/b"] = redirect(site.url("/a", A))
        with pytest.raises(NavigationError) as caught:
            page.goto(site.url("/a", A))
    assert caught.value.code == FailureCode.TOO_MANY_REDIRECTS
    assert len(site.requests) == 5


def test_an_error_behind_a_redirect_says_where_it_led(page: Page) -> None:
    with Server({"/": redirect("http://10.0.0.1/")}) as site:
        with pytest.raises(AddressRefused, match="redirected to http://10.0.0.1/: ") as caught:
            page.goto(site.url("/", A))
        assert page.url == caught.value.url == site.url("/", A)


def test_a_password_is_for_its_origin_wherever_the_page_came_from(ca_file: str) -> None:
    async def locked(request: Request, writer: asyncio.StreamWriter) -> None:
        known = "authorization" in request.headers
        await respond(
            writer,
            Served(b"in", status=200 if known else 401, headers=(("WWW-Authenticate", "Basic realm=x"),)),
        )

    with Server({"/": locked}) as site, Server({"/": redirect(site.url("/", B))}) as out:
        credentials = {"origin": f"http://{B}:{site.port}", "username": "me", "password": "secret"}
        network = NetworkPolicy(allow_hosts=["*.localhost"])
        with Browser(network=network, http_credentials=credentials) as browser, browser.new_page() as page:  # type: ignore[arg-type]
            assert (
                page.goto(out.url("/", A)).status == 200
            )  # by processes that the other site has not touched
            assert page.goto(out.url("/", B)).status == 401  # another origin of the site has
    assert [request.headers.get("authorization") for request in out.requests] == [None, None]


# ── many at once ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_pages_that_load_at_once_each_leave_their_cookies(context: BrowserContext) -> None:
    routes: Mapping[str, Served] = {f"/{number}": sets(f"c{number}=1") for number in range(6)}
    with Server(routes) as site:
        pages = [context.new_page() for _ in routes]
        threads = [
            threading.Thread(target=page.goto, args=[site.url(path, A)])
            for page, path in zip(pages, routes, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert cookies(context) == {(f"c{number}", f"http://{A}") for number in range(6)}
        pages[0].goto(site.url("/0", A))
        assert heard(site, "/0")[-1] is not None
        assert len(str(heard(site, "/0")[-1]).split("; ")) == 6
