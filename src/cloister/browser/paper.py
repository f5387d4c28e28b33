"""Paper sizes and margins as people write them, in points (1/72 inch)."""

from __future__ import annotations

import re
from typing import cast

from ..errors import InvalidArgument
from ..interfaces.web_content import PrintToPdf
from .values import Margin

__all__ = ["FORMATS", "points", "print_request"]

_MM = 72 / 25.4

FORMATS: dict[str, tuple[float, float]] = {
    # Playwright's names; ISO 216 and ANSI/ASME Y14.1, portrait.
    "letter": (612.0, 792.0),
    "legal": (612.0, 1008.0),
    "tabloid": (792.0, 1224.0),
    "ledger": (1224.0, 792.0),
    "a0": (841 * _MM, 1189 * _MM),
    "a1": (594 * _MM, 841 * _MM),
    "a2": (420 * _MM, 594 * _MM),
    "a3": (297 * _MM, 420 * _MM),
    "a4": (210 * _MM, 297 * _MM),
    "a5": (148 * _MM, 210 * _MM),
    "a6": (105 * _MM, 148 * _MM),
}

_UNITS = {"": 0.75, "px": 0.75, "in": 72.0, "cm": 10 * _MM, "mm": _MM, "pt": 1.0}
_LENGTH = r"\s*(\d+(?:\.\d+)?)\s*(px|in|cm|mm|pt|)\s*"


def points(length: float | str, name: str) -> float:
    """``length`` in points. A number, or a string without a unit, is CSS pixels (1/96 inch), as in Playwright."""
    match = re.fullmatch(_LENGTH, str(length))
    if match is None:
        raise InvalidArgument(
            f"{name}: {length!r} is not a length such as 96, '96px', '1in', '2.5cm' or '25mm'"
        )
    return float(match[1]) * _UNITS[match[2]]


def print_request(
    format: str, landscape: bool, width: float | str | None, height: float | str | None, margin: Margin | None
) -> PrintToPdf:
    """What to ask of a page for :meth:`AsyncPage.pdf`'s arguments. Raises :class:`InvalidArgument`."""
    if format.lower() not in FORMATS:
        raise InvalidArgument(f"format: {format!r} is no paper that is known here: {', '.join(FORMATS)}")
    paper_width, paper_height = FORMATS[format.lower()]
    if width is not None:
        paper_width = points(width, "width")
    if height is not None:
        paper_height = points(height, "height")
    if landscape:
        paper_width, paper_height = paper_height, paper_width
    sides: dict[str, float | str] = {"top": "0.4in", "right": "0.4in", "bottom": "0.4in", "left": "0.4in"}
    sides.update(cast("dict[str, float | str]", margin or {}))
    if unknown := sides.keys() - {"top", "right", "bottom", "left"}:
        raise InvalidArgument(f"margin has top, right, bottom and left, not {', '.join(sorted(unknown))}")
    top, right, bottom, left = (
        points(sides[side], f"margin {side}") for side in ("top", "right", "bottom", "left")
    )
    if left + right >= paper_width or top + bottom >= paper_height:
        raise InvalidArgument("the margins leave nothing of the paper")
    if max(paper_width, paper_height) > 20_000:
        raise InvalidArgument("a PDF page measures 20,000 points (7 m) at the most")
    return PrintToPdf(paper_width, paper_height, top, right, bottom, left)
