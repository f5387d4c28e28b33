"""How a process ended, told apart: what an error carries, a report keeps, and a program may branch on."""

from __future__ import annotations

import signal as signals

import msgspec

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


class End(msgspec.Struct, frozen=True):
    """One of the classes below. ``str()`` says it in words that finish the sentence "the process …"."""

    @property
    def is_abnormal(self) -> bool:
        """Whether something went wrong, so that a report is written."""
        return True


class Exited(End, frozen=True):
    """It ended by itself, with this exit ``code``; None where nobody could tell."""

    code: int | None

    def __str__(self) -> str:
        return "is gone" if self.code is None else f"exited with code {self.code}"

    @property
    def is_abnormal(self) -> bool:
        return self.code != 0


class Crashed(End, frozen=True):
    """A ``signal`` ended it that Cloister did not send."""

    signal: int

    def __str__(self) -> str:
        return f"was ended by {signal_name(self.signal)}"


class Killed(End, frozen=True):
    """Cloister ended it, and says for which ``reason``. ``quiet``: there is nothing to report, as that was part of
    its ordinary life, or the consequence of an end that is reported."""

    reason: str
    quiet: bool = False

    def __str__(self) -> str:
        return f"was stopped: {self.reason}"

    @property
    def is_abnormal(self) -> bool:
        return not self.quiet


class SandboxViolation(End, frozen=True):
    """The sandbox stopped it at a system call that its kind may not make. ``syscall`` is its name and ``arguments``
    what is in the six registers of arguments, in hexadecimal, where the process still managed to say it."""

    syscall: str | None = None
    arguments: str | None = None

    def __str__(self) -> str:
        return f"was stopped by the sandbox at a forbidden system call ({self.syscall or 'SIGSYS'})"


class OutOfMemory(End, frozen=True):
    """It needed more memory than it may have. ``limit`` says whose limit that was."""

    limit: str

    def __str__(self) -> str:
        return f"ran out of memory: {self.limit}"


class BadMessage(End, frozen=True):
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
