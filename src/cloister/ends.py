"""How a process ended, told apart: what an error carries, a report keeps, and a program may branch on."""

from __future__ import annotations

import dataclasses
import signal as signals

__all__ = [
    "BadMessage",
    "Crashed",
    "End",
    "Exited",
    "Killed",
    "OutOfMemory",
    "SandboxViolation",
    "signal_name",
]


@dataclasses.dataclass(frozen=True)
class End:
    """One of the classes below. ``str()`` says it in words that finish the sentence "the process …"."""

    @property
    def is_abnormal(self) -> bool:
        """Whether something went wrong, so that a report is written."""
        return True


@dataclasses.dataclass(frozen=True)
class Exited(End):
    """It ended by itself, with this exit ``code``; None where nobody could tell."""

    code: int | None

    def __str__(self) -> str:
        return "is gone" if self.code is None else f"exited with code {self.code}"

    @property
    def is_abnormal(self) -> bool:
        return self.code != 0


@dataclasses.dataclass(frozen=True)
class Crashed(End):
    """A ``signal`` ended it that Cloister did not send."""

    signal: int

    def __str__(self) -> str:
        return f"was ended by {signal_name(self.signal)}"


@dataclasses.dataclass(frozen=True)
class Killed(End):
    """Cloister ended it, and says for which ``reason``. ``quiet``: there is nothing to report, as that was part of
    its ordinary life, or the consequence of an end that is reported."""

    reason: str
    quiet: bool = False

    def __str__(self) -> str:
        return f"was stopped: {self.reason}"

    @property
    def is_abnormal(self) -> bool:
        return not self.quiet


@dataclasses.dataclass(frozen=True)
class SandboxViolation(End):
    """The sandbox stopped it at a system call that its kind may not make. ``syscall`` is its name and ``arguments``
    what is in the six registers of arguments, in hexadecimal, where the process still managed to say it."""

    syscall: str | None = None
    arguments: str | None = None

    def __str__(self) -> str:
        return f"was stopped by the sandbox at a forbidden system call ({self.syscall or 'SIGSYS'})"


@dataclasses.dataclass(frozen=True)
class OutOfMemory(End):
    """It needed more memory than it may have. ``limit`` says whose limit that was."""

    limit: str

    def __str__(self) -> str:
        return f"ran out of memory: {self.limit}"


@dataclasses.dataclass(frozen=True)
class BadMessage(End):
    """It sent what its interface does not allow, and was ended: it is broken, or taken over."""

    detail: str

    def __str__(self) -> str:
        return f"broke the protocol and was ended: {self.detail}"


def signal_name(number: int) -> str:
    """``SIGSEGV`` for 11; ``signal 200`` for what has no name."""
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"
