"""Programs that a plugin runs (``sys:exec``): each in a process of its own, held as a plugin is, and never by a shell.

What is asked for is a stranger's: which program is looked up among those granted, and what it writes are bytes that
nobody here reads.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

from ..errors import CloisterError, HostError
from ..ipc import Descriptors
from ..process import ChildProcess
from ..process.usage import cpu_seconds
from . import program
from .capabilities import Held
from .limits import Limits
from .zygotes import Zygotes

__all__ = ["Programs"]

_AT_ONCE: Final = 256 * 1024  # bytes
_LOOK_EVERY: Final = 0.05
"""Seconds between two looks whether it may go on: at its processor time, and whether its plugin is still there."""
_PAUSE: Final = 0.002
"""Seconds between two looks for its end, which is near once it has closed what it writes to."""


class Programs:
    """For any number of threads."""

    def __init__(self, zygotes: Zygotes, in_loop: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        """``in_loop`` runs a coroutine in the event loop of ``zygotes``."""
        self._zygotes = zygotes
        self._in_loop = in_loop

    def run(
        self,
        name: str,
        arguments: list[Any],
        given: Any,
        *,
        held: Held,
        limits: Limits,
        seconds: float,
        wanted: Callable[[], bool] = lambda: True,
    ) -> Mapping[str, Any]:
        """Run the program granted as ``name``, which reads ``given``, for ``seconds`` at the most: its ``returncode``
        (minus a signal), and what it wrote, as ``stdout`` and ``stderr``. ``wanted`` says whether anybody waits.

        Raises :class:`HostError` for the plugin to read. Whoever calls this has seen that ``name`` was granted.
        """
        deadline = time.monotonic() + seconds
        path = dict(held.programs)[name]
        checked = [_bytes(each, "an argument") for each in arguments]
        if any(b"\0" in each for each in checked):
            raise HostError("an argument holds a null byte")
        data = _bytes(given, "input")
        theirs, mine = program.pipes()
        process: ChildProcess | None = None
        try:
            process = self._in_loop(
                program.run(
                    self._zygotes,
                    program.preload([real for _, real in held.programs], held, limits),
                    path,
                    checked,
                    pipes=theirs,
                    name=name,
                    held=held,
                    limits=limits,
                )
            )
            return _Talk(process, mine, data, limits).until(deadline, wanted)
        except CloisterError as error:
            raise HostError(str(error)) from None
        finally:
            mine.close()
            if process is not None:
                self._in_loop(process.end())


class _Talk:
    """Until it has ended: what it reads is written, what it writes is read."""

    def __init__(self, process: ChildProcess, pipes: Descriptors, data: bytes, limits: Limits) -> None:
        self._process = process
        self._pipes = pipes
        self._rest = memoryview(data)
        self._input, *outputs = pipes.borrow()
        self._said = {fd: bytearray() for fd in outputs}
        self._limits = limits
        self._poll = select.poll()

    def until(self, deadline: float, wanted: Callable[[], bool]) -> Mapping[str, Any]:
        self._poll.register(self._input, select.POLLOUT)
        open_ones = set(self._said)
        for fd in open_ones:
            self._poll.register(fd, select.POLLIN)
        while open_ones:
            self._check(deadline, wanted)
            for fd, _ in self._poll.poll(_LOOK_EVERY * 1000):
                if fd == self._input:
                    self._write()
                elif not self._read(fd):
                    self._poll.unregister(fd)
                    open_ones.discard(fd)
        while (status := self._process.status) is None:
            self._check(deadline, wanted)
            time.sleep(_PAUSE)
        stdout, stderr = self._said.values()
        code = -status.signal if status.signal is not None else status.code
        return {"returncode": code, "stdout": bytes(stdout), "stderr": bytes(stderr)}

    def _check(self, deadline: float, wanted: Callable[[], bool]) -> None:
        if time.monotonic() >= deadline:
            raise HostError("Timeout: the program did not end in time, and was ended")
        if not wanted():
            raise HostError("nobody waits for the program any more")
        most = self._limits.cpu_time
        if most is not None and (cpu_seconds(self._process.pid) or 0.0) > most:
            raise HostError(
                f"CpuLimit: the program used more than {most:g} s of processor time, and was ended"
            )

    def _write(self) -> None:
        try:
            self._rest = self._rest[os.write(self._input, self._rest[:_AT_ONCE]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:  # it reads no more
            self._rest = self._rest[:0]
        if not self._rest:
            self._poll.unregister(self._input)
            os.close(self._pipes.take(0))

    def _read(self, fd: int) -> bool:
        """Whether there may be more."""
        try:
            data = os.read(fd, _AT_ONCE)
        except BlockingIOError:
            return True
        self._said[fd] += data
        most = self._limits.bytes_of("result")
        if sum(map(len, self._said.values())) > most:
            raise HostError(f"ResultLimit: the program wrote more than {most} bytes, and was ended")
        return bool(data)


def _bytes(value: Any, what: str) -> bytes:
    if isinstance(value, str):
        return value.encode(errors="surrogateescape")
    if isinstance(value, bytes | memoryview):
        return bytes(value)
    raise HostError(f"{what} is a str or bytes")
