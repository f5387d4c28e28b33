"""Versions and ranges of versions, as semver.org 2.0.0 orders them."""

from __future__ import annotations

import functools
import re
from typing import Final

__all__ = ["Range", "Version"]

_VERSION: Final = re.compile(
    r"(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})"
    r"(?:-([0-9A-Za-z-]{1,40}(?:\.[0-9A-Za-z-]{1,40}){0,8}))?(?:\+[0-9A-Za-z.-]{1,80})?"
)
_PART: Final = re.compile(
    r"(>=|<=|>|<|=|\^|~|) ?([0-9]{1,9}(?:\.[0-9]{1,9}){0,2})(?:-([0-9A-Za-z.-]{1,80}))?"
)


@functools.total_ordering
class Version:
    """``1.2.3`` or ``1.2.3-rc.1``; what follows a ``+`` is left out of every comparison."""

    __slots__ = ("_pre", "numbers")

    def __init__(self, numbers: tuple[int, int, int], pre: str | None = None) -> None:
        self.numbers = numbers
        self._pre = pre

    @classmethod
    def parse(cls, text: str) -> Version:
        """Raises ValueError."""
        found = _VERSION.fullmatch(text)
        if found is None:
            raise ValueError(f"{text!r} is no version: three numbers, such as 1.4.0 (semver.org)")
        return cls((int(found[1]), int(found[2]), int(found[3])), found[4])

    @property
    def is_prerelease(self) -> bool:
        return self._pre is not None

    def __str__(self) -> str:
        return ".".join(map(str, self.numbers)) + (f"-{self._pre}" if self._pre else "")

    def _key(self) -> tuple[tuple[int, int, int], bool, list[tuple[bool, int, str]]]:
        # Rule 11: a release comes after its pre-releases; in those, numbers are less than words.
        parts = (self._pre or "").split(".")
        return (
            self.numbers,
            self._pre is None,
            [(not p.isdigit(), int(p) if p.isdigit() else 0, p) for p in parts],
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Version) and self._key() == other._key()

    def __lt__(self, other: Version) -> bool:
        return self._key() < other._key()

    def __hash__(self) -> int:
        return hash((self.numbers, self._pre))


class Range:
    """``>=1.2, <2``; ``^1.2``, up to the next version that may break things; ``~1.2``, up to the next minor one;
    ``1.2.3``; ``*``.

    A pre-release is in a range only if the range names one.
    """

    __slots__ = ("_bounds", "_names_prerelease", "_text")

    def __init__(self, text: str) -> None:
        """Raises ValueError."""
        self._text = text
        self._bounds: list[tuple[str, Version]] = []
        self._names_prerelease = False
        if text.strip() == "*":
            return
        for part in text.split(","):
            self._add(part.strip())

    def _add(self, part: str) -> None:
        found = _PART.fullmatch(part)
        if found is None:
            raise ValueError(
                f"{self._text!r} is no range of versions: such as '>=1.2, <2', '^1.2', '~1.2.3' or '*'"
            )
        sign, given = found[1], [int(number) for number in found[2].split(".")]
        major, minor, patch = (*given, 0, 0)[:3]
        least = Version((major, minor, patch), found[3])
        self._names_prerelease |= least.is_prerelease
        if sign in ("^", "~") or (sign in ("", "=") and len(given) < 3):
            self._bounds += [(">=", least), ("<", _next(sign, given))]
        else:
            self._bounds.append((sign or "=", least))

    def __contains__(self, version: Version) -> bool:
        if version.is_prerelease and not self._names_prerelease:
            return False
        return all(_holds(version, sign, bound) for sign, bound in self._bounds)

    def __str__(self) -> str:
        return self._text


def _next(sign: str, given: list[int]) -> Version:
    """The first version that ``^`` and ``~`` leave out, and that ``1.2`` does."""
    major, minor, patch = (*given, 0, 0)[:3]
    if sign == "^":
        if major or len(given) == 1:
            return Version((major + 1, 0, 0), "0")
        return (
            Version((0, minor + 1, 0), "0") if minor or len(given) == 2 else Version((0, 0, patch + 1), "0")
        )
    return Version((major + 1, 0, 0), "0") if len(given) == 1 else Version((major, minor + 1, 0), "0")


def _holds(version: Version, sign: str, bound: Version) -> bool:
    match sign:
        case ">=":
            return version >= bound
        case "<=":
            return version <= bound
        case ">":
            return version > bound
        case "<":
            return version < bound
        case _:
            return version == bound
