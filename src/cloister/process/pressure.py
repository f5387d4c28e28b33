"""Memory pressure of the whole machine: how long its processes wait for memory (PSI, Linux 4.20).

``/proc/pressure/memory`` is missing where the kernel was built or started without it (``psi=0``).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import logging
import os
import re
import select
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from ..errors import OutOfDescriptors, descriptors_left

__all__ = ["Pressure", "PressureWatch"]

log = logging.getLogger("cloister.process")

MEMORY: Final = Path("/proc/pressure/memory")

_WINDOW = 2.0
"""Seconds. The kernel updates its figures as often, and grants a process without CAP_SYS_RESOURCE only triggers with
a window of a multiple of it (since Linux 6.4; before, none at all). Documentation/accounting/psi.rst"""

_NOT_THERE = {errno.ENOENT, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM}

_SOME = re.compile(
    r"some avg10=(\d{1,3}\.\d\d) avg60=(\d{1,3}\.\d\d) avg300=\d{1,3}\.\d\d total=(\d{1,20})", re.ASCII
)


@dataclasses.dataclass(frozen=True)
class Pressure:
    """The share of time in which some process waited for memory: for pages to be freed, read back, or swapped in."""

    avg10: float
    """Percent of the last 10 seconds."""
    avg60: float
    """Percent of the last minute."""
    total: float
    """Seconds since the machine started."""

    @classmethod
    def parse(cls, text: str) -> Pressure | None:
        """From the file's text; None when it has no line of that form."""
        found = _SOME.match(text)
        if found is None:
            return None
        return cls(float(found[1]), float(found[2]), int(found[3]) / 1e6)

    @classmethod
    def read(cls, path: Path = MEMORY) -> Pressure | None:
        """What the kernel says now; None when it keeps no such figures, or shows them to others only."""
        try:
            with descriptors_left(), path.open("rb") as file:
                text = file.read(4096)
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
            return None
        return cls.parse(text.decode("ascii", errors="replace"))


class PressureWatch:
    """Has ``callback(pressure)`` called when processes waited for memory for ``stalled`` seconds within 2 seconds; at
    most once in 2 seconds.

    By a trigger of the kernel's where that is granted, which costs nothing while nothing happens; else by reading the
    file every 2 seconds. ``close()`` it, or leave the ``with`` block.
    """

    def __init__(
        self, callback: Callable[[Pressure], None], *, stalled: float = 0.3, path: Path = MEMORY
    ) -> None:
        """For the running event loop. Without PSI nothing is watched, and ``source`` is None.

        Raises ``ValueError`` unless 0 < ``stalled`` ≤ 2.
        """
        if not 0 < stalled <= _WINDOW:
            raise ValueError(f"stalled is {stalled:g} s of the {_WINDOW:g} s that are watched")
        self.source: Literal["trigger", "timer"] | None = None
        self._callback = callback
        self._stalled = stalled
        self._path = path
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._held = contextlib.ExitStack()
        self._last = Pressure.read(path)
        if self._last is None:
            return
        with contextlib.ExitStack() as held:
            if self._watch_trigger(held):
                self.source = "trigger"
            else:
                self.source = "timer"
                self._schedule()
            self._held = held.pop_all()

    def _watch_trigger(self, held: contextlib.ExitStack) -> bool:
        # The kernel takes the last byte for the end of the string, whatever it is.
        trigger = f"some {round(self._stalled * 1e6)} {round(_WINDOW * 1e6)}\0".encode()
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            held.callback(os.close, fd)
            os.write(fd, trigger)
            # The file is always readable, so a loop that reads would spin on it: an epoll of its own waits for
            # POLLPRI only, and is itself readable then. Asking whether there was an event also takes it away.
            poll = held.enter_context(select.epoll())
            poll.register(fd, select.EPOLLPRI)
        except OSError as error:  # EACCES, EPERM, EINVAL: triggers are not for this process on this kernel
            held.close()
            log.debug("memory pressure is read every %g s: no trigger: %s", _WINDOW, error.strerror)
            return False
        self._loop.add_reader(poll.fileno(), self._on_trigger)
        held.callback(self._loop.remove_reader, poll.fileno())
        return True

    def _on_trigger(self) -> None:
        pressure = self._read_now()
        if pressure is not None:
            self._callback(pressure)

    def _schedule(self) -> None:
        self._timer = self._loop.call_later(_WINDOW, self._on_timer)

    def _on_timer(self) -> None:
        self._schedule()
        before, now = self._last, self._read_now()
        self._last = now
        if before is not None and now is not None and now.total - before.total >= self._stalled:
            self._callback(now)

    def _read_now(self) -> Pressure | None:
        try:
            return Pressure.read(self._path)
        except OutOfDescriptors:
            return None  # the next time there may be one

    def close(self) -> None:
        """Watch no more, and close the descriptors. Closing twice is fine."""
        self.source = None
        if self._timer is not None:
            self._timer.cancel()
        self._held.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
