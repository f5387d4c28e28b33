"""What runs a plugin's code: one engine for each language, all of the same form."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final, Protocol

from cloister.interfaces.plugin_host import Language, Options, Outcome

from .execution import Finished, Plugin, Streaming

__all__ = ["Engine", "Host", "made", "preload"]

Host = Callable[[str, list[Any]], Any]
"""Calls a function of the module ``host`` by its name."""

_MODULES: Final = {Language.JAVASCRIPT: "javascript", Language.WASM: "wasm"}


class Engine(Protocol):
    """One plugin's code. What it raises is told as what the plugin raised; :class:`NotSendable` and MemoryError as
    what they are, a :class:`~.execution.Told` in its own words."""

    def load(self, name: str, source: bytes) -> list[str]:
        """Run the source of the plugin ``name``, and forget what was there before; the names of what can be called."""

    def call(self, function: str, arguments: list[Any], named: dict[str, Any]) -> Finished | Streaming:
        """What ``function`` returns, or the number of a stream of it."""

    def next(self, number: int) -> Finished | Outcome:
        """What a stream gives next, or its END."""

    def close(self, number: int) -> None:
        """Let a stream go; one that is not there is fine."""


def preload(language: Language) -> None:
    """Import what the engine of ``language`` needs, and nothing of the others."""
    if language in _MODULES:
        importlib.import_module(f"{__package__}.{_MODULES[language]}").preload()


def made(language: Language, host: Host, options: Options) -> Engine:
    """The engine of ``language``, which was preloaded."""
    match language:
        case Language.JAVASCRIPT:
            from .javascript import JavaScript

            return JavaScript(host, options)
        case Language.WASM:
            from .wasm import WebAssembly

            return WebAssembly(host, options)
    return Plugin()
