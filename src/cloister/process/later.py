"""Modules of libraries that are loaded when something is asked of them, and not when somebody imports them.

asyncio, argparse, pathlib, msgspec and others import these for one name, or for what they ask of them when something
has gone wrong. Every process that begins would wait: a zygote for 9 ms, a command for as many. Only for processes that
are Cloister's own; a program's and a plugin's imports are theirs.
"""

from __future__ import annotations

import os
import sys
import urllib  # noqa: F401 - the package of urllib.parse; there is nothing in it
from _thread import allocate_lock
from collections.abc import Awaitable
from functools import partial
from types import CoroutineType, FunctionType, GeneratorType, MethodType, ModuleType

TYPE_CHECKING = False  # typing takes 10 ms to load: process/spawn.py
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TextIO

__all__ = ["STAND_INS", "load_all", "load_when_asked"]

_swapping = allocate_lock()

# Include/cpython/code.h
_CO_COROUTINE = 0x80
_CO_ITERABLE_COROUTINE = 0x100


class _StandIn(ModuleType):
    """Has a few of a module's names. Whatever else is asked of it is asked of the module."""

    def __init__(self, name: str, names: Mapping[str, object]) -> None:
        super().__init__(name)
        self.__dict__.update(names)

    def __getattr__(self, name: str) -> object:
        if name == "__path__":  # which the import system looks for, and no module here has
            raise AttributeError(name)
        return getattr(_load(self.__name__), name)


def load_when_asked() -> None:
    """From now on, who imports one of :data:`STAND_INS` that is not loaded yet gets the stand-in."""
    for name, names in STAND_INS.items():
        if name not in sys.modules:
            _put(name, _StandIn(name, names))


def load_all() -> None:
    """Load those that are not: from now on, who imports one gets the module. Who has a stand-in keeps it."""
    for name in STAND_INS:
        _load(name)


def _load(name: str) -> ModuleType:
    """The module itself. Raises ImportError after lock-down, where it is not loaded yet."""
    from importlib import import_module

    stand_in = _withdraw(name)
    try:
        return import_module(name)  # where two threads are here, both get what one of them loads
    except BaseException:
        if stand_in is not None:
            _put(name, stand_in)
        raise


def _put(name: str, stand_in: _StandIn) -> None:
    with _swapping:
        sys.modules[name] = stand_in
        package, _, own = name.rpartition(".")
        if package in sys.modules:
            setattr(sys.modules[package], own, stand_in)


def _withdraw(name: str) -> _StandIn | None:
    """Make room for the module; the stand-in, if there was one still."""
    package, _, own = name.rpartition(".")
    with _swapping:
        stand_in = sys.modules.get(name)
        if not isinstance(stand_in, _StandIn):
            return None
        del sys.modules[name]
        if package in sys.modules:
            vars(sys.modules[package]).pop(own, None)
        return stand_in


# ── what is asked of them, by asyncio before lock-down and after it, and by who imports a name of theirs ─────────────


def _gettext(message: str) -> str:
    return message


def _ngettext(one: str, several: str, number: int) -> str:
    return one if number == 1 else several


def _is_function(given: object) -> bool:
    return isinstance(given, FunctionType)


def _is_generator(given: object) -> bool:
    return isinstance(given, GeneratorType)


def _is_awaitable(given: object) -> bool:
    if isinstance(given, GeneratorType):
        return bool(given.gi_code.co_flags & _CO_ITERABLE_COROUTINE)
    return isinstance(given, CoroutineType | Awaitable)


def _is_coroutine_function(given: object) -> bool:
    while isinstance(given, MethodType | partial):
        given = given.__func__ if isinstance(given, MethodType) else given.func
    return isinstance(given, FunctionType) and bool(given.__code__.co_flags & _CO_COROUTINE)


def _unwrap(given: object) -> object:
    while hasattr(given, "__wrapped__"):
        given = given.__wrapped__
    return given


def _system() -> str:
    return os.uname().sysname


def _python_implementation() -> str:
    if sys.implementation.name == "cpython":
        return "CPython"
    named: str = _load("platform").python_implementation()
    return named


def _indent(text: str, prefix: str, predicate: Callable[[str], object] = str.strip) -> str:
    lines = text.splitlines(keepends=True)
    return "".join(prefix + line if predicate(line) else line for line in lines)


def _open_source(name: str) -> TextIO:
    try:
        opened: TextIO = _load("tokenize").open(name)
    except ImportError as error:
        # linecache looks for a line of a traceback, and does without what raises OSError.
        raise FileNotFoundError(name) from error
    return opened


def _quote_from_bytes(given: bytes, safe: str = "/") -> str:
    quoted: str = _load("urllib.parse").quote_from_bytes(given, safe)
    return quoted


STAND_INS: Mapping[str, Mapping[str, object]] = {
    "gettext": {"gettext": _gettext, "ngettext": _ngettext},  # nothing of argparse's is translated
    "inspect": {
        "isawaitable": _is_awaitable,
        "iscoroutinefunction": _is_coroutine_function,
        "isfunction": _is_function,
        "isgenerator": _is_generator,
        "unwrap": _unwrap,
    },
    "msgspec.inspect": {},
    "platform": {"python_implementation": _python_implementation, "system": _system},  # of uuid and zstandard
    "subprocess": {"PIPE": -1, "STDOUT": -2, "DEVNULL": -3},
    # Of each stack that is printed, which takes more of it from Python 3.13 on.
    **({"textwrap": {"indent": _indent}} if sys.version_info < (3, 13) else {}),
    "tokenize": {"open": _open_source},
    "urllib.parse": {"quote_from_bytes": _quote_from_bytes},
}
"""The modules, and the names that need not load them."""
