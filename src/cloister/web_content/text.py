"""What a page says: its visible text, the Markdown of its main content, its links, its markup."""

from __future__ import annotations

import msgspec
import turbohtml
from turbohtml import Markdown

from ..interfaces.web_content import Link, TextFormat
from .document import Kind, Source
from .urls import resolve

__all__ = ["MAX_LINKS", "MAX_TEXT", "links", "text"]

MAX_LINKS = 10_000
MAX_TEXT = 16 * 1024 * 1024
"""Bytes of a text or of the links; what is longer is cut."""

_LINK_TEXT = 1000  # characters

_INVISIBLE = (
    "script, style, template, noembed, noframes, datalist, [hidden], dialog:not([open]), "
    '[style*="display:none" i], [style*="display: none" i], '
    '[style*="visibility:hidden" i], [style*="visibility: hidden" i]'
)
_LITTLE = 0.2
"""Of the page's text: main content that holds less was not the main content."""


def text(source: Source, form: TextFormat, base_url: str) -> bytes:
    """The document in ``form``, as UTF-8."""
    if form is TextFormat.TEXT and source.kind is Kind.TEXT:
        return _cut(source.text())
    document = source.parse()
    if form is TextFormat.HTML:
        return _cut(document.serialize())
    document.remove(_INVISIBLE)
    document.strip_tags("noscript")
    if form is TextFormat.MARKDOWN:
        return _cut(_markdown(document, base_url))
    body = document.find("body") or document
    return _cut(_tidy(body.to_text()))


def links(document: turbohtml.Document, base_url: str) -> bytes:
    """The msgpack of the links, each URL once, in the order of the page."""
    found: dict[str, Link] = {}
    size = 0
    for element in document.select("a[href], area[href]"):
        url = resolve(element.attr("href") or "", base_url)
        if url is None or url in found:
            continue
        label = " ".join(element.text.split()) or element.attr("alt") or _image_text(element)
        link = Link(url, label[:_LINK_TEXT])
        size += len(msgspec.msgpack.encode(link))
        if len(found) >= MAX_LINKS or size > MAX_TEXT:
            break
        found[url] = link
    return msgspec.msgpack.encode(tuple(found.values()))


def _image_text(element: turbohtml.Element) -> str:
    image = element.select_one("img[alt]")
    return (image.attr("alt") or "") if image is not None else ""


def _markdown(document: turbohtml.Document, base_url: str) -> str:
    body = document.find("body") or document
    main = document.main_content()
    if main is None or len(main.text) < _LITTLE * len(body.text):
        main = body if isinstance(body, turbohtml.Element) else None
    for element in document.select("a[href], img[src]"):
        name = "href" if element.tag == "a" else "src"
        url = resolve(element.attr(name) or "", base_url)
        if url is not None:
            element.attrs[name] = url
    return (main or document).to_markdown(Markdown()) + "\n"


def _tidy(text: str) -> str:
    """One empty line at most, and none at the ends."""
    lines: list[str] = []
    for line in map(str.rstrip, text.splitlines()):
        if line or (lines and lines[-1]):
            lines.append(line)
    return "\n".join(lines).strip("\n") + "\n"


def _cut(text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    if len(data) <= MAX_TEXT:
        return data
    return data[:MAX_TEXT].decode("utf-8", "ignore").encode()
