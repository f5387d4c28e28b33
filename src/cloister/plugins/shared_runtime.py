"""The runtime of this program that ``@isolated`` and pools use when they are given none: started with the first use,
closed when the program ends."""

from __future__ import annotations

import threading

from .runtime import PluginRuntime

__all__ = ["shared_runtime"]

_lock = threading.Lock()
_runtimes: dict[tuple[str, ...], PluginRuntime] = {}


def shared_runtime(modules: tuple[str, ...] = ()) -> PluginRuntime:
    """The one for plugins that may import ``modules``. Raises as :class:`PluginRuntime`."""
    with _lock:
        if modules not in _runtimes:
            _runtimes[modules] = PluginRuntime(modules=modules)
        return _runtimes[modules]


def close_shared() -> None:
    """Close them; the next use starts another. For tests, and for programs that fork."""
    with _lock:
        while _runtimes:
            _runtimes.popitem()[1].close()
