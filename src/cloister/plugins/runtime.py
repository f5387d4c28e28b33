"""Plugins that nobody vouches for, each in a process of its own, for programs without asyncio."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import re
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ..errors import InvalidArgument, RuntimeClosed
from ..interfaces.plugin_host import Language, PreloadOptions
from ..process.loop_thread import CLOSE_TIMEOUT, LoopThread
from ..process.monitor import Monitor
from . import manifest as manifests
from . import profiles
from .broker import RESERVED, Broker, Services
from .capabilities import check_program, resolve
from .events import EventName, Events, PluginEvent
from .host_process import HostFunctions
from .languages import check_installed
from .limits import Limits
from .namespaces import check_capabilities
from .network import Network
from .plugin import Plugin, Spec, Status
from .profiles import Profile
from .programs import Programs
from .registry import Registry
from .watched import WatchedPlugins
from .zygotes import Zygotes

if TYPE_CHECKING:
    from ..browser import NetworkPolicy

__all__ = ["PluginRuntime"]

Grants = Mapping[str, Iterable[str]]


class PluginRuntime:
    """Loads plugins, and calls them::

        with PluginRuntime() as runtime:
            runtime.load_source("def double(x): return 2 * x", name="arithmetic")
            print(runtime.call("arithmetic", "double", 21))

    Started when this returns. May be used from several threads.
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
    ) -> None:
        """``limits`` hold for each plugin, unless it is loaded with others. ``modules`` are what plugins may import of
        what is installed here, besides the standard library. ``cgroups``: give each process a cgroup too, where this
        program may make any: the kernel then counts all of its memory, and a start takes some milliseconds more.
        ``crash_reports``: whether a process that ends as it should not leaves a report for ``cloister crashes``.
        ``network`` is what plugins may reach that were granted ``net:request``: public addresses unless it says more.

        Raises :class:`SandboxUnavailable` naming the layers that this kernel lacks, or :class:`LaunchError`.
        """
        self._limits = limits or Limits()
        self._modules = tuple(modules)
        self._preload = PreloadOptions(self._modules)
        self._registry = Registry()
        self.events = Events()
        self._thread = LoopThread(lambda: RuntimeClosed("the plugin runtime is closed"))
        self._zygotes, monitor = self._thread.run(
            _make(self._registry, allow_degraded, cgroups, crash_reports)
        )
        asked = Network(self._thread, network, allow_degraded=allow_degraded, crash_reports=crash_reports)
        self._services = Services(
            self._registry, asked, self.events, Programs(self._zygotes, self._thread.run)
        )
        self._finalizer = weakref.finalize(
            self, _close, self._thread, self._zygotes, self._registry, monitor, asked
        )
        try:
            self._thread.run(self._zygotes.warm(self._preload))
        except BaseException:
            self.close()
            raise

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """Those that are loaded."""
        return self._registry.list()

    @property
    def pids(self) -> list[int]:
        """Of all its processes: zygotes, their branches, plugins."""
        return self._zygotes.pids

    def load(
        self,
        manifest: str | os.PathLike[str],
        *,
        grants: Grants | None = None,
        limits: Limits | None = None,
        functions: HostFunctions | None = None,
        profile: Profile | str | None = None,
    ) -> Plugin:
        """Load the plugin of a manifest. It gets of its capabilities what ``grants`` says too, and may call the host's
        ``functions``, by name. ``profile`` adds its own grants and limits (:class:`Profile`).

        Raises :class:`ManifestError`, :class:`CapabilityRefused`, :class:`DependencyError`, :class:`NoSuchFunction` for
        an export that is missing, :class:`PluginRaised` when its code does, and what :meth:`Plugin.call` raises.
        """
        chosen = profiles.find(profile)
        path = Path(manifest)
        read = manifests.read(path)
        check_installed(read.language)
        is_program = read.language is Language.EXECUTABLE
        program = manifests.find_program(read, path.parent) if is_program else None
        source = b"" if is_program else manifests.read_source(read, path.parent)
        held = resolve(read.name, read.capabilities, chosen.with_grants(grants))
        if is_program:
            check_program(read.name, held)
        present = {p.name: p.manifest.version for p in self.plugins if p.manifest is not None}
        manifests.load_order([read], present)
        return self._load(
            Spec(
                read.name,
                source,
                manifest=read,
                language=read.language,
                limits=read.limits.within(self._limited(chosen, limits)),
                held=held,
                modules=self._modules,
                functions=_checked(functions),
                broker=Broker(read.name, self._services),
                namespaces=chosen.namespaces,
                keep=check_capabilities(chosen.keep),
                program=program,
            )
        )

    def load_source(
        self,
        code: str | bytes,
        name: str,
        *,
        grants: Grants | None = None,
        limits: Limits | None = None,
        functions: HostFunctions | None = None,
        profile: Profile | str | None = None,
        language: str = Language.PYTHON,
    ) -> Plugin:
        """Load a plugin from its source. It exports its public functions, or what its ``__all__`` names. In another
        ``language`` ("javascript", "wasm") it exports what that calls so.

        Raises as :meth:`load`.
        """
        written_in = _language(language)
        check_installed(written_in)
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,63}", name):
            raise InvalidArgument(f"{name!r} is no name for a plugin: small letters, digits and hyphens")
        chosen = profiles.find(profile)
        return self._load(
            Spec(
                name,
                code.encode() if isinstance(code, str) else code,
                language=written_in,
                limits=self._limited(chosen, limits),
                held=resolve(name, None, chosen.with_grants(grants)),
                modules=self._modules,
                functions=_checked(functions),
                broker=Broker(name, self._services),
                namespaces=chosen.namespaces,
                keep=check_capabilities(chosen.keep),
            )
        )

    def call(
        self, name: str, function: str, /, *arguments: Any, timeout: float | None = None, **named: Any
    ) -> Any:
        """As :meth:`Plugin.call`. Raises :class:`NoSuchPlugin` besides."""
        return self._registry.get(name).call(function, *arguments, timeout=timeout, **named)

    def get(self, name: str) -> Plugin:
        """The plugin of that name. Raises :class:`NoSuchPlugin`."""
        return self._registry.get(name)

    def status(self, name: str) -> Status:
        """Whether the plugin runs, and if not, how it ended."""
        return self._registry.get(name).status

    def on(self, event: EventName, handler: Callable[[PluginEvent], object]) -> None:
        """Call ``handler`` for each ``event``, in the thread that noticed it. Raises ValueError for an event that there
        is not."""
        self.events.on(event, handler)

    def restart(self, name: str) -> None:
        """As :meth:`Plugin.restart`."""
        self._registry.get(name).restart()

    def unload(self, name: str) -> None:
        """End the plugin's process, and forget it; and its zygote, if that was for this plugin alone."""
        plugin = self._registry.remove(name)
        _wait(plugin.close())
        if plugin.spec.broker is not None:
            plugin.spec.broker.close()
            plugin.spec.broker.end_requests()
        if plugin.spec.preload != self._preload:
            self._thread.run(self._zygotes.spare(plugin.spec.preload))
        if (of_program := plugin.spec.program_preload) is not None:
            self._thread.run(self._zygotes.spare(of_program))

    def close(self) -> None:
        """Unload every plugin and end every process. Closing twice is fine."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def plugin(self, spec: Spec) -> Plugin:
        """A plugin that nobody finds by its name. It has no process before it is called; the caller closes it."""
        return Plugin(spec, self._zygotes, self._thread.run)

    def _limited(self, profile: Profile, limits: Limits | None) -> Limits:
        if profile is profiles.NONE:
            return (limits or self._limits).filled()
        return (limits or Limits()).over(profile.limits).over(self._limits).filled()

    def _load(self, spec: Spec) -> Plugin:
        plugin = self.plugin(spec)
        self._registry.register(plugin)
        try:
            plugin.load()
        except BaseException:
            self.unload(plugin.name)
            raise
        return plugin


def _language(name: str) -> Language:
    sources = [each.value for each in Language if each is not Language.EXECUTABLE]
    if name not in sources:
        raise InvalidArgument(f"language is {name!r}: a source is in one of {', '.join(sources)}")
    return Language(name)


def _checked(functions: HostFunctions | None) -> HostFunctions:
    if taken := sorted(RESERVED.intersection(functions or ())):
        raise InvalidArgument(f"{', '.join(taken)}: Cloister itself has functions of that name for plugins")
    return dict(functions or {})


async def _make(
    registry: Registry, allow_degraded: bool, cgroups: bool, crash_reports: bool
) -> tuple[Zygotes, Monitor | None]:
    zygotes = Zygotes(allow_degraded=allow_degraded, cgroups=cgroups, crash_reports=crash_reports)
    return zygotes, Monitor.start(WatchedPlugins(registry, zygotes))


async def _end(zygotes: Zygotes, monitor: Monitor | None, network: Network) -> None:
    if monitor is not None:
        await monitor.close()
    await network.close()
    await zygotes.close()


def _close(
    thread: LoopThread, zygotes: Zygotes, registry: Registry, monitor: Monitor | None, network: Network
) -> None:
    """Also the end of a runtime that nobody closed: dropped, or the program exits, or a copy of it that it forked."""
    if thread.is_closed:
        return
    leaving = [plugin.close() for plugin in registry.list()]
    for each in leaving:
        _wait(each)
    for plugin in registry.list():
        if plugin.spec.broker is not None:
            plugin.spec.broker.close()
    try:
        thread.run(_end(zygotes, monitor, network), CLOSE_TIMEOUT)
    except (RuntimeClosed, concurrent.futures.TimeoutError):
        pass
    finally:
        thread.stop()


def _wait(leaving: concurrent.futures.Future[None] | None) -> None:
    if leaving is not None:
        with contextlib.suppress(concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
            leaving.result(CLOSE_TIMEOUT)
