"""Pages, end to end: real servers, real processes, the sandbox on."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pypdfium2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage
from tests.servers import SITE, Authority, Server, redirect
from tests.servers import Page as Served

from cloister import (
    AsyncBrowser,
    Browser,
    BrowserClosed,
    CloisterError,
    ImageError,
    InvalidArgument,
    NavigationError,
    NetworkPolicy,
    Page,
    PageClosed,
    PageCrashed,
    TimeoutError,
)
from cloister.browser.png import PngWriter, encode_rgba

from .conftest import pixels


def swatch(format_name: str = "PNG") -> bytes:
    data = BytesIO()
    PillowImage.new("RGB", (64, 64), (200, 30, 60)).save(data, format_name)
    return data.getvalue()


STYLED = {
    **SITE,
    "/page": Served(
        b'<link rel=stylesheet href=style.css><h1></h1><img src=image.png style="display:block"><p></p>'
    ),
    "/style.css": Served(
        b'@import "imported.css"; body { margin: 0 } p { margin: 0; height: 100px; background: url(image.png) }',
        "text/css",
    ),
    "/imported.css": Served(b"h1 { margin: 0; height: 50px; background: rgb(1, 2, 3) }", "text/css"),
    "/image.png": Served(swatch(), "image/png"),
}


@pytest.fixture(scope="module")
def site() -> Iterator[Server]:
    with Server(STYLED) as server:
        yield server


RED = '<body style="margin:0;background:rgb(255,0,0)">'


def is_gone(pid: int) -> bool:
    """Whether a killed process ends, as soon as the kernel has cleared it away."""
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    return not Path(f"/proc/{pid}").exists()


def test_a_page_goes_through_every_process_and_comes_back_as_a_picture(page: Page, site: Server) -> None:
    response = page.goto(site.url("/page"))
    assert (response.status, response.ok, response.url) == (200, True, site.url("/page"))
    assert page.url == site.url("/page")
    image = pixels(page.screenshot())
    assert (image.size, image.mode) == ((400, 300), "RGB")
    assert image.getpixel((5, 5)) == (1, 2, 3)  # the stylesheet that the stylesheet imports
    assert image.getpixel((50, 55)) == (200, 30, 60)  # the image
    assert image.getpixel((50, 150)) == (200, 30, 60)  # the background, which only layout knows to be used
    assert sorted(site.paths()) == ["/image.png", "/imported.css", "/page", "/style.css"]


def test_a_page_comes_over_https_with_a_ca_of_ones_own(page: Page, authority: Authority) -> None:
    with Server(tls=authority.context()) as site:
        assert page.goto(site.url("/article")).status == 200
        assert {request.version for request in site.requests} == {"HTTP/2"}


def test_redirects_are_followed_and_the_page_says_where_it_is(page: Page, site: Server) -> None:
    assert page.goto(site.url("/redirect-twice")).url == site.url("/article")
    assert page.url == site.url("/article")


def test_an_error_page_is_a_page(page: Page, site: Server) -> None:
    response = page.goto(site.url("/error"))
    assert (response.status, response.ok) == (500, False)
    assert "broken" in page.text()


def test_a_page_gives_title_text_markdown_links_and_html(page: Page) -> None:
    page.set_content(
        """<title> A  title </title><nav><a href="/menu">Menu</a></nav>
        <main><h1>Heading</h1><p>Some <b>bold</b> words, and some more of them so that this is content.</p>
        <p>See <a href="next.html">the next</a>.</p><script>never()</script></main>""",
        base_url="https://example.org/dir/",
    )
    assert page.title() == "A title"
    assert "Some bold words" in page.text()
    assert "never" not in page.text()
    assert "**bold**" in page.markdown()
    assert ("https://example.org/dir/next.html", "the next") in page.links()
    assert "<h1>Heading</h1>" in page.content()


def test_colours_come_out_as_they_went_in(page: Page) -> None:
    page.set_content('<body style="margin:0;background:#fedcba"><div style="height:50px;background:#123456">')
    image = pixels(page.screenshot())
    assert image.getpixel((10, 10)) == (0x12, 0x34, 0x56)
    assert image.getpixel((10, 200)) == (0xFE, 0xDC, 0xBA)


def test_a_full_page_is_as_high_as_its_document_and_its_bands_meet(page: Page) -> None:
    rows = "".join(f'<div style="height:1000px;background:rgb({n},{255 - n},7)"></div>' for n in range(50))
    page.set_content(f'<body style="margin:0">{rows}')
    image = pixels(page.screenshot(full_page=True))
    assert image.size == (400, 50_000)  # two times what one surface of the painting library holds
    for n in range(50):
        for y in (n * 1000, n * 1000 + 999):
            assert image.getpixel((200, y)) == (n, 255 - n, 7)


def test_a_screenshot_is_written_to_a_path(page: Page, tmp_path: Path) -> None:
    page.set_content(RED)
    png = page.screenshot(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes() == png


def test_a_pdf_has_its_pages_size_and_text(page: Page) -> None:
    page.set_content("<title>T</title>" + "<p>word</p>" * 200)
    document = pypdfium2.PdfDocument(page.pdf(format="A5", margin={"top": "1in", "left": 48}))
    assert len(document) > 3
    width, height = document[0].get_size()
    assert (round(width), round(height)) == (420, 595)
    assert "word" in document[0].get_textpage().get_text_range()
    document.close()
    landscape = pypdfium2.PdfDocument(page.pdf(landscape=True))
    width, height = landscape[0].get_size()
    assert (round(width), round(height)) == (842, 595)
    landscape.close()


@pytest.mark.parametrize(
    "arguments",
    [
        {"format": "A9"},
        {"width": "wide"},
        {"margin": {"middle": 1}},
        {"margin": {"left": "30cm"}},
        {"timeout": 0},
    ],
)
def test_a_pdf_argument_that_cannot_be_meant_is_refused(page: Page, arguments: dict[str, Any]) -> None:
    page.set_content("x")
    with pytest.raises(InvalidArgument):
        page.pdf(**arguments)


def test_a_file_is_shown_and_its_neighbours_are_not_reached(page: Page, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(Path(__file__).read_bytes())
    file = tmp_path / "page.html"
    file.write_text(f'{RED}<img src="secret.png"><img src="file://{tmp_path}/secret.png">text')
    page.open_file(file)
    assert pixels(page.screenshot()).getpixel((300, 200)) == (255, 0, 0)
    assert "text" in page.text()


@pytest.mark.parametrize("what", ["missing", "folder", "pipe"])
def test_a_file_that_is_none_is_refused_by_name(page: Page, tmp_path: Path, what: str) -> None:
    path = tmp_path / "x.html"
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    with pytest.raises(InvalidArgument, match=r"x\.html"):
        page.open_file(path)


def test_text_and_images_are_shown_as_pages(page: Page, site: Server) -> None:
    page.goto(site.url("/text"))
    assert page.text().strip() == "plain words"
    for path in ("/image.png", "/image.jpg", "/image.gif"):
        page.goto(site.url(path))
        assert len(pixels(page.screenshot()).getcolors(100_000) or []) > 1


@pytest.mark.parametrize("format_name", ["PNG", "JPEG", "GIF", "BMP", "ICO", "PPM", "WEBP", "TIFF", "AVIF"])
def test_images_of_every_format_are_painted_where_they_stand(page: Page, format_name: str) -> None:
    served = {
        "/": Served(b'<body style="margin:0"><img src="i">'),
        "/i": Served(swatch(format_name), "image/x"),
    }
    with Server(served) as site:
        page.goto(site.url("/"))
        got = pixels(page.screenshot()).getpixel((32, 32))
    assert isinstance(got, tuple)
    assert all(abs(a - b) < 12 for a, b in zip(got, (200, 30, 60), strict=True)), got


def test_many_pages_load_at_once(browser: Browser, site: Server) -> None:
    pages = [browser.new_page() for _ in range(8)]
    threads = [threading.Thread(target=page.goto, args=(site.url("/article"),)) for page in pages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert browser.pages == pages
    web_contents = [p for page in pages for p in page.processes if p.kind == "web_content"]
    assert len({process.pid for process in web_contents}) == 8
    assert len({page.screenshot() for page in pages}) == 1
    for page in pages:
        page.close()
    assert browser.pages == []


def test_every_navigation_gets_a_new_process(page: Page) -> None:
    page.set_content(RED)
    (first,) = {process.pid for process in page.processes if process.kind == "web_content"}
    page.set_content(RED)
    (second,) = {process.pid for process in page.processes if process.kind == "web_content"}
    assert first != second
    assert is_gone(first)


def test_a_crashed_page_says_its_signal_reloads_and_leaves_others_alone(browser: Browser) -> None:
    with browser.new_page() as page, browser.new_page() as other:
        crashes: list[Page] = []
        page.on("crash", crashes.append)
        page.set_content(RED)
        other.set_content("other")
        (pid,) = (process.pid for process in page.processes if process.kind == "web_content")
        os.kill(pid, signal.SIGSEGV)
        with pytest.raises(PageCrashed, match="SIGSEGV") as caught:
            page.screenshot()
        assert caught.value.signal == signal.SIGSEGV
        assert crashes == [page]
        assert "other" in other.text()
        with pytest.raises(PageCrashed):
            page.text()
        page.reload()
        assert pixels(page.screenshot()).getpixel((9, 9)) == (255, 0, 0)


def test_a_page_that_crashes_while_something_waits_on_it_wakes_the_waiter(browser: Browser) -> None:
    with browser.new_page() as page:
        page.set_content(RED)
        (pid,) = (process.pid for process in page.processes if process.kind == "web_content")
        os.kill(pid, signal.SIGSTOP)
        timer = threading.Timer(0.1, os.kill, (pid, signal.SIGKILL))
        timer.start()
        with pytest.raises(PageCrashed, match="SIGKILL"):
            page.text()
        timer.join()


def test_a_stopped_page_ends_at_the_deadline_of_the_action(browser: Browser) -> None:
    with browser.new_page() as page, browser.new_page() as other:
        page.set_content(RED)
        other.set_content("other")
        (pid,) = (process.pid for process in page.processes if process.kind == "web_content")
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(TimeoutError, match="within 100 ms"):
            page.screenshot(timeout=100)
        assert is_gone(pid)
        assert "other" in other.text()
        page.reload()
        assert pixels(page.screenshot()).size == (400, 300)


def test_a_request_server_that_is_killed_fails_the_load_and_nothing_else(browser: Browser) -> None:
    with Server({**SITE, "/": SITE["/silent"]}) as site, browser.new_page() as page:

        def kill() -> None:
            while (
                not (found := [p.pid for p in page.processes if p.kind == "request_server"])
                or not site.requests
            ):
                time.sleep(0.005)
            os.kill(found[0], signal.SIGKILL)

        thread = threading.Thread(target=kill)
        thread.start()
        with pytest.raises(CloisterError):
            page.goto(site.url("/"))
        thread.join()
        page.goto(site.url("/article"))
        assert page.text()


def test_progress_counts_the_subresources(page: Page, site: Server) -> None:
    seen: list[tuple[int, int]] = []
    page.on("progress", lambda done, total: seen.append((done, total)))
    page.goto(site.url("/page"))
    assert seen[-1] == (3, 3)


def test_a_page_before_its_first_document_says_what_to_do(page: Page) -> None:
    with pytest.raises(NavigationError, match=r"call goto\(\)"):
        page.screenshot()
    with pytest.raises(NavigationError, match="nothing to reload"):
        page.reload()


def test_a_closed_page_and_a_closed_browser_say_so() -> None:
    browser = Browser()
    page = browser.new_page()
    page.close()
    page.close()
    assert page.is_closed()
    with pytest.raises(PageClosed):
        page.set_content("x")
    browser.close()
    browser.close()
    with pytest.raises(BrowserClosed):
        browser.new_page()


def test_a_browser_that_nobody_closes_ends_with_its_last_reference() -> None:
    browser = Browser()
    pids = [process.pid for process in browser.processes()]
    page = browser.new_page()
    page.set_content("x")
    pids += [process.pid for process in page.processes]
    del browser, page
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.01)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_viewport_is_the_width_of_the_layout(browser: Browser) -> None:
    with browser.new_page(viewport={"width": 700, "height": 100}) as page:
        page.set_content('<body style="margin:0"><div style="width:100%;height:10px;background:#00f">')
        image = pixels(page.screenshot())
    assert image.size == (700, 100)
    assert image.getpixel((699, 5)) == (0, 0, 255)


@pytest.mark.parametrize(
    "viewport", [{"width": 0, "height": 1}, {"width": 1}, {"width": "1", "height": 1}, 5]
)
def test_a_viewport_that_cannot_be_is_refused(browser: Browser, viewport: Any) -> None:
    with pytest.raises(InvalidArgument, match="viewport"):
        browser.new_page(viewport=viewport)


def test_the_async_browser_does_the_same(site: Server) -> None:
    async def go() -> None:
        async with AsyncBrowser(network=NetworkPolicy(allow_hosts=["127.0.0.1"])) as browser:
            pages = [await browser.new_page() for _ in range(3)]
            await asyncio.gather(*(page.goto(site.url("/article")) for page in pages))
            shots = await asyncio.gather(*(page.screenshot() for page in pages))
            assert len(set(shots)) == 1
            async with await browser.new_page() as page:
                waiting = asyncio.ensure_future(page.goto(site.url("/silent")))
                await asyncio.sleep(0.05)
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
                assert page.processes == []
            assert browser.pages == pages

    asyncio.run(go())


def test_images_are_decoded_in_a_process_of_their_own(browser: Browser, tmp_path: Path) -> None:
    original = PillowImage.new("RGBA", (5, 4), (10, 20, 30, 40))
    original.putpixel((1, 2), (255, 0, 0, 255))
    path = tmp_path / "i.webp"
    original.save(path, lossless=True, exact=True)
    for source in (path, path.read_bytes()):
        image = browser.decode_image(source)
        assert (image.width, image.height, image.format, image.frames) == (5, 4, "WEBP", 1)
        assert image.rgba == original.tobytes()
        assert pixels(image.png()).tobytes() == original.tobytes()


@pytest.mark.parametrize("data", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + bytes(50)])
def test_what_is_no_image_is_an_image_error(browser: Browser, data: bytes) -> None:
    with pytest.raises(ImageError):
        browser.decode_image(data)


def test_a_redirect_that_leaves_the_allowed_hosts_is_refused(site: Server) -> None:
    with (
        Server({"/": Served(b"secret")}) as secret,
        Server({"/": redirect(secret.url("/"))}) as front,
        Browser(network=NetworkPolicy(allow_hosts=[front.url("/")[7:-1]])) as browser,
        browser.new_page() as page,
    ):
        with pytest.raises(CloisterError, match=r"127\.0\.0\.1"):
            page.goto(front.url("/"))
        assert secret.requests == []


@given(st.integers(1, 30), st.lists(st.integers(1, 9), min_size=1, max_size=4), st.randoms())
@settings(max_examples=60, deadline=None)
def test_png_bands_decode_to_the_pixels_that_went_in(width: int, bands: list[int], random: Any) -> None:
    height = sum(bands)
    # Rows are often the same as the one above, and that is how they are written.
    few = [random.randbytes(width * 3) for _ in range(2)]
    rgb = b"".join(random.choice(few) for _ in range(height))
    writer = PngWriter(width, height)
    starts = [sum(bands[:index]) for index in range(len(bands))]
    for start, rows in random.sample([*zip(starts, bands, strict=True)], len(bands)):
        writer.encode(
            start, (rgb[row * width * 3 : (row + 1) * width * 3] for row in range(start, start + rows))
        )
    image = pixels(writer.finish())
    assert image.size == (width, height)
    assert image.tobytes() == rgb
    rgba = random.randbytes(width * height * 4)
    assert pixels(encode_rgba(width, height, rgba)).tobytes() == rgba


def test_a_png_with_the_wrong_number_of_pixels_is_never_made() -> None:
    writer = PngWriter(2, 2)
    with pytest.raises(ValueError, match="a row of 7 bytes is not 2 pixels"):
        writer.encode(0, [bytes(7)])
    with pytest.raises(ValueError, match="0 of 2 rows"):
        writer.finish()
    writer.encode(1, [bytes(6)])
    with pytest.raises(ValueError, match="before 1 were never added"):
        writer.finish()
    writer.encode(0, [bytes(6)] * 2)
    with pytest.raises(ValueError, match="or twice"):
        writer.finish()


def bomb(width: int, height: int) -> bytes:
    """A PNG that declares a size and has one row."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(width)))
        + chunk(b"IEND", b"")
    )


