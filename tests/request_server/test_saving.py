"""What headers say to whoever saves an answer: names, parts and validators, and how they are written wrong."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cloister.interfaces.transfers import ContentRange
from cloister.request_server import saving
from cloister.request_server.exchange import Headers
from cloister.request_server.urls import parse

URL = parse("https://site.example/folder/from%20the%20URL.txt?x=y#z")


def disposition(value: bytes) -> str:
    return saving.name(URL, [(b"Content-Disposition", value)])


FROM_URL = "from the URL.txt"


@pytest.mark.parametrize(
    ("value", "name"),
    [
        # RFC 6266, 5
        (b"Attachment; filename=example.html", "example.html"),
        (b'INLINE; FILENAME= "an example.html"', "an example.html"),
        (b"attachment; filename*= UTF-8''%e2%82%ac%20rates", "\u20ac rates"),
        (b"attachment; filename=\"EURO rates\"; filename*=utf-8''%e2%82%ac%20rates", "\u20ac rates"),
        (b"attachment; filename*=UTF-8''a; filename=b", "a"),
        # RFC 8187, 3.2
        (b"attachment; filename*=iso-8859-1'en'%A3%20rates", "\u00a3 rates"),
        (b"attachment; filename*=UTF-8'de-CH'x%21", "x!"),
        # those that cannot be read go back to the plain one
        (b"attachment; filename*=utf-16''%00a; filename=plain", "plain"),
        (b"attachment; filename*=UTF-8''%ff%fe; filename=plain", "plain"),
        (b"attachment; filename*=UTF-8''%zz; filename=plain", "plain"),
        (b"attachment; filename*=x; filename=plain", "plain"),
        # quoted strings
        (rb'attachment; filename="a\"b\\c.txt"', 'a"b\\c.txt'),
        (b'attachment; filename="a;b=c.txt"', "a;b=c.txt"),
        (b'attachment; foo="filename=evil"; filename=good', "good"),
        (b'attachment; filename="never ends', FROM_URL),
        # letters that are none of HTTP's
        ('attachment; filename="naïve.txt"'.encode(), "naïve.txt"),
        ('attachment; filename="naïve.txt"'.encode("latin-1"), "naïve.txt"),
        # twice: the first one
        (b"attachment; filename=first; filename=second", "first"),
        # paths are left to whoever makes a file
        (b'attachment; filename="../../etc/passwd"', "../../etc/passwd"),
        # nothing in it
        (b"attachment", FROM_URL),
        (b"attachment; filename=", FROM_URL),
        (b'attachment; filename=""', FROM_URL),
        (b"attachment; filename", FROM_URL),
        (b"", FROM_URL),
        (b";;;", FROM_URL),
        (b"filename=no-type.txt", FROM_URL),
        (b"attachment; filename=x" + b"y" * 5000, FROM_URL),
        # as servers write it
        (b"attachment; filename=with spaces in it.pdf", "with spaces in it.pdf"),
        (b"attachment;filename=tight.pdf;size=3", "tight.pdf"),
        (b"attachment; filename = loose.pdf ", "loose.pdf"),
        (b"attachment; filename='single.pdf'", "'single.pdf'"),
    ],
)
def test_a_name_is_what_the_server_says_or_the_end_of_the_url(value: bytes, name: str) -> None:
    assert disposition(value) == name


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://a.example/", ""),
        ("https://a.example/folder/", ""),
        ("https://a.example/%2e%2e%2fx", "../x"),
        ("https://a.example/%ff", "\ufffd"),
        ("https://a.example/a%00b", "a\0b"),
        ("https://a.example/" + "x" * 3000, "x" * 1024),
    ],
)
def test_the_end_of_a_url_is_undone_as_it_is(url: str, name: str) -> None:
    assert saving.name(parse(url), []) == name


@given(st.binary(max_size=200))
@example(b'a;b="' + b"\\" * 100)
@example(b"a" + b"; x=" * 50)
def test_whatever_a_server_writes_is_a_name(value: bytes) -> None:
    name = disposition(b"attachment; filename" + value)
    assert len(name) <= 1024
    name.encode()


RANGES: list[tuple[bytes, ContentRange | None]] = [
    (b"bytes 0-0/1", ContentRange(0, 0, 1)),
    (b"bytes 5-9/*", ContentRange(5, 9, None)),
    (b"bytes */10", ContentRange(None, None, 10)),
    (b"BYTES 1-2/3", ContentRange(1, 2, 3)),
    (b"bytes 9-5/10", ContentRange(9, 5, 10)),  # the browser judges it
    (b"bytes 0-99999999999999/1", None),
    (b"bytes 0-9999999999999/9999999999999", None),
    (b"bytes -1-5/10", None),
    (b"bytes 1-/10", None),
    (b"bytes 1-2", None),
    (b"bytes=1-2/3", None),
    ("bytes １-２/３".encode(), None),
    (b"lines 1-2/3", None),
    (b"bytes 1-2/3, bytes 4-5/6", None),
    (b"", None),
]


@pytest.mark.parametrize(("value", "found"), RANGES)
def test_a_range_is_read_strictly(value: bytes, found: ContentRange | None) -> None:
    assert saving.content_range([(b"Content-Range", value)]) == found


def test_two_ranges_are_none() -> None:
    header = (b"Content-Range", b"bytes 0-0/1")
    assert saving.content_range([header, header]) is None
    assert saving.content_range([]) is None


CHANGED = b"Wed, 01 Jan 2025 00:00:00 GMT"
NOW = b"Thu, 02 Jan 2025 00:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([(b"ETag", b'"a"')], '"a"'),
        ([(b"ETag", b'""')], '""'),
        ([(b"ETag", b'W/"a"')], ""),
        ([(b"ETag", b"a")], ""),
        ([(b"ETag", b'"a" ')], ""),
        ([(b"ETag", b'"a"b"')], ""),
        ([(b"ETag", b'"\xe9"')], ""),
        ([(b"ETag", b'"' + b"x" * 600 + b'"')], ""),
        ([(b"ETag", b'"a"'), (b"ETag", b'"b"')], ""),
        ([(b"ETag", b'"a"'), (b"Accept-Ranges", b"none")], ""),
        ([(b"ETag", b'"a"'), (b"Content-Encoding", b"gzip")], ""),
        ([(b"ETag", b'"a"'), (b"Content-Encoding", b"gzip, gzip, gzip, gzip")], ""),
        ([(b"ETag", b'"a"'), (b"Content-Encoding", b"identity")], '"a"'),
        ([(b"ETag", b'W/"a"'), (b"Last-Modified", CHANGED), (b"Date", NOW)], ""),
        ([(b"Last-Modified", CHANGED), (b"Date", NOW)], CHANGED.decode()),
        ([(b"Last-Modified", NOW), (b"Date", NOW)], ""),
        ([(b"Last-Modified", CHANGED)], ""),
        ([(b"Last-Modified", b"yesterday"), (b"Date", NOW)], ""),
        ([], ""),
    ],
)
def test_only_what_is_strong_is_a_validator(headers: Headers, found: str) -> None:
    assert saving.validator(headers) == found


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        ([(b"Content-Length", b"5")], 5),
        ([(b"Content-Length", b"5, 5"), (b"content-length", b"5")], 5),
        ([(b"Content-Length", b"5, 6")], None),
        ([(b"Content-Length", b"-5")], None),
        ([(b"Content-Length", "５".encode())], None),
        ([(b"Content-Length", b"99999999999999")], None),
        ([(b"Content-Length", b"5"), (b"Content-Encoding", b"br")], None),
        ([], None),
    ],
)
def test_a_length_is_that_of_the_body_as_it_is_saved(headers: Headers, found: int | None) -> None:
    assert saving.length(headers) == found
