"""How messages travel: typed, bounded, with descriptors, over a socketpair. Public, and usable by itself.

A :class:`Channel` moves packets, a :class:`Connection` moves messages of one interface. Everything that comes
in is judged before anybody sees it: size, shape, bounds, the number and the nature of its descriptors.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .channel import Channel
from .descriptors import Descriptors

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ["Channel", "Connection", "Descriptors"]


def __getattr__(name: str) -> Any:
    # It needs asyncio, which some processes do without: it takes as long to load as all the rest of them.
    if name != "Connection":
        raise AttributeError(f"module 'cloister.ipc' has no attribute {name!r}")
    return importlib.import_module("cloister.ipc.connection").Connection
