"""What the plugin prints and logs, told to the host in order, with the answer to follow."""

from __future__ import annotations

import io
import itertools
import logging
import sys
from collections.abc import Callable
from typing import Final

from cloister.interfaces.base import Event
from cloister.interfaces.plugin_host import Logged, Printed

__all__ = ["Printer", "capture"]

_AT_ONCE: Final = 15_000  # characters; Printed takes no more
_KEPT: Final = 8_000

Tell = Callable[[Event], None]


class Printer:
    """Both streams, in the order in which they were written."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._parts: list[tuple[bool, str]] = []
        self._size = 0

    def write(self, to_stderr: bool, text: str) -> None:
        if not text:
            return
        self._parts.append((to_stderr, text))
        self._size += len(text)
        if self._size >= _KEPT:
            self.flush()

    def flush(self) -> None:
        parts, self._parts, self._size = self._parts, [], 0
        for to_stderr, run in itertools.groupby(parts, lambda part: part[0]):
            text = "".join(part[1] for part in run)
            for start in range(0, len(text), _AT_ONCE):
                self._tell(Printed(to_stderr, text[start : start + _AT_ONCE]))


class _Stream(io.TextIOBase):
    """sys.stdout, or sys.stderr."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self, printer: Printer, to_stderr: bool) -> None:
        self._printer = printer
        self._to_stderr = to_stderr

    def writable(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        self._printer.write(self._to_stderr, _characters(text))
        return len(text)

    def flush(self) -> None:
        self._printer.flush()


class _Handler(logging.Handler):
    """The root logger's."""

    def __init__(self, tell: Tell, printer: Printer) -> None:
        super().__init__()
        self._tell = tell
        self._printer = printer

    def emit(self, record: logging.LogRecord) -> None:
        self._printer.flush()
        try:
            text = self.format(record)
        except Exception:
            text = str(record.msg)
        level = min(100, max(0, record.levelno))
        self._tell(Logged(level, _characters(record.name)[:200], _characters(text)[:10_000]))


def _characters(text: str) -> str:
    """Without halves of surrogate pairs, which no encoding has."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def capture(tell: Tell) -> Printer:
    """From now on ``tell`` hears of what is printed and logged in this process."""
    printer = Printer(tell)
    sys.stdout = _Stream(printer, to_stderr=False)
    sys.stderr = _Stream(printer, to_stderr=True)
    root = logging.getLogger()
    root.addHandler(_Handler(tell, printer))
    root.setLevel(logging.INFO)
    return printer
