from __future__ import annotations

import pymupdf_fonts
import pytest

from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode
from cloister.interfaces.fetch import Destination

from .conftest import OpenWindow
from .window import Window, picture

RED = (255, 0, 0, 255)
PNG = picture((255, 0, 0))


def test_a_page_is_loaded_with_its_status_and_where_it_came_from(window: Window) -> None:
    window.site["http://site.test/x"] = (404, "text/html", b"<title>Lost</title><p>x")
    loaded = window.load("http://site.test/x")
    assert (loaded.url, loaded.status, loaded.title) == ("http://site.test/x", 404, "Lost")
    assert [fetch.destination for fetch in window.asked] == [Destination.DOCUMENT]


@pytest.mark.parametrize("code", [FailureCode.ADDRESS_REFUSED, FailureCode.CERTIFICATE_EXPIRED])
def test_what_the_document_failed_with_is_passed_on(window: Window, code: FailureCode) -> None:
    window.site["http://site.test/x"] = code
    with pytest.raises(RequestFailed, match=f"the test says {code}") as caught:
        window.load("http://site.test/x")
    assert caught.value.code == code


def test_a_page_is_rendered_without_what_is_missing_and_the_missing_is_counted(window: Window) -> None:
    window.site["http://site.test/gone.css"] = FailureCode.CONNECTION_RESET
    window.site["http://site.test/broken.png"] = (200, "image/png", PNG[:30])
    loaded = window.show(
        "<!DOCTYPE html><link rel=stylesheet href=gone.css><style>@import 'lost.css';"
        "body{margin:0;background:url(none.png)} div{width:20px;height:20px;background:red}</style>"
        "<div></div><img src=broken.png alt=BROKEN><img src=missing.png alt=MISSING>"
    )
    assert loaded.missing == 5
    assert window.pixel(5, 5) == RED


def test_a_missing_image_shows_its_alternative_text(window: Window) -> None:
    window.show("<!DOCTYPE html><body style='margin:0'><img src=missing.png alt='A long description'>")
    assert window.colors() - {(255, 255, 255, 255)}


def test_every_image_is_decoded_in_a_process_of_its_own(window: Window) -> None:
    names = [f"{n}.png" for n in range(20)]
    for name in names:
        window.site[f"http://site.test/{name}"] = (200, "image/png", PNG)
    loaded = window.show(
        "<body style='margin:0'>" + "".join(f"<img src={name} style='display:block'>" for name in names)
    )
    assert loaded.missing == 0
    assert len(window.decoded) == 20
    assert window.pixel(2, 2) == RED


def test_an_image_used_twice_is_fetched_and_decoded_once(window: Window) -> None:
    window.site["http://site.test/i.png"] = (200, "image/png", PNG)
    window.show("<img src=i.png><img src='http://site.test/i.png#x'><p style='background:url(/i.png)'>x")
    assert window.colors() >= {RED}
    assert [fetch.url for fetch in window.asked] == ["http://site.test/i.png"]
    assert len(window.decoded) == 1


def test_transparent_images_let_the_page_show_through(window: Window) -> None:
    window.site["http://site.test/clear.png"] = (200, "image/png", picture((0, 0, 255, 0)))
    window.show("<body style='margin:0;background:red'><img src=clear.png style='display:block'>")
    assert window.pixel(5, 5) == RED


def test_a_page_may_show_so_many_images_and_no_more(open_window: OpenWindow) -> None:
    window = open_window(max_images=3)
    for n in range(5):
        window.site[f"http://site.test/{n}"] = (200, "image/png", PNG)
    loaded = window.show("".join(f"<img src={n}>" for n in range(5)))
    assert loaded.missing == 2
    assert len(window.decoded) == 3


def test_a_page_may_show_so_many_pixels_and_no_more(open_window: OpenWindow) -> None:
    window = open_window(max_image_pixels=900)  # two of 20 by 20
    for n in range(3):
        window.site[f"http://site.test/{n}"] = (200, "image/png", PNG)
    assert window.show("".join(f"<img src={n}>" for n in range(3))).missing == 1


def test_a_page_may_ask_for_so_many_resources_and_no_more(window: Window) -> None:
    loaded = window.show("".join(f"<img src={n}>" for n in range(600)))
    assert loaded.missing == 600
    assert len(window.asked) == 500


def test_imports_that_lead_back_to_themselves_end(window: Window) -> None:
    window.site["http://site.test/a.css"] = (200, "text/css", b"@import 'b.css';")
    window.site["http://site.test/b.css"] = (200, "text/css", b"@import 'a.css'; body{background:red}")
    window.show("<link rel=stylesheet href=a.css>")
    assert window.pixel(5, 5) == RED
    assert len(window.asked) == 2


def test_progress_ends_with_everything_done(window: Window) -> None:
    window.show("<img src=1><img src=2>")
    assert (window.progress[-1].done, window.progress[-1].total) == (2, 2)


def test_what_only_layout_knows_to_be_needed_is_fetched_then(window: Window) -> None:
    """More backgrounds than are fetched ahead: the engine asks for the one it paints."""
    rules = "".join(f".c{n}{{background:url({n}.png)}}" for n in range(100))
    window.site["http://site.test/99.png"] = (200, "image/png", PNG)
    window.show(f"<style>{rules}</style><body style='margin:0'><div class=c99 style='height:30px'>")
    assert window.pixel(5, 5) == RED


def test_embedded_documents_scripts_and_other_schemes_are_not_asked_for(window: Window) -> None:
    window.show(
        "<meta http-equiv=refresh content='0; url=/refreshed'>"
        "<iframe src=/frame></iframe><object data=/object></object><embed src=/embed><script src=/js></script>"
        "<video poster=/poster src=/video></video><img src=file:///etc/passwd><img src=ftp://x/y>"
        "<link rel=stylesheet href=file:///etc/passwd><link rel=icon href=/icon>"
        "<style>@import 'file:///etc/passwd';body{background:url(javascript:1)}</style>"
    )
    window.paint()
    assert window.asked == []


