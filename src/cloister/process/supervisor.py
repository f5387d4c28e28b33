"""Who looks after the children of one browser: pings each, tells which does not answer, and reports how they end."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import weakref
from collections.abc import Callable
from typing import Final, Literal

from .. import ends
from ..errors import BadMessage, ChannelClosed
from .handle import ChildProcess

__all__ = ["HealthEvent", "Supervisor"]

log = logging.getLogger("cloister.process")

INTERVAL: Final = 0.5
"""Seconds between two pings of one child."""
OVERDUE: Final = 0.9
"""Seconds without an answer after which a child is unresponsive. With the interval: noticed within 1.5 s."""
_LATE: Final = 0.5
"""Seconds by which this process's own loop may be late before its children's answers are judged anew."""

GRACE: Final[dict[str, float]] = {"zygote": 4.0, "lookup_server": 4.0, "request_server": 4.0}
"""Seconds that an unresponsive child of a kind has before it is ended; one that has none here may be busy with a
large page or image, and is ended at the deadline of whoever waits for it."""


@dataclasses.dataclass(frozen=True)
class HealthEvent:
    """A child stopped answering pings (``unresponsive``), or does so again (``responsive``).

    ``site`` is what it works for, ``seconds`` how long it has not answered, ``kills_in`` after how many seconds
    it is ended unless something is done: None when nothing but the deadline of an action ends it. Both methods
    may be called from any thread, now or later.
    """

    state: Literal["unresponsive", "responsive"]
    kind: str
    pid: int
    site: str | None
    seconds: float
    kills_in: float | None
    _watch: _Watch = dataclasses.field(repr=False, compare=False)

    def kill(self) -> None:
        """End the process."""
        self._watch.act(ends.Killed(f"it did not answer for {self.seconds:.1f} s, and was ended on request"))

    def wait(self) -> None:
        """Do not end the process for this silence, however long it lasts."""
        self._watch.act(None)


class _Watch:
    """One child: what it was asked and when."""

    def __init__(self, child: ChildProcess) -> None:
        self.child = weakref.ref(child)
        self.asked: asyncio.Future[object] | None = None
        self.asked_at = 0.0
        self.patient = False
        self._loop = asyncio.get_running_loop()

    def act(self, end: ends.End | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._act, end)

    def _act(self, end: ends.End | None) -> None:
        child = self.child()
        if child is None or not child.is_unresponsive:
            return
        if end is None:
            self.patient = True
        else:
            child.kill(end)


class Supervisor:
    """``on_health`` hears of every change, ``on_end`` of every child whose end was abnormal."""

    def __init__(
        self,
        on_health: Callable[[ChildProcess, HealthEvent], None],
        on_end: Callable[[ChildProcess], None],
    ) -> None:
        self._on_health = on_health
        self._on_end = on_end
        self._watches: dict[int, _Watch] = {}
        self._next = 0
        self._loop = asyncio.get_running_loop()
        self._due = self._loop.time() + INTERVAL
        self._timer = self._loop.call_at(self._due, self._tick)

    def adopt(self, child: ChildProcess) -> None:
        """Look after ``child`` until its end. Its handle stays its owner's: dropping it still ends the process."""
        self._next += 1
        number = self._next
        watch = self._watches[number] = _Watch(child)
        child.when_ended(lambda: self._ended(number, watch))

    def close(self) -> None:
        """Look after nothing any more."""
        self._timer.cancel()
        self._watches.clear()

    def _ended(self, number: int, watch: _Watch) -> None:
        self._watches.pop(number, None)
        child = watch.child()
        if child is not None and child.ending is not None and child.ending.is_abnormal:
            self._on_end(child)

    def _tick(self) -> None:
        now = self._loop.time()
        late = now - self._due > _LATE  # this process was stopped, or slow: nobody could be heard meanwhile
        self._due = now + INTERVAL
        self._timer = self._loop.call_at(self._due, self._tick)  # whatever those who are told of it may raise
        for number, watch in list(self._watches.items()):
            child = watch.child()
            if child is None:
                del self._watches[number]
            elif child.state in ("running", "unresponsive"):
                self._look_at(watch, child, now, late)

    def _look_at(self, watch: _Watch, child: ChildProcess, now: float, late: bool) -> None:
        if watch.asked is None or watch.asked.done():
            self._ask(watch, child, now)
        elif late and not child.is_unresponsive:
            watch.asked_at = now
        elif now - watch.asked_at >= OVERDUE:
            self._is_silent(watch, child, now - watch.asked_at)

    def _ask(self, watch: _Watch, child: ChildProcess, now: float) -> None:
        try:
            watch.asked = child.probe()
        except (ChannelClosed, BadMessage):
            return  # it is ending
        watch.asked_at = now
        watch.asked.add_done_callback(lambda asked: self._answered(watch, asked))

    def _answered(self, watch: _Watch, asked: asyncio.Future[object]) -> None:
        child = watch.child()
        answered = not asked.cancelled() and asked.exception() is None
        if child is not None and child.is_unresponsive and answered:
            child.is_unresponsive, watch.patient = False, False
            self._tell(watch, child, "responsive", self._loop.time() - watch.asked_at)

    def _is_silent(self, watch: _Watch, child: ChildProcess, seconds: float) -> None:
        grace = GRACE.get(child.kind)
        if not child.is_unresponsive:
            child.is_unresponsive = True
            log.warning("%r has not answered for %.1f s", child, seconds)
            self._tell(watch, child, "unresponsive", seconds)
        elif grace is not None and seconds >= grace and not watch.patient:
            child.kill(ends.Killed(f"it did not answer for {seconds:.1f} s"))

    def _tell(
        self,
        watch: _Watch,
        child: ChildProcess,
        state: Literal["unresponsive", "responsive"],
        seconds: float,
    ) -> None:
        grace = GRACE.get(child.kind) if state == "unresponsive" else None
        kills_in = None if grace is None else max(0.0, grace - seconds)
        self._on_health(
            child, HealthEvent(state, child.kind, child.pid, child.site, seconds, kills_in, watch)
        )
