"""A parsed document is made ready for the layout engine, which parses the markup once more by itself.

What the engine must not see goes: scripts, embedded documents, ``<base>``, every ``data:`` URL. And what two
HTML parsers could read differently goes too: comments, elements whose content is raw text, names with odd
characters. So text stays text, and an attribute an attribute.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import turbohtml
from turbohtml import Element, Namespace

from ..interfaces.fetch import ReferrerPolicy
from . import css, urls
from .references import References
from .urls import resolve

__all__ = ["base_of", "finish", "prepare", "purge", "referrer_policy"]

_META_REFERRER = "meta[name=referrer i]"

_GONE = (
    "script, template, base, link:not([rel~=stylesheet i]), meta, iframe, frame, embed, applet, audio, video, "
    "noembed, noframes, param"
)
_UNWRAPPED = "noscript, object"  # no JavaScript and no plugins: what stands inside is what the page shows
_RAW_TEXT = "xmp, listing, plaintext"

_ODD_NAME = re.compile(r"[^A-Za-z0-9_:.-]")
"""In the name of an element or an attribute: no page needs it, and two parsers may split it in two ways."""

_KEPT = (Element, turbohtml.Text, turbohtml.Doctype)

_SUSPECT = re.compile(r"\\|d[\t\n\r\f]*a[\t\n\r\f]*t[\t\n\r\f]*a[\t\n\r\f]*:", re.IGNORECASE)
"""In an attribute's value: a ``data:`` URL, or an escape of CSS that may hide one."""

_SHOWN = {"alt", "title", "placeholder", "value", "id", "name"}
"""Attributes that the engine shows or compares, and never reads as a style or as a URL to load."""


def base_of(document: turbohtml.Document, url: str) -> str:
    """What relative URLs of the document hang on: its ``<base href>`` if that is http(s), else ``url``."""
    element = document.select_one("base[href]")
    base = resolve(element.attr("href") or "", url) if element is not None else None
    return base if base is not None and base.startswith(("http://", "https://")) else url


def referrer_policy(document: turbohtml.Document) -> ReferrerPolicy | None:
    """What its last ``<meta name=referrer>`` says (HTML, 4.2.5.4)."""
    said = [urls.referrer_policy(meta.attr("content") or "") for meta in document.select(_META_REFERRER)]
    return next((policy for policy in reversed(said) if policy is not None), None)


def prepare(document: turbohtml.Document, references: References, width: int) -> None:
    """Change ``document`` for a viewport of ``width`` CSS pixels, and collect its references. Then it is for
    :func:`purge`, and for :func:`finish` once they are there."""
    document.remove(_GONE)
    document.strip_tags(_UNWRAPPED)
    for element in document.select(_RAW_TEXT):
        element.tag = "pre"
    for link in document.select("link"):
        _stylesheet(link, references)
    for image in document.select("img"):
        _image(image, references, width)
    for element in document.select("svg image, svg use, svg feImage, [background]"):
        _linked_image(element, references)
    for style in document.select("style"):
        _style(style, references)
    for element in document.select("[style]"):
        value = element.attr("style") or ""
        if "(" in value or "\\" in value:
            element.attrs["style"] = references.css(value)


def finish(document: turbohtml.Document, lacks: Callable[[str], bool]) -> str:
    """The prepared document's markup; an image that ``lacks`` says is missing shows its ``alt``."""
    for image in document.select("img[src]"):
        if lacks(image.attr("src") or ""):
            del image.attrs["src"]
    return document.serialize()


def _stylesheet(link: Element, references: References) -> None:
    rel = {token.lower() for token in (link.attr("rel") or "").split()}
    policy = "no-referrer" if "noreferrer" in rel else link.attr("referrerpolicy") or ""
    url = references.style(link.attr("href") or "", policy)
    if "alternate" in rel or "disabled" in link.attrs or url is None:
        link.decompose()
        return
    link.attrs["rel"] = "stylesheet"  # the engine compares the whole attribute
    link.attrs["href"] = url


def _style(style: Element, references: References) -> None:
    # Raw text would end at "</style", wherever it stands; a style sheet may write "<" as an escape.
    text = references.css(style.text.replace("<!--", "").replace("-->", ""))
    style.set_text(text.replace("<", "\\3c "))


