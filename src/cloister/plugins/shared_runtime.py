"""The runtime of this program that ``@isolated`` and pools use when they are given none: started with the first use,
closed when the program ends."""

from __future__ import annotations

import os
import threading

from .runtime import PluginRuntime

__all__ = ["shared_runtime"]

_lock = threading.Lock()
# A process that the program forked has no thread of these, and starts its own.
_runtimes: dict[tuple[int, tuple[str, ...]], PluginRuntime] = {}


def shared_runtime(modules: tuple[str, ...] = ()) -> PluginRuntime:
    """The one for plugins that may import ``modules``. Raises as :class:`PluginRuntime`."""
    with _lock:
        mine = os.getpid(), modules
        if mine not in _runtimes:
            _runtimes[mine] = PluginRuntime(modules=modules)
        return _runtimes[mine]


def close_shared() -> None:
    """Close them; the next use starts another."""
    with _lock:
        while _runtimes:
            _runtimes.popitem()[1].close()
