from __future__ import annotations

import re

import ada_url
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.web_content import css
from cloister.web_content.css import Use

PIECES = [
    "d", "D", "a", "t", "A", ":", "data:", "url(", "URL(", ")", '"', "'", "\\", "\\64 ", "\\61", "\\74\n", "\\3a ",
    "\\:", "\\0000", "\\d", "\\a ", "\\9", "\\\n", "\\\r\n", "\t", "\n", " ", "/*", "*/", "@import ", "@font-face{",
    "}", "{", ";", "6", "4", "image/png,x", "\\72", "u", "r", "l", "(", "x", "\ufffd", "é",
]  # fmt: skip
SHEETS = st.one_of(st.lists(st.sampled_from(PIECES), max_size=40).map("".join), st.text(max_size=60))


def keep(url: str, _use: Use) -> str:
    return url


def uses_of(sheet: str) -> list[tuple[str, Use]]:
    found: list[tuple[str, Use]] = []

    def note(url: str, use: Use) -> str:
        found.append((url, use))
        return url

    css.rewrite(sheet, note)
    return found


@pytest.mark.parametrize(
    ("sheet", "expected"),
    [
        ("a{background:url(x.png)}", [("x.png", Use.IMAGE)]),
        ("a{background:URL( 'x y.png' )}", [("x y.png", Use.IMAGE)]),
        ("a{background:u\\72l(d\\61 ta:x)}", [("data:x", Use.IMAGE)]),
        ('@import "a.css" print;', [("a.css", Use.STYLE)]),
        ("@import/**/url(a.css);", [("a.css", Use.STYLE)]),
        ("@font-face{src:url(f.woff)}a{b:url(i)}", [("f.woff", Use.FONT), ("i", Use.IMAGE)]),
        ("a{b:url(a\\)b)}", [("a)b", Use.IMAGE)]),
        ("/* url(no) */ a{content:'url(no)'}", []),
        ("a{b:curl(x)}", []),
    ],
)
def test_every_url_of_a_sheet_is_found_with_its_use(sheet: str, expected: list[tuple[str, Use]]) -> None:
    assert uses_of(sheet) == expected


def test_a_replaced_url_stands_quoted_where_the_old_one_stood() -> None:
    sheet = css.rewrite("a{b:url(x) no-repeat}", lambda _url, _use: 'http://h/"\\<\n')
    assert sheet == 'a{b:url("http://h/%22%5C%3C%0A") no-repeat}'


def test_a_refused_url_leads_nowhere() -> None:
    assert css.rewrite("a{b:url(x)}", lambda _url, _use: None) == 'a{b:url("about:invalid")}'


def test_escapes_that_are_no_letters_keep_their_meaning() -> None:
    sheet = ".md\\:flex,.\\31 23,.\\6\\61{content:'\\2014 \\a x'}"
    assert css.decode_escapes(css.rewrite(sheet, keep)) == css.decode_escapes(sheet)


@given(SHEETS)
def test_no_reading_of_a_rewritten_sheet_has_a_data_url(sheet: str) -> None:
    written = css.rewrite(sheet, keep)
    for text in (written, css.decode_escapes(written)):
        assert "data:" not in re.sub(r"[\t\n\r\f]|\\\n", "", text).lower()


@given(SHEETS)
def test_no_string_or_url_of_a_rewritten_sheet_is_a_data_url_to_the_url_parser(sheet: str) -> None:
    written = css.rewrite(sheet, keep)
    for candidate in re.split(r"[\"'()\s;{}]+", css.decode_escapes(written)):
        if ada_url.check_url(candidate):
            assert ada_url.URL(candidate).protocol != "data:"


@given(SHEETS)
def test_normalising_twice_is_normalising_once(sheet: str) -> None:
    assert css.normalise(css.normalise(sheet)) == css.normalise(sheet)


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "piece",
    ["url(", "url( \t", "@import/*", "@import/**/", "@import \t", "'", '"\\', 'url("\\', "/*", "d\\0", "d\t"],
)
def test_a_hostile_sheet_is_read_once_and_not_over_and_over(piece: str) -> None:
    css.rewrite(piece * 100_000, keep)
