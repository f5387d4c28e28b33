"""A page's process that was taken over, on the real channel of a real, locked-down request_server: of other sites it
gets what any page can show of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from tests.request_server.test_process import Child, start
from tests.servers import SITE, Page

from cloister.errors import RequestFailed
from cloister.interfaces.fetch import CredentialsMode, Destination, Fetch, Fetched, Mode, ResponseType
from cloister.ipc import blob

TIMEOUT = 30.0
IMAGE, STYLE, SCRIPT, FONT, EMPTY = (
    Destination.IMAGE,
    Destination.STYLE,
    Destination.SCRIPT,
    Destination.FONT,
    Destination.EMPTY,
)
OMIT, INCLUDE = CredentialsMode.OMIT, CredentialsMode.INCLUDE
REFUSED, BLOCKED, BAD = "cors_refused", "cross_origin_blocked", "bad_request"

Answer = tuple[int, dict[str, str], bytes]
SECRET = b"the secret"


def answer(content_type: str, body: bytes, status: int = 200, /, **headers: Any) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return status, {"Content-Type": content_type, **named}, body


def picture() -> bytes:
    page = SITE["/image.png"]
    assert isinstance(page, Page)
    return page.body


PNG = picture()
CSS, SVG, JS, WOFF = b"p { color: red }", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"f()", b"wOFFfont"
ROUTES: dict[str, Answer] = {
    "/": answer("text/html", b"<title>page</title>"),
    "/html": answer("text/html", b"<!doctype html><p>" + SECRET),
    "/json": answer("application/json", b'{"a": "' + SECRET + b'"}'),
    "/xml": answer("text/xml", b"<?xml version='1.0'?><a>" + SECRET),
    "/text": answer("text/plain", SECRET),
    "/pdf": answer("application/pdf", b"%PDF-1.7 " + SECRET),
    "/untyped": answer("", b"<p>" + SECRET),
    "/html-as-png": answer("image/png", b"<html>" + SECRET),
    "/json-as-script": answer("text/javascript", b')]}\'\n{"a": "' + SECRET + b'"}'),
    "/image-that-is-missing": answer("image/png", PNG + SECRET, 404),
    "/part-of-an-image": answer("image/png", PNG + SECRET, 206, Content_Range="bytes 0-99/100"),
    "/kept": answer("image/png", PNG + SECRET, Cross_Origin_Resource_Policy="same-origin"),
    "/redirects-to-html": answer("text/plain", b"", 302, Location="/html"),
    "/image": answer("image/png", PNG, Set_Cookie="id=1", X_Secret="1", Last_Modified="yesterday"),
    "/style": answer("text/css; charset=utf-8", CSS),
    "/svg": answer("image/svg+xml", SVG),
    "/script": answer("text/javascript", JS),
    "/font": answer("font/woff", WOFF),
    "/open": answer("text/plain", b"open", Access_Control_Allow_Origin="*", X_Secret="1", Set_Cookie="id=1"),
    "/open-font": answer("font/woff", WOFF, Access_Control_Allow_Origin="*"),
    "/reflected": answer(
        "text/plain", b"reflected", Access_Control_Allow_Origin="{origin}",
        Access_Control_Allow_Credentials="true", Access_Control_Expose_Headers="X-Shown", X_Shown="1", X_Secret="1",
    ),
    "/for-null": answer("text/plain", SECRET, Access_Control_Allow_Origin="null"),
}  # fmt: skip
SECRETS = [path for path, (_, _, body) in ROUTES.items() if SECRET in body]


class Site:
    """A server on loopback that knows of every request. A route is a path, or a method and a path."""

    def __init__(self, routes: dict[str, Answer]) -> None:
        site = self
        self.routes = routes
        self.heard: list[tuple[str, str, dict[str, str]]] = []
        """Method, path and headers of each."""

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 2**16  # an answer in one packet

            def answer(self) -> None:
                path = self.path.partition("?")[0]
                headers = {name.lower(): value for name, value in self.headers.items()}
                site.heard.append((self.command, self.path, headers))
                self.rfile.read(int(headers.get("content-length", 0)))
                status, said, body = routes.get(f"{self.command} {path}") or routes.get(path, (404, {}, b""))
                self.send_response(status)
                for name, value in said.items():
                    self.send_header(name, value.format(origin=headers.get("origin", "none")))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def __getattr__(self, name: str) -> Any:
                if name.startswith("do_"):
                    return self.answer
                raise AttributeError(name)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.port = self._server.server_port

    def __enter__(self) -> Site:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def origin(self, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}"

    def paths(self, method: str = "GET") -> list[str]:
        return [path for each, path, _ in self.heard if each == method]


class Enemy:
    """Who has taken a page of ``home`` over, and asks ``other`` for what is not its own."""

    def __init__(self, runner: asyncio.Runner, child: Child, home: Site, other: Site) -> None:
        self._runner = runner
        self._child = child
        self.home = home
        self.other = other

    def ask(
        self, url: str, destination: Destination = IMAGE, mode: Mode = Mode.NO_CORS, **more: Any
    ) -> tuple[Fetched, bytes]:
        """``url`` is a path at the other site unless it is a whole one."""

        async def run() -> tuple[Fetched, bytes]:
            whole = url if url.startswith("http") else self.other.origin() + url
            asked = Fetch(whole, destination, mode=mode, **more)
            reply, fds = await self._child.page.request(asked, timeout=TIMEOUT)
            return reply, blob.unpack(reply.body, fds, 2**26)

        return self._runner.run(run())

    def forbid(self, url: str) -> None:
        """Have the browser refuse a document from there."""
        self._child.forbidden.add(url)

    @contextmanager
    def another(self, **options: Any) -> Iterator[Enemy]:
        """Who has a request_server that was started with these options, and no document."""
        process = start(**options)
        child = self._runner.run(process.__aenter__())
        try:
            yield Enemy(self._runner, child, self.home, self.other)
        finally:
            self._runner.run(process.__aexit__(None, None, None))

    def got(self, *asked: Any, **more: Any) -> str:
        """What was read, or the code that this failed with."""
        try:
            reply, body = self.ask(*asked, **more)
        except RequestFailed as error:
            return str(error.code)
        return f"{reply.kind.value} {body.decode('latin-1')}"


@pytest.fixture
def enemy(shared: Enemy) -> Enemy:
    shared.home.heard.clear()
    shared.other.heard.clear()
    return shared


@pytest.fixture(scope="module")
def shared() -> Iterator[Enemy]:
    """Its page is a document of one server on 127.0.0.1; the other site is on another port."""
    with Site(dict(ROUTES)) as other, Site(dict(ROUTES)) as home, asyncio.Runner() as runner:
        for path, location in {"/to-home": "/html", "/to-homes-image": "/image"}.items():
            other.routes[path] = answer("text/plain", b"", 302, Location=home.origin() + location)
        other.routes["/open-to-home"] = answer(
            "text/plain", b"", 302, Location=home.origin() + "/html", Access_Control_Allow_Origin="*"
        )
        other.routes["/open-to-open"] = answer(
            "text/plain", b"", 307, Location="/reflected", Access_Control_Allow_Origin="*"
        )
        for path in ("/reflected", "/to-home", "/open-to-home", "/html", "/image"):
            home.routes["/away" + path] = answer("text/plain", b"", 307, Location=other.origin() + path)
        process = start(max_requests=5000)
        child = runner.run(process.__aenter__())
        try:
            runner.run(child.fetch(home.origin() + "/"))
            yield Enemy(runner, child, home, other)
        finally:
            runner.run(process.__aexit__(None, None, None))


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", [*SECRETS, "/redirects-to-html"])
def test_another_sites_page_is_none_of_what_a_page_may_show(enemy: Enemy, path: str) -> None:
    assert [enemy.got(path, destination) for destination in (IMAGE, STYLE, SCRIPT)] == [BLOCKED] * 3
    assert enemy.got(path, EMPTY) == (BLOCKED if path == "/kept" else "opaque ")
    for destination in (IMAGE, STYLE, SCRIPT, FONT, EMPTY):
        if path != "/for-null":
            assert enemy.got(path, destination, Mode.CORS) == REFUSED
            assert enemy.got(path, destination, Mode.CORS, credentials=INCLUDE) == REFUSED
        assert enemy.got(path, destination, Mode.SAME_ORIGIN) == REFUSED
    assert enemy.got(path, FONT) == BAD


def test_the_browser_lets_it_have_no_second_document(enemy: Enemy) -> None:
    enemy.forbid(enemy.other.origin() + "/html")
    assert enemy.got("/html", Destination.DOCUMENT) == "other_site"
    for destination in (IMAGE, STYLE, SCRIPT, FONT, EMPTY):
        assert enemy.got("/html", destination, Mode.NAVIGATE) == BAD
    assert enemy.other.paths() == []


@pytest.mark.parametrize(
    ("path", "destination", "body"),
    [("/image", IMAGE, PNG), ("/svg", IMAGE, SVG), ("/style", STYLE, CSS), ("/script", SCRIPT, JS)],
)
def test_what_may_be_shown_comes_with_its_type_and_nothing_else(
    enemy: Enemy, path: str, destination: Destination, body: bytes
) -> None:
    reply, read = enemy.ask(path, destination)
    assert read == body
    assert reply.kind is ResponseType.OPAQUE
    assert (reply.status, reply.headers, reply.requests) == (0, (), 1)
    assert reply.content_type == ROUTES[path][1]["Content-Type"]
    for another in {IMAGE, STYLE, SCRIPT} - {destination}:
        assert enemy.got(path, another) == BLOCKED


def test_where_an_image_was_redirected_to_is_not_told_and_a_style_sheets_url_is(enemy: Enemy) -> None:
    enemy.other.routes["/led"] = answer("text/plain", b"", 302, Location="/image?session=secret")
    enemy.other.routes["/led-style"] = answer("text/plain", b"", 302, Location="/style")
    reply, _ = enemy.ask("/led")
    assert reply.url == enemy.other.origin() + "/led"
    assert enemy.ask("/led-style", STYLE)[0].url == enemy.other.origin() + "/style"


def test_why_another_site_could_not_be_read_is_not_told(enemy: Enemy) -> None:
    enemy.other.routes["/leaks"] = answer("text/plain", b"", 302, Location="http://10.9.8.7/?session=token")
    with pytest.raises(RequestFailed) as caught:
        enemy.ask("/leaks")
    assert "token" not in caught.value.detail
    assert "10.9.8.7" not in caught.value.detail


def test_its_own_it_reads_whatever_it_is(enemy: Enemy) -> None:
    home = enemy.home.origin()
    for path in ("/html", "/json", "/xml", "/text"):
        for destination, mode in ((IMAGE, Mode.NO_CORS), (EMPTY, Mode.CORS), (EMPTY, Mode.SAME_ORIGIN)):
            assert enemy.got(home + path, destination, mode).startswith("basic ")
    reply, _ = enemy.ask(home + "/image")
    assert reply.status == 200
    told = dict(reply.headers)
    assert told["x-secret"] == "1"
    assert "set-cookie" not in told


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "localhost."])
def test_another_name_for_the_same_server_is_another_origin(enemy: Enemy, host: str) -> None:
    url = enemy.home.origin(host) + "/html"
    assert enemy.got(url) == BLOCKED
    assert enemy.got(url, EMPTY, Mode.SAME_ORIGIN) == REFUSED


# ── claiming ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("destination", [IMAGE, STYLE, EMPTY, Destination.DOCUMENT])
def test_it_cannot_say_that_it_is_the_other_site(enemy: Enemy, destination: Destination) -> None:
    for referrer in (enemy.other.origin() + "/html", enemy.home.origin("localhost"), "https://bank.example/"):
        assert enemy.got("/html", destination, referrer=referrer) == BAD
    assert enemy.other.heard == []


def test_a_style_sheet_asks_in_its_own_name_once_it_was_given_and_for_no_more_than_the_page(
    enemy: Enemy,
) -> None:
    enemy.other.routes["/sheet"] = answer("text/css", CSS)
    sheet = enemy.other.origin() + "/sheet"
    assert enemy.got("/image", IMAGE, referrer=sheet) == BAD
    assert enemy.got("/sheet", STYLE).startswith("opaque ")
    enemy.other.heard.clear()
    assert enemy.got("/image", IMAGE, referrer=sheet).startswith("opaque ")
    assert enemy.other.heard[0][2]["referer"] == sheet
    assert enemy.got("/html", IMAGE, referrer=sheet) == BLOCKED
    assert enemy.got("/json", EMPTY, Mode.SAME_ORIGIN, referrer=sheet) == REFUSED
    assert enemy.got("/image", IMAGE, referrer=enemy.other.origin() + "/another") == BAD


@pytest.mark.parametrize("name", ["Origin", "Referer", "Host", "Cookie", "Sec-Fetch-Site", "Sec-Fetch-Mode",
                                  "Access-Control-Request-Method", "Connection", "Transfer-Encoding"])  # fmt: skip
def test_nor_by_a_header(enemy: Enemy, name: str) -> None:
    for mode in (Mode.CORS, Mode.NO_CORS):
        assert enemy.got("/reflected", EMPTY, mode, headers=((name, enemy.other.origin()),)) == BAD


def test_the_other_site_hears_whose_page_asks(enemy: Enemy) -> None:
    enemy.ask("/image", referrer=enemy.home.origin() + "/page?private")
    enemy.ask("/open", EMPTY, Mode.CORS, credentials=OMIT)
    enemy.ask("/image", EMPTY, method="POST", headers=(("Content-Type", "text/plain"),))
    image, cors, post = (headers for _, _, headers in enemy.other.heard)
    assert image["referer"] == enemy.home.origin() + "/"
    assert (image["sec-fetch-site"], image["sec-fetch-mode"], image["sec-fetch-dest"]) == (
        "same-site", "no-cors", "image",
    )  # fmt: skip
    assert "origin" not in image
    assert cors["origin"] == post["origin"] == enemy.home.origin()
    enemy.ask(enemy.other.origin("localhost") + "/image")
    assert enemy.other.heard[-1][2]["sec-fetch-site"] == "cross-site"


# ── CORS ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_open_to_all_is_read_without_credentials_only(enemy: Enemy) -> None:
    assert enemy.got("/open", EMPTY, Mode.CORS, credentials=OMIT) == "cors open"
    assert enemy.got("/open", EMPTY, Mode.CORS, credentials=CredentialsMode.SAME_ORIGIN) == "cors open"
    assert enemy.got("/open", EMPTY, Mode.CORS, credentials=INCLUDE) == REFUSED
    assert enemy.got("/open-font", FONT, Mode.CORS, credentials=OMIT) == "cors " + WOFF.decode()
    reply, _ = enemy.ask("/open", EMPTY, Mode.CORS, credentials=OMIT)
    assert {name for name, _ in reply.headers} == {"content-type", "content-length"}


def test_a_site_that_agrees_to_this_page_may_be_read_with_credentials(enemy: Enemy) -> None:
    reply, body = enemy.ask("/reflected", EMPTY, Mode.CORS, credentials=INCLUDE)
    assert body == b"reflected"
    assert {name for name, _ in reply.headers} == {"content-type", "content-length", "x-shown"}


def test_a_redirect_by_others_makes_it_nobodys(enemy: Enemy) -> None:
    home = enemy.home.origin()
    for destination, mode in (
        (IMAGE, Mode.NO_CORS),
        (SCRIPT, Mode.NO_CORS),
        (EMPTY, Mode.CORS),
        (EMPTY, Mode.SAME_ORIGIN),
    ):
        expected = BLOCKED if mode is Mode.NO_CORS else REFUSED
        for url in ("/to-home", "/open-to-home", home + "/away/to-home", home + "/away/open-to-home"):
            assert enemy.got(url, destination, mode) == expected, (url, mode)
    # Their image is an image here too, but what comes with it is not this page's any more.
    assert enemy.ask("/to-homes-image")[0].kind is ResponseType.OPAQUE
    assert enemy.got(home + "/away/reflected", EMPTY, Mode.CORS) == "cors reflected"
    assert enemy.other.heard[-1][2]["origin"] == home
    assert enemy.got("/open-to-open", EMPTY, Mode.CORS, credentials=OMIT) == "cors reflected"


@pytest.mark.parametrize(
    ("method", "headers", "allowed"),
    [
        ("PUT", (), {"Access_Control_Allow_Methods": "PUT"}),
        ("DELETE", (), {"Access_Control_Allow_Methods": "GET, DELETE"}),
        ("POST", (("Content-Type", "application/json"),), {"Access_Control_Allow_Headers": "content-type"}),
        ("GET", (("X-Mine", "1"),), {"Access_Control_Allow_Headers": "X-Mine"}),
        ("GET", (("Authorization", "Bearer x"),), {"Access_Control_Allow_Headers": "authorization"}),
    ],
)
def test_what_forms_cannot_send_is_agreed_to_before_it_is_sent(
    enemy: Enemy, method: str, headers: tuple[tuple[str, str], ...], allowed: dict[str, str]
) -> None:
    path = "/guarded" + method
    origin = enemy.home.origin()
    enemy.other.routes[path] = answer("text/plain", b"done", Access_Control_Allow_Origin="*")
    ask = (path, EMPTY, Mode.CORS)
    for refusal in (
        answer("text/plain", b""),
        answer("text/plain", b"", Access_Control_Allow_Origin="*"),
        answer("text/plain", b"", 200, **allowed),
        answer("text/plain", b"", 403, Access_Control_Allow_Origin="*", **allowed),
        answer("text/plain", b"", 302, Location=path, Access_Control_Allow_Origin="*", **allowed),
        answer("text/plain", b"", Access_Control_Allow_Origin="https://another.example", **allowed),
    ):
        enemy.other.routes["OPTIONS " + path] = refusal
        assert enemy.got(*ask, method=method, headers=headers, credentials=OMIT) == REFUSED
    assert enemy.other.paths(method) == []
    agreed = answer("text/plain", b"", 204, Access_Control_Allow_Origin=origin, **allowed)
    enemy.other.routes["OPTIONS " + path] = agreed
    for _ in range(2):
        assert enemy.got(*ask, method=method, headers=headers, credentials=OMIT) == "cors done"
    *_, asked, _sent, _again = enemy.other.heard
    assert enemy.other.paths("OPTIONS")[7:] == []  # the second time, it had agreed
    assert asked[0] == "OPTIONS"
    assert asked[2]["access-control-request-method"] == method
    assert asked[2]["origin"] == origin
    assert "authorization" not in asked[2]
    for mode in (Mode.NO_CORS, Mode.SAME_ORIGIN):
        assert enemy.got(path, EMPTY, mode, method=method, headers=headers) in {BAD, REFUSED}
    assert len(enemy.other.paths(method)) == 2


# ── a page of nobody's ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("said", [{}, {"document": "{home}/", "is_opaque": True}])
def test_to_a_page_that_was_not_fetched_every_site_is_another(enemy: Enemy, said: dict[str, Any]) -> None:
    home = enemy.home.origin()
    options = {
        name: value.format(home=home) if isinstance(value, str) else value for name, value in said.items()
    }
    with enemy.another(**options) as nobody:
        assert nobody.got(home + "/html") == BLOCKED
        assert nobody.got(home + "/html", EMPTY, Mode.CORS) == REFUSED
        assert nobody.got(home + "/html", EMPTY, Mode.SAME_ORIGIN) == REFUSED
        assert nobody.got(home + "/image") == "opaque " + PNG.decode("latin-1")
        assert nobody.got(home + "/for-null", EMPTY, Mode.CORS, credentials=OMIT) == f"cors {SECRET.decode()}"
        assert enemy.home.heard[-1][2]["origin"] == "null"
        assert (nobody.got(home + "/image", referrer=home + "/x") == BAD) is (not said)


def test_a_page_whose_document_came_before_is_of_its_origin(enemy: Enemy) -> None:
    home = enemy.home.origin()
    with enemy.another(document=home + "/page") as later:
        assert later.got(home + "/html", referrer=home + "/page").startswith("basic ")
        assert later.got("/html") == BLOCKED


def test_the_browsers_own_requests_are_not_a_pages(enemy: Enemy) -> None:
    with enemy.another(for_browser=True) as browser:
        for path in SECRETS:
            assert browser.got(path, EMPTY).startswith("basic ")
        browser.ask("/text", EMPTY, method="PUT")
        headers = enemy.other.heard[-1][2]
        assert not {"origin", "referer"} & set(headers)
        assert not any(name.startswith("sec-") for name in headers)
