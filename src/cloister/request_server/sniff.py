"""What bytes are, whatever their type says (MIME Sniffing standard, and as Chromium tells data from scripts)."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["HEAD", "is_image", "is_json", "is_markup"]

HEAD: Final = 1024
"""Bytes of a body's beginning that are enough for each of these."""

# MIME Sniffing, 6.1, and AVIF (ISO 23000-22, 6), which browsers tell by its brands.
_IMAGE: Final = re.compile(
    rb"\x00\x00[\x01\x02]\x00"  # icon, cursor
    rb"|BM"
    rb"|GIF8[79]a"
    rb"|RIFF.{4}WEBPVP"
    rb"|\x89PNG\r\n\x1a\n"
    rb"|\xff\xd8\xff"
    rb"|\x00\x00.{2}ftyp(?:.{4}){0,16}?avi[fs]",
    re.DOTALL,
)

_MARKUP: Final = re.compile(rb"\s*+(?:<!--.*?-->\s*+)*+<(?!!--)", re.DOTALL)
"""A tag or a declaration, behind comments: a script begins with one of these at the most (ECMAScript, B.1.1)."""
_JSON: Final = re.compile(rb'\s*+(?:\{\s*+"(?:[^"\\]|\\.)*+"\s*+:|\[\s*+[\[{])', re.DOTALL)
"""An object that has a key, which as JavaScript is none: a block, with a string and a colon. And a list of lists or
objects, which a script never begins with for its own sake."""
_EMPTY_JSON: Final = re.compile(rb"\s*+(?:\{\s*+\}|\[.*\])\s*+", re.DOTALL)
_BREAKER: Final = re.compile(
    rb"\s*+(?:\)\]\}'|\{\}\s*&&|for\s*\(\s*;\s*;\s*\)\s*;|while\s*\(\s*(?:1|true)\s*\)\s*;)"
)
"""What APIs write before their JSON, so that no script element can read it."""


def is_image(head: bytes) -> bool:
    """An image of those that pages show, SVG aside, which is XML."""
    return _IMAGE.match(head) is not None


def is_markup(head: bytes) -> bool:
    """HTML or XML, and no script."""
    return _MARKUP.match(_text(head)) is not None


def is_json(head: bytes) -> bool:
    """JSON and no script, also behind what is to keep scripts from reading it."""
    text = _text(head)
    return (
        any(pattern.match(text) for pattern in (_JSON, _BREAKER)) or _EMPTY_JSON.fullmatch(text) is not None
    )


def _text(head: bytes) -> bytes:
    """Without a byte order mark; what is in UTF-16 as the letters that it is."""
    for mark, step in ((b"\xef\xbb\xbf", 1), (b"\xff\xfe", 2), (b"\xfe\xff", 2)):
        if head.startswith(mark):
            rest = head[len(mark) :]
            return rest if step == 1 else rest.replace(b"\0", b"")
    return head
