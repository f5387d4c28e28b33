"""One call, which another thread may cancel."""

from __future__ import annotations

import concurrent.futures
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from .. import ends
from ..errors import descriptors_left
from ..ipc import Descriptors, values
from .host_process import HostProcess

__all__ = ["Invocation"]


class Invocation:
    """Its arguments are packed when it is made: that raises :class:`NotSendable`. It runs once, or again
    where its process failed and that does no harm."""

    def __init__(
        self,
        function: str,
        arguments: Sequence[Any],
        named: Mapping[str, Any],
        *,
        timeout: float | None = None,
        code: bytes | None = None,
        writable: bool = False,
    ) -> None:
        """``code`` is what ``function`` is, if it is one of the host's program. ``writable``: a SharedBuffer may be
        written to by who is called."""
        self.function = function
        self.timeout = timeout
        self.code = code
        self.body, memfds = values.pack_call(arguments, named, writable=writable)
        self.fds = Descriptors(memfds)
        self.cancelled = False
        self._lock = threading.Lock()
        self._process: HostProcess | None = None
        self._wake: threading.Event | None = None

    def begin(self, process: HostProcess) -> None:
        """It is its turn. Raises concurrent.futures.CancelledError."""
        with self._lock:
            if self.cancelled:
                raise concurrent.futures.CancelledError
            self._process = process

    def descriptors(self, *, again: bool) -> list[int]:
        """Those that go with it, which the caller closes; ``again``: it may run once more, and then has them still.
        Raises OutOfDescriptors."""
        if not again:
            return self.fds.release()
        copies: list[int] = []
        try:
            with descriptors_left():
                for fd in self.fds.borrow():
                    copies.append(os.dup(fd))  # one after the other, so that none is lost if one fails
        except BaseException:
            Descriptors(copies).close()
            raise
        return copies

    def pause(self, seconds: float) -> None:
        """Wait before it runs once more. Raises concurrent.futures.CancelledError as soon as it is cancelled."""
        with self._lock:
            self._process = None
            wake = self._wake = threading.Event()
            if self.cancelled:
                wake.set()
        if wake.wait(seconds):
            raise concurrent.futures.CancelledError

    def end(self) -> None:
        """It is done, or will never begin."""
        with self._lock:
            self._process = None
        self.fds.close()

    def cancel(self) -> None:
        """Have it never begin, or end the process that works on it. From any thread."""
        with self._lock:
            self.cancelled = True
            if self._wake is not None:
                self._wake.set()
            if self._process is not None:
                self._process.kill(ends.Killed("its call was cancelled", quiet=True))
