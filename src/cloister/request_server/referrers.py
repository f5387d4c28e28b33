"""What a server is told of the page that asks (Referrer Policy, W3C)."""

from __future__ import annotations

from collections.abc import Iterable

import ada_url

from ..errors import RequestFailed
from ..interfaces.fetch import ReferrerPolicy
from . import urls

__all__ = ["policy_of", "referrer"]

_MAX = 4096  # characters; of a longer URL, its origin is told

_NAMES = {policy.value: policy for policy in ReferrerPolicy}


def policy_of(headers: Iterable[str]) -> ReferrerPolicy | None:
    """What ``Referrer-Policy`` headers say: the last one that is known."""
    known = [_NAMES.get(name.strip().lower()) for value in headers for name in value.split(",")]
    return next((policy for policy in reversed(known) if policy is not None), None)


def referrer(
    source: str, target: ada_url.URL, policy: ReferrerPolicy = ReferrerPolicy.STRICT_ORIGIN_WHEN_CROSS_ORIGIN
) -> str:
    """The Referer for a request to ``target`` that the page at ``source`` makes; "" for none."""
    try:
        page = urls.parse(source)
    except RequestFailed:  # about:blank, file:, nothing at all
        return ""
    page.hash = ""
    whole, short = str(page.href), urls.origin(page) + "/"
    if len(whole) > _MAX:
        whole = short
    is_same = urls.origin(page) == urls.origin(target)
    is_downgrade = page.protocol == "https:" and target.protocol == "http:"
    safely = "" if is_downgrade else short
    return {
        ReferrerPolicy.NO_REFERRER: "",
        ReferrerPolicy.NO_REFERRER_WHEN_DOWNGRADE: "" if is_downgrade else whole,
        ReferrerPolicy.SAME_ORIGIN: whole if is_same else "",
        ReferrerPolicy.ORIGIN: short,
        ReferrerPolicy.STRICT_ORIGIN: safely,
        ReferrerPolicy.ORIGIN_WHEN_CROSS_ORIGIN: whole if is_same else short,
        ReferrerPolicy.STRICT_ORIGIN_WHEN_CROSS_ORIGIN: whole if is_same else safely,
        ReferrerPolicy.UNSAFE_URL: whole,
    }[policy]
