"""Bytes and a content type become a document, whatever it was that was asked for."""

from __future__ import annotations

import codecs
import enum
import mimetypes
import posixpath
import re

import msgspec
import turbohtml
from turbohtml.detect import detect

from ..errors import RequestFailed
from ..interfaces.base import FailureCode
from ..interfaces.fetch import ReferrerPolicy
from .urls import DOCUMENT_IMAGE, path_of, percent_decoded

__all__ = [
    "MAX_BYTES",
    "Kind",
    "Source",
    "charset",
    "decode",
    "essence",
    "guess_type",
    "title",
]

MAX_BYTES = 32 * 1024 * 1024
"""Of one document. Layout takes some hundred times that in memory at worst, which the process's limits bound."""


class Kind(enum.Enum):
    """How a document is shown."""

    HTML = "html"
    TEXT = "text"
    IMAGE = "image"
    SVG = "svg"


class Source(msgspec.Struct, frozen=True):
    """A document as it came. ``url`` is where it came from, at the end of its redirects; ``referrer_policy`` is what
    its headers say, if they do."""

    body: bytes
    content_type: str
    url: str
    referrer_policy: ReferrerPolicy | None = None

    @property
    def kind(self) -> Kind:
        """How to show it. Raises :class:`RequestFailed` (UNSUPPORTED_TYPE) for what is not a page."""
        return _kind(self.body, self.content_type)

    def text(self) -> str:
        """Its text, as written. No NUL is left."""
        return decode(self.body, self.content_type)

    def parse(self) -> turbohtml.Document:
        """A fresh tree; the caller may change it."""
        kind = self.kind
        if kind is Kind.HTML:
            return _parse_html(self.body, self.content_type)
        if kind is Kind.TEXT:
            shown = _LONG_LINE.sub("\\g<0>\n", self.text())
            page = _TEXT_PAGE.format(text=turbohtml.escape(shown))
        else:
            page = _IMAGE_PAGE.format(name=turbohtml.escape(_name(self.url)), url=DOCUMENT_IMAGE)
        return turbohtml.parse(page)


_LONG_LINE = re.compile(r"[^\n]{2000}(?=[^\n])")
"""Characters of a line that is broken where it is shown as text: the time to lay out a line that wraps grows with
the square of its length, and a megabyte of JSON in one line is common."""

_TEXT_PAGE = (
    "<!DOCTYPE html><html><head><style>pre{{white-space:pre-wrap;overflow-wrap:break-word}}</style></head>"
    "<body><pre>\n{text}</pre></body></html>"  # the parser drops a newline right after <pre>: this one
)
_IMAGE_PAGE = (
    "<!DOCTYPE html><html><head><title>{name}</title>"
    "<style>body{{margin:0;background:#eee;text-align:center}}img{{max-width:100%}}</style></head>"
    '<body><img src="{url}" alt="{name}"></body></html>'
)

_HTML = {"text/html", "application/xhtml+xml"}
_SOURCE = {  # text in all but the name (IANA registers them under application/)
    "application/ecmascript",
    "application/graphql",
    "application/javascript",
    "application/json",
    "application/sql",
    "application/toml",
    "application/x-javascript",
    "application/x-ndjson",
    "application/x-sh",
    "application/x-yaml",
    "application/xml",
    "application/yaml",
}
_UNKNOWN = {"", "unknown/unknown", "application/unknown", "*/*"}  # MIME Sniffing, section 5

# MIME Sniffing, sections 6 and 7.1: what the first bytes say, scriptable types left out.
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"BM", "image/bmp"),
    (b"\x00\x00\x01\x00", "image/x-icon"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"%PDF-", "application/pdf"),
    (b"PK\x03\x04", "application/zip"),
    (b"\x1f\x8b\x08", "application/gzip"),
    (b"Rar!\x1a\x07", "application/vnd.rar"),
    (b"%!PS-Adobe-", "application/postscript"),
    (b"OggS\x00", "application/ogg"),
    (b"ID3", "audio/mpeg"),
    (b"\x1aE\xdf\xa3", "video/webm"),
)
_TAGS = tuple(
    f"<{tag}".encode()
    for tag in (
        "!doctype html", "html", "head", "script", "iframe", "h1", "div", "font", "table", "a", "style",
        "title", "b", "body", "br", "p", "!--",
    )
)  # fmt: skip
_BINARY = bytes((*range(9), 0x0B, *range(0x0E, 0x1B), *range(0x1C, 0x20)))  # "binary data byte", section 3
_SNIFFED = 1445  # bytes: the "resource header", section 5.2

mimetypes.knownfiles.clear()  # the machine's own tables: each says something else, and they take long to read
mimetypes.init()


