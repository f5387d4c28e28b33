"""Names that strangers propose: whatever they write, what comes of it is harmless."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cloister.browser.quarantine import MAX_BYTES, beside, numbered, safe_name

NASTY = st.text(
    st.one_of(
        st.sampled_from('./\\ ~-:*?"<>|\0\n\r\x1b\u202e\u200b\u2066\ufeff\u3164\u00a0\u2028\ud800\ufe0f'),
        st.sampled_from("aeCONnulx1.\u0301é漢🙂"),
        st.characters(),
    ),
    max_size=400,
)


@pytest.mark.parametrize(
    ("suggested", "name"),
    [
        ("report.pdf", "report.pdf"),
        ("Übersicht – 2. Quartal.xlsx", "Übersicht – 2. Quartal.xlsx"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Windows\\System32\\drivers\\etc\\hosts", "hosts"),
        ("/etc/cron.d/job", "job"),
        ("..", "download"),
        ("", "download"),
        (".", "download"),
        ("a/", "a"),
        (".bashrc", "bashrc"),
        ("...hidden", "hidden"),
        ("photo.jpg. . .", "photo.jpg"),
        ("evil\u202egpj.exe", "evilgpj.exe"),
        ("in\u200bvis\u2060ible\ufeff.txt", "invisible.txt"),
        ("fill\u3164er.txt", "filler.txt"),
        ("a\u00a0b\u2003c.txt", "a b c.txt"),
        ("line\nbreak\r.txt", "linebreak.txt"),
        ("\x1b[2Jclear.txt", "[2Jclear.txt"),
        ("nul\0l.txt", "null.txt"),
        ("-rf", "_-rf"),
        ("~root", "_~root"),
        ('a<b>:"c|d?*', "a_b___c_d__"),
        ("CON", "_CON"),
        ("con.txt", "_con.txt"),
        ("Lpt1 .tar.gz", "_Lpt1.tar.gz"),
        ("COM\u00b9", "_COM\u00b9"),
        ("console.log", "console.log"),
        ("mail.desktop", "mail.desktop.download"),
        ("Mail.LNK", "Mail.LNK.download"),
        ("cafe\u0301.txt", "café.txt"),
    ],
)
def test_what_becomes_of_a_name(suggested: str, name: str) -> None:
    assert safe_name(suggested) == name


def test_a_name_that_is_none_gets_the_extension_of_its_type() -> None:
    assert safe_name("\u200b", ".html") == "download.html"
    assert safe_name("a", ".html") == "a"


@given(NASTY)
@example("x" * 300 + ".tar.gz")
@example("é" * 200 + ".pdf")
@example("." + " ." * 200 + "x")
@example("a." + "b" * 300)
def test_no_name_is_hidden_too_long_or_a_path_or_has_anything_unseen(suggested: str) -> None:
    name = safe_name(suggested)
    assert 0 < len(name.encode()) <= MAX_BYTES
    assert not set(name) & set('/\\\0<>:"|?*')
    assert name not in (".", "..")
    assert name[0] not in ".-~ "
    assert name[-1] not in ". "
    assert {unicodedata.category(c) for c in name}.isdisjoint({"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"})
    assert safe_name(name) == name


def test_a_long_name_keeps_its_extension() -> None:
    assert safe_name("é" * 300 + ".tar.gz").endswith("é.tar.gz")
    assert len(safe_name("x" * 300 + ".pdf")) == MAX_BYTES
    assert safe_name("x" * 300 + ".pdf").endswith("x.pdf")


@given(NASTY, st.integers(0, 999))
def test_another_file_of_a_name_has_a_name_as_good(suggested: str, number: int) -> None:
    name = safe_name(suggested)
    for other in (numbered(name, number), beside(name, ".0123abcd.part")):
        assert 0 < len(other.encode()) <= MAX_BYTES
        assert "/" not in other
        assert other[0] == name[0]
    assert (numbered(name, number) == name) == (number == 0)


@pytest.mark.parametrize(
    ("name", "second"),
    [
        ("report.pdf", "report (1).pdf"),
        ("sources.tar.gz", "sources (1).tar.gz"),
        ("README", "README (1)"),
        ("a.b.c", "a.b (1).c"),
        ("no extension, just a sentence. With a dot", "no extension, just a sentence. With a dot (1)"),
    ],
)
def test_a_number_goes_before_the_extension(name: str, second: str) -> None:
    assert numbered(name, 1) == second
