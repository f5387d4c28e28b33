"""A plugin that is a program: each call is a line of JSON that it reads, each answer one that it writes.

The program is a stranger to this process, which is one to the host: every line is bounded, and fits a type or ends it.
"""

from __future__ import annotations

import logging
import os
import select
from typing import Any, Final

import msgspec

from cloister.interfaces.plugin_host import Logged, Outcome, Raised

from .execution import Finished
from .output import Printer, Tell
from .plain_json import check

__all__ = ["Program"]

_AT_ONCE: Final = 256 * 1024  # bytes
_ENDED: Final = 0
"""Exit code: the program says no more. How it ended, the host is told by the kernel."""
_NO_MEMORY: Final = (b"MemoryError", b"std::bad_alloc", b"annot allocate memory", b"ut of memory")
"""What Python, C++ and C libraries, shells and other interpreters say then."""
_KEPT: Final = 16 * 1024
"""Bytes of what it wrote last on standard error."""
_LEVELS: Final = frozenset({"debug", "info", "warning", "error", "critical"})


class _Result(msgspec.Struct, tag_field="type", tag="result"):
    value: Any = None


class _Error(msgspec.Struct, tag_field="type", tag="error"):
    message: str = ""


class _Log(msgspec.Struct, tag_field="type", tag="log"):
    message: str
    level: str = "info"


_Said = _Result | _Error | _Log
_decode: Final = msgspec.json.Decoder(_Said).decode
_encode: Final = msgspec.json.Encoder().encode


class Program:
    """What runs, and the ends of its pipes."""

    def __init__(self, name: str, pipes: list[int], printer: Printer, tell: Tell, longest: int) -> None:
        """``longest``: bytes of one line."""
        self._name = name
        self._input, self._output, self._errors = pipes
        self._printer = printer
        self._tell = tell
        self._longest = longest
        self._unsent = b""
        self._line = bytearray()
        self._lines: list[bytes] = []
        """Those that are complete, and were not looked at."""
        self._last_words = b""
        self._poll = select.poll()
        self._poll.register(self._output, select.POLLIN)
        self._poll.register(self._errors, select.POLLIN)

    def call(self, function: str, arguments: list[Any], named: dict[str, Any]) -> Finished:
        """Have it answer one call. Raises :class:`NotSendable` for what JSON does not have."""
        message: dict[str, Any] = {"type": "call", "function": function, "args": arguments}
        if named:
            message["kwargs"] = named
        check(arguments, "args")
        check(named, "named")
        self._take()
        if (unasked := self._next_answer()) is not None:
            told = unasked.value if isinstance(unasked.value, Raised) else Raised("BadMessage", "")
            why = f"it answered what it was not asked: {told.message}"
            return Finished(Outcome.BROKEN, Raised("BadMessage", why[:4000]))
        self._unsent += _encode(message) + b"\n"
        if self._input >= 0:
            self._poll.register(self._input, select.POLLOUT)
        while True:
            answer = self._next_answer()
            if answer is not None:
                return answer
            self._exchange()

    def next(self, _number: int) -> Outcome:
        """There are no streams."""
        return Outcome.END

    def close(self, _number: int) -> None:
        return

    def _next_answer(self) -> Finished | None:
        while self._lines:
            line = self._lines.pop(0)
            if len(line) > self._longest:
                what = f"it wrote a line of more than {self._longest} bytes"
                return Finished(Outcome.TOO_LARGE, Raised("ResultLimit", what))
            try:
                said = _decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                why = f"it wrote a line that is no answer: {error}"
                return Finished(Outcome.BROKEN, Raised("BadMessage", why[:4000]))
            match said:
                case _Result():
                    return Finished(Outcome.VALUE, said.value)
                case _Error():
                    return Finished(Outcome.RAISED, Raised("Error", said.message[:4000]))
                case _Log():
                    self._log(said)
        return None

    def _log(self, said: _Log) -> None:
        self._printer.flush()
        level = logging.getLevelNamesMapping()[said.level.upper()] if said.level in _LEVELS else logging.INFO
        self._tell(Logged(level, self._name[:200], said.message[:10_000]))

    # ── pipes ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _exchange(self) -> None:
        """Wait until it reads or writes something."""
        for fd, _ in self._poll.poll():
            if fd == self._input:
                self._send()
            elif fd == self._errors:
                self._hear()
            else:
                self._take()

    def _send(self) -> None:
        try:
            self._unsent = self._unsent[os.write(self._input, self._unsent[:_AT_ONCE]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # it reads no more; it may still answer
            self._poll.unregister(self._input)
            os.close(self._input)
            self._input, self._unsent = -1, b""
            return
        if not self._unsent:
            self._poll.unregister(self._input)

    def _hear(self) -> None:
        data = _read(self._errors)
        if data:
            self._last_words = (self._last_words + data)[-_KEPT:]
            self._printer.write(True, data.decode(errors="replace"))
        elif data is not None:
            self._poll.unregister(self._errors)

    def _take(self) -> None:
        data = _read(self._output)
        if data is None:
            return
        if not data:
            self._ended()
        *complete, rest = data.split(b"\n")
        for part in complete:
            self._add(part)
            self._lines.append(bytes(self._line))
            self._line.clear()
        self._add(rest)

    def _add(self, part: bytes) -> None:
        """To the line that is being read. Of one that is too long there is only so much that it is seen to be."""
        self._line += part[: self._longest + 1 - len(self._line)]

    def _ended(self) -> None:
        """It has closed its output, as it does when it ends."""
        while data := _read(self._errors):
            self._last_words = (self._last_words + data)[-_KEPT:]
            self._printer.write(True, data.decode(errors="replace"))
        if any(words in self._last_words for words in _NO_MEMORY):
            raise MemoryError
        self._printer.flush()
        os._exit(_ENDED)


def _read(fd: int) -> bytes | None:
    """What there is; None when there is nothing now, nothing at the end."""
    try:
        return os.read(fd, _AT_ONCE)
    except BlockingIOError:
        return None
