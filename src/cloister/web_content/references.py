"""What a document or a stylesheet refers to: collected, made absolute, and kept away from ``data:``."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ..interfaces.request_server import ReferrerPolicy
from . import css
from .css import Use
from .urls import DOCUMENT_IMAGE, is_data, referrer_policy, resolve, without_fragment

__all__ = ["Adopt", "Found", "References"]

Adopt = Callable[[str, Use], str | None]
"""Takes in the content of a ``data:`` URL and answers the internal URL that stands for it."""


class Found(msgspec.Struct):
    """URLs to fetch, each once, in the order they were found."""

    styles: dict[str, None] = msgspec.field(default_factory=dict)
    images: dict[str, None] = msgspec.field(default_factory=dict)
    backgrounds: dict[str, None] = msgspec.field(default_factory=dict)  # images of CSS: shown perhaps
    fonts: dict[str, None] = msgspec.field(default_factory=dict)
    policies: dict[str, ReferrerPolicy] = msgspec.field(default_factory=dict)
    """Of those whose element has a policy of its own."""


class References:
    """The references of one text whose relative URLs hang on ``base``."""

    def __init__(self, base: str, adopt: Adopt, found: Found) -> None:
        self.base = base
        self.found = found
        self._adopt = adopt

    def image(self, url: str, policy: str = "") -> str | None:
        """An image that the page shows; ``policy`` is its ``referrerpolicy``."""
        return self._noted(policy, self._refer(url, Use.IMAGE, self.found.images))

    def style(self, url: str, policy: str = "") -> str | None:
        """A stylesheet."""
        return self._noted(policy, self._refer(url, Use.STYLE, self.found.styles))

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

    def _noted(self, policy: str, url: str | None) -> str | None:
        if url is not None and (known := referrer_policy(policy)) is not None:
            self.found.policies.setdefault(without_fragment(url), known)
        return url

    def _refer(self, url: str, use: Use, into: dict[str, None]) -> str | None:
        if is_data(url):
            return self._adopt(url, use)
        if url.startswith("#") or url == DOCUMENT_IMAGE:
            return url
        absolute = resolve(url, self.base)
        if absolute is None or not absolute.startswith(("http://", "https://")):
            return None
        into[without_fragment(absolute)] = None
        return absolute
