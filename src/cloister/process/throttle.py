"""A limit of processor time for where there is no cgroup: a process that is over it is stopped for moments."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import weakref
from types import TracebackType
from typing import Final, Self

from .usage import cpu_seconds

__all__ = ["Throttle"]

LONGEST_STOP: Final = 0.1
"""Seconds. A stopped process answers nothing, and one that does not answer a ping within a second is taken for
unresponsive; between two stops it has time for an answer."""

_WINDOW: Final = 1.0
"""Seconds of unused time that a process may catch up on, and of overuse that it pays back."""

_LONGEST_PAUSE: Final = 0.25
"""Seconds between two looks at a process that uses little: several threads may begin to work meanwhile."""


class Throttle:
    """Holds a process to ``percent`` of one core: in any T seconds it gets ``percent`` of T + 1 seconds, as exactly
    as the event loop is punctual.

    While it keeps within that it is only looked at. When it is over, it is stopped (SIGSTOP) for at most
    ``LONGEST_STOP`` at a time, again and again, until it has paid that back. It runs on (SIGCONT) after ``close()``,
    at the end of the ``with`` block, and when the program ends.
    """

    def __init__(self, pid: int, pidfd: int, percent: float) -> None:
        """For the running event loop. ``pidfd`` is duplicated, and stays the caller's. 200 ``percent`` are two cores.

        Raises ``ValueError`` when ``percent`` is less than 1: stops are for a busy process, not for a stopped one.
        """
        if not percent >= 1:
            raise ValueError(f"a process cannot be held to {percent:g} % of a core: 1 is the least")
        self._pid = pid
        self._share = percent / 100
        self._pidfd = os.dup(pidfd)
        self._finalizer = weakref.finalize(self, _let_go, self._pidfd)
        self._loop = asyncio.get_running_loop()
        self._at = self._loop.time()
        self._used = cpu_seconds(pid) or 0.0
        self._allowance = self._share * _WINDOW  # CPU seconds that it may use at once; below 0, what it owes
        self._stopped = False
        self._timer = self._loop.call_later(self._until_next_look(), self._look)

    @property
    def is_over(self) -> bool:
        """Whether the process owes time, and so is being stopped now and then."""
        return self._allowance < 0

    def _look(self) -> None:
        used = cpu_seconds(self._pid)
        if used is None:
            self.close()
            return
        self._account(used)
        try:
            if self._stopped:
                self._signal(signal.SIGCONT)  # also when it still owes: it has to answer pings
            elif self.is_over:
                self._signal(signal.SIGSTOP)
        except ProcessLookupError:
            self.close()
            return
        self._timer = self._loop.call_later(self._until_next_look(), self._look)

    def _account(self, used: float) -> None:
        now = self._loop.time()
        earned, spent = self._share * (now - self._at), used - self._used
        self._at, self._used = now, used
        most = self._share * _WINDOW
        # What it owes is bounded too: it cannot help it when the loop looks late.
        self._allowance = max(-most, min(most, self._allowance + earned - spent))

    def _until_next_look(self) -> float:
        if self._stopped:
            return min(LONGEST_STOP, -self._allowance / self._share)
        # One that still owes runs for a quarter of what the longest stop earns it: it may have several threads.
        return min(_LONGEST_PAUSE, max(self._share * LONGEST_STOP / 4, self._allowance))

    def _signal(self, number: signal.Signals) -> None:
        signal.pidfd_send_signal(self._pidfd, number)
        self._stopped = number == signal.SIGSTOP

    def close(self) -> None:
        """Let the process run. Closing twice is fine."""
        self._timer.cancel()
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _let_go(pidfd: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGCONT)
    os.close(pidfd)
