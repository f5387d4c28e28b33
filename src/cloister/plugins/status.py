"""Whether a plugin runs, and if not, how it ended."""

from __future__ import annotations

import dataclasses

from .. import ends

__all__ = ["Crashed", "Running", "Status", "Terminated", "Unresponsive", "status_of"]


@dataclasses.dataclass(frozen=True)
class Running:
    """It has a process, which answers or has nothing to do."""


@dataclasses.dataclass(frozen=True)
class Crashed:
    """Its process ended by itself; the next call starts a new one."""

    exit_code: int | None
    signal: int | None


@dataclasses.dataclass(frozen=True)
class Terminated:
    """Its process was ended, for ``reason``; unless it was unloaded, the next call starts a new one."""

    reason: str


@dataclasses.dataclass(frozen=True)
class Unresponsive:
    """It works on a call, and has not said anything for ``seconds``."""

    seconds: float


Status = Running | Crashed | Terminated | Unresponsive


def status_of(end: ends.End | None) -> Status:
    """That of a plugin whose process has ended, or is being ended (None)."""
    match end:
        case ends.Killed(reason=reason):
            return Terminated(reason)
        case ends.Crashed(signal=number):
            return Crashed(None, number)
        case ends.Exited(code=code):
            return Crashed(code, None)
    return Terminated("it is being ended" if end is None else str(end))
