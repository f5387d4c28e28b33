"""URLs, by the URL standard (ada), and the ``data:`` URLs that the layout engine must not see."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable

import ada_url

from ..interfaces.fetch import ReferrerPolicy

__all__ = [
    "DOCUMENT_IMAGE",
    "INTERNAL",
    "MAX_URL",
    "is_data",
    "parse_data",
    "path_of",
    "percent_decoded",
    "referrer_policy",
    "referrer_policy_of",
    "resolve",
    "without_fragment",
]

MAX_URL = 8192
"""Characters; the interfaces carry no more."""

INTERNAL = "cloister:"
"""The scheme of what the page brought along itself: the engine asks for it, and the network never does."""

DOCUMENT_IMAGE = INTERNAL + "//document/image"
"""What a page shows whose document is an image; of any other page it shows nothing."""

_ESCAPED = re.compile(rb"%([0-9A-Fa-f]{2})")
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


def path_of(url: str) -> str:
    """Its path, escaped as it is; ``""`` where ``url`` is none, or has none."""
    try:
        return ada_url.URL(url).pathname
    except ValueError:
        return ""


def percent_decoded(text: str) -> bytes:
    """URL standard, 1.3, "percent-decode". :mod:`urllib.parse` has it too, and takes 2 ms of each start to load."""
    return _ESCAPED.sub(lambda found: binascii.unhexlify(found[1]), text.encode(errors="replace"))


def parse_data(url: str) -> tuple[str, bytes] | None:
    """The content type and the bytes of a ``data:`` URL (Fetch standard, "data: URL processor")."""
    url = url.translate({9: None, 10: None, 13: None}).strip("".join(map(chr, range(33))))
    header, comma, body = without_fragment(url)[len("data:") :].partition(",")
    if not comma:
        return None
    data = percent_decoded(body)
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


def referrer_policy(text: str) -> ReferrerPolicy | None:
    """The last policy in a list that is known, or ``None`` (Referrer Policy, "parse a referrer policy from a
    Referrer-Policy header"; the older names are of HTML, 4.2.5.4)."""
    names = [name.strip().lower() for name in text[:_MAX_POLICY].split(",")]
    known = [_POLICIES[name] for name in names if name in _POLICIES]
    return known[-1] if known else None


def referrer_policy_of(headers: Iterable[tuple[str, str]]) -> ReferrerPolicy | None:
    """What the ``Referrer-Policy`` headers of a response say."""
    return referrer_policy(",".join(value for name, value in headers if name == "referrer-policy"))


_MAX_POLICY = 1000  # characters

_POLICIES = {policy.value: policy for policy in ReferrerPolicy} | {
    "never": ReferrerPolicy.NO_REFERRER,
    "default": ReferrerPolicy.STRICT_ORIGIN_WHEN_CROSS_ORIGIN,
    "always": ReferrerPolicy.UNSAFE_URL,
    "origin-when-crossorigin": ReferrerPolicy.ORIGIN_WHEN_CROSS_ORIGIN,
}
