"""What the browser gives its user."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, TypedDict

from .png import encode_rgba

__all__ = ["Image", "Link", "Margin", "ProcessInfo", "Response", "Viewport"]


class Viewport(TypedDict):
    """Size of the visible part of a page, in CSS pixels (1 to 16384 each)."""

    width: int
    height: int


class Margin(TypedDict, total=False):
    """Page margins of a PDF: points as a number, or a string with ``px``, ``in``, ``cm``, ``mm`` or ``pt``."""

    top: float | str
    right: float | str
    bottom: float | str
    left: float | str


class Link(NamedTuple):
    """A link on a page: absolute ``url``, visible ``text``."""

    url: str
    text: str


@dataclasses.dataclass(frozen=True)
class Response:
    """What answered a navigation. ``status`` is 0 where no HTTP was involved; header names are lower-case."""

    url: str
    status: int
    headers: dict[str, str]

    @property
    def ok(self) -> bool:
        """Whether the status says success (200 to 299), or there was no HTTP."""
        return self.status == 0 or 200 <= self.status <= 299


@dataclasses.dataclass(frozen=True)
class ProcessInfo:
    """A live child process: its sandbox ``layers`` in force, and those that the kernel could not give."""

    kind: str
    pid: int
    page_url: str | None
    layers: tuple[str, ...]
    missing: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Image:
    """A decoded image: ``rgba`` has ``width * height * 4`` bytes, straight alpha, top row first.

    ``format`` is what the image was ("PNG", "JPEG", ...); of ``frames`` only the first is here.
    """

    width: int
    height: int
    format: str
    frames: int
    rgba: bytes = dataclasses.field(repr=False)

    def png(self) -> bytes:
        """The pixels as a PNG file that this process wrote: nothing of the original file is in it."""
        return encode_rgba(self.width, self.height, self.rgba)
