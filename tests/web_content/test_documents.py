from __future__ import annotations

import json
from pathlib import Path

import pytest

from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode
from cloister.interfaces.web_content import TextFormat
from cloister.web_content import document as documents

from .window import Window, picture

RED = (255, 0, 0, 255)
PNG = picture((255, 0, 0))


def shown(window: Window, body: bytes, content_type: str) -> str:
    window.site["http://site.test/x"] = (200, content_type, body)
    window.load("http://site.test/x")
    return window.text().strip()


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        ("<p>Žluťoučký kůň".encode(), "text/html; charset=utf-8"),
        ("<p>Žluťoučký kůň".encode("windows-1250"), "text/html; charset=windows-1250"),
        ("<meta charset=windows-1250><p>Žluťoučký kůň".encode("windows-1250"), "text/html"),
        ("\ufeff<p>Žluťoučký kůň".encode(), "text/html; charset=windows-1250"),
        ("\ufeff<p>Žluťoučký kůň".encode("utf-16-le"), "text/html"),
        ("<p>Žluťoučký kůň".encode(), "text/html; charset=no-such-charset"),
        ("<p>Žluťoučký kůň".encode(), "text/html"),
        ("Žluťoučký kůň".encode(), "text/plain"),
        ("Žluťoučký kůň".encode("utf-16"), "text/plain"),
        ("Žluťoučký kůň".encode("windows-1250"), 'text/plain; charset="windows-1250"'),
    ],
)
def test_text_is_read_by_its_mark_its_header_its_meta_or_its_looks(
    window: Window, body: bytes, content_type: str
) -> None:
    assert shown(window, body, content_type) == "Žluťoučký kůň"


@pytest.mark.parametrize(
    ("content_type", "charset"),
    [
        ("text/html", None),
        ("text/html;charset=utf-8", "utf-8"),
        ("TEXT/HTML ; CHARSET = utf-8 ; x", "utf-8"),
        ("text/html;charset='utf-8'", "utf-8"),
        ('text/html;charset="utf-8"junk', "utf-8"),
        ('text/html;charset="utf-8', "utf-8"),
        ('text/html;x="\\";charset=shift_jis";charset=utf-8', "utf-8"),
        ("text/html;charset=utf-8;charset=shift_jis", "utf-8"),
        ("text/html;x;charset=utf-8", "utf-8"),
        ("text/html;mycharset=utf-8", None),
        ("text/html;charset*=utf-8''x", None),
        ("text/html;charset=", None),
        ("text/html;charset=no-such-charset", None),
        ("text/html;charset=utf-8\0", None),
        ("text/html;charset=\ud800", None),
    ],
)
def test_a_charset_is_the_first_parameter_of_that_name_and_must_exist(
    content_type: str, charset: str | None
) -> None:
    assert documents.charset(content_type) == charset


def test_a_wrong_charset_spoils_letters_and_nothing_else(window: Window) -> None:
    text = shown(window, "<p>kůň a kráva<p>two".encode(), "text/html; charset=shift_jis")
    assert text.startswith("k")
    assert text.endswith("two")


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"<b>x</b>", "text/plain"),
        (b"<b>x</b>", "text/x-python; charset=utf-8"),
        (b"<b>x</b>", "application/json"),
        (b"<b>x</b>", "application/problem+json"),
        (b"<b>x</b>", "text/xml"),
        (b"<b>x</b>", "application/rss+xml"),
        (b"<b>x</b>", "application/javascript"),
    ],
)
def test_what_is_no_markup_is_shown_as_it_is_written(window: Window, body: bytes, content_type: str) -> None:
    assert shown(window, body, content_type) == "<b>x</b>"


def test_a_text_keeps_its_lines_and_its_spaces(window: Window) -> None:
    assert shown(window, b"\n  a\n\n    b", "text/plain").splitlines()[-1] == "    b"


def test_a_text_comes_back_as_it_was_written_however_long_its_lines(window: Window) -> None:
    text = "[" + "1, " * 100_000 + "1]\n\n  x"
    window.show(text, content_type="application/json")
    assert window.text() == text


