"""URLs, by the URL standard (ada), and the ``data:`` URLs that the layout engine must not see."""

from __future__ import annotations

import base64
import binascii
import re
import urllib.parse

import ada_url

__all__ = [
    "DOCUMENT_IMAGE",
    "INTERNAL",
    "MAX_URL",
    "is_data",
    "parse_data",
    "referrer",
    "resolve",
    "without_fragment",
]

MAX_URL = 8192
"""Characters; the interfaces carry no more."""

INTERNAL = "cloister:"
"""The scheme of what the page brought along itself: the engine asks for it, and the network never does."""

DOCUMENT_IMAGE = INTERNAL + "//document/image"
"""What a page shows whose document is an image; of any other page it shows nothing."""

_DATA = re.compile(r"[\x00-\x20]*d[\t\n\r]*a[\t\n\r]*t[\t\n\r]*a[\t\n\r]*:", re.IGNORECASE)


def is_data(url: str) -> bool:
    """Whether the URL standard's parser would take ``url`` for a ``data:`` URL."""
    return _DATA.match(url) is not None


def resolve(url: str, base: str) -> str | None:
    """``url`` against ``base``, or ``None`` where that is not a URL or too long for the interfaces."""
    try:
        resolved = ada_url.URL(url, base if base else None).href
    except ValueError:
        try:
            resolved = ada_url.URL(url).href
        except ValueError:
            return None
    return resolved if len(resolved) <= MAX_URL else None


def without_fragment(url: str) -> str:
    """The part of ``url`` that is fetched."""
    return url.partition("#")[0]


def parse_data(url: str) -> tuple[str, bytes] | None:
    """The content type and the bytes of a ``data:`` URL (Fetch standard, "data: URL processor")."""
    url = url.translate({9: None, 10: None, 13: None}).strip("".join(map(chr, range(33))))
    header, comma, body = without_fragment(url)[len("data:") :].partition(",")
    if not comma:
        return None
    data = urllib.parse.unquote_to_bytes(body)
    content_type = header.strip()
    if encoded := re.search(r";\s*base64$", content_type, re.IGNORECASE):
        content_type = content_type[: encoded.start()].rstrip()
        squeezed = re.sub(rb"[\t\n\f\r =]", b"", data)
        try:
            data = base64.b64decode(squeezed + b"=" * (-len(squeezed) % 4), validate=True)
        except binascii.Error:
            return None
    if content_type.startswith(";"):
        content_type = "text/plain" + content_type
    return content_type or "text/plain;charset=US-ASCII", data


def referrer(page: str, url: str) -> str:
    """What ``url``'s server is told of ``page`` (Referrer Policy, "strict-origin-when-cross-origin")."""
    if not page:
        return ""
    source, target = ada_url.URL(page), ada_url.URL(url)
    if source.origin == target.origin:
        source.username = source.password = source.hash = ""
        return source.href
    if source.protocol == "https:" and target.protocol != "https:":
        return ""
    return f"{source.origin}/"