def test_an_image_bomb_is_refused_by_its_declared_size(browser: Browser) -> None:
    with pytest.raises(ImageError, match=r"60000"):
        browser.decode_image(bomb(60_000, 60_000))


def test_a_page_at_rest_has_no_request_server_and_looks_the_same_when_it_is_looked_at_again(
    browser: Browser, site: Server
) -> None:
    with browser.new_page() as page:
        page.goto(site.url("/page"))
        before = page.screenshot()
        assert [process.kind for process in page.processes] == ["web_content", "request_server"]
        asked = len(site.paths())
        deadline = time.monotonic() + 20
        while len(page.processes) > 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert [process.kind for process in page.processes] == ["web_content"]
        assert page.screenshot() == before
        assert len(pypdfium2.PdfDocument(page.pdf())) == 1
        assert len(site.paths()) == asked


def test_processes_that_were_forked_ahead_serve_one_page_each_and_go_when_nobody_wants_them(
    site: Server,
) -> None:
    with Browser(network=NetworkPolicy(allow_hosts=["127.0.0.1"])) as browser:
        seen: list[int] = []
        for _ in range(4):
            with browser.new_page() as page:
                page.goto(site.url("/page"))
                seen += [process.pid for process in page.processes if process.kind == "web_content"]
        assert len(set(seen)) == len(seen)
        waiting: set[int] = set()
        deadline = time.monotonic() + 20
        while not waiting and time.monotonic() < deadline:
            time.sleep(0.01)
            waiting = {process.pid for process in browser.processes() if process.kind == "web_content"} - set(
                seen
            )
        assert len(waiting) == 1
        assert not waiting & set(seen)
        with browser.new_page() as page:
            page.goto(site.url("/page"))
            assert waiting == {process.pid for process in page.processes if process.kind == "web_content"}
        deadline = time.monotonic() + 20
        at_rest = ["image_decoder", "lookup_server", *["zygote"] * 5]
        kinds: list[str] = []
        while kinds != at_rest and time.monotonic() < deadline:
            time.sleep(0.05)
            kinds = sorted(process.kind for process in browser.processes())
        assert kinds == at_rest


