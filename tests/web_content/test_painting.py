from __future__ import annotations

import os

import pytest

from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode
from cloister.interfaces.web_content import Paint
from cloister.ipc import memory

from .conftest import OpenWindow
from .window import Window, picture

RED = (255, 0, 0, 255)
BLUE = (0, 0, 255, 255)
WHITE = (255, 255, 255, 255)
BARE = "<!DOCTYPE html><body style='margin:0'>"


def box(color: str, left: int, top: int, width: int = 20, height: int = 10) -> str:
    return (
        f"<div style='position:absolute;background:{color};"
        f"left:{left}px;top:{top}px;width:{width}px;height:{height}px'></div>"
    )


def test_a_red_box_is_red_where_it_stands_and_the_rest_is_white(window: Window) -> None:
    window.show(BARE + box("red", 50, 20))
    assert window.pixel(50, 20) == RED
    assert window.pixel(69, 29) == RED
    assert window.pixel(49, 20) == window.pixel(70, 29) == window.pixel(50, 30) == WHITE


def test_half_transparent_colour_is_painted_over_white(window: Window) -> None:
    window.show(BARE + box("rgba(255,0,0,0.5)", 0, 0))
    red, green, blue, alpha = window.pixel(5, 5)
    assert (red, alpha) == (255, 255)
    assert green == blue
    assert 125 <= green <= 130


def test_any_band_of_a_page_taller_than_one_surface_can_be_painted(window: Window) -> None:
    """Cairo's surfaces end at 32,767 pixels."""
    loaded = window.show(BARE + box("blue", 0, 99_990) + box("red", 0, 40_000))
    assert loaded.document_height == 100_000
    assert window.pixel(5, 40_005) == RED
    assert window.pixel(5, 99_995) == BLUE
    assert window.pixel(5, 99_985) == WHITE


def test_the_document_is_as_large_as_its_content_and_at_least_as_the_window(open_window: OpenWindow) -> None:
    window = open_window(300, 150)
    loaded = window.show(BARE + "<div style='height:40px'>")
    assert (loaded.document_width, loaded.document_height) == (300, 150)
    loaded = window.show(BARE + "<div style='width:700px;height:400px'>")
    assert (loaded.document_width, loaded.document_height) == (700, 400)


def test_the_background_of_a_short_page_covers_the_whole_window(window: Window) -> None:
    window.show("<body style='background:red'>x")
    assert window.pixel(199, 99) == RED


@pytest.mark.parametrize("family", ["sans-serif", "serif", "monospace", "no such family at all"])
def test_text_is_shown_in_every_generic_family(window: Window, family: str) -> None:
    window.show(BARE + f"<p style='font-family:{family}'>Text <b>bold</b> <i>italic</i>")
    assert len(window.colors()) > 2


def test_a_style_sheet_for_screens_applies_and_one_for_print_does_not(window: Window) -> None:
    window.site["http://site.test/screen.css"] = (200, "text/css", b"body{background:red}")
    window.site["http://site.test/print.css"] = (200, "text/css", b"body{background:blue}")
    window.show(
        "<link rel='stylesheet' media='screen' href='screen.css'>"
        "<link rel='stylesheet' media='print' href='print.css'>"
    )
    assert window.pixel(5, 5) == RED


def test_a_style_sheet_is_found_through_imports_each_relative_to_its_own_sheet(window: Window) -> None:
    window.site["http://site.test/css/a.css"] = (200, "text/css", b"@import 'deep/b.css';")
    window.site["http://site.test/css/deep/b.css"] = (200, "text/css", b"body{background:url(i.png)}")
    window.site["http://site.test/css/deep/i.png"] = (200, "image/png", picture((255, 0, 0)))
    loaded = window.show("<link rel='icon' href='no'><link rel='preload stylesheet' href='css/a.css'>")
    assert loaded.missing == 0
    assert window.pixel(5, 5) == RED


def test_a_base_element_is_what_relative_urls_hang_on(window: Window) -> None:
    window.site["http://other.test/deep/i.png"] = (200, "image/png", picture((255, 0, 0)))
    window.show(BARE + "<base href='http://other.test/deep/'><img src=i.png style='display:block'>")
    assert window.pixel(5, 5) == RED


def test_without_scripts_what_stands_in_noscript_is_shown(window: Window) -> None:
    window.show(BARE + "<script>document.write('x')</script><noscript>" + box("red", 0, 0) + "</noscript>")
    assert window.pixel(5, 5) == RED


def test_svg_in_a_page_is_painted_with_its_own_styles(window: Window) -> None:
    svg = "<svg width=50 height=50><style>g > rect{fill:red}</style><g><rect width=50 height=50 /></g></svg>"
    window.show(BARE + svg)
    assert window.pixel(25, 25) == RED


def test_a_data_url_that_holds_svg_or_a_style_sheet_works(window: Window) -> None:
    svg = (
        "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'>"
        "<rect width='9' height='9' fill='red'/></svg>"
    )
    window.show(BARE + f'<img style="display:block" src="{svg}">')
    assert window.pixel(5, 5) == RED
    window.show("<style>@import url(data:text/css,body%7Bbackground:red%7D);</style>")
    assert window.pixel(5, 5) == RED


def test_painting_before_anything_is_loaded_is_refused(window: Window) -> None:
    with pytest.raises(RequestFailed) as caught:
        window.paint()
    assert caught.value.code == FailureCode.NOT_LOADED


def test_a_bitmap_of_another_size_than_the_rectangle_ends_the_page_and_not_more(
    open_window: OpenWindow,
) -> None:
    """The browser never sends one: whoever does is broken, and gets no answer."""
    window = open_window()
    window.show(BARE)
    fd = memory.create_bitmap(40)
    with pytest.raises(Exception, match="gone|memfd"):
        window.ask(Paint(0, 0, 10, 10), [os.dup(fd)])
    os.close(fd)
    other = open_window()
    other.show(BARE + box("red", 0, 0))
    assert other.pixel(5, 5) == RED
