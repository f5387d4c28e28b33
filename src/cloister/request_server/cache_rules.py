"""What may be kept of a response, for how long, and what a server is asked then (RFC 9111, for a private cache)."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Sequence
from typing import Final

from .exchange import Headers
from .headers import values

__all__ = [
    "age",
    "date",
    "directives",
    "freshened",
    "is_storable",
    "lifetime",
    "must_validate",
    "storable",
    "validators",
    "varied",
]

Pairs = Sequence[tuple[bytes, bytes]]

_HEURISTICALLY: Final = frozenset({200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501})  # RFC 9110, 15.1
_SHARE: Final = 0.1  # RFC 9111, 4.2.2
_MOST_BY_HEURISTICS: Final = 24 * 3600
_MOST: Final = 2**31  # RFC 9111, 1.2.2

_NOT_KEPT: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authentication-info",
        "proxy-authorization",
        "proxy-connection",
        "set-cookie",  # it was set once, and may have been changed since
        "set-cookie2",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""RFC 9111, 3.1, and cookies."""
_OF_THE_BODY: Final = frozenset({"content-encoding", "content-length", "content-range", "content-type"})
"""What a 304 cannot change: the body that is kept is as it came (RFC 9111, 3.2)."""

_DIRECTIVE: Final = re.compile(
    r'([\w!#$%&\'*+.^`|~-]+)\s*(?:=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*)))?', re.ASCII
)
_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_TIME: Final = r"(?P<hour>\d\d):(?P<minute>\d\d):(?P<second>\d\d)"
_DATES: Final = tuple(
    re.compile(pattern, re.ASCII)
    for pattern in (
        rf"[A-Za-z]{{3}}, (?P<day>\d\d) (?P<month>[A-Za-z]{{3}}) (?P<year>\d{{4}}) {_TIME} GMT",
        rf"[A-Za-z]{{6,9}}, (?P<day>\d\d)-(?P<month>[A-Za-z]{{3}})-(?P<year>\d\d) {_TIME} GMT",
        rf"[A-Za-z]{{3}} (?P<month>[A-Za-z]{{3}}) (?P<day>[ \d]\d) {_TIME} (?P<year>\d{{4}})",
    )
)
"""RFC 9110, 5.6.7: the form of today, that of RFC 850, and asctime()'s."""


# ── keeping ──────────────────────────────────────────────────────────────────────────────────────────────────────


def is_storable(asked: Iterable[tuple[bytes, bytes]], status: int, headers: Pairs) -> bool:
    """RFC 9111, 3. What could be used neither as it is nor after asking is not."""
    said = directives(headers)
    if "no-store" in said or status in {206, 304} or status < 200:
        return False
    if "*" in _names(headers, "vary"):
        return False
    has_password = any(name.lower() == b"authorization" for name, _ in asked)
    if has_password and not said.keys() & {"must-revalidate", "public", "s-maxage"}:  # 3.5
        return False
    has_time = "max-age" in said or bool(_values(headers, "expires"))
    if not has_time and status not in _HEURISTICALLY and not said.keys() & {"public", "private"}:
        return False
    return bool(validators(headers)) or lifetime(status, headers, 0) > 0


def storable(headers: Pairs) -> tuple[tuple[bytes, bytes], ...]:
    """Those headers that are kept."""
    named = _names(headers, "connection")
    return tuple(
        (name, value)
        for name, value in headers
        if _lower(name) not in _NOT_KEPT and _lower(name) not in named
    )


def varied(headers: Pairs, asked: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...]:
    """The request headers that a response depends on, as they were sent (RFC 9111, 4.1)."""
    sent: dict[str, list[str]] = {}
    for name, value in asked:
        sent.setdefault(_lower(name), []).append(value.decode("latin-1").strip())
    return tuple((name, ", ".join(sent.get(name, []))) for name in sorted(_names(headers, "vary")))


# ── using ────────────────────────────────────────────────────────────────────────────────────────────────────────


def must_validate(headers: Pairs, *, is_reload: bool) -> bool:
    """Whether a server is to be asked, however fresh its response is (RFC 9111, 5.2.2.4; RFC 8246)."""
    said = directives(headers)
    return "no-cache" in said or (is_reload and "immutable" not in said)


