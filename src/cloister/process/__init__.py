"""How processes live: started by exec or forked from the zygote, held by a handle, never left behind.

The names below are imported when they are first used: a child's first lines are in this package too.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing takes 10 ms to load: process/spawn.py
if TYPE_CHECKING:
    from typing import Any

    from .handle import ChildProcess, ExitStatus
    from .launcher import Zygote, launch

__all__ = ["ChildProcess", "ExitStatus", "Zygote", "launch"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'cloister.process' has no attribute {name!r}")
    module = "handle" if name in {"ChildProcess", "ExitStatus"} else "launcher"
    import importlib

    return getattr(importlib.import_module(f"cloister.process.{module}"), name)
