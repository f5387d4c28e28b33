"""What plugins in other languages than Python need to be installed."""

from __future__ import annotations

import importlib.util
from typing import Final

from ..errors import PluginError
from ..interfaces.plugin_host import Language

__all__ = ["check_installed"]

_LIBRARIES: Final = {Language.JAVASCRIPT: "_quickjs", Language.WASM: "wasmtime"}
"""Modules that their engines stand on. Each is an extra of the language's name."""


def check_installed(language: Language) -> None:
    """Raise :class:`PluginError` with what to install for ``language``, unless that is there. Nothing is imported."""
    library = _LIBRARIES.get(language)
    if library is not None and importlib.util.find_spec(library) is None:
        raise PluginError(
            f'plugins in {language} need a library that is not installed: pip install "cloister[{language}]"'
        )
