"""The time as a plugin that was not granted ``sys:time`` has it: one moment, that at which the host last asked.

Nothing in the kernel holds this: a process reads the clock without a system call (vdso(7)). So code that means to know
the time still has ways: C functions by ctypes, loops that count, what standard modules kept of the real functions.
What this is for is code that asks as one does: it computes the same from the same, and learns no time to tell.

What the standard library had imported by name before (threading, queue) keeps the real clock, so that waiting with a
timeout ends. ``time.sleep`` sleeps.
"""

from __future__ import annotations

import ctypes
import datetime
import gc
import os
import time
from collections.abc import Callable
from typing import Any, Final

__all__ = ["FrozenClock"]

_CLOCKS: Final = {
    "time": time.CLOCK_REALTIME,
    "monotonic": time.CLOCK_MONOTONIC,
    "perf_counter": time.CLOCK_MONOTONIC,
    "process_time": time.CLOCK_PROCESS_CPUTIME_ID,
    "thread_time": time.CLOCK_THREAD_CPUTIME_ID,
}
_OF_A_MOMENT: Final = ("localtime", "gmtime", "ctime")
_SECOND: Final = 10**9


class FrozenClock:
    """Stands as soon as it is made, for good."""

    def __init__(self) -> None:
        self._read = time.clock_gettime_ns
        self._now: dict[int, int] = {}
        self.move()
        for name, clock in _CLOCKS.items():
            self._put_counter(name, clock)
        for name in _OF_A_MOMENT:
            self._put_of_a_moment(name)
        self._put_rest()

    def move(self) -> None:
        """It is the real time now, and stays so until the next move. Other clocks than that of the time of day stand
        from when they are first read: to read some of them takes a system call."""
        self._now = {time.CLOCK_REALTIME: self._read(time.CLOCK_REALTIME)}

    def _at(self, clock: int, /) -> int:
        found = self._now.get(clock)
        if found is None:
            found = self._now[clock] = self._read(clock)
        return found

    def _put_counter(self, name: str, clock: int) -> None:
        def nanoseconds() -> int:
            return self._at(clock)

        def seconds() -> float:
            return self._at(clock) / _SECOND

        setattr(time, name, seconds)
        setattr(time, f"{name}_ns", nanoseconds)

    def _put_of_a_moment(self, name: str) -> None:
        real = getattr(time, name)

        def of(seconds: float | None = None, /) -> Any:
            return real(time.time() if seconds is None else seconds)

        setattr(time, name, of)

    def _put_rest(self) -> None:
        text, line = time.strftime, time.asctime

        def strftime(wanted: str, moment: Any = None, /) -> str:
            return text(wanted, time.localtime() if moment is None else moment)

        def asctime(moment: Any = None, /) -> str:
            return line(time.localtime() if moment is None else moment)

        def times() -> os.times_result:
            return os.times_result((time.process_time(), 0.0, 0.0, 0.0, time.monotonic()))

        def clock_gettime(clock: int, /) -> float:
            return self._at(clock) / _SECOND

        for function in (strftime, asctime, clock_gettime):
            setattr(time, function.__name__, function)
        time.clock_gettime_ns = self._at
        os.times = times
        # today() asks time.time(); these two ask the kernel.
        _put_in_class(datetime.datetime, "now", lambda cls, tz=None: cls.fromtimestamp(time.time(), tz))
        _put_in_class(datetime.datetime, "utcnow", _utcnow)


def _utcnow(cls: type[datetime.datetime]) -> datetime.datetime:
    return cls.fromtimestamp(time.time(), datetime.UTC).replace(tzinfo=None)


def _put_in_class(kind: type, name: str, method: Callable[..., Any]) -> None:
    """Give a class that is written in C another class method. A subclass in its place would not be the class of what
    the rest of Python makes: isinstance(), pickle and copy would all differ."""
    (members,) = (each for each in gc.get_referents(kind.__dict__) if isinstance(each, dict))
    members[name] = classmethod(method)
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(kind))
