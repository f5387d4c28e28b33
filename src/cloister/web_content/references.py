"""What a document or a stylesheet refers to: collected, made absolute, and kept away from ``data:``."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ..interfaces.fetch import ReferrerPolicy
from . import css
from .css import Use
from .urls import DOCUMENT_IMAGE, is_data, referrer_policy, resolve, without_fragment

__all__ = ["Adopt", "Found", "References", "Referrer"]

Adopt = Callable[[str, Use], str | None]
"""Takes in the content of a ``data:`` URL and answers the internal URL that stands for it."""


class Referrer(msgspec.Struct, frozen=True):
    """Who asks, and how much of that a server may be told."""

    url: str = ""
    policy: ReferrerPolicy = ReferrerPolicy.STRICT_ORIGIN_WHEN_CROSS_ORIGIN


class Found(msgspec.Struct):
    """URLs to fetch, each once, in the order they were found."""

    styles: dict[str, None] = msgspec.field(default_factory=dict)
    images: dict[str, None] = msgspec.field(default_factory=dict)
    backgrounds: dict[str, None] = msgspec.field(default_factory=dict)  # images of CSS: shown perhaps
    fonts: dict[str, None] = msgspec.field(default_factory=dict)
    referrers: dict[str, Referrer] = msgspec.field(default_factory=dict)
    """Who asks for each: who refers to it first."""


class References:
    """The references of one text whose relative URLs hang on ``base``, and which ``referrer`` asks for."""

    def __init__(self, base: str, adopt: Adopt, found: Found, referrer: Referrer) -> None:
        self.base = base
        self.found = found
        self._referrer = referrer
        self._adopt = adopt

    def image(self, url: str, policy: str = "") -> str | None:
        """An image that the page shows; ``policy`` is its ``referrerpolicy``."""
        return self._refer(url, Use.IMAGE, self.found.images, policy)

    def style(self, url: str, policy: str = "") -> str | None:
        """A stylesheet."""
        return self._refer(url, Use.STYLE, self.found.styles, policy)

    def css(self, text: str) -> str:
        """A stylesheet's text, or that of a style attribute."""
        return css.rewrite(text, self._in_css)

    def _in_css(self, url: str, use: Use) -> str | None:
        into = {
            Use.STYLE: self.found.styles,
            Use.FONT: self.found.fonts,
            Use.IMAGE: self.found.backgrounds,
        }
        return self._refer(url, use, into[use])

    def _refer(self, url: str, use: Use, into: dict[str, None], policy: str = "") -> str | None:
        if is_data(url):
            return self._adopt(url, use)
        if url.startswith("#") or url == DOCUMENT_IMAGE:
            return url
        absolute = resolve(url, self.base)
        if absolute is None or not absolute.startswith(("http://", "https://")):
            return None
        referrer = Referrer(self._referrer.url, referrer_policy(policy) or self._referrer.policy)
        self.found.referrers.setdefault(without_fragment(absolute), referrer)
        into[without_fragment(absolute)] = None
        return absolute
