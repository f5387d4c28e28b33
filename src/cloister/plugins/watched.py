"""What ``cloister top`` is shown of a runtime, and may do to it."""

from __future__ import annotations

import logging
import os
import time

from ..ends import Killed
from ..interfaces.monitor import PLUGIN_RUNTIME, ProcessRow
from .plugin import Unresponsive
from .registry import Registry
from .zygotes import Zygotes

__all__ = ["WatchedPlugins"]

log = logging.getLogger("cloister.plugins")


class WatchedPlugins:
    """In the event loop of ``zygotes``. It does not hold the runtime: one that is dropped is closed."""

    def __init__(self, registry: Registry, zygotes: Zygotes) -> None:
        self._registry = registry
        self._zygotes = zygotes
        self._started = time.monotonic()

    def rows(self) -> list[ProcessRow]:
        from ..process.census import row

        silent = {plugin.pid for plugin in self._registry.list() if isinstance(plugin.status, Unresponsive)}
        age = time.monotonic() - self._started
        me = ProcessRow(PLUGIN_RUNTIME, os.getpid(), "running", age_seconds=age)
        children = [
            row(each, "unresponsive" if each.pid in silent else None) for each in self._zygotes.processes
        ]
        return [me, *children]

    def kill(self, pid: int) -> bool:
        for child in self._zygotes.processes:
            if child.pid == pid:
                log.info("%s %d was killed through the monitor", child.kind, pid)
                child.kill(Killed("on request, through the monitor"))
                return True
        return False

    async def reload(self, pid: int) -> bool:
        return False  # it works for no page
