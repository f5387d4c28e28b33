"""Paper sizes and margins as people write them, in points (1/72 inch)."""

from __future__ import annotations

import re

from ..errors import InvalidArgument

__all__ = ["FORMATS", "points"]

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
_LENGTH = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(px|in|cm|mm|pt|)\s*")


def points(length: float | str, name: str) -> float:
    """``length`` in points. A number, or a string without a unit, is CSS pixels (1/96 inch), as in Playwright."""
    match = _LENGTH.fullmatch(str(length))
    if match is None:
        raise InvalidArgument(
            f"{name}: {length!r} is not a length such as 96, '96px', '1in', '2.5cm' or '25mm'"
        )
    return float(match[1]) * _UNITS[match[2]]
