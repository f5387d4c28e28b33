from __future__ import annotations

import re

import pytest
import turbohtml
from hypothesis import given
from hypothesis import strategies as st

from cloister.web_content import markup
from cloister.web_content.css import Use
from cloister.web_content.references import Found, References, Referrer


def prepared(html: str) -> str:
    """What the layout engine gets to read."""

    def adopt(_url: str, _use: Use) -> str:
        return "cloister://data/1"

    document = turbohtml.parse(html)
    markup.prepare(document, References("http://site.test/", adopt, Found(), Referrer()), 1000)
    markup.purge(document)
    return markup.finish(document, lambda _url: False)


@pytest.mark.parametrize(
    "html",
    [
        "<script>x</script>",
        "<!-- x -->",
        "<template>x</template>",
        "<base href=x>",
        "<iframe>x</iframe>",
        "<noembed>x</noembed>",
        "<noframes>x</noframes>",
        "<embed src=x>",
        "<video src=x>x</video>",
        "<link rel=icon href=x>",
        "<link rel='alternate stylesheet' href=x>",
        "<meta http-equiv=refresh content='0;x'>",
    ],
)
def test_what_the_engine_need_not_see_is_gone(html: str) -> None:
    assert prepared(html) == "<html><head></head><body></body></html>"


@pytest.mark.parametrize("attribute", ["fill", "color", "face", "bgcolor", "src2", "style"])
@pytest.mark.parametrize(
    "url", ["data:image/png,x", "DA\tTA:x", "d\\61 ta:x", "data\\3a x", "\\64\n\\61\n\\74\n\\61\n:x"]
)
def test_no_attribute_that_could_become_a_style_keeps_a_data_url(attribute: str, url: str) -> None:
    html = prepared(f'<p {attribute}="x;background:url({url})">')
    assert turbohtml.parse(html).select_one("p") is not None
    assert "data:" not in html.lower().replace("\t", "").replace("\n", "")


def test_what_is_read_by_people_is_left_as_it_is() -> None:
    html = '<p title="data: see below">About data: URLs <a href="data:,x">here</a></p>'
    assert prepared(html) == f"<html><head></head><body>{html}</body></html>"


def test_raw_text_becomes_text() -> None:
    assert prepared("<xmp><b></xmp>") == "<html><head></head><body><pre>&lt;b&gt;</pre></body></html>"


@given(st.text(alphabet="<>/!-=\"'ab &;x\n", max_size=60))
def test_what_the_engine_reads_is_parsed_the_same_by_another_parser(text: str) -> None:
    html = prepared(text)
    assert turbohtml.parse(html).serialize() == html
    for element in turbohtml.parse(html).iter_elements():
        assert all(re.fullmatch(r"[a-zA-Z0-9_:.-]+", name) for name in (element.tag, *element.attrs))


def test_a_style_sheet_cannot_end_before_its_element_does() -> None:
    html = prepared("<svg><style>a{content:'&lt;/style&gt;&lt;img src=x&gt;'}</style></svg>")
    assert "<img" not in html
    assert "</style" not in html.replace("</style></svg>", "")


@pytest.mark.timeout(10)
def test_a_long_srcset_is_read_once_and_not_over_and_over() -> None:
    for srcset in ("a " * 40_000, " " * 80_000 + "b", "a," * 40_000, "a" * 80_000 + " b"):
        prepared(f"<img srcset='{srcset}'>")