def _image(image: Element, references: References, width: int) -> None:
    chosen = _chosen(image, width) or (image.attr("src") or "").strip()
    image.attrs.pop("srcset", None)
    url = references.image(chosen, image.attr("referrerpolicy") or "") if chosen else None
    if url is None:
        image.attrs.pop("src", None)
    else:
        image.attrs["src"] = url


def _linked_image(element: Element, references: References) -> None:
    for name in ("href", "xlink:href", "background"):
        value = element.attr(name)
        if value is None or (element.tag == "a" and name != "background"):
            continue
        if element.namespace is Namespace.SVG and value.strip().startswith("#"):
            continue
        url = references.image(value.strip())
        if url is None:
            del element.attrs[name]
        else:
            element.attrs[name] = url


def purge(document: turbohtml.Document) -> None:
    """The last look, at every node: whatever the steps before did, this is what the engine gets to see."""
    for node in [node for node in document.descendants if not isinstance(node, _KEPT)]:
        node.extract()  # comments, processing instructions, CDATA sections
    usual: set[str] = set()  # names that were looked at: a page has thousands, of a few kinds
    for element in document.iter_elements():
        if element.tag not in usual and not _is_usual(element.tag, usual):
            element.tag = "span"
        attributes = element.attrs
        for name, value in list(attributes.items()):
            if name not in usual and not _is_usual(name, usual):
                del attributes[name]
            elif isinstance(value, str) and (":" in value or "\\" in value) and _SUSPECT.search(value):
                _disarm(element, name, value)


def _is_usual(name: str, usual: set[str]) -> bool:
    if _ODD_NAME.search(name):
        return False
    usual.add(name)
    return True


def _disarm(element: Element, name: str, value: str) -> None:
    is_shown = name in _SHOWN or name.startswith(("data-", "aria-"))
    is_link = name == "href" and element.tag in {"a", "area"}
    if not is_shown and not is_link:
        element.attrs[name] = css.neutralise(css.normalise(value))


# ── srcset (HTML, 4.8.4.2: "image source") ────────────────────────────────────────────────────────────────────

_CANDIDATE = re.compile(r"(?<![^\s,])([^\s,]++(?:,++[^\s,]++)*+)(?:\s++([\d.]++)([wx]))?+\s*+(?:,|$)")
_LENGTH = re.compile(r"([\d.]+)(px|vw)$")
_MEDIA = re.compile(r"\((min|max)-width\s*:\s*([\d.]+)(px|em)\)")
_SHOWABLE = {
    "",
    "image/png",
    "image/jpeg",
    "image/gif",
    "image/webp",
    "image/avif",
    "image/svg+xml",
    "image/bmp",
}


def _chosen(image: Element, width: int) -> str | None:
    """The candidate of ``<picture>`` or ``srcset`` for a screen of one device pixel a CSS pixel."""
    parent = image.parent
    if isinstance(parent, Element) and parent.tag == "picture":
        for source in parent.select("source[srcset]"):
            kind = (source.attr("type") or "").strip().lower()
            if kind in _SHOWABLE and _matches(source.attr("media") or "", width):
                return _candidate(source, width)
    return _candidate(image, width)


def _candidate(element: Element, width: int) -> str | None:
    best: tuple[bool, float, str] | None = None
    slot = _slot(element.attr("sizes") or "100vw", width)
    for url, number, unit in _CANDIDATE.findall((element.attr("srcset") or "")[:65536]):
        value = _number(number) or 1.0
        density = value / slot if unit == "w" else value
        rank = (density < 1, abs(density - 1), url)  # the smallest that is sharp, else the largest
        if best is None or rank < best:
            best = rank
    return best[2] if best else None


def _slot(sizes: str, width: int) -> float:
    for part in sizes.split(","):
        condition, _, length = part.strip().rpartition(" ")
        match = _LENGTH.match(length)
        if match and _matches(condition, width):
            number = _number(match[1])
            return max(1.0, number * width / 100 if match[2] == "vw" else number)
    return float(width)


def _matches(media: str, width: int) -> bool:
    """Whether the common width queries hold; a query that says more does not match."""
    for part in map(str.strip, media.lower().split(" and ")):
        if part in {"", "all", "screen", "only screen"}:
            continue
        match = _MEDIA.fullmatch(part)
        if match is None:
            return False
        limit = _number(match[2]) * (16 if match[3] == "em" else 1)
        if width < limit if match[1] == "min" else width > limit:
            return False
    return True


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
