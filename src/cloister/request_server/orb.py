"""What of another origin's reaches a page that merely refers to it (Opaque Response Blocking, whatwg/fetch#1442).

A page may show another origin's images and use its style sheets and scripts without being asked whether it may, and so
may a page's process that was taken over: it says "image", and would read the answer. So nothing gets there but what is
such a thing, which blocks more than browsers do: a style sheet is ``text/css``, an image has the signature of one or is
SVG by its type, a script is one by its type and no data at a closer look. What is left over is blocked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from ..errors import RequestFailed
from ..interfaces.base import FailureCode
from ..interfaces.fetch import Destination
from . import sniff
from .exchange import Headers
from .headers import values

__all__ = ["allows", "essences", "guarded", "is_blocked_by_type"]

_JAVASCRIPT: Final = frozenset(
    f"{major}/{minor}"
    for major in ("application", "text")
    for minor in ("ecmascript", "javascript", "x-ecmascript", "x-javascript")
) | {
    "text/jscript",
    "text/livescript",
    *(f"text/javascript1.{version}" for version in range(6)),
}
"""MIME Sniffing, "JavaScript MIME type"."""

_NEVER: Final = frozenset(
    {
        "application/dash+xml",
        "application/gzip",
        "application/msexcel",
        "application/mspowerpoint",
        "application/msword",
        "application/msword-template",
        "application/pdf",
        "application/vnd.apple.mpegurl",
        "application/x-gzip",
        "application/x-protobuf",
        "application/x-protobuffer",
        "application/zip",
        "audio/mpegurl",
        "multipart/byteranges",
        "multipart/signed",
        "text/csv",
        "text/event-stream",
        "text/vtt",
    }
)
_NEVER_BEGINNINGS: Final = (
    "application/vnd.ces-quick",
    "application/vnd.ms-",
    "application/vnd.msword",
    "application/vnd.openxmlformats-officedocument.",
    "application/vnd.presentation-openxml",
    "application/vnd.spreadsheet-openxml",
    "application/vnd.wordprocessing-openxml",
)
"""Documents, archives and data, which no page shows by referring to them ("opaque-blocklisted-never-sniffed")."""


def essences(headers: Headers) -> list[str]:
    """The types that ``Content-Type`` headers name, without parameters, in lower case."""
    said = ",".join(values(headers, "content-type"))
    found = (each.partition(";")[0].strip(" \t").lower() for each in said.split(","))
    return [each for each in found if "/" in each]


def is_nosniff(headers: Headers) -> bool:
    """Fetch standard, "determine nosniff"."""
    said = ",".join(values(headers, "x-content-type-options"))
    return said.partition(",")[0].strip(" \t").lower() == "nosniff"


def is_blocked_by_type(destination: Destination, headers: Headers) -> bool:
    """Of any origin: what says that it is not to be taken for something else, and is asked for as that (Fetch standard,
    "should response to request be blocked due to nosniff")."""
    if not is_nosniff(headers):
        return False
    last = essences(headers)[-1:]
    if destination is Destination.STYLE:
        return last != ["text/css"]
    return destination is Destination.SCRIPT and not _JAVASCRIPT.issuperset(last or [""])


def allows(destination: Destination, status: int, headers: Headers, head: bytes) -> bool:
    """Whether another origin's response, whose body begins with ``head``, is what it was asked for as.

    Everything but a plain success is none: an error is for those who may read it, and a part (206) was not asked for.
    """
    if not 200 <= status < 300 or status == 206:
        return False
    types = essences(headers)
    if any(each in _NEVER or each.startswith(_NEVER_BEGINNINGS) for each in types):
        return False
    last = types[-1] if types else ""
    if destination is Destination.STYLE:
        return last == "text/css" and not any(map(_is_markup_or_data, types))
    if destination is Destination.IMAGE:
        return _is_image(last, types, headers, head)
    return destination is Destination.SCRIPT and _is_script(last, types, head)


def _is_image(last: str, types: list[str], headers: Headers, head: bytes) -> bool:
    is_svg = last == "image/svg+xml" and {each for each in types if _is_markup_or_data(each)} == {last}
    may_be_sniffed = not is_nosniff(headers) or not any(
        _is_markup_or_data(each) or each == "text/plain" for each in types
    )
    return is_svg or (may_be_sniffed and sniff.is_image(head))


def _is_script(last: str, types: list[str], head: bytes) -> bool:
    """Data that says it is a script was common once; as a script it does nothing."""
    if last not in _JAVASCRIPT or any(map(_is_markup_or_data, types)):
        return False
    return not (sniff.is_markup(head) or sniff.is_json(head))


def _is_markup_or_data(essence: str) -> bool:
    """HTML, XML or JSON ("opaque-blocklisted")."""
    return essence == "text/html" or essence.endswith(("/xml", "+xml", "/json", "+json"))


async def guarded(
    body: AsyncIterator[bytes], destination: Destination, status: int, headers: Headers, host: str
) -> AsyncIterator[bytes]:
    """``body``, if its beginning is what it was asked for as; nothing where it was asked for as nothing.

    Raises :class:`RequestFailed` (CROSS_ORIGIN_BLOCKED) before a byte of anything else is given away.
    """
    if destination is Destination.EMPTY:
        return  # it was sent, and that is all that the page gets to know
    head = bytearray()
    is_known = False
    async for piece in body:
        if is_known:
            yield piece
            continue
        head += piece
        if is_known := len(head) >= sniff.HEAD:
            _judge(destination, status, headers, head, host)
            yield bytes(head)
    if not is_known:
        _judge(destination, status, headers, head, host)
        yield bytes(head)


def _judge(destination: Destination, status: int, headers: Headers, head: bytearray, host: str) -> None:
    if not allows(destination, status, headers, bytes(head[: sniff.HEAD])):
        raise RequestFailed(
            FailureCode.CROSS_ORIGIN_BLOCKED,
            f"what {host} sent is not for other origins to use as {destination}",
        )
