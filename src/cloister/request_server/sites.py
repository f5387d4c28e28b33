"""Which hosts belong together."""

from __future__ import annotations

import ada_url

__all__ = ["are_same_site"]


def are_same_site(one: ada_url.URL, other: ada_url.URL, *, schemelessly: bool = False) -> bool:
    """Whether two URLs are of one site (HTML standard, "same site"). Hosts that differ never are: which of them
    belong to one owner, only the public suffix list could say, and what is taken for another site is told less."""
    return one.hostname == other.hostname and (schemelessly or one.protocol == other.protocol)
