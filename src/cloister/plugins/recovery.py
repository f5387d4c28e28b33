"""What is done about processes that fail: calls that may be repeated are repeated, and a plugin that keeps ending is
left alone for a while."""

from __future__ import annotations

import dataclasses
import random
import threading
import time
from collections.abc import Callable
from typing import Final

from .. import ends
from ..errors import CircuitOpen, InvalidArgument, PluginCrashed, ProcessLost
from ..process.keep import Breaker

__all__ = ["Circuit", "CircuitBreaker", "Retries", "is_worth_repeating", "was_its_own"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retries:
    """How often a call of an idempotent function is tried, and what lies between: ``first`` seconds, then ``factor``
    times as many each time, ``most`` seconds at the most; a random part of up to a half is taken off, so that callers
    who failed together do not come back together."""

    attempts: int = 3
    """The first one included: 1 repeats nothing."""
    first: float = 0.05
    factor: float = 2.0
    most: float = 2.0

    def __post_init__(self) -> None:
        if not (
            1 <= self.attempts <= 100 and self.first >= 0 and self.factor >= 1 and self.most >= self.first
        ):
            raise InvalidArgument(
                f"{self}: attempts from 1 to 100, a factor of 1 or more, and most not before first"
            )

    def pause(self, failed: int) -> float:
        """Seconds to wait after so many attempts that ``failed``."""
        longest = min(self.most, self.first * self.factor ** (failed - 1))
        return longest * random.uniform(0.5, 1)  # noqa: S311 - it spreads, it hides nothing


def is_worth_repeating(error: Exception) -> bool:
    """Whether the process failed, and not the call: a limit or a forbidden system call would be met again."""
    if isinstance(error, PluginCrashed):
        return isinstance(error.end, ends.Crashed | ends.Exited)
    return isinstance(error, ProcessLost)


def was_its_own(end: ends.End) -> bool:
    """Whether the process brought its end about itself, and not Cloister, a limit, or whoever gave up on a call."""
    return not isinstance(end, ends.Killed | ends.OutOfMemory)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CircuitBreaker:
    """When a plugin is left alone: its processes have ended by themselves ``ends`` times within ``window`` seconds, and
    not one call was answered in between. Then none is started for ``pause`` seconds, after which one is tried."""

    ends: int = 6
    window: float = 60.0
    pause: float = 30.0

    def __post_init__(self) -> None:
        if not (1 <= self.ends <= _MOST_ENDS and self.window > 0 and self.pause > 0):
            raise InvalidArgument(f"{self}: ends from 1 to {_MOST_ENDS}, seconds of more than 0")


_MOST_ENDS: Final = 10_000


class _Ends(Breaker):
    def __init__(self, name: str, rule: CircuitBreaker, clock: Callable[[], float]) -> None:
        self.MOST, self.WINDOW, self.OPEN = rule.ends, rule.window, rule.pause
        super().__init__(name, clock)


class Circuit:
    """That of one plugin, and of all its processes. For any number of threads."""

    def __init__(
        self,
        name: str,
        rule: CircuitBreaker,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._rule = rule
        self._clock = clock
        self._lock = threading.Lock()
        self._ends = _Ends(name, rule, clock)
        self._open_until: float | None = None
        self.is_strained = False
        """Whether there was an end since the last answer."""

    def check(self) -> None:
        """Before a process is started. Raises :class:`CircuitOpen`."""
        with self._lock:
            if self._open_until is None:
                return
            now = self._clock()
            if (left := self._open_until - now) > 0:
                raise CircuitOpen(self._why(left))
            self._open_until = (
                now + self._rule.pause
            )  # this one is tried; the next one waits for what comes of it

    def ended(self) -> str | None:
        """A process ended by itself. Why the circuit is open now, if that is news."""
        with self._lock:
            self.is_strained = True
            self._ends.ended()
            if self._open_until is not None or not self._ends.is_loop:
                return None
            self._open_until = self._clock() + self._rule.pause
        return self._why(self._rule.pause)

    def close(self) -> bool:
        """A call was answered, or somebody says that all is well. Whether it was open."""
        with self._lock:
            was_open, self._open_until = self._open_until is not None, None
            self.is_strained = False
            self._ends.forget()
            return was_open

    def _why(self, left: float) -> str:
        return (
            f"{self._name} ended {self._rule.ends} times within {self._rule.window:g} s, and answered nothing in "
            f"between, so no process of it is started for {left:.0f} s. restart() starts one at once"
        )
