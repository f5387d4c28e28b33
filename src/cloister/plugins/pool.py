"""A pool of a plugin's processes, or of processes for functions of this program, as an Executor."""

from __future__ import annotations

import asyncio
import concurrent.futures
import hashlib
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, Final

from ..errors import InvalidArgument
from .capabilities import Held
from .dispatch import Calls, PoolBroken, Task, Work
from .functions import bundle
from .limits import Limits
from .runtime import PluginRuntime
from .shared_runtime import shared_runtime
from .spec import Spec

__all__ = ["PluginPool", "PoolBroken"]

_STATES: Final = ("reused", "reset", "fresh")


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
        loaded = None if name is None else runtime.get(name)
        if loaded is not None:
            plugins = [runtime.plugin(loaded.spec, loaded.circuit) for _ in range(size)]
        else:
            spec = Spec(
                "pool",
                b"",
                limits=(limits or Limits()).filled(),
                held=Held(knows_time=True),  # the code is this program's own
                modules=tuple(modules),
            )
            plugins = [runtime.plugin(spec) for _ in range(size)]
        self._work = Work(plugins, loaded, queue_size, restart_on_crash, calls)
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
    ) -> Task:
        if isinstance(function, str):
            if self._of_functions:
                raise InvalidArgument(f"{function!r}: this pool has no plugin, and takes functions")
            return Task(function, None, arguments, named)
        if not self._of_functions:
            raise InvalidArgument("a pool of a plugin takes names of its functions")
        found = self._codes.get(function)
        if found is None:
            code = bundle(function)
            found = self._codes[function] = (hashlib.sha256(code).hexdigest(), code)
        return Task(*found, arguments, named)
