"""The page as a PDF document: laid out anew, for paper."""

from __future__ import annotations

import io

import plutoprint

from ..interfaces.web_content import PrintToPdf

__all__ = ["MAX_PDF", "write"]

MAX_PDF = 256 * 1024 * 1024
"""Bytes of one document."""

_EPOCH = "1970-01-01T00:00:00Z"  # the same page gives the same bytes


class _Output(io.BytesIO):
    def write(self, data: object) -> int:
        if self.tell() + len(memoryview(data)) > MAX_PDF:  # type: ignore[arg-type]
            raise MemoryError(f"the PDF is larger than {MAX_PDF} bytes")
        return super().write(data)  # type: ignore[arg-type]


def write(
    html: str, base_url: str, title: str, paper: PrintToPdf, fetcher: plutoprint.ResourceFetcher
) -> tuple[bytes, int]:
    """The PDF and its number of pages. Raises :class:`plutoprint.Error`."""
    margins = plutoprint.PageMargins(
        paper.margin_top, paper.margin_right, paper.margin_bottom, paper.margin_left
    )
    book = plutoprint.Book(
        plutoprint.PageSize(paper.width, paper.height), margins, plutoprint.MEDIA_TYPE_PRINT
    )
    book.custom_resource_fetcher = fetcher
    book.load_html(html, base_url=base_url)
    book.set_metadata(plutoprint.PDF_METADATA_TITLE, title)
    book.set_metadata(plutoprint.PDF_METADATA_CREATION_DATE, _EPOCH)
    output = _Output()
    book.write_to_pdf_stream(output)
    return output.getvalue(), max(1, book.get_page_count())  # nothing at all is printed as an empty page