def test_a_document_without_a_base_asks_for_nothing_relative(window: Window) -> None:
    loaded = window.show("<img src=x.png><link rel=stylesheet href=/y.css>", base_url="about:blank")
    assert window.asked == []
    assert loaded.url == "about:blank"


DEFAULT = "strict-origin-when-cross-origin"


@pytest.mark.parametrize(
    ("head", "policies"),
    [
        ("", [DEFAULT, DEFAULT, "no-referrer", "unsafe-url"]),
        ("<meta name=referrer content=origin>", ["origin", "origin", "no-referrer", "unsafe-url"]),
        ("<meta name=Referrer content=never>", ["no-referrer", "no-referrer", "no-referrer", "unsafe-url"]),
        ("<meta name=referrer content=nonsense>", [DEFAULT, DEFAULT, "no-referrer", "unsafe-url"]),
    ],
)
def test_each_request_says_which_page_asks_and_how_much_of_that_may_be_told(
    window: Window, head: str, policies: list[str]
) -> None:
    """By the element's own word, or the document's. What a server is told, the request_server makes of it."""
    window.show(
        f"{head}<img src=a><link rel=stylesheet href=b.css><link rel='stylesheet noreferrer' href=c.css>"
        "<img src=http://other.test/d referrerpolicy=unsafe-url>",
        base_url="http://site.test/secret?token#here",
    )
    asked = {fetch.url.rpartition("/")[2]: fetch for fetch in window.asked}
    assert {fetch.referrer for fetch in asked.values()} == {"http://site.test/secret?token"}
    assert [asked[name].referrer_policy for name in ("a", "b.css", "c.css", "d")] == policies


def test_a_style_sheet_asks_in_its_own_name_and_by_its_own_policy(window: Window) -> None:
    """Referrer Policy, "Integration with CSS". The document's policy is no other server's business."""
    css = b"@import url(imported); body { background: url(image) } p { background: url(/shared) }"
    for name, *said in (("silent",), ("bold", "unsafe-url"), ("shy", "nonsense, no-referrer")):
        window.site[f"http://{name}.test/s.css?secret"] = (200, "text/css", css)
        window.headers[f"http://{name}.test/s.css?secret"] = tuple(("referrer-policy", each) for each in said)
    window.show(
        "<meta name=referrer content=origin><link rel=stylesheet href=http://silent.test/s.css?secret>"
        "<link rel=stylesheet href=http://bold.test/s.css?secret><link rel=stylesheet href=http://shy.test/s.css?secret>"
        "<style>div { background: url(http://site.test/inline) }</style><img src=http://bold.test/shared>",
        base_url="http://site.test/page?secret",
    )
    asked = {fetch.url: (fetch.referrer, fetch.referrer_policy) for fetch in window.asked}
    document = ("http://site.test/page?secret", "origin")
    for name, policy in (("silent", DEFAULT), ("bold", "unsafe-url"), ("shy", "no-referrer")):
        sheet = f"http://{name}.test/s.css?secret"
        assert asked[sheet] == document
        assert asked[f"http://{name}.test/imported"] == asked[f"http://{name}.test/image"] == (sheet, policy)
    assert asked["http://site.test/inline"] == document
    assert asked["http://bold.test/shared"] == document  # whoever refers to it first
    assert asked["http://shy.test/shared"][1] == "no-referrer"


@pytest.mark.parametrize(
    ("html", "expected"),
    [
        ("<img src=a srcset='b 2x, c 1x'>", "c"),
        ("<img src=a srcset='b 2x'>", "b"),
        ("<img srcset='small 100w, fits 250w, huge 2000w'>", "fits"),
        ("<img srcset='small 100w, big 2000w' sizes='(min-width: 500px) 100vw, 50px'>", "small"),
        ("<img srcset=','>", None),
        ("<picture><source srcset=w type=image/x-other><source srcset=v><img src=a></picture>", "v"),
        ("<picture><source srcset=w media='(min-width: 600px)'><img src=a></picture>", "a"),
        ("<picture><source srcset=w media='(max-width: 600px)'><img src=a></picture>", "w"),
    ],
)
def test_the_candidate_for_this_window_is_chosen(window: Window, html: str, expected: str | None) -> None:
    window.show(html)
    assert [fetch.url for fetch in window.asked] == ([f"http://site.test/{expected}"] if expected else [])


def test_a_page_can_be_loaded_after_another_in_the_same_process(window: Window) -> None:
    for color in ("red", "blue", "red"):
        window.show(f"<body style='background:{color}'>")
    assert window.pixel(5, 5) == RED
    window.site["http://site.test/x.zip"] = (200, "application/zip", b"PK")
    with pytest.raises(RequestFailed):
        window.load("http://site.test/x.zip")
    with pytest.raises(RequestFailed) as caught:
        window.paint()
    assert caught.value.code == FailureCode.NOT_LOADED


@pytest.mark.parametrize("path", ["font.ttf", "font?v=1"])
def test_text_is_shown_in_the_font_that_the_page_brings(window: Window, path: str) -> None:
    html = (
        "<style>@font-face{font-family:brought;src:url("
        + path
        + ")}p{font-family:brought,sans-serif}</style>"
        "<p>Wide text"
    )
    window.show(html)
    without = window.paint().tobytes()
    window.site[f"http://site.test/{path}"] = (200, "font/ttf", pymupdf_fonts.myfont("spacemo"))
    assert window.show(html).missing == 0
    assert window.paint().tobytes() != without
