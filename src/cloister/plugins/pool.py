"""A pool of a plugin's processes, or of processes for functions of this program, as an Executor."""

from __future__ import annotations

import asyncio
import concurrent.futures
import hashlib
import queue
import threading
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, Final, Literal, TypeVar

from ..errors import InvalidArgument, LimitExceeded, PluginCrashed, PluginError, ResultLimit, RuntimeClosed
from .capabilities import Held
from .functions import bundle
from .invocation import Invocation
from .limits import Limits
from .plugin import Plugin, Spec
from .runtime import PluginRuntime
from .shared_runtime import shared_runtime

__all__ = ["PluginPool", "PoolBroken"]

T = TypeVar("T")

Calls = Literal["reused", "reset", "fresh"]
_STATES: Final = ("reused", "reset", "fresh")


class PoolBroken(PluginError, concurrent.futures.BrokenExecutor):
    """A process of a pool that is not to start new ones has ended."""


class _PluginFuture(Future[T]):
    """``cancel()`` also ends what runs: the process that works on it."""

    def __init__(self) -> None:
        super().__init__()
        self.invocation: Invocation | None = None
        self._stopped = False

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


class _Task:
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


class PluginPool(concurrent.futures.Executor):
    """Runs calls in ``size`` processes. With the ``name`` of a plugin that is loaded, ``submit`` takes names of its
    functions; without one it takes functions of this program, as ``@isolated`` does, so code that was written for
    ``ProcessPoolExecutor`` runs with one line changed::

        with PluginPool(size=4) as pool:
            for squares in pool.map(square_all, lists):
                ...

    ``queue_size`` calls wait at the most; ``submit`` waits for room. A call that is cancelled while it runs ends its
    process. A process that ends takes its own call along and no other, and is replaced; unless ``restart_on_crash`` is
    False: then everything else raises :class:`PoolBroken`.

    ``calls`` says what is left of one call for the next: "reused" processes keep everything; "reset" ones run the
    plugin's source again before each call, which a plugin that means it survives; "fresh" ones are new.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        size: int = 4,
        queue_size: int = 100,
        restart_on_crash: bool = True,
        calls: Calls = "reused",
        limits: Limits | None = None,
        modules: Iterable[str] = (),
        runtime: PluginRuntime | None = None,
    ) -> None:
        """``runtime`` is where ``name`` is loaded; it is needed with a name. ``limits`` and ``modules`` are for
        functions of this program; a plugin has its own.

        Raises :class:`NoSuchPlugin`, :class:`InvalidArgument`, and without a runtime as :class:`PluginRuntime`.
        """
        if not 1 <= size <= 1024 or queue_size < 1 or calls not in _STATES:
            raise InvalidArgument(f"size={size!r}, queue_size={queue_size!r}, calls={calls!r}: 1 to 1024, 1 or more, "
                                  f"and one of {', '.join(_STATES)}")  # fmt: skip
        if name is not None and runtime is None:
            raise InvalidArgument("a pool of a plugin needs the runtime that the plugin is loaded in")
        self._of_functions = name is None
        runtime = runtime or shared_runtime(tuple(modules))
        if name is not None:
            spec = runtime.get(name).spec
        else:
            spec = Spec(
                "pool",
                b"",
                limits=(limits or Limits()).filled(),
                held=Held(knows_time=True),  # the code is this program's own
                modules=tuple(modules),
            )
        plugins = [runtime.plugin(spec) for _ in range(size)]
        self._work = _Work(plugins, queue_size, restart_on_crash, calls)
        self._codes: weakref.WeakKeyDictionary[Callable[..., Any], tuple[str, bytes]] = (
            weakref.WeakKeyDictionary()
        )
        self._finalizer = weakref.finalize(self, self._work.stop, cancel=True)

    def submit(self, function: str | Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """A future of what ``function`` returns or raises. Waits while the queue is full.

        Raises :class:`RuntimeClosed` after shutdown, :class:`PoolBroken`, and :class:`NotSendable` for a function that
        does not travel; arguments that do not travel are the future's to tell.
        """
        task = self._task(function, arguments, named)
        self._work.add(task)
        return task.future

    async def run(self, function: str | Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
        """The same for asyncio: what it returns. To cancel it ends its process."""
        task = self._task(function, arguments, named)
        if not self._work.room.acquire(blocking=False):
            await asyncio.to_thread(self._work.room.acquire)
        self._work.add(task, has_room=True)
        return await asyncio.wrap_future(task.future)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until every call that was submitted is done; whether that was within ``timeout`` seconds."""
        return self._work.idle(timeout)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, do those that wait (or cancel them), and end the processes."""
        self._work.stop(cancel=cancel_futures)
        if wait:
            self._work.join()

    def _task(
        self, function: str | Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> _Task:
        if isinstance(function, str):
            if self._of_functions:
                raise InvalidArgument(f"{function!r}: this pool has no plugin, and takes functions")
            return _Task(function, None, arguments, named)
        if not self._of_functions:
            raise InvalidArgument("a pool of a plugin takes names of its functions")
        found = self._codes.get(function)
        if found is None:
            code = bundle(function)
            found = self._codes[function] = (hashlib.sha256(code).hexdigest(), code)
        return _Task(*found, arguments, named)


class _Work:
    """The queue and the threads, one for each process. They know nothing of the pool, so that it can be dropped."""

    def __init__(self, plugins: list[Plugin], queue_size: int, restart: bool, calls: Calls) -> None:
        self.room = threading.Semaphore(queue_size)
        self._restart = restart
        self._calls = calls
        self._queue: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._none_left = threading.Condition(self._lock)
        self._open = 0
        self._stopped = False
        self._broken: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._serve, args=(plugin,), name="cloister-pool", daemon=True)
            for plugin in plugins
        ]
        for thread in self._threads:
            thread.start()

    def add(self, task: _Task, *, has_room: bool = False) -> None:
        if not has_room:
            self.room.acquire()
        with self._lock:
            if self._broken is not None or self._stopped:
                self.room.release()
                if self._broken is not None:
                    raise PoolBroken(f"a process of the pool has ended: {self._broken}")
                raise RuntimeClosed("the pool was shut down")
            self._open += 1
            self._queue.put(task)

    def idle(self, timeout: float | None) -> bool:
        with self._none_left:
            return self._none_left.wait_for(lambda: not self._open, timeout)

    def stop(self, *, cancel: bool) -> None:
        with self._lock:
            first, self._stopped = not self._stopped, True
        if cancel:
            self._drain(lambda task: task.future.cancel())
        if first:
            for _ in self._threads:
                self._queue.put(None)

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    # ── in a thread ──────────────────────────────────────────────────────────────────────────────────────────────

    def _serve(self, plugin: Plugin) -> None:
        try:
            while (task := self._queue.get()) is not None:
                self.room.release()
                try:
                    self._do(plugin, task)
                finally:
                    self._done()
                    del task
        finally:
            plugin.close()

    def _do(self, plugin: Plugin, task: _Task) -> None:
        future = task.future
        if self._broken is not None:
            future.set_exception(PoolBroken(f"a process of the pool has ended: {self._broken}"))
            return
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.invocation = Invocation(
                task.function,
                task.arguments,
                task.named,
                code=task.code,
                writable=plugin.spec.held.shares_memory,
            )
            result = plugin.run(future.invocation)
        except BaseException as error:
            ended = isinstance(error, PluginCrashed | LimitExceeded) and not isinstance(error, ResultLimit)
            if ended and not self._restart:
                self._broken = error
            future.set_exception(error)
        else:
            future.set_result(result)
        finally:
            future.invocation = None
        if self._calls != "reused":
            plugin.renew(keep_process=self._calls == "reset")

    def _done(self) -> None:
        with self._lock:
            self._open -= 1
            if not self._open:
                self._none_left.notify_all()

    def _drain(self, each: Callable[[_Task], object]) -> None:
        while True:
            try:
                task = self._queue.get_nowait()
            except queue.Empty:
                return
            if task is not None:
                self.room.release()
                each(task)
                self._done()
            else:
                self._queue.put(None)
                return
