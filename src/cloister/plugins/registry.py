"""Which plugins are loaded, by name."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from types import MappingProxyType

from ..errors import InvalidArgument, NoSuchPlugin, printable
from .plugin import Plugin

__all__ = ["Registry"]


class Registry:
    """For any number of threads. Who looks takes no lock: each change puts a new mapping in the old one's place."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._plugins: Mapping[str, Plugin] = MappingProxyType({})

    def register(self, plugin: Plugin) -> None:
        """Raises :class:`InvalidArgument` when there is one of its name."""
        with self._lock:
            if plugin.name in self._plugins:
                raise InvalidArgument(f"a plugin {plugin.name!r} is loaded already; unload it first")
            self._plugins = MappingProxyType({**self._plugins, plugin.name: plugin})

    def remove(self, name: str) -> Plugin:
        """Raises :class:`NoSuchPlugin`."""
        with self._lock:
            plugin = self.get(name)
            self._plugins = MappingProxyType({k: v for k, v in self._plugins.items() if k != name})
            return plugin

    def get(self, name: str) -> Plugin:
        """Raises :class:`NoSuchPlugin`."""
        try:
            return self._plugins[name]
        except KeyError:
            loaded = ", ".join(self._plugins) or "none"
            raise NoSuchPlugin(
                f"no plugin {printable(str(name), 80)!r} is loaded; there is {loaded}"
            ) from None

    def list(self) -> tuple[Plugin, ...]:
        """All of them, in the order in which they were loaded."""
        return tuple(self._plugins.values())