def test_json_is_shown_as_text_whatever_it_holds(window: Window) -> None:
    text = json.dumps({"a": "</pre><script>x</script>"})
    assert shown(window, text.encode(), "application/json") == text


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"<!DOCTYPE HTML><p>x", "x"),
        (b" \n<html><p>x", "x"),
        (b"<!-- c --><p>x", "x"),
        (b"<bogus>x", "<bogus>x"),
        (b"plain", "plain"),
        (b"<?xml version='1.0'?><a/>", "<?xml version='1.0'?><a/>"),
    ],
)
def test_without_a_type_the_first_bytes_decide(window: Window, body: bytes, expected: str) -> None:
    assert shown(window, body, "") == expected


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"%PDF-1.7", "application/pdf"),
        (b"%PDF-1.7", ""),
        (b"PK\x03\x04", ""),
        (b"PK\x03\x04", "application/zip"),
        (b"x", "application/octet-stream"),
        (b"x", "audio/mpeg"),
        (b"x", "video/mp4"),
        (b"\x00\x01\x02", ""),
        (b"MZ\x00\x01", "text/plain"),
    ],
)
def test_a_download_is_refused_by_its_type(window: Window, body: bytes, content_type: str) -> None:
    with pytest.raises(RequestFailed, match="file to download") as caught:
        shown(window, body, content_type)
    assert caught.value.code == FailureCode.UNSUPPORTED_TYPE


def test_an_image_is_shown_in_the_middle_of_a_page_of_its_own(window: Window) -> None:
    window.site["http://site.test/pictures/red%20one.png"] = (200, "image/png", PNG)
    loaded = window.load("http://site.test/pictures/red%20one.png")
    assert loaded.title == "red one.png"
    assert window.pixel(100, 10) == RED
    assert window.pixel(10, 10) != RED
    assert window.decoded == [PNG]


def test_an_image_without_a_type_is_known_by_its_first_bytes(window: Window) -> None:
    window.site["http://site.test/x"] = (200, "", PNG)
    window.load("http://site.test/x")
    assert window.pixel(100, 10) == RED


def test_a_broken_image_as_a_page_fails_by_name(window: Window) -> None:
    window.site["http://site.test/x.png"] = (200, "image/png", PNG[:20])
    with pytest.raises(RequestFailed) as caught:
        window.load("http://site.test/x.png")
    assert caught.value.code == FailureCode.IMAGE_BROKEN


def test_an_svg_file_is_shown_as_an_image(window: Window) -> None:
    svg = (
        b"<svg xmlns='http://www.w3.org/2000/svg' width='20' height='20'>"
        b"<rect width='20' height='20' fill='red'/></svg>"
    )
    window.site["http://site.test/x.svg"] = (200, "image/svg+xml", svg)
    window.load("http://site.test/x.svg")
    assert window.pixel(100, 10) == RED
    assert window.decoded == []


def test_an_xhtml_page_is_a_page(window: Window) -> None:
    page = b"<?xml version='1.0'?><html xmlns='http://www.w3.org/1999/xhtml'><body><p>x</p></body></html>"
    assert shown(window, page, "application/xhtml+xml") == "x"


@pytest.mark.parametrize(
    ("name", "body", "expected"),
    [
        ("page.html", b"<p>x", "x"),
        ("code.py", b"<p>x", "<p>x"),
        ("data.json", b"[1]", "[1]"),
        ("README", b"See <p>x", "See <p>x"),
        ("page", b"<!DOCTYPE html><p>x", "x"),
    ],
)
def test_a_file_is_known_by_its_ending_or_its_first_bytes(
    window: Window, tmp_path: Path, name: str, body: bytes, expected: str
) -> None:
    path = tmp_path / "file"
    path.write_bytes(body)
    loaded = window.load_file(str(path), name)
    assert (loaded.url, loaded.status) == ("about:blank", 0)
    assert window.text().strip() == expected


def test_a_compressed_file_is_a_download_whatever_its_ending_says_before(
    window: Window, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(RequestFailed, match="application/gzip"):
        window.load_file(str(path), "page.html.gz")


def test_malformed_markup_is_still_a_page(window: Window) -> None:
    window.show("<table><p>in<td></b>cell<div></table></html>tail <b <i>" + "<div>" * 3000)
    text = window.text()
    assert "cell" in text
    assert "tail" in text


def test_the_title_is_the_pages_and_not_a_pictures(window: Window) -> None:
    loaded = window.show("<svg><title>no</title></svg><title> A\n  title </title>")
    assert loaded.title == "A title"
    assert window.show("<p>x").title == ""


def test_the_document_can_be_had_as_it_came(window: Window) -> None:
    window.show("<!DOCTYPE html><script>1</script><img src='data:x'>")
    html = window.text(TextFormat.HTML)
    assert html == (
        '<!DOCTYPE html><html><head><script>1</script></head><body><img src="data:x"></body></html>'
    )
