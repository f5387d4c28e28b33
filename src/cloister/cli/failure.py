"""What ends a command that no page is to blame for."""

from __future__ import annotations

__all__ = ["USAGE", "CommandError"]

USAGE = 2


class CommandError(Exception):
    """One line for standard error, and the exit code that goes with it."""

    def __init__(self, message: str, code: int = 1) -> None:
        self.code = code
        super().__init__(message)
