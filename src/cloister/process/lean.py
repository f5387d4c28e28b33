"""Importing a library without what it would load beside itself, and can do without."""

from __future__ import annotations

import contextlib
import sys

TYPE_CHECKING = False  # typing takes 10 ms to load: process/spawn.py
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["load_msgspec", "without"]


@contextlib.contextmanager
def without(name: str) -> Iterator[None]:
    """Inside, ``import name`` fails as where it is not installed; what was imported before stays. For processes that
    are Cloister's own: a program that uses the library may want ``name`` itself."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment] # docs.python.org/3/reference/import.html, "The module cache"
    try:
        yield
    finally:
        del sys.modules[name]


def load_msgspec() -> None:
    """Without ``typing_extensions``, which it takes where another package has brought it along: 5 ms."""
    with without("typing_extensions"):
        import msgspec  # noqa: F401