def test_for_a_program_that_opens_pages_at_once_as_many_are_forked_ahead(site: Server) -> None:
    async def go() -> None:
        async with AsyncBrowser(network=NetworkPolicy(allow_hosts=["127.0.0.1"])) as browser:
            for _ in range(2):
                pages = [await browser.new_page() for _ in range(3)]
                await asyncio.gather(*(page.goto(site.url("/page")) for page in pages))
                for page in pages:
                    await page.close()
            async with asyncio.timeout(20):
                while len(waiting := [p for p in browser.processes() if p.kind == "web_content"]) < 3:
                    await asyncio.sleep(0.01)
            pages = [await browser.new_page() for _ in range(3)]
            await asyncio.gather(*(page.goto(site.url("/page")) for page in pages))
            used = {p.pid for page in pages for p in page.processes if p.kind == "web_content"}
            assert used == {process.pid for process in waiting}

    asyncio.run(go())


@pytest.mark.timeout(9)  # a fork alone may take 10 seconds
def test_a_zygote_that_hangs_holds_nobody_past_the_timeout(site: Server) -> None:
    with Browser(network=NetworkPolicy(allow_hosts=["127.0.0.1"])) as browser, browser.new_page() as page:
        page.goto(site.url("/page"))
        zygotes = [process.pid for process in browser.processes() if process.kind == "zygote"]
        for pid in zygotes:
            os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError, match="no process within 200 ms"):
                page.goto(site.url("/page"), timeout=200)
        finally:
            for pid in zygotes:
                os.kill(pid, signal.SIGCONT)
        assert page.reload().ok


def test_a_request_server_that_ended_before_it_was_asked_for_is_replaced(site: Server) -> None:
    with Browser(network=NetworkPolicy(allow_hosts=["127.0.0.1"])) as browser, browser.new_page() as page:
        page.goto(site.url("/page"))
        page.goto(site.url("/page"))

        async def end_the_one_ahead() -> bool:
            spares = browser._browser._ahead._spares
            if not spares or (renderer := spares[0])._next_request_server is None:
                return False
            child = await renderer._next_request_server
            child.kill()
            await child.wait(5)
            return True

        deadline = time.monotonic() + 20
        while not browser._thread.run(end_the_one_ahead()) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert page.goto(site.url("/page")).ok
