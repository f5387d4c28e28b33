"""An event loop in a thread of its own, for programs without asyncio."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from ..errors import CloisterError, ProcessError, descriptors_left

__all__ = ["CLOSE_TIMEOUT", "LoopThread"]

T = TypeVar("T")
CLOSE_TIMEOUT: Final = 30.0
"""Seconds that what still runs has, once the loop is to end."""


class LoopThread:
    """An event loop that runs in a daemon thread until :meth:`stop`."""

    def __init__(self, closed: Callable[[], CloisterError]) -> None:
        """``closed`` makes what is raised once it has stopped."""
        self._closed = closed
        self._owner = os.getpid()
        with descriptors_left():
            self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="cloister", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # EAGAIN: RLIMIT_NPROC, or the cgroup's pids.max
            self._loop.close()
            raise ProcessError(f"no thread can be started (see `ulimit -u` and pids.max): {error}") from error

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Its result. An exception in the waiting thread (Ctrl-C) cancels it."""
        if self.is_closed:
            coroutine.close()
            raise self._closed()
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout)
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """End the loop once what it still does is done: a cancelled start has processes to end."""
        if self.is_closed:
            return
        with contextlib.suppress(concurrent.futures.TimeoutError):
            self.run(_settle(), CLOSE_TIMEOUT)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(CLOSE_TIMEOUT)
        if not self._thread.is_alive():
            self._loop.close()

    @property
    def is_closed(self) -> bool:
        """Also in a process that the program forked: it has no such thread, and would wait for it when it ends."""
        return self._loop.is_closed() or os.getpid() != self._owner


async def _settle() -> None:
    me = asyncio.current_task()
    await asyncio.gather(*(asyncio.all_tasks() - {me}), return_exceptions=True)
    with contextlib.suppress(RuntimeError):  # no thread can be started any more: the interpreter is ending
        await asyncio.get_running_loop().shutdown_default_executor()
