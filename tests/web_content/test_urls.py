from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.web_content import urls


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("data:,a%20b", ("text/plain;charset=US-ASCII", b"a b")),
        ("data:;charset=x,a", ("text/plain;charset=x", b"a")),
        ("data:image/png;base64,aGk=", ("image/png", b"hi")),
        ("data:image/png ; BASE64,aGk", ("image/png", b"hi")),
        (" \x01DA\nta:text/css;base64,a G%6b", ("text/css", b"hi")),
        ("data:text/plain,a#b", ("text/plain", b"a")),
        ("data:no-comma", None),
        ("data:;base64,a", None),
        ("data:;base64,a*c=", None),
    ],
)
def test_a_data_url_is_read_as_the_fetch_standard_says(url: str, expected: tuple[str, bytes] | None) -> None:
    assert urls.parse_data(url) == expected


@given(st.binary(max_size=200))
def test_what_is_written_as_base64_is_read_again(data: bytes) -> None:
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    assert urls.is_data(url)
    assert urls.parse_data(url) == ("image/png", data)


@given(st.text(alphabet="dDaAtT:\t\n\r\f \x00\x1fx", max_size=12))
def test_a_data_url_is_one_wherever_the_url_parser_sees_one(text: str) -> None:
    resolved = urls.resolve(text + ",x", "http://h/")
    assert urls.is_data(text + ",x") == (resolved is not None and resolved.startswith("data:"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no-referrer", "no-referrer"),
        (" Origin ", "origin"),
        ("origin, same-origin", "same-origin"),
        ("origin, of-the-future", "origin"),
        ("always", "unsafe-url"),
        ("never", "no-referrer"),
        ("", None),
        ("of-the-future", None),
    ],
)
def test_the_last_policy_that_is_known_counts(text: str, expected: str | None) -> None:
    assert urls.referrer_policy(text) == expected
