"""What the web throws at a page: each time one clear error that names what was asked and what refused it, and the
page that comes after is fine. Nothing waits longer than it was told to."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from tests.lookup_server.conftest import Canary, CanaryMaker, Zone, canary
from tests.servers import SITE, Authority, Server, closed_port, redirect, self_signed
from tests.servers import Page as Served

from cloister import (
    AddressRefused,
    Browser,
    CloisterError,
    NavigationError,
    NetworkPolicy,
    Page,
    TimeoutError,
)

from .conftest import pixels

__all__ = ["canary"]

RED = b'<body style="margin:0;background:rgb(255,0,0)">'


def test_an_unknown_host(page: Page) -> None:
    with pytest.raises(NavigationError, match=r"nowhere\.invalid") as caught:
        page.goto("http://nowhere.invalid/")
    assert caught.value.code == "unknown_host"


def test_a_port_where_nobody_listens(page: Page) -> None:
    with closed_port() as port, pytest.raises(NavigationError, match=f"{port}") as caught:
        page.goto(f"http://127.0.0.1:{port}/")
    assert caught.value.code == "connection_refused"


PATHS = {
    "/reset": "connection_reset",
    "/no-answer": "connection_reset",
    "/loop": "too_many_redirects",
    "/endless": "too_large",
    "/bomb/gzip": "too_large",
    "/bomb/deflate": "too_large",
    "/bomb/br": "too_large",
    "/bomb/zstd": "too_large",
    "/huge-header": "bad_response",
    "/huge-headers": "bad_response",
    "/garbage": "bad_response",
    "/download.zip": "unsupported_type",
    "/document.pdf": "unsupported_type",
    "/program": "unsupported_type",
    "/redirect-file": "unsupported_scheme",
    "/redirect-nowhere": None,
}


@pytest.fixture(scope="module")
def site() -> Iterator[Server]:
    more = {
        "/document.pdf": Served(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "application/pdf"),
        "/program": Served(b"\x7fELF" + bytes(100), "application/octet-stream"),
        "/redirect-meta": redirect("http://169.254.169.254/latest/meta-data/"),
        "/redirect-ipv6": redirect("http://[::1]:9/"),
        "/missing-parts": Served(RED + b"<link rel=stylesheet href=no.css><img src=no.png><p>text"),
        "/bomb-image": Served(RED + b"<img src=/bomb.png width=10 height=10><p>text"),
        "/bomb.png": Served(bomb(60_000, 60_000), "image/png"),
        "/reaching": Served(
            RED
            + b'<img src="file:///etc/passwd"><img src="http://169.254.169.254/"><img src="/redirect-meta">'
            + b'<link rel=stylesheet href="http://[::1]:9/"><iframe src="file:///etc/passwd"></iframe><p>text'
        ),
    }
    with Server({**SITE, **more}) as server:
        yield server


@pytest.mark.parametrize("path", [path for path, code in PATHS.items() if code])
def test_a_bad_answer_is_one_error_with_its_code_and_the_next_page_is_fine(
    page: Page, site: Server, path: str
) -> None:
    with pytest.raises(NavigationError) as caught:
        page.goto(site.url(path))
    assert caught.value.code == PATHS[path], caught.value
    assert caught.value.url == site.url(path)
    message = str(caught.value)
    assert site.url(path) in message
    assert "\n" not in message
    assert len(message) > len(site.url(path)) + 15, message
    page.goto(site.url("/article"))
    assert page.text()


@pytest.mark.parametrize(
    ("names", "days", "host", "code"),
    [
        ((), -3, "127.0.0.1", "certificate_expired"),
        (("example.org",), 30, "127.0.0.1", "certificate_wrong_host"),
        (("127.0.0.1",), 30, "localhost", "certificate_wrong_host"),
    ],
)
def test_a_certificate_that_does_not_hold(
    page: Page, authority: Authority, names: tuple[str, ...], days: int, host: str, code: str
) -> None:
    with Server(tls=authority.context(*names, days=days)) as site:
        with pytest.raises(NavigationError, match="certificate") as caught:
            page.goto(site.url("/article", host=host))
        assert caught.value.code == code
        assert site.requests == []


def test_a_certificate_that_nobody_vouches_for(page: Page, tmp_path: Any) -> None:
    for context in (self_signed(str(tmp_path)), Authority().context()):
        with Server(tls=context) as site:
            with pytest.raises(NavigationError, match="certificate") as caught:
                page.goto(site.url("/article"))
            assert caught.value.code == "certificate_untrusted"
            assert site.requests == []


REFUSED = [
    "http://10.0.0.1/",
    "http://192.168.1.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://[::1]/",
    "http://[::ffff:169.254.169.254]/",
    "http://[fe80::1]/",
    "http://0/",
    "http://0x0a000001/",
    "http://012.0.0.1/",
    "http://10.1/",
    "http://100.64.0.1/",
    "http://224.0.0.1/",
]


@pytest.mark.parametrize("url", REFUSED)
def test_an_address_that_the_policy_refuses(page: Page, url: str) -> None:
    with pytest.raises(AddressRefused) as caught:
        page.goto(url)
    assert url in str(caught.value)


@pytest.mark.parametrize("path", ["/redirect-private", "/redirect-meta", "/redirect-ipv6"])
def test_a_refused_address_behind_a_redirect(page: Page, site: Server, path: str) -> None:
    with pytest.raises(AddressRefused, match="redirect"):
        page.goto(site.url(path))


def test_a_refused_address_behind_dns(canary: CanaryMaker) -> None:
    """The name is as innocent as can be; the address is the canary's, which nobody allowed."""
    trap: Canary = canary()
    with name_server({"www.example.org": ["A 127.0.0.1"], "meta.example.org": ["A 169.254.169.254"]}) as dns:
        policy = NetworkPolicy(dns_servers=[f"127.0.0.1:{dns}"])
        with Browser(network=policy) as browser, browser.new_page() as page:
            with pytest.raises(AddressRefused, match=r"127\.0\.0\.1"):
                page.goto(f"http://www.example.org:{trap.port}/")
            with pytest.raises(AddressRefused, match=r"169\.254\.169\.254"):
                page.goto("http://meta.example.org/")
            with pytest.raises(NavigationError) as caught:
                page.goto("http://no.example.org/")
            assert caught.value.code == "unknown_host"
    assert trap.count() == 0


