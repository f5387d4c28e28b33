"""Bodies of a program's own: forms and files as browsers encode them."""

from __future__ import annotations

import email
import email.policy
import os
import re
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister import InvalidArgument
from cloister.browser.multipart import body
from cloister.browser.transfers import OpenFile


def encoded(**given: Any) -> tuple[bytes, str]:
    """All of it in one, and its type."""
    made, kind = body(given.get("data"), given.get("form"), given.get("multipart"))
    try:
        pieces = [
            os.pread(part.fd, part.size, 0) if isinstance(part, OpenFile) else part for part in made._parts
        ]
    finally:
        made.close()
    return b"".join(pieces), kind or ""


def parts(fields: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    """Heads and contents."""
    data, kind = encoded(multipart=fields)
    boundary = b"--" + kind.partition("boundary=")[2].encode()
    first, *middle, last = data.split(boundary)
    assert (first, last) == (b"", b"--\r\n")
    found = [part.partition(b"\r\n\r\n") for part in middle]
    return [(head.removeprefix(b"\r\n"), content.removesuffix(b"\r\n")) for head, _, content in found]


def test_fields_and_files_are_parts(tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"\xff\xd8")
    payload = {"name": "a.txt", "mimeType": "text/plain", "buffer": b"text"}
    fields = {"name": "vé", "n": 1, "yes": True, "photo": photo, "more": [payload, "x"], "raw": b"\0"}
    assert parts(fields) == [
        (b'Content-Disposition: form-data; name="name"', "vé".encode()),
        (b'Content-Disposition: form-data; name="n"', b"1"),
        (b'Content-Disposition: form-data; name="yes"', b"true"),
        (
            b'Content-Disposition: form-data; name="photo"; filename="photo.jpg"\r\nContent-Type: image/jpeg',
            b"\xff\xd8",
        ),
        (
            b'Content-Disposition: form-data; name="more"; filename="a.txt"\r\nContent-Type: text/plain',
            b"text",
        ),
        (b'Content-Disposition: form-data; name="more"', b"x"),
        (
            b'Content-Disposition: form-data; name="raw"; filename="blob"\r\n'
            b"Content-Type: application/octet-stream",
            b"\0",
        ),
    ]


@pytest.mark.parametrize(
    ("filename", "written"),
    [
        ('a"b.txt', b"a%22b.txt"),
        ("a\r\nContent-Type: text/html\r\n\r\n.txt", b"a%0D%0AContent-Type: text/html%0D%0A%0D%0A.txt"),
        ("a\\b%22.txt", b"a\\b%22.txt"),
        ("naïve 🙂.txt", "naïve 🙂.txt".encode()),
    ],
)
def test_names_of_files_are_escaped_as_the_html_standard_says(filename: str, written: bytes) -> None:
    payload = {"name": filename, "mimeType": "text/plain", "buffer": b""}
    ((head, _),) = parts({"f": payload})
    assert (
        head
        == b'Content-Disposition: form-data; name="f"; filename="'
        + written
        + b'"\r\nContent-Type: text/plain'
    )


def test_line_breaks_in_names_and_values_are_those_of_the_network() -> None:
    assert parts({"a\nb": "one\rtwo\nthree\r\nfour"}) == [
        (b'Content-Disposition: form-data; name="a%0D%0Ab"', b"one\r\ntwo\r\nthree\r\nfour")
    ]


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@given(st.dictionaries(TEXT, TEXT, max_size=4))
def test_another_reader_finds_the_same_fields(fields: dict[str, str]) -> None:
    data, kind = encoded(multipart=fields)
    message = email.message_from_bytes(
        f"Content-Type: {kind}\r\n\r\n".encode() + data, _class=EmailMessage, policy=email.policy.HTTP
    )
    found = list(message.iter_parts()) if fields else []
    assert len(found) == len(fields)
    for part, value in zip(found, fields.values(), strict=True):
        wanted = re.sub("\r\n|\r|\n", "\r\n", value)
        assert part.get_payload(decode=True) == wanted.encode()


def test_the_boundary_cannot_be_guessed() -> None:
    assert encoded(multipart={})[1] != encoded(multipart={})[1]


def test_a_form_is_encoded_as_forms_are_and_data_as_it_is_or_as_json(tmp_path: Path) -> None:
    assert encoded(form={"a b": "c&d", "e": True, "f": 1}) == (
        b"a+b=c%26d&e=true&f=1",
        "application/x-www-form-urlencoded",
    )
    assert encoded(data="né") == ("né".encode(), "application/octet-stream")
    assert encoded(data={"a": [1, None]}) == (b'{"a": [1, null]}', "application/json")
    file = tmp_path / "a.json"
    file.write_bytes(b"{}")
    assert encoded(data=file) == (b"{}", "application/json")
    assert encoded() == (b"", "")


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"data": "x", "form": {"a": "b"}}, "one of them"),
        ({"data": {"a": object()}}, "JSON serializable"),
        ({"form": {"a": ["b"]}}, "list is nothing that a form can hold"),
        ({"multipart": {"a": None}}, "NoneType"),
        ({"multipart": {"a": {"name": "x"}}}, "mimeType"),
        ({"multipart": {"a": {"name": "x", "mimeType": "a\r\nb", "buffer": b""}}}, "not a type"),
        ({"multipart": {"a": {"name": "x", "mimeType": "a/b", "buffer": "text"}}}, "not bytes"),
        ({"multipart": {"a": Path("/nowhere/at/all")}}, "No such file"),
        ({"data": Path("/dev/zero")}, "not a regular file"),
        ({"data": Path("/")}, "not a regular file"),
        ({"multipart": {str(n): Path(__file__) for n in range(65)}}, "64 files"),
    ],
)
def test_what_cannot_be_sent_is_refused_and_no_file_stays_open(given_: dict[str, Any], words: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(InvalidArgument, match=words):
        encoded(**given_)
    assert len(os.listdir("/proc/self/fd")) == before
