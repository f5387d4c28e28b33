"""One table for every benchmark: what was measured, beside what, against which bound."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

__all__ = ["Row", "ratio", "table"]


@dataclass
class Row:
    """One line of the table. ``result`` is what the bound is about: a ratio, a difference, or ours alone."""

    measure: str
    unit: str
    ours: float
    peer: float | None
    result: float | None
    bound: str
    holds: bool | None
    note: str = ""


def ratio(measure: str, unit: str, ours: list[float], peer: list[float], limit: float, missing: str) -> Row:
    mine = statistics.median(ours)
    if not peer:
        return Row(measure, unit, mine, None, None, f"≤ {limit} ×", None, missing)
    theirs = statistics.median(peer)
    return Row(measure, unit, mine, theirs, mine / theirs, f"≤ {limit} ×", mine <= limit * theirs)


def _figure(value: float, unit: str, digits: int = 1) -> str:
    """A count as it is, a measured value with as many digits as it is good for."""
    shown = f"{value}" if isinstance(value, int) else f"{value:.{digits}f}"
    return f"{shown} {unit}".rstrip()


def table(rows: list[Row]) -> str:
    """Markdown, as README has it."""
    lines = ["| measure | Cloister | peer | result | bound | holds |", "|---|---|---|---|---|---|"]
    for row in rows:
        is_ratio = row.peer is not None and row.result not in (row.ours, row.ours - row.peer)
        sign = "×" if is_ratio else row.unit
        result = row.note if row.result is None else _figure(row.result, sign, 2)
        ours = _figure(row.ours, row.unit)
        peer = "–" if row.peer is None else _figure(row.peer, row.unit)
        holds = {True: "yes", False: "NO", None: "–"}[row.holds]
        lines.append(f"| {row.measure} | {ours} | {peer} | {result} | {row.bound} | {holds} |")
    return "\n".join(lines)
