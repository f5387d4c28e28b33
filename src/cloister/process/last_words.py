"""What a process writes on its standard error, through a pipe of its own: a traceback, a violation, a library's
complaint. All of it is foreign text, and none of it reaches the user's terminal unless ``cloister.child`` is on."""

from __future__ import annotations

import asyncio
import logging
import os
import re

from ..errors import descriptors_left, printable

__all__ = ["LastWords"]

child_log = logging.getLogger("cloister.child")
sandbox_log = logging.getLogger("cloister.sandbox")

_KEPT = 16 * 1024  # bytes: a traceback of a hundred frames
_AT_ONCE = 64 * 1024  # bytes: what a pipe holds; a process that writes on and on gets its turn like any other
_CALL = rb"syscall=([a-z0-9_]{1,40}|#[0-9]{1,10}) args=([0-9a-fx,]{1,120})$"
# Compiled when something is said, which hardly any process does.
_VIOLATION = rb"(?m)^cloister: sandbox violation: kind=[a-z_]+ " + _CALL
_DENIAL = rb"(?m)^cloister: sandbox denial \(([A-Za-z ]{1,60})\): kind=[a-z_]+ " + _CALL
_DENIALS_TOLD = 256  # of one process; it could go on for ever
_NO_MEMORY = (b"MemoryError", b"std::bad_alloc")  # Python's word for it, and libstdc++'s and libc++'s


class LastWords:
    """The reading end of a process's standard error; the last 16 KiB are kept."""

    def __init__(self, kind: str, reader: int) -> None:
        self._kind = kind
        self._said = bytearray()
        self._denials: set[tuple[bytes, bytes]] = set()
        self._reader = reader
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(reader, self._read)

    @classmethod
    def pipe(cls, kind: str) -> tuple[LastWords, int]:
        """With the writing end, which is to be given away. A full pipe must not stop a child: it does not block.

        Raises :class:`OutOfDescriptors`."""
        with descriptors_left():
            reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        return cls(kind, reader), writer

    @property
    def text(self) -> str:
        """What was said last, line by line, as it may be shown."""
        self._read()
        lines = self._said.decode(errors="replace").splitlines()
        return "\n".join(printable(line, 300) for line in lines)

    def tail(self) -> str:
        """The last line after a colon, to explain a failed start; nothing where nothing was said."""
        lines = self.text.splitlines()
        return f": {lines[-1]}" if lines else ""

    @property
    def violation(self) -> tuple[str, str] | None:
        """The system call that the process says it was stopped at, and its arguments in hexadecimal."""
        self._read()
        found = re.findall(_VIOLATION, self._said)
        return (found[-1][0].decode(), found[-1][1].decode()) if found else None

    @property
    def no_memory(self) -> bool:
        """Whether the process says that it got no memory."""
        self._read()
        return any(word in self._said for word in _NO_MEMORY)

    def close(self) -> None:
        if self._reader >= 0:
            self._read()
            if not self._loop.is_closed():
                self._loop.remove_reader(self._reader)
            os.close(self._reader)
            self._reader = -1

    def _read(self) -> None:
        if self._reader < 0:
            return
        try:
            data = os.read(self._reader, _AT_ONCE)
        except BlockingIOError:
            return
        self._said += data
        del self._said[:-_KEPT]
        self._tell_denials(data)
        for line in data.decode(errors="replace").splitlines():
            child_log.debug("%s: %s", self._kind, printable(line, 300))
        if not data:  # nobody can write any more
            self._loop.remove_reader(self._reader)

    def _tell_denials(self, data: bytes) -> None:
        """Each call once for each way it was denied: a library asks for hundreds of files in a row. There are none
        unless they were asked for (``CLOISTER_SANDBOX_LOG=1``)."""
        for why, call, arguments in re.findall(_DENIAL, data):
            if (call, why) not in self._denials and len(self._denials) < _DENIALS_TOLD:
                self._denials.add((call, why))
                told = f"{self._kind} was denied {call.decode()}({arguments.decode()}): {why.decode()}"
                sandbox_log.warning(told)
