"""What a page has open here, by numbers that it was given."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from ..errors import BadMessage, RequestFailed
from ..interfaces.base import FailureCode

__all__ = ["Numbered"]


class _Closable(Protocol):
    def close(self) -> None: ...


T = TypeVar("T", bound=_Closable)


class Numbered(Generic[T]):
    """``limit`` at once, those that are being opened included. ``what`` they are, for messages."""

    def __init__(self, limit: int, what: str) -> None:
        self._limit = limit
        self._what = what
        self._known: dict[int, T] = {}
        self._opening = 0
        self._last = 0

    @contextlib.contextmanager
    def opening(self) -> Iterator[None]:
        """Hold a place. Raises :class:`RequestFailed` (TOO_MANY_REQUESTS)."""
        if len(self._known) + self._opening >= self._limit:
            raise RequestFailed(
                FailureCode.TOO_MANY_REQUESTS,
                f"{self._limit} {self._what}s are open already; that is the limit",
            )
        self._opening += 1
        try:
            yield
        finally:
            self._opening -= 1

    def add(self, opened: T) -> int:
        self._last += 1
        self._known[self._last] = opened
        return self._last

    def get(self, number: int) -> T:
        """Raises :class:`RequestFailed` (NOT_OPEN) for one that was forgotten, :class:`BadMessage` for a number that
        was never given."""
        if number > self._last:
            raise BadMessage(f"nobody has opened {self._what} {number}")
        if number not in self._known:
            raise RequestFailed(FailureCode.NOT_OPEN, f"that {self._what} is closed")
        return self._known[number]

    def forget(self, number: int) -> None:
        """Close it. Forgetting twice is fine."""
        if (opened := self._known.pop(number, None)) is not None:
            opened.close()
