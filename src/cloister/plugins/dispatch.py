"""How a pool's calls get to its processes: one thread has them all under way, as long as nothing takes long.

A thread for each process would be simpler. But the interpreter runs one thread at a time, and with each packet that
goes or comes they would hand it to each other: that took more than all else about a call. So one thread sends calls and
takes answers, and waits for nothing but the next packet. Whatever may take longer (a process is started, the plugin
calls the host or prints, a call fails) is done by another thread, which waits for that alone.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import logging
import math
import os
import queue
import select
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, Literal, NamedTuple, TypeVar

from ..errors import LimitExceeded, PluginCrashed, PluginError, ResultLimit, RuntimeClosed, descriptors_left
from .host_process import Answer
from .invocation import Invocation
from .plugin import Begun, Plugin

__all__ = ["Calls", "PoolBroken", "Task", "Work"]

log = logging.getLogger("cloister.plugins")

T = TypeVar("T")
Calls = Literal["reused", "reset", "fresh"]

_NAME: Final = "cloister-pool"
_LIGHT: Final = frozenset({type(None), bool, int, float, str, bytes, list, tuple, dict})
"""Arguments that are packed in no time, or as fast as anything else in this interpreter: what is left are buffers."""


_TOLD_AT_ONCE: Final = 16
"""Answers that may wait to be told together, while more calls wait: who waits for them would be woken for each, and
take the interpreter from this thread."""
_TOLD_AFTER: Final = 0.0005
"""Seconds that an answer waits for others at the most."""


class PoolBroken(PluginError, concurrent.futures.BrokenExecutor):
    """A process of a pool that is not to start new ones has ended."""


class _PluginFuture(Future[T]):
    """``cancel()`` also ends what runs: the process that works on it."""

    def __init__(self) -> None:
        super().__init__()
        self.invocation: Invocation | None = None
        self.call_back: Callable[[Callable[[], object]], None] | None = None
        """Calls what is to be called when it is done; None: whoever completes it does."""
        self._stopped = False

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        call_back = self.call_back
        if call_back is None:
            super().add_done_callback(fn)
        else:
            super().add_done_callback(lambda done: call_back(lambda: fn(done)))

    def cancel(self) -> bool:
        if super().cancel():
            return True
        invocation = self.invocation
        if self.done() or invocation is None:
            return False
        self._stopped = True
        invocation.cancel()
        return True

    def cancelled(self) -> bool:
        return super().cancelled() or (self._stopped and self.done())


class Task:
    """What is to be called, and who waits for it. ``code`` is that of a function of this program."""

    __slots__ = ("arguments", "code", "function", "future", "named")

    def __init__(
        self, function: str, code: bytes | None, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> None:
        self.function = function
        self.code = code
        self.arguments = arguments
        self.named = named
        self.future: _PluginFuture[Any] = _PluginFuture()

    def pack(self, plugin: Plugin) -> Invocation:
        """As ``plugin`` is sent it. Raises :class:`NotSendable`."""
        writable = plugin.spec.held.shares_memory
        return Invocation(self.function, self.arguments, self.named, code=self.code, writable=writable)

    @property
    def is_light(self) -> bool:
        """Whether it is packed in no time."""
        return _LIGHT.issuperset(map(type, self.arguments)) and _LIGHT.issuperset(
            map(type, self.named.values())
        )


class _Active(NamedTuple):
    """A call under way."""

    task: Task
    invocation: Invocation
    begun: Begun


class Work:
    """The queue, and the thread that it goes through. They know nothing of the pool, so that it can be dropped."""

    def __init__(
        self, plugins: list[Plugin], loaded: Plugin | None, queue_size: int, restart: bool, calls: Calls
    ) -> None:
        """``loaded`` is whose ``plugins`` they are: when that is reloaded, they follow. Raises OutOfDescriptors."""
        self.room = threading.Semaphore(queue_size)
        self._loaded = loaded
        self._restart = restart
        self._calls = calls
        self._queue: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._none_left = threading.Condition(self._lock)
        self._open = 0
        self._stopped = False
        self._broken: BaseException | None = None
        self._back: queue.SimpleQueue[Plugin] = queue.SimpleQueue()
        self._has_idle = False
        """Whether the thread waits, among others, for a call."""
        with descriptors_left():
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        # What follows is the thread's own.
        self._plugins = plugins
        self._is_last = False
        self._idle = [*plugins]
        self._active: dict[Plugin, _Active] = {}
        self._watched: dict[int, Plugin] = {}
        self._poll = select.poll()
        self._poll.register(self._wake, select.POLLIN)
        self._look = math.inf
        """When the next deadline may pass, on the clock of time.monotonic()."""
        self._answers: list[tuple[Plugin, _Active, Answer]] = []
        self._tell_at = math.inf
        self._slow = _Helpers(_NAME, len(plugins))
        self._callbacks = _Helpers(f"{_NAME}-callbacks", len(plugins))
        self._thread = threading.Thread(target=self._run, name=_NAME, daemon=True)
        self._thread.start()

    def add(self, task: Task, *, has_room: bool = False) -> None:
        if not has_room:  # else it is asyncio's, which only wants to be told
            task.future.call_back = self._call_back
            self.room.acquire()
        with self._lock:
            if self._broken is not None or self._stopped:
                self.room.release()
                if self._broken is not None:
                    raise PoolBroken(f"a process of the pool has ended: {self._broken}")
                raise RuntimeClosed("the pool was shut down")
            self._open += 1
            self._queue.put(task)
            self._rouse()

    def idle(self, timeout: float | None) -> bool:
        with self._none_left:
            return self._none_left.wait_for(lambda: not self._open, timeout)

    def stop(self, *, cancel: bool) -> None:
        if (
            os.getpid() != self._owner
        ):  # a copy that the program forked has no such thread, which may hold the lock
            return
        with self._lock:
            first, self._stopped = not self._stopped, True
        if cancel:
            self._drain()
        if first:
            self._queue.put(None)
            with self._lock:
                self._rouse()

    def join(self) -> None:
        self._thread.join()

    def _call_back(self, work: Callable[[], object]) -> None:
        """Somebody else's code, which may wait for another call of this pool, must not keep what that one needs."""
        if threading.current_thread().name == _NAME:
            self._callbacks.do(work)
        else:
            work()

    def _rouse(self) -> None:
        """Have the thread look at what is new, if it waits for such. With the lock."""
        if self._has_idle:
            self._has_idle = False
            self._ring()

    def _ring(self) -> None:
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    def _done(self, calls: int = 1) -> None:
        if not calls:
            return
        with self._lock:
            self._open -= calls
            if not self._open:
                self._none_left.notify_all()

    def _drain(self) -> None:
        while True:
            try:
                task = self._queue.get_nowait()
            except queue.Empty:
                return
            if task is None:
                self._queue.put(None)
                return
            self.room.release()
            task.future.cancel()
            self._done()

    # ── in the thread ────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        try:
            self._start()
            while not self._is_last or len(self._idle) < len(self._plugins):
                self._wait()
                self._start()
            self._tell_all()
        finally:
            with self._lock:
                wake, self._wake = self._wake, -1
            os.close(wake)
            for plugin in self._plugins:
                plugin.close()
            self._slow.stop()
            self._callbacks.stop()

    def _start(self) -> None:
        """Give what waits to whoever is idle."""
        while self._idle and not self._is_last:
            try:
                task = self._queue.get_nowait()
            except queue.Empty:
                return
            if task is None:
                self._is_last = True
                return
            self.room.release()
            self._give(self._idle.pop(), task)

    def _give(self, plugin: Plugin, task: Task) -> None:
        future = task.future
        if self._broken is not None:
            future.set_exception(PoolBroken(f"a process of the pool has ended: {self._broken}"))
        elif future.set_running_or_notify_cancel():
            if not self._begin(plugin, task):
                self._do_elsewhere(plugin, task)
            return
        self._idle.append(plugin)
        self._done()

    def _begin(self, plugin: Plugin, task: Task) -> bool:
        """Send the call, if nothing about it can take long; whether that was so."""
        is_plain = self._calls == "reused" and (self._loaded is None or plugin.spec is self._loaded.spec)
        if not is_plain or not task.is_light:
            return False
        try:
            invocation = task.future.invocation = task.pack(plugin)
            begun = plugin.begin(invocation)
        except Exception:  # it is raised once more where it is told
            return False
        if begun is None:
            return False
        self._active[plugin] = _Active(task, invocation, begun)
        self._look = min(self._look, begun.deadline)
        number = begun.process.fileno()
        if self._watched.get(number) is not plugin:
            self._watched[number] = plugin
            self._poll.register(number, select.POLLIN)
        return True

    def _wait(self) -> None:
        """For answers, for calls while somebody is idle, and for those who come back."""
        self._has_idle = bool(self._idle) and not self._is_last
        has_news = not self._back.empty() or (self._has_idle and not self._queue.empty())
        until = min(self._look, self._tell_at)
        left = 0.0 if has_news else until - time.monotonic()
        for number, _ in self._poll.poll(None if left == math.inf else max(0.0, left * 1000)):
            if number == self._wake:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)
            else:
                self._take(number)
        self._has_idle = False
        while not self._back.empty():
            self._idle.append(self._back.get())
        now = time.monotonic()
        if now >= self._look:
            self._look_at_deadlines()
        if now >= self._tell_at or len(self._answers) >= _TOLD_AT_ONCE or self._queue.empty():
            self._tell_all()
        self._start()  # last, as the kernel has a process run where this thread does, once that sleeps

    def _take(self, number: int) -> None:
        plugin = self._watched[number]
        active = self._active.get(plugin)
        if active is None:  # it has ended, or speaks without being asked: the next call finds out
            self._forget(number)
            return
        answer = plugin.take(active.begun, active.invocation)
        if answer is None:
            self._finish_elsewhere(plugin)
            return
        del self._active[plugin]
        self._idle.append(plugin)
        self._answers.append((plugin, active, answer))
        if self._tell_at == math.inf:
            self._tell_at = time.monotonic() + _TOLD_AFTER

    def _look_at_deadlines(self) -> None:
        now = time.monotonic()
        for plugin, active in [*self._active.items()]:
            if active.begun.deadline <= now:
                self._finish_elsewhere(plugin)
        self._look = min((active.begun.deadline for active in self._active.values()), default=math.inf)

    def _tell_all(self) -> None:
        answers, self._answers = self._answers, []
        self._tell_at = math.inf
        here = 0
        for plugin, active, answer in answers:
            if plugin.is_strained:
                self._callbacks.do(functools.partial(self._tell, plugin, active, answer, 1))
            else:
                self._tell(plugin, active, answer, 0)
                here += 1
        self._done(here)

    def _tell(self, plugin: Plugin, active: _Active, answer: Answer, counts: int) -> None:
        future = active.task.future
        future.invocation = None
        try:
            result = plugin.result(active.begun.process, answer)
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(result)
        self._done(counts)

    def _finish_elsewhere(self, plugin: Plugin) -> None:
        active = self._active.pop(plugin)
        self._do_elsewhere(plugin, active.task, active.begun)

    def _do_elsewhere(self, plugin: Plugin, task: Task, begun: Begun | None = None) -> None:
        # Its process may be another one when it comes back, and the number be used for something else.
        for number in [number for number, of in self._watched.items() if of is plugin]:
            self._forget(number)
        self._slow.do(lambda: self._do(plugin, task, begun))

    def _forget(self, number: int) -> None:
        del self._watched[number]
        self._poll.unregister(number)

    # ── in another one ───────────────────────────────────────────────────────────────────────────────────────────

    def _do(self, plugin: Plugin, task: Task, begun: Begun | None) -> None:
        try:
            self._run_call(plugin, task, begun)
            if self._calls != "reused":
                plugin.renew(keep_process=self._calls == "reset")
        finally:
            self._back.put(plugin)
            self._done()
            with self._lock:
                self._ring()

    def _run_call(self, plugin: Plugin, task: Task, begun: Begun | None) -> None:
        future = task.future
        try:
            if self._loaded is not None and begun is None and plugin.spec is not self._loaded.spec:
                plugin.follow(self._loaded.spec)
            if future.invocation is None:
                future.invocation = task.pack(plugin)
            result = plugin.run(future.invocation, begun)
        except BaseException as error:
            ended = isinstance(error, PluginCrashed | LimitExceeded) and not isinstance(error, ResultLimit)
            if ended and not self._restart:
                self._broken = error
            future.set_exception(error)
        else:
            future.set_result(result)
        finally:
            future.invocation = None


class _Helpers:
    """Threads for what may take long: as many as are needed, ``most`` at the most."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._free = threading.Semaphore(0)
        self._threads = 0

    def do(self, job: Callable[[], object]) -> None:
        self._jobs.put(job)
        with self._lock:
            if self._free.acquire(blocking=False) or self._threads >= self._most:
                return
            try:
                threading.Thread(target=self._run, name=self._name, daemon=True).start()
                self._threads += 1
                return
            except RuntimeError:  # there may be no more of them (RLIMIT_NPROC)
                left = None if self._threads else self._jobs.get()
        if left is not None:
            left()

    def stop(self) -> None:
        """Once everything is done."""
        for _ in range(self._threads):
            self._jobs.put(None)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            except Exception:
                log.exception("a call of a pool went wrong")
            del job
            self._free.release()
