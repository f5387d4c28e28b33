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

from ..errors import CloisterError, InvalidArgument, ManifestError, PluginError, RuntimeClosed, printable
from ..interfaces.plugin_host import Language, PreloadOptions
from ..process.loop_thread import CLOSE_TIMEOUT, LoopThread
from ..process.monitor import Monitor
from . import manifest as manifests
from . import profiles
from .broker import RESERVED, Broker, Services
from .capabilities import check_program, resolve, settled
from .events import EventName, Events, PluginEvent
from .file_watcher import Debounce, FileWatcher, mark
from .host_process import HostFunctions
from .languages import check_installed
from .limits import Limits
from .namespaces import check_capabilities
from .network import Network
from .origin import Origin
from .plugin import Plugin, Status
from .profiles import Profile
from .programs import Programs
from .recovery import Circuit, CircuitBreaker, Retries
from .registry import Registry
from .spec import Spec
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
        retries: Retries | None = None,
        circuit: CircuitBreaker | None = None,
    ) -> None:
        """``limits`` hold for each plugin, unless it is loaded with others. ``modules`` are what plugins may import of
        what is installed here, besides the standard library. ``cgroups``: give each process a cgroup too, where this
        program may make any: the kernel then counts all of its memory, and a start takes some milliseconds more.
        ``crash_reports``: whether a process that ends as it should not leaves a report for ``cloister crashes``.
        ``network`` is what plugins may reach that were granted ``net:request``: public addresses unless it says more.
        ``retries`` and ``circuit`` say what is done about processes that fail.

        Raises :class:`SandboxUnavailable` naming the layers that this kernel lacks, or :class:`LaunchError`.
        """
        self._limits = limits or Limits()
        self._modules = tuple(modules)
        self._retries = retries or Retries()
        self._breaker = circuit or CircuitBreaker()
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
        self._origins: dict[str, Origin] = {}
        self._watcher = FileWatcher(_weakly(self))
        self._finalizer = weakref.finalize(
            self,
            _close,
            self._thread,
            self._zygotes,
            self._registry,
            monitor=monitor,
            network=asked,
            watcher=self._watcher,
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
        retries: Retries | None = None,
    ) -> Plugin:
        """Load the plugin of a manifest. It gets of its capabilities what ``grants`` says too, and may call the host's
        ``functions``, by name. ``profile`` adds its own grants and limits (:class:`Profile`).

        Raises :class:`ManifestError`, :class:`CapabilityRefused`, :class:`DependencyError`, :class:`NoSuchFunction` for
        an export that is missing, :class:`PluginRaised` when its code does, and what :meth:`Plugin.call` raises.
        """
        chosen = profiles.find(profile)
        origin = Origin(
            Path(manifest),
            settled(chosen.with_grants(grants)),
            self._limited(chosen, limits),
            _checked(functions),
            chosen,
            retries or self._retries,
        )
        spec = self._spec_of(origin)
        plugin = self._load(spec)
        self._origins[spec.name] = origin
        return plugin

    def _spec_of(self, origin: Origin, loaded: Plugin | None = None) -> Spec:
        """What its manifest says now; ``loaded`` is the plugin that it is of, once it is there."""
        path = origin.manifest
        read = manifests.read(path, () if loaded is None else origin.folders)
        origin.read_from = (path, path.parent / read.source)
        origin.marks = tuple(map(mark, origin.read_from))
        if loaded is not None and read.name != loaded.name:
            raise ManifestError(
                str(path), "name", None, f"it is loaded as {loaded.name}, which is {read.name} now"
            )
        check_installed(read.language)
        is_program = read.language is Language.EXECUTABLE
        program = manifests.find_program(read, path.parent) if is_program else None
        source = b"" if is_program else manifests.read_source(read, path.parent)
        held = resolve(read.name, read.capabilities, origin.grants)
        if is_program:
            check_program(read.name, held)
        present = [each.manifest for each in self.plugins if each.manifest is not None and each is not loaded]
        manifests.load_order([read], {each.name: each.version for each in present})
        if loaded is not None:
            manifests.check_dependents(read, present)
        return Spec(
            read.name,
            source,
            manifest=read,
            language=read.language,
            limits=read.limits.within(origin.limits),
            held=held,
            modules=self._modules,
            functions=origin.functions,
            broker=Broker(read.name, self._services) if loaded is None else loaded.spec.broker,
            namespaces=origin.profile.namespaces,
            keep=check_capabilities(origin.profile.keep),
            program=program,
            idempotent=frozenset(read.idempotent),
            retries=origin.retries,
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
        retries: Retries | None = None,
        idempotent: Iterable[str] = (),
    ) -> Plugin:
        """Load a plugin from its source. It exports its public functions, or what its ``__all__`` names. In another
        ``language`` ("javascript", "wasm") it exports what that calls so. Functions that are ``idempotent`` may be
        called again when its process fails: see :class:`Retries`.

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
                idempotent=frozenset(idempotent),
                retries=retries or self._retries,
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

    def reload(self, name: str) -> None:
        """Read a plugin's manifest and source again, and have the new version in the old one's place. It gets what was
        granted when it was loaded, as far as it still asks for it. Calls that run are answered by the old version, the
        next ones by the new one, which was given what ``save_state()`` of the old one returned, with
        ``restore_state(state)``; either may be missing.

        Raises as :meth:`load`, and :class:`InvalidArgument` for one that has no manifest. All stays as it was then.
        """
        self._reload(name)

    def watch(self, name: str, debounce: Debounce | None = None) -> None:
        """Reload the plugin whenever its files have changed, until it is unloaded: events tell what came of it.
        ``debounce`` is how long the files must rest before, adaptive unless it is said.

        Raises :class:`PluginError` where the library for it is missing, and :class:`InvalidArgument` as :meth:`reload`.
        """
        self._registry.get(name)
        origin = self._origin(name)
        self._watcher.add(name, lambda: origin.read_from, debounce or Debounce.adaptive())

    def unload(self, name: str) -> None:
        """End the plugin's process, and forget it; and its zygote, if that was for this plugin alone."""
        self._watcher.remove(name)
        plugin = self._registry.remove(name)
        self._origins.pop(name, None)
        _wait(plugin.close())
        if plugin.spec.broker is not None:
            plugin.spec.broker.close()
            plugin.spec.broker.end_requests()
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

    def plugin(self, spec: Spec, circuit: Circuit | None = None) -> Plugin:
        """A plugin that nobody finds by its name. It has no process before it is called; the caller closes it."""
        return Plugin(spec, self._zygotes, self._thread.run, self.events, circuit)

    def _limited(self, profile: Profile, limits: Limits | None) -> Limits:
        if profile is profiles.NONE:
            return (limits or self._limits).filled()
        return (limits or Limits()).over(profile.limits).over(self._limits).filled()

    def _load(self, spec: Spec) -> Plugin:
        plugin = self.plugin(spec, Circuit(spec.name, self._breaker))
        self._registry.register(plugin)
        try:
            plugin.load()
        except BaseException:
            self.unload(plugin.name)
            raise
        return plugin

    def _origin(self, name: str) -> Origin:
        if name not in self._origins:
            raise InvalidArgument(f"{name} was loaded from its source: there is no manifest to read again")
        return self._origins[name]

    def _reload(self, name: str, *, only_if_changed: bool = False) -> None:
        try:
            news = self._reread(self._registry.get(name), self._origin(name), only_if_changed)
        except RuntimeClosed:  # it was unloaded meanwhile
            raise
        except (CloisterError, OSError) as error:
            self.events.tell("reload_failed", name, printable(str(error)))
            raise
        if news:
            self.events.tell("reloaded", name, news)

    def _reread(self, plugin: Plugin, origin: Origin, only_if_changed: bool) -> str:
        """What there is to tell of it."""
        if not origin.lock.acquire(timeout=CLOSE_TIMEOUT):
            raise PluginError(f"{plugin.name} is being reloaded already")
        try:
            before, marks, spec = plugin.spec, origin.marks, self._spec_of(origin, plugin)
            # The host does not read a program.
            if only_if_changed and spec == before and (spec.program is None or marks == origin.marks):
                return ""
            plugin.replace(spec)
        finally:
            origin.lock.release()
        return " → ".join(each.manifest.version for each in (before, spec) if each.manifest is not None)


def _weakly(runtime: PluginRuntime) -> Callable[[str], None]:
    """What a thread holds that must not keep the runtime from being dropped."""
    weak = weakref.ref(runtime)

    def reload(name: str) -> None:
        if (there := weak()) is not None:
            there._reload(name, only_if_changed=True)

    return reload


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
    thread: LoopThread,
    zygotes: Zygotes,
    registry: Registry,
    *,
    monitor: Monitor | None,
    network: Network,
    watcher: FileWatcher,
) -> None:
    """Also the end of a runtime that nobody closed: dropped, or the program exits, or a copy of it that it forked."""
    if thread.is_closed:
        return
    watcher.stop(0)
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
        watcher.stop(CLOSE_TIMEOUT)


def _wait(leaving: concurrent.futures.Future[None] | None) -> None:
    if leaving is not None:
        with contextlib.suppress(concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
            leaving.result(CLOSE_TIMEOUT)
