"""What happens to plugins besides calls, for whoever wants to hear of it."""

from __future__ import annotations

import dataclasses
import logging
import threading
from collections.abc import Callable
from typing import Final, Literal

__all__ = ["EventName", "Events", "PluginEvent"]

log = logging.getLogger("cloister.plugins")

EventName = Literal[
    "denied", "crashed", "restarted", "reloaded", "reload_failed", "circuit_opened", "circuit_closed"
]
_NAMES: Final[tuple[str, ...]] = (
    "denied", "crashed", "restarted", "reloaded", "reload_failed", "circuit_opened", "circuit_closed",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class PluginEvent:
    """Something that happened to ``plugin``."""

    name: EventName
    plugin: str
    what: str
    """In words: what was denied, how it ended, why it was not reloaded. May hold the plugin's own words, made
    printable."""


class Events:
    """For any number of threads. A handler is called in the thread that noticed; what it raises is logged."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handlers: dict[str, tuple[Callable[[PluginEvent], object], ...]] = {}

    def on(self, event: EventName, handler: Callable[[PluginEvent], object]) -> None:
        """Call ``handler`` for each ``event`` from now on. Raises ValueError for an event that there is not."""
        if event not in _NAMES:
            raise ValueError(f"there is no event {event!r}; there are {', '.join(_NAMES)}")
        with self._lock:
            self._handlers[event] = (*self._handlers.get(event, ()), handler)

    def tell(self, name: EventName, plugin: str, what: str) -> None:
        event = PluginEvent(name, plugin, what)
        log.info("%s: %s: %s", name, plugin, what)
        for handler in self._handlers.get(name, ()):
            try:
                handler(event)
            except Exception:
                log.exception("a handler of %r failed", name)
