"""The runtime for programs with asyncio. Each call that waits has a thread, as a plugin's channel is read by whoever
asked; there are as many as calls at once."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
from collections.abc import AsyncIterator, Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from ..errors import RuntimeClosed
from .events import EventName, PluginEvent
from .file_watcher import Debounce
from .host_process import HostFunctions
from .invocation import Invocation
from .limits import Limits
from .plugin import Plugin, Status, Stream
from .profiles import Profile
from .recovery import CircuitBreaker, Retries
from .runtime import Grants, PluginRuntime

if TYPE_CHECKING:
    from ..browser import NetworkPolicy

__all__ = ["AsyncPluginRuntime", "AsyncStream"]

T = TypeVar("T")
_THREADS: Final = 128
"""Calls at once; the next ones wait."""


class AsyncPluginRuntime:
    """Loads plugins, and calls them::

        async with AsyncPluginRuntime() as runtime:
            await runtime.load_source("def double(x): return 2 * x", name="arithmetic")
            print(await runtime.call("arithmetic", "double", 21))

    Takes what :class:`PluginRuntime` takes. A call that is cancelled ends the plugin's process, since nothing else
    would stop it, and the next one has a new process. Host functions run in threads.
    """

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        modules: Iterable[str] = (),
        cgroups: bool = False,
        allow_degraded: bool = False,
        crash_reports: bool = True,
        network: NetworkPolicy | None = None,
        retries: Retries | None = None,
        circuit: CircuitBreaker | None = None,
    ) -> None:
        self._make = lambda: PluginRuntime(
            limits=limits,
            modules=modules,
            cgroups=cgroups,
            allow_degraded=allow_degraded,
            crash_reports=crash_reports,
            network=network,
            retries=retries,
            circuit=circuit,
        )
        self._threads = concurrent.futures.ThreadPoolExecutor(_THREADS, "cloister-plugin")
        self._runtime: PluginRuntime | None = None

    async def start(self) -> None:
        """Start the zygote. Raises as :class:`PluginRuntime`."""
        if self._runtime is None:
            self._runtime = await self._run(self._make)

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """Those that are loaded."""
        return self._started.plugins

    async def load(
        self,
        manifest: str | os.PathLike[str],
        *,
        grants: Grants | None = None,
        limits: Limits | None = None,
        functions: HostFunctions | None = None,
        profile: Profile | str | None = None,
        retries: Retries | None = None,
    ) -> Plugin:
        """As :meth:`PluginRuntime.load`."""
        runtime = self._started
        return await self._run(
            lambda: runtime.load(
                manifest,
                grants=grants,
                limits=limits,
                functions=functions,
                profile=profile,
                retries=retries,
            )
        )

    async def load_source(
        self,
        code: str | bytes,
        name: str,
        *,
        grants: Grants | None = None,
        limits: Limits | None = None,
        functions: HostFunctions | None = None,
        profile: Profile | str | None = None,
        language: str = "python",
        retries: Retries | None = None,
        idempotent: Iterable[str] = (),
    ) -> Plugin:
        """As :meth:`PluginRuntime.load_source`."""
        runtime = self._started
        return await self._run(
            lambda: runtime.load_source(
                code,
                name,
                grants=grants,
                limits=limits,
                functions=functions,
                profile=profile,
                language=language,
                retries=retries,
                idempotent=idempotent,
            )
        )

    async def call(
        self, name: str, function: str, /, *arguments: Any, timeout: float | None = None, **named: Any
    ) -> Any:
        """As :meth:`PluginRuntime.call`; a generator gives an :class:`AsyncStream`."""
        plugin = self._started.get(name)
        writable = plugin.spec.held.shares_memory
        invocation = Invocation(function, arguments, named, timeout=timeout, writable=writable)
        try:
            result = await self._run(lambda: plugin.run(invocation))
        except asyncio.CancelledError:
            invocation.cancel()
            raise
        return AsyncStream(result, self._run) if isinstance(result, Stream) else result

    def status(self, name: str) -> Status:
        """As :meth:`PluginRuntime.status`."""
        return self._started.status(name)

    def on(self, event: EventName, handler: Callable[[PluginEvent], object]) -> None:
        """As :meth:`PluginRuntime.on`: ``handler`` is called in another thread."""
        self._started.on(event, handler)

    async def restart(self, name: str) -> None:
        """As :meth:`PluginRuntime.restart`."""
        runtime = self._started
        await self._run(lambda: runtime.restart(name))

    async def reload(self, name: str) -> None:
        """As :meth:`PluginRuntime.reload`."""
        runtime = self._started
        await self._run(lambda: runtime.reload(name))

    async def watch(self, name: str, debounce: Debounce | None = None) -> None:
        """As :meth:`PluginRuntime.watch`."""
        runtime = self._started
        await self._run(lambda: runtime.watch(name, debounce))

    async def unload(self, name: str) -> None:
        """As :meth:`PluginRuntime.unload`."""
        runtime = self._started
        await self._run(lambda: runtime.unload(name))

    async def close(self) -> None:
        """As :meth:`PluginRuntime.close`."""
        if self._runtime is not None:
            await self._run(self._runtime.close)
        self._threads.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()

    @property
    def _started(self) -> PluginRuntime:
        if self._runtime is None:
            raise RuntimeClosed("the plugin runtime is not started: use `async with`")
        return self._runtime

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except RuntimeError as error:
            if self._runtime is None:
                raise
            raise RuntimeClosed("the plugin runtime is closed") from error


class AsyncStream(AsyncIterator[Any]):
    """As :class:`Stream`, for ``async for`` and ``async with``."""

    def __init__(self, stream: Stream, run: Callable[[Callable[[], Any]], Any]) -> None:
        self._stream = stream
        self._run = run

    async def __anext__(self) -> Any:
        found = await self._run(lambda: next(self._stream, _END))
        if found is _END:
            raise StopAsyncIteration
        return found

    async def close(self) -> None:
        """As :meth:`Stream.close`."""
        await self._run(self._stream.close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.close()


_END: Final = object()
