"""Importing a library without what it would load beside itself, and can do without."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found] # built in; signal takes 2 ms to load
import contextlib
import sys
from types import ModuleType

TYPE_CHECKING = False  # typing takes 10 ms to load: process/spawn.py
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["lazy_dataclasses", "load_msgspec", "without"]

_SIGINT = 2
_COMPILES = "_create_fn"
"""What :mod:`dataclasses` compiles each method by, until Python 3.12. Later ones compile a class at once, and have none
by this name."""


@contextlib.contextmanager
def without(name: str) -> Iterator[None]:
    """Inside, ``import name`` fails as where it is not installed; what was imported before stays. For processes that
    are Cloister's own: a program that uses the library may want ``name`` itself."""
    if name in sys.modules:
        yield
        return
    # docs.python.org/3/reference/import.html, "The module cache"
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


def load_msgspec() -> None:
    """Without ``typing_extensions``, which it takes where another package has brought it along: 5 ms."""
    # Its part in C crashes where a KeyboardInterrupt comes while it is initialised: Ctrl-C waits these 15 ms.
    mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, (_SIGINT,))
    try:
        with without("typing_extensions"):
            import msgspec  # noqa: F401
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)


class _WithoutSignatures:
    """The module ``inspect`` for :mod:`dataclasses`, which until Python 3.12 wants nothing else of it."""

    def __init__(self, inspect: ModuleType) -> None:
        self._inspect = inspect

    def signature(self, _kind: type) -> str:
        return "(...)"

    def __getattr__(self, name: str) -> object:
        return getattr(self._inspect, name)


@contextlib.contextmanager
def lazy_dataclasses() -> Iterator[None]:
    """Inside, methods of dataclasses are compiled when they are first called, not when their class is made: libraries
    have dozens of them, and use a few (12 ms of turbohtml's import, 6 of h2's and h11's). One without a docstring is
    not given its signature instead."""
    import dataclasses

    compile_method: Callable[..., Callable[..., object]] | None = getattr(dataclasses, _COMPILES, None)
    if compile_method is None:
        yield
        return

    def put_off(
        name: str, parameters: Sequence[str], body: Sequence[str], **more: Mapping[str, object] | None
    ) -> Callable[..., object]:
        compiled: Callable[..., object] | None = None

        def method(*given: object, **named: object) -> object:
            nonlocal compiled
            if compiled is None:
                compiled = compile_method(name, parameters, body, **more)
            return compiled(*given, **named)

        method.__name__ = name
        return method

    inspect = vars(dataclasses)["inspect"]
    setattr(dataclasses, _COMPILES, put_off)
    vars(dataclasses)["inspect"] = _WithoutSignatures(inspect)
    try:
        yield
    finally:
        setattr(dataclasses, _COMPILES, compile_method)
        vars(dataclasses)["inspect"] = inspect
