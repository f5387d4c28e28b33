"""``import host``: the functions that the host registered, as the plugin's code sees them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

__all__ = ["HostFunctionError", "install"]


class HostFunctionError(Exception):
    """A host function failed, or there is none of that name."""


class _Host(ModuleType):
    """``host.lookup(1, 2)`` calls the function that the host registered as ``lookup``."""

    def __init__(self, call: Callable[[str, list[Any]], Any]) -> None:
        super().__init__("host", "The functions that the host registered.")
        self.HostFunctionError = HostFunctionError
        self._call = call

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *arguments: self._call(name, list(arguments))


def install(call: Callable[[str, list[Any]], Any]) -> None:
    """``call(name, arguments)`` asks the host."""
    sys.modules["host"] = _Host(call)