# MIME Sniffing, section 4.4. Possessive throughout, so that a hostile header takes no more than its length in time.
_PARAMETER = re.compile(r';\s*+([^\s;=]*+)\s*+=\s*+(?:"((?:[^"\\]|\\.)*+)|([^;]*+))', re.DOTALL)


def guess_type(name: str) -> str:
    """The content type that a file's name stands for, or ``""``: then its bytes decide.

    As :func:`mimetypes.guess_type`, which takes a URL: in a file's name a colon means nothing.
    """
    base, extension = posixpath.splitext(name)
    while shortened := mimetypes.suffix_map.get(extension.lower()):  # .tgz
        base, extension = posixpath.splitext(base + shortened)
    if encoding := mimetypes.encodings_map.get(extension):
        return f"application/{encoding}"
    return mimetypes.types_map.get(extension.lower(), "")


def essence(content_type: str) -> str:
    """``type/subtype`` in lower case."""
    return content_type.partition(";")[0].strip().lower()


def charset(content_type: str) -> str | None:
    """The name of the encoding that a content type gives, if there is such an encoding."""
    parameters = (found.groups("") for found in _PARAMETER.finditer(content_type))
    label = next((quoted + plain for name, quoted, plain in parameters if name.lower() == "charset"), "")
    label = label.strip().strip("\"'")
    try:
        codecs.lookup(f"whatwg-{label}")
    except (LookupError, ValueError):  # ValueError: no name at all, as of a NUL
        return None
    return label


def decode(body: bytes, content_type: str) -> str:
    """Text by its byte order mark, else by the header, else by what the bytes look like. No NUL is left."""
    for mark, codec in ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if body.startswith(mark):
            return body[len(mark) :].decode(codec, "replace").replace("\0", "\ufffd")
    label = charset(content_type)
    codec = f"whatwg-{label}" if label else detect(body).codec or "utf-8"
    return body.decode(codec, "replace").replace("\0", "\ufffd")


def title(document: turbohtml.Document) -> str:
    """The document's title, white space collapsed, or ``""``."""
    element = document.select_one("head > title") or document.select_one("body title:not(svg title)")
    return " ".join(element.text.split()) if element is not None else ""


def _parse_html(body: bytes, content_type: str) -> turbohtml.Document:
    return turbohtml.parse(body, encoding=charset(content_type), detect_encoding=True, positions=False)


def _kind(body: bytes, content_type: str) -> Kind:
    declared = essence(content_type)
    if declared in _UNKNOWN:
        declared = _sniff(body)
    elif declared == "text/plain" and _looks_binary(body):
        declared = "application/octet-stream"  # section 7.2: text or binary, and never anything scriptable
    if declared in _HTML:
        return Kind.HTML
    if declared == "image/svg+xml":
        return Kind.SVG
    if declared.startswith("image/"):
        return Kind.IMAGE
    if declared.startswith("text/") or declared in _SOURCE or declared.endswith(("+json", "+xml")):
        return Kind.TEXT
    raise RequestFailed(
        FailureCode.UNSUPPORTED_TYPE,
        f"this is a file to download ({declared}), not a page; pages, text and images can be shown",
    )


def _sniff(body: bytes) -> str:  # noqa: PLR0911 - one line a type
    head = body[:_SNIFFED]
    start = head.lstrip(b"\t\n\x0c\r ").lower()
    for tag in _TAGS:
        if start.startswith(tag) and start[len(tag) : len(tag) + 1] in {
            b" ",
            b">",
            b"\n",
            b"\t",
            b"\r",
            b"/",
        }:
            return "text/html"
    if start.startswith(b"<!--"):
        return "text/html"
    if start.startswith(b"<svg") or (start.startswith(b"<?xml") and b"<svg" in start):
        return "image/svg+xml"
    if start.startswith(b"<?xml"):
        return "text/xml"
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if head[:4] == b"RIFF":
        return {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/avi"}.get(
            head[8:12], "application/octet-stream"
        )
    if head[4:8] == b"ftyp":
        return "image/avif" if head[8:12] in {b"avif", b"avis"} else "video/mp4"
    return "application/octet-stream" if _looks_binary(head) else "text/plain"


def _looks_binary(body: bytes) -> bool:
    head = body[:_SNIFFED]
    if head.startswith((b"\xfe\xff", b"\xff\xfe", b"\xef\xbb\xbf")):
        return False
    return len(head.translate(None, _BINARY)) != len(head)


def _name(url: str) -> str:
    path = percent_decoded(path_of(url)).decode(errors="replace") if "//" in url else ""
    return posixpath.basename(path.rstrip("/")) or "image"