def lifetime(status: int, headers: Pairs, got_at: float) -> float:
    """Seconds that a response is good for (RFC 9111, 4.2.1)."""
    said = directives(headers)
    if "max-age" in said:
        return min(map(_seconds, said["max-age"]))
    began = _date_of(headers, got_at)
    if expires := _values(headers, "expires"):
        ends = date(expires[0]) if len(set(expires)) == 1 else None
        return 0 if ends is None else ends - began
    changed = [date(value) for value in _values(headers, "last-modified")]
    if (status not in _HEURISTICALLY and "public" not in said) or len(changed) != 1 or changed[0] is None:
        return 0
    return min(max(0, began - changed[0]) * _SHARE, _MOST_BY_HEURISTICS)


def age(headers: Pairs, asked_at: float, got_at: float, now: float) -> float:
    """Seconds since its server made a response (RFC 9111, 4.2.3). Negative where the clock was set back."""
    if not asked_at <= got_at <= now:  # of what was forged, they may be no numbers
        return -1
    said = _values(headers, "age")
    apparent = max(0, got_at - _date_of(headers, got_at))
    corrected = (_seconds(said[0]) if said else 0) + got_at - asked_at
    return max(apparent, corrected) + now - got_at


def validators(headers: Pairs) -> Headers:
    """What asks a server whether it has a newer one (RFC 9111, 4.3.1)."""
    tags, changed = _values(headers, "etag"), _values(headers, "last-modified")
    conditions: Headers = []
    if len(tags) == 1:
        conditions.append((b"If-None-Match", tags[0].encode("latin-1")))
    if len(changed) == 1 and date(changed[0]) is not None:
        conditions.append((b"If-Modified-Since", changed[0].encode("latin-1")))
    return conditions


def freshened(headers: Pairs, said: Pairs) -> tuple[tuple[bytes, bytes], ...] | None:
    """The headers of what is kept, after a 304 that ``said`` these (RFC 9111, 4.3.4); None where it is about another
    version."""
    old, new = _values(headers, "etag"), _values(said, "etag")
    if new and [_opaque_tag(tag) for tag in new] != [_opaque_tag(tag) for tag in old]:
        return None
    replacing = tuple((name, value) for name, value in said if _lower(name) not in _OF_THE_BODY)
    replaced = {_lower(name) for name, _ in replacing} | {"age"}
    return (*((name, value) for name, value in headers if _lower(name) not in replaced), *replacing)


def _opaque_tag(tag: str) -> str:
    return tag.removeprefix("W/")


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────


def directives(headers: Pairs) -> dict[str, list[str]]:
    """What ``Cache-Control`` says: names in lower case, and each value that one has."""
    found: dict[str, list[str]] = {}
    for match in _DIRECTIVE.finditer(", ".join(_values(headers, "cache-control"))):
        found.setdefault(match[1].lower(), []).append(match[2] if match[2] is not None else match[3] or "")
    return found


def date(text: str) -> int | None:
    """Seconds since 1970 of an HTTP-date; None for what is none."""
    match = next((found for pattern in _DATES if (found := pattern.fullmatch(text.strip(" \t")))), None)
    if match is None or match["month"].lower() not in _MONTHS:
        return None
    year = int(match["year"])
    if len(match["year"]) == 2:  # not more than 50 years from now
        this = datetime.datetime.now(datetime.UTC).year
        year += this // 100 * 100
        year -= 100 if year > this + 50 else 0
    try:
        made = datetime.datetime(
            year,
            _MONTHS.index(match["month"].lower()) + 1,
            int(match["day"]),
            int(match["hour"]),
            int(match["minute"]),
            min(int(match["second"]), 59),  # a leap second
            tzinfo=datetime.UTC,
        )
    except ValueError:
        return None
    return int(made.timestamp())


def _seconds(text: str) -> int:
    """RFC 9111, 1.2.2; what is no number is over."""
    return min(int(text[:12]), _MOST) if text.isascii() and text.isdigit() else 0


def _date_of(headers: Pairs, otherwise: float) -> float:
    said = _values(headers, "date")
    made = date(said[0]) if said else None
    return otherwise if made is None else made


def _names(headers: Pairs, name: str) -> set[str]:
    return {each.strip().lower() for value in _values(headers, name) for each in value.split(",")} - {""}


def _values(headers: Pairs, name: str) -> list[str]:
    return values(list(headers), name)


def _lower(name: bytes) -> str:
    return name.decode("latin-1").lower()