@contextlib.contextmanager
def name_server(records: dict[str, list[str]]) -> Iterator[int]:
    """The port of a name server that runs in a thread."""
    ready: threading.Event = threading.Event()
    port = [0]
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with Zone(records).serve() as port[0]:
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    ready.wait(10)
    try:
        yield port[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
        loop.close()


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("ftp://example.org/", "unsupported_scheme"),
        ("file:///etc/passwd", "unsupported_scheme"),
        ("javascript:alert(1)", "unsupported_scheme"),
        ("chrome://settings", "unsupported_scheme"),
        ("example.org", "bad_url"),
        ("http://", "bad_url"),
        ("http://exa mple/", "bad_url"),
        ("http://[::1", "bad_url"),
        ("http://example.org:99999/", "bad_url"),
        ("http://example.org/\r\nHost: evil", "bad_url"),
        ("http://example.org/" + "x" * 9000, "bad_url"),
    ],
)
def test_what_is_no_url_of_the_web(page: Page, url: str, code: str) -> None:
    with pytest.raises(NavigationError) as caught:
        page.goto(url)
    assert caught.value.code == code, caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", ["/slow", "/slow-header", "/silent"])
def test_a_slow_server_ends_at_the_pages_timeout(page: Page, site: Server, path: str) -> None:
    with pytest.raises(TimeoutError, match="within 300 ms"):
        page.goto(site.url(path), timeout=300)
    page.goto(site.url("/article"))


def test_a_slow_server_ends_at_the_policys_timeout(site: Server) -> None:
    policy = NetworkPolicy(allow_hosts=["127.0.0.1"], request_timeout=0.3)
    with (
        Browser(network=policy) as browser,
        browser.new_page() as page,
        pytest.raises(TimeoutError, match="slow"),
    ):
        page.goto(site.url("/slow"))


def test_malformed_html_and_a_wrong_charset_are_still_pages(page: Page, site: Server) -> None:
    for path in ("/malformed", "/wrong-charset"):
        assert page.goto(site.url(path)).status == 200
        assert page.text().strip()
        assert pixels(page.screenshot()).size == (400, 300)


@pytest.mark.parametrize("path", ["/missing-parts", "/bomb-image", "/reaching"])
def test_a_page_renders_without_the_parts_that_it_cannot_have(page: Page, site: Server, path: str) -> None:
    page.goto(site.url(path))
    assert "text" in page.text()
    assert pixels(page.screenshot()).getpixel((399, 299)) == (255, 0, 0)


def _decoders(browser: Browser) -> list[int]:
    return [process.pid for process in browser.processes() if process.kind == "image_decoder"]


def test_a_page_renders_without_an_image_whose_decoder_was_killed(browser: Browser) -> None:
    image = bomb(3000, 3000, rows=3000)
    served = {"/": Served(RED + b"<img src=i width=10 height=10><p>text"), "/i": Served(image, "image/png")}
    with Server(served) as site, browser.new_page() as page:
        deadline = time.monotonic() + 10
        while not (spare := _decoders(browser)):  # one comes two seconds after a program's first images
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(spare) == 1
        os.kill(spare[0], signal.SIGSTOP)
        killer = threading.Timer(0.2, os.kill, (spare[0], signal.SIGKILL))
        killer.start()
        page.goto(site.url("/"))
        killer.join()
        assert "text" in page.text()
        assert pixels(page.screenshot()).getpixel((399, 299)) == (255, 0, 0)


def test_bad_pages_do_not_hold_up_good_ones(browser: Browser, site: Server) -> None:
    bad = [browser.new_page() for _ in range(4)]

    def load(page: Page, path: str) -> None:
        with contextlib.suppress(CloisterError):
            page.goto(site.url(path), timeout=2000)

    threads = [
        threading.Thread(target=load, args=(page, path))
        for page, path in zip(bad, ("/slow", "/silent", "/endless", "/bomb/br"), strict=True)
    ]
    for thread in threads:
        thread.start()
    while not all(page.processes or page.is_closed() for page in bad[:2]):
        time.sleep(0.01)
    with browser.new_page() as good:
        good.goto(site.url("/article"))
        assert good.text()
        assert threads[0].is_alive()
    for thread in threads:
        thread.join()
    for page in bad:
        page.close()


def bomb(width: int, height: int, rows: int = 1) -> bytes:
    """A PNG that declares a size, and has as many rows as it says or fewer."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    pixels = zlib.compress(bytes((width * 4 + 1) * rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
