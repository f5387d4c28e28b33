"""What an answer's headers say to whoever saves it: a name, which bytes these are, how to go on later."""

from __future__ import annotations

import re
from typing import Final

import ada_url

from ..interfaces.transfers import ContentRange
from . import decoding
from .exchange import Headers
from .headers import values

__all__ = ["content_range", "length", "name", "validator"]

_MAX_HEADER: Final = 4096
_MAX_NAME: Final = 1024  # interfaces.transfers.TransferOpened.name
_MOST: Final = 2**40  # interfaces.base.ByteCount

# RFC 6266, 4.1: a token or a quoted string behind each name.
_PARAMETER = re.compile(
    r"""\s*;\s*([!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;"\s][^;]*))"""
)
_EXTENDED = re.compile(
    r"([A-Za-z0-9!#$%&+^_`{}~-]+)'[A-Za-z0-9-]*'((?:%[0-9A-Fa-f]{2}|[A-Za-z0-9!#$&+.^_`|~-])*)"
)
_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")
_RANGE = re.compile(r"bytes (?:([0-9]{1,13})-([0-9]{1,13})|\*)/([0-9]{1,13}|\*)", re.I)
_STRONG = re.compile(
    r'"[!#-~]{0,500}"'
)  # RFC 9110, 8.8.3; letters outside of ASCII are none that can be sent back
_DATE = re.compile(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT")


def name(url: ada_url.URL, headers: Headers) -> str:
    """What the server calls it (RFC 6266), or the last part of the URL's path; "" for neither. It is what a stranger
    wrote: whoever makes a file of that name looks at it first."""
    found = values(headers, "content-disposition")
    said = _from_disposition(found[0]) if found and len(found[0]) <= _MAX_HEADER else ""
    return (said or _unescaped(url.pathname.rpartition("/")[2].encode()))[:_MAX_NAME]


def _from_disposition(value: str) -> str:
    """``filename*`` if it can be read, else ``filename``; the first of each."""
    parameters: dict[str, str] = {}
    at = value.find(";")
    while at >= 0 and (found := _PARAMETER.match(value, at)) is not None:
        text = found[3].rstrip() if found[2] is None else re.sub(r"\\(.)", r"\1", found[2])
        parameters.setdefault(found[1].lower(), text)
        at = found.end()
    extended = _EXTENDED.fullmatch(parameters.get("filename*", ""))
    if extended is not None and extended[1].lower() in {"utf-8", "iso-8859-1"}:  # RFC 8187, 3.2.1
        try:
            return _bytes(extended[2].encode()).decode(extended[1].lower())
        except UnicodeDecodeError:
            pass
    plain = parameters.get("filename", "")
    try:
        return plain.encode("latin-1").decode()  # many servers write UTF-8 there
    except UnicodeError:
        return plain


def _unescaped(text: bytes) -> str:
    return _bytes(text).decode("utf-8", "replace")


def _bytes(text: bytes) -> bytes:
    return _ESCAPED.sub(lambda found: bytes([int(found[1], 16)]), text)


def length(headers: Headers) -> int | None:
    """How many bytes the body is going to have, if the server says so and it is not compressed."""
    said = {each.strip() for value in values(headers, "content-length") for each in value.split(",")}
    if len(said) != 1 or _is_encoded(headers):
        return None
    (text,) = said
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 13 and int(text) <= _MOST else None


def validator(headers: Headers) -> str:
    """What to send as If-Range, so that the rest comes only if it is the rest of the same (RFC 9110, 13.1.5): a strong
    ETag, or a date of change that is not that of the answer (8.8.2.2). "" where there is neither, or no ranges."""
    if _is_encoded(headers) or "none" in (each.lower() for each in values(headers, "accept-ranges")):
        return ""
    tags = values(headers, "etag")
    if tags:
        return tags[0] if len(tags) == 1 and _STRONG.fullmatch(tags[0]) else ""
    changed, now = values(headers, "last-modified"), values(headers, "date")
    is_strong = len(changed) == len(now) == 1 and changed != now and _DATE.fullmatch(changed[0])
    return changed[0] if is_strong else ""


def content_range(headers: Headers) -> ContentRange | None:
    """None where there is none that can be read; one that says nothing is as good as that to whoever asked."""
    found = values(headers, "content-range")
    match = _RANGE.fullmatch(found[0].strip()) if len(found) == 1 else None
    if match is None:
        return None
    first, last, total = (int(text) if text and text != "*" else None for text in match.groups())
    if any(number is not None and number > _MOST for number in (first, last, total)):
        return None
    return ContentRange(first, last, total)


def _is_encoded(headers: Headers) -> bool:
    try:
        return bool(decoding.encodings(values(headers, "content-encoding")))
    except ValueError:  # too many
        return True
