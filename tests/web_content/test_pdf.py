from __future__ import annotations

import pypdfium2
import pytest

from cloister.interfaces.web_content import PrintToPdf

from .window import Window, picture

PAGE = """<!DOCTYPE html><title>A title, naïve</title><style>@media print{.screen{display:none}}
.next{break-before:page}</style><body style="margin:0"><p>First <span class=screen>on screen only</span></p>
<img src=i.png style="position:absolute;left:96px;top:96px"><p class=next>Second</p>"""


def opened(window: Window, message: PrintToPdf | None = None) -> tuple[pypdfium2.PdfDocument, bytes]:
    window.site["http://site.test/i.png"] = (200, "image/png", picture((255, 0, 0), (96, 96)))
    window.show(PAGE)
    data, reply = window.pdf(message)
    document = pypdfium2.PdfDocument(data)
    assert len(document) == reply.pages
    return document, data


def test_a_pdf_has_the_pages_text_laid_out_for_print(window: Window) -> None:
    document, _ = opened(window)
    texts = [page.get_textpage().get_text_bounded().strip() for page in document]
    assert texts == ["First", "Second"]


def test_a_pdf_is_a4_and_carries_the_title(window: Window) -> None:
    document, _ = opened(window)
    assert document[0].get_size() == pytest.approx((595.28, 841.89), abs=0.5)
    assert document.get_metadata_dict()["Title"] == "A title, naïve"


def test_a_pdf_has_the_paper_and_the_margins_that_were_asked_for(window: Window) -> None:
    document, _ = opened(window, PrintToPdf(width=360, height=288, margin_left=72, margin_top=36))
    page = document[0]
    assert page.get_size() == pytest.approx((360, 288))
    left, _, _, top = page.get_textpage().get_charbox(0)
    assert 72 <= left <= 75
    assert top < 288 - 36


def test_a_pdf_shows_the_images_where_they_stand(window: Window) -> None:
    document, _ = opened(window)
    image = document[0].render(scale=1).to_pil().convert("RGB")
    assert image.getpixel((100, 100)) == (255, 0, 0)  # 96 CSS pixels are 72 points
    assert image.getpixel((60, 60)) == (255, 255, 255)


def test_the_same_page_gives_the_same_bytes(window: Window) -> None:
    _, first = opened(window)
    _, second = opened(window)
    assert first == second


def test_an_empty_page_is_printed_as_one_empty_page(window: Window) -> None:
    window.show("")
    data, reply = window.pdf()
    assert reply.pages == len(pypdfium2.PdfDocument(data)) == 1


def test_printing_leaves_what_is_on_the_screen(window: Window) -> None:
    window.show("<body style='margin:0'><p>text")
    before = window.paint().tobytes()
    window.pdf()
    assert window.paint().tobytes() == before
