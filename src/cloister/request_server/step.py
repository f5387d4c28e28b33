"""One request of a fetch: what is asked, who asks, and what the way there has made of it."""

from __future__ import annotations

import enum
from typing import Final

import ada_url
import msgspec

from ..interfaces.fetch import CredentialsMode, Mode, ReferrerPolicy
from .exchange import Headers
from .upload import Outgoing

__all__ = ["OPAQUE_ORIGIN", "Relation", "Step", "Tainting"]

OPAQUE_ORIGIN: Final = "null"
"""Of whoever has none: it is the same as no other, its own included."""


class Tainting(enum.Enum):
    """How a response came about, and so how much of it a page gets (Fetch standard, "response tainting")."""

    BASIC = enum.auto()
    CORS = enum.auto()
    OPAQUE = enum.auto()


class Relation(enum.IntEnum):
    """What a URL is to who asks for it."""

    SAME_ORIGIN = 0
    SAME_SITE = 1
    CROSS_SITE = 2


class Step(msgspec.Struct, frozen=True):
    """``headers`` are the page's own, ``origin`` is its origin by the browser's word. The three last say what the way
    was like so far, this step included once it was entered."""

    url: ada_url.URL
    method: str
    headers: Headers
    body: Outgoing
    policy: ReferrerPolicy
    origin: str = OPAQUE_ORIGIN
    mode: Mode = Mode.NAVIGATE
    credentials: CredentialsMode = CredentialsMode.INCLUDE
    tainting: Tainting = Tainting.BASIC
    relation: Relation = Relation.SAME_ORIGIN
    """Of all that was asked, the furthest (Fetch Metadata, W3C: Sec-Fetch-Site)."""
    is_tainted: bool = False
    """Whether another origin has had a say in where it goes (Fetch standard, "redirect-tainted origin")."""
