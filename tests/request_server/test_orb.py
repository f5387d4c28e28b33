"""What of another origin's a page may have without its agreement: what it is shown as, and nothing else."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode
from cloister.interfaces.fetch import Destination
from cloister.request_server import orb, sniff
from cloister.request_server.exchange import Headers

IMAGE, STYLE, SCRIPT = Destination.IMAGE, Destination.STYLE, Destination.SCRIPT


def said(content_type: str | None, *, nosniff: bool = False) -> Headers:
    headers = [] if content_type is None else [(b"Content-Type", content_type.encode())]
    return headers + ([(b"X-Content-Type-Options", b"nosniff")] if nosniff else [])


def passes(
    destination: Destination,
    content_type: str | None,
    body: bytes,
    status: int = 200,
    *,
    nosniff: bool = False,
) -> bool:
    return orb.allows(destination, status, said(content_type, nosniff=nosniff), body[: sniff.HEAD])


def picture(name: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 30, 40)).save(file, name)
    return file.getvalue()


PICTURES = {name: picture(name) for name in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "ICO", "AVIF")}
PNG = PICTURES["PNG"]
HTML = b"<!DOCTYPE html><title>secret</title>"
XML = b'<?xml version="1.0"?><secret/>'
JSON = b'{"secret": 1}'
SECRETS = {
    "html": HTML,
    "html after a comment": b"<!-- x -->\n<html>secret",
    "html after two": b"\xef\xbb\xbf <!--a--> <!--b--><script>secret()</script>",
    "a fragment": b"  <p>secret",
    "a table": b"<TABLE border=1>",
    "html in utf-16": "\ufeff<html><p>secret".encode("utf-16-le"),
    "xml": XML,
    "xhtml": b'<?xml version="1.0"?><html xmlns="x">',
    "a feed": b'<rss version="2.0"><channel>',
    "soap": b"<soap:Envelope>",
    "json": JSON,
    "json with spaces": b' \n{ \t"secret"\n: 1}',
    "json with escapes": b'{"a\\"b": 1}',
    "a list": b'["secret"]',
    "a list of lists": b"[[1, 2], [3, 4]]",
    "a list of objects": b'[{"secret": 1}',
    "an empty list": b"[]",
    "an empty object": b" { } ",
    "a prefix": b')]}\',\n{"secret": 1}',
    "another prefix": b'{} && {"secret": 1}',
    "an endless loop": b'for (;;); {"secret": 1}',
    "one more": b"while(1);[1]",
    "pdf": b"%PDF-1.7\n",
    "zip": b"PK\x03\x04" + bytes(20),
    "gzip": b"\x1f\x8b\x08\x00" + bytes(20),
    "nothing": b"",
}
SCRIPTS = [
    b"function f() { return 1 }",
    b"// a comment\nvar x = 1;",
    b"/* <html> */ f()",
    b"<!-- hidden from old browsers\nvar x = 1",
    b'{ "use strict"; f() }',
    b"{ f() }",
    b"[1, 2].forEach(f)",
    b"(function () {})()",
    b"for (;;) { break }",
    b"while (x) f()",
    b"\xef\xbb\xbfvar x",
    b"x",
]
MARKUP_AND_DATA = [
    "text/html",
    "TEXT/HTML; charset=utf-8",
    "application/xhtml+xml",
    "text/xml",
    "application/xml",
    "application/rss+xml",
    "application/json",
    "text/json",
    "application/problem+json",
]
DOCUMENTS = [
    "application/pdf",
    "application/zip",
    "application/gzip",
    "text/csv",
    "text/event-stream",
    "multipart/byteranges; boundary=x",
    "application/vnd.ms-excel",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "application/x-protobuf",
]
OTHERS = [None, "", "text/plain", "application/octet-stream", "image/png", "nonsense"]


# ── images ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", PICTURES)
def test_an_image_is_one_by_its_first_bytes_whatever_its_type_says(name: str) -> None:
    assert all(passes(IMAGE, content_type, PICTURES[name]) for content_type in [*OTHERS, *MARKUP_AND_DATA])


@pytest.mark.parametrize("name", SECRETS)
def test_nothing_else_is_an_image(name: str) -> None:
    for content_type in (*OTHERS, *MARKUP_AND_DATA, *DOCUMENTS, "text/css", "text/javascript"):
        assert not passes(IMAGE, content_type, SECRETS[name])
        assert not passes(IMAGE, content_type, SECRETS[name], nosniff=True)


@pytest.mark.parametrize("content_type", [*MARKUP_AND_DATA, "text/plain"])
def test_who_says_that_it_is_what_it_says_is_believed(content_type: str) -> None:
    assert not passes(IMAGE, content_type, PNG, nosniff=True)
    assert passes(IMAGE, "image/png", PNG, nosniff=True)
    assert passes(IMAGE, "image/jpeg", PNG, nosniff=True)


@pytest.mark.parametrize("content_type", DOCUMENTS)
def test_documents_and_archives_are_never_anything_else(content_type: str) -> None:
    assert not passes(IMAGE, content_type, PNG)
    assert not passes(STYLE, content_type, b"p {}")
    assert not passes(SCRIPT, content_type, b"f()")


def test_svg_is_one_by_its_type_alone() -> None:
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"/>'
    assert passes(IMAGE, "image/svg+xml", svg)
    assert passes(IMAGE, "image/svg+xml; charset=utf-8", XML, nosniff=True)
    for content_type in ("text/xml", "application/xml", "text/html", "text/plain", None, "image/svg"):
        assert not passes(IMAGE, content_type, svg)


def test_of_several_types_the_strictest_counts() -> None:
    assert not passes(IMAGE, "text/html, image/svg+xml", XML)
    assert not passes(IMAGE, "application/json,image/svg+xml", XML)
    assert not passes(STYLE, "text/html, text/css", HTML)
    assert not passes(SCRIPT, "application/json, text/javascript", JSON)
    assert not passes(IMAGE, "application/pdf, image/png", PNG)
    assert not passes(IMAGE, "image/svg+xml, text/plain", XML)
    twice = [(b"content-type", b"text/html"), (b"Content-Type", b"text/css")]
    assert not orb.allows(STYLE, 200, twice, HTML)


# ── style sheets and scripts ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("content_type", [*OTHERS, *MARKUP_AND_DATA, "text/javascript", "text/cssx", "css"])
def test_a_style_sheet_is_one_by_its_type_alone(content_type: str | None) -> None:
    assert not passes(STYLE, content_type, b"p { color: red }")
    assert passes(STYLE, "text/css", b"p { color: red }")
    assert passes(STYLE, "Text/CSS ; charset=x", HTML, nosniff=True)


@pytest.mark.parametrize(
    "content_type",
    ["text/javascript", "application/javascript; charset=utf-8", "TEXT/JScript", "text/ecmascript"],
)
def test_a_script_is_one_by_its_type(content_type: str) -> None:
    assert passes(SCRIPT, content_type, b"f()", nosniff=True)


@pytest.mark.parametrize("body", SCRIPTS)
def test_and_by_no_other(body: bytes) -> None:
    assert passes(SCRIPT, "text/javascript", body)
    for content_type in (*OTHERS, *MARKUP_AND_DATA, "image/png", "video/mp4", "font/woff"):
        assert not passes(SCRIPT, content_type, body)


@pytest.mark.parametrize("name", SECRETS)
def test_data_is_no_script_though_it_says_so(name: str) -> None:
    assert passes(SCRIPT, "text/javascript", SECRETS[name]) is (name in {"pdf", "zip", "gzip", "nothing"})
    assert not any(passes(SCRIPT, each, SECRETS[name]) for each in (*OTHERS, *MARKUP_AND_DATA, *DOCUMENTS))


# ── everything ───────────────────────────────────────────────────────────────────────────────────────────────────

GOOD = [(IMAGE, "image/png", PNG), (STYLE, "text/css", b"p {}"), (SCRIPT, "text/javascript", b"f()")]


@pytest.mark.parametrize("status", [206, 300, 304, 401, 404, 500])
@pytest.mark.parametrize(("destination", "content_type", "body"), GOOD)
def test_what_is_no_plain_success_is_nothing(
    destination: Destination, content_type: str, body: bytes, status: int
) -> None:
    assert passes(destination, content_type, body)
    assert not passes(destination, content_type, body, status)


@pytest.mark.parametrize("destination", [Destination.FONT, Destination.DOCUMENT, Destination.EMPTY])
@pytest.mark.parametrize(("content_type", "body"), [each[1:] for each in GOOD])
def test_for_everything_else_there_is_cors(destination: Destination, content_type: str, body: bytes) -> None:
    assert not passes(destination, content_type, body)


@pytest.mark.parametrize(
    ("destination", "content_type", "is_blocked"),
    [
        (STYLE, "text/css", False),
        (STYLE, "text/css; x", False),
        (STYLE, "text/plain", True),
        (STYLE, None, True),
        (SCRIPT, "text/javascript", False),
        (SCRIPT, "text/plain", True),
        (SCRIPT, None, True),
        (IMAGE, "text/plain", False),
    ],
)
def test_a_page_s_own_server_can_say_that_it_is_what_it_says(
    destination: Destination, content_type: str | None, is_blocked: bool
) -> None:
    assert orb.is_blocked_by_type(destination, said(content_type, nosniff=True)) is is_blocked
    assert not orb.is_blocked_by_type(destination, said(content_type))


def test_nosniff_is_the_first_thing_that_is_said() -> None:
    headers = [*said("text/plain"), (b"X-Content-Type-Options", b"NOSNIFF, x")]
    assert orb.is_blocked_by_type(STYLE, headers)
    headers = [
        *said("text/plain"),
        (b"X-Content-Type-Options", b"x"),
        (b"x-content-type-options", b"nosniff"),
    ]
    assert not orb.is_blocked_by_type(STYLE, headers)


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from([*OTHERS, *MARKUP_AND_DATA, "text/javascript"]))
def test_whatever_begins_like_markup_or_data_is_not_given_away(tail: bytes, content_type: str | None) -> None:
    for beginning in (HTML, XML, b'{"secret":'):
        assert not any(passes(each, content_type, beginning + tail) for each in Destination)


@settings(deadline=None)
@given(st.text(alphabet="<!->[{\"\\: \n)]}'(;ax", max_size=1024))
def test_any_beginning_is_judged_in_short_order(text: str) -> None:
    passes(SCRIPT, "text/javascript", text.encode())


# ── as it comes ──────────────────────────────────────────────────────────────────────────────────────────────────


def guarded(
    body: bytes, size: int, destination: Destination = IMAGE, content_type: str = "image/png"
) -> bytes:
    """What gets through of a body that comes in pieces of ``size``."""

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), size):
            yield body[start : start + size]

    async def run() -> bytes:
        made = orb.guarded(pieces(), destination, 200, said(content_type), "other.example")
        return b"".join([piece async for piece in made])

    return asyncio.run(run())


@pytest.mark.parametrize("size", [1, 7, 1023, 1024, 1025, 9999])
def test_a_body_is_judged_before_any_of_it_is_given_away(size: int) -> None:
    for body in (PNG, PNG + bytes(5000), PNG + b"x" * (1024 - len(PNG))):
        assert guarded(body, size) == body
    for body in (b"", HTML, HTML + PNG, b"x" * 5000):
        with pytest.raises(RequestFailed, match="not for other origins to use as image") as caught:
            guarded(body, size)
        assert caught.value.code == FailureCode.CROSS_ORIGIN_BLOCKED


def test_who_sends_something_for_nothing_gets_nothing() -> None:
    assert guarded(PNG, 100, Destination.EMPTY) == b""
