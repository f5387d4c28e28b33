"""What pages show of other sites, and what their processes can read of them, through every process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pymupdf_fonts
import pytest
from tests.servers import SITE, Page, Server

from cloister.browser import Page as BrowserPage
from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode
from cloister.interfaces.fetch import Destination, ResponseType

from .conftest import pixels
from .test_sharing import TakenOver, taken_over

OPEN = (("Access-Control-Allow-Origin", "*"),)
FONT = pymupdf_fonts.fontbuffers["fimo"]()  # monospaced, as no page is by itself
SVG = b"<svg xmlns='http://www.w3.org/2000/svg' width='10' height='10'><rect width='10' height='10' fill='red'/></svg>"
ROUTES = {
    **SITE,
    "/font.ttf": Page(FONT, "font/ttf"),
    "/open/font.ttf": Page(FONT, "font/ttf", headers=OPEN),
    "/font": Page(FONT, "font/ttf"),
    "/open/font": Page(FONT, "font/ttf", headers=OPEN),
    "/square.svg": Page(SVG, "image/svg+xml"),
    "/square-as-text.svg": Page(SVG, "text/plain"),
    "/lying.png": Page(b"<!doctype html><p>secret", "image/png"),
    "/kept.png": Page(SITE["/image.png"].body, "image/png", headers=(("Cross-Origin-Resource-Policy", "same-origin"),)),  # type: ignore[union-attr]
    "/green.css": Page(b"body { background: rgb(0, 255, 0) }", "text/css"),
    "/green-as-text.css": Page(b"body { background: rgb(0, 255, 0) }", "text/plain"),
}  # fmt: skip
GREEN, WHITE = (0, 255, 0), (255, 255, 255)


@pytest.fixture(scope="module")
def site() -> Iterator[Server]:
    with Server(dict(ROUTES)) as server:
        yield server


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Server]:
    with Server(ROUTES) as server:
        yield server


def shown(page: BrowserPage, site: Server, html: str) -> bytes:
    """A picture of ``html`` as a document of ``site``."""
    assert isinstance(site.routes, dict)
    site.routes["/shown"] = Page(
        f"<!doctype html><style>body {{ margin: 0 }} img {{ display: block }}</style>{html}".encode()
    )
    page.goto(site.url("/shown"))
    return page.screenshot()


def colour(png: bytes) -> object:
    found = pixels(png).getpixel((4, 4))
    assert isinstance(found, tuple)
    return tuple(found[:3])


def test_images_and_style_sheets_of_other_sites_are_shown(
    page: BrowserPage, site: Server, elsewhere: Server
) -> None:
    for path in ("/image.png", "/image.jpg", "/image.gif", "/square.svg"):
        own = colour(shown(page, site, f"<img src='{path}'>"))
        assert own != WHITE
        assert colour(shown(page, site, f"<img src='{elsewhere.url(path)}'>")) == own
    sheet = f"<link rel=stylesheet href='{elsewhere.url('/green.css')}'>"
    assert colour(shown(page, site, sheet)) == GREEN
    assert colour(shown(page, site, f"<style>@import '{elsewhere.url('/green.css')}';</style>")) == GREEN
    background = f"<style>body {{ background: url({elsewhere.url('/square.svg')}) }}</style>"
    assert colour(shown(page, site, background)) == (255, 0, 0)


@pytest.mark.parametrize(
    "html",
    [
        "<img src='{}/lying.png'>",
        "<img src='{}/kept.png'>",
        "<img src='{}/square-as-text.svg'>",
        "<img src='{}/article'>",
        "<link rel=stylesheet href='{}/green-as-text.css'>",
        "<link rel=stylesheet href='{}/image.png'>",
    ],
)
def test_what_is_no_image_or_style_sheet_is_missing_and_the_page_is_shown(
    page: BrowserPage, site: Server, elsewhere: Server, html: str
) -> None:
    text = "<p style='background: rgb(0, 255, 0); margin: 0; height: 50px'></p>"
    assert colour(shown(page, site, html.format(elsewhere.url("")) + "<p>words")) == WHITE
    assert colour(shown(page, site, text + html.format(elsewhere.url("")))) == GREEN


def test_its_own_server_is_believed(page: BrowserPage, site: Server) -> None:
    assert colour(shown(page, site, "<link rel=stylesheet href=/green-as-text.css>")) == GREEN
    assert colour(shown(page, site, "<img src=/kept.png>")) != WHITE
    assert colour(shown(page, site, "<img src=/square-as-text.svg>")) == (255, 0, 0)


@pytest.mark.parametrize("name", ["font.ttf", "font"])
def test_fonts_of_other_sites_are_used_where_they_agree(
    page: BrowserPage, site: Server, elsewhere: Server, name: str
) -> None:
    """One whose URL does not end like a font's is asked for when the layout engine needs it."""

    def text(url: str) -> bytes:
        face = f"@font-face {{ font-family: mine; src: url('{url}{name}') }}"
        return shown(page, site, f"<style>{face} p {{ font: 20px mine, serif }}</style><p>iiiiWWWW")

    without, own = text("/no-such-"), text("/")
    assert own != without
    assert text(elsewhere.url("/open/")) == own
    assert text(elsewhere.url("/")) == without
    asked = [request.headers for request in elsewhere.requests if request.target.endswith(name)]
    assert {headers["origin"] for headers in asked} == {site.url("")}
    assert {headers["sec-fetch-mode"] for headers in asked} == {"cors"}


def test_a_page_that_was_not_fetched_is_of_no_origin_and_tells_where_it_was_said_to_be(
    page: BrowserPage, site: Server
) -> None:
    face = "@font-face { font-family: mine; src: url(/font.ttf) }"
    html = f"<img src=/image.png><style>{face} p {{ font: 20px mine }}</style><p>words"
    site.requests.clear()
    page.set_content(html, base_url=site.url("/dir/page"))
    image, font = sorted(site.requests, key=lambda request: request.target, reverse=True)
    assert image.headers["referer"] == font.headers["referer"] == site.url("/dir/page")
    assert image.headers["sec-fetch-site"] == font.headers["sec-fetch-site"] == "cross-site"
    assert font.headers["origin"] == "null"
    page.set_content("<img src=/image.png>", base_url="http://[nonsense")
    assert colour(page.screenshot()) == WHITE


def test_each_request_server_of_a_page_knows_whose_it_is_and_asks_nobody_but_the_browser(
    monkeypatch: pytest.MonkeyPatch, site: Server, elsewhere: Server
) -> None:
    async def act(enemy: TakenOver, url: str) -> str:
        document = await enemy.fetch(url)  # each of these gets a request_server of its own
        assert (await enemy.fetch(site.url("/article"), Destination.STYLE)).kind is ResponseType.BASIC
        with pytest.raises(RequestFailed) as caught:
            await enemy.fetch(elsewhere.url("/article"), Destination.STYLE)
        codes.append(caught.value.code)
        return document.url

    async def act_without_origin(enemy: TakenOver, url: str) -> str:
        with pytest.raises(RequestFailed) as caught:
            await enemy.fetch(site.url("/article"), Destination.STYLE)
        codes.append(caught.value.code)
        return url

    async def run() -> None:
        async with taken_over(monkeypatch, act) as page:
            await page.goto(site.url("/redirect"))
        async with taken_over(monkeypatch, act_without_origin) as page:
            await page.set_content("<p>hostile", base_url=site.url("/"))

    codes: list[str] = []
    asyncio.run(run())
    assert codes == [FailureCode.CROSS_ORIGIN_BLOCKED] * 2
