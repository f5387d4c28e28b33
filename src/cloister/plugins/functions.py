"""A function of this program as plain data, to be run in another process: its code, and what it refers to.

No pickle: what is sent is the function's own code object and, of what it refers to, values that travel, names of
modules, and further functions of the same module. A function that refers to anything else is refused.
"""

from __future__ import annotations

import dis
import marshal
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any, Final

from ..errors import NotSendable
from ..ipc import Descriptors, values

__all__ = ["bundle"]

_MOST: Final = 256  # functions


def bundle(function: Callable[..., Any]) -> bytes:
    """What :func:`cloister.plugin_host.functions.rebuild` takes. Raises :class:`NotSendable`, which names what the
    function refers to and cannot take along."""
    packer = _Packer(function)
    packed, memfds = values.pack(packer.data(), packer.name)
    assert not memfds  # noqa: S101 - _Packer lets no buffer pass
    return packed


class _Packer:
    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = getattr(function, "__qualname__", type(function).__qualname__)
        if not isinstance(function, FunctionType):
            raise NotSendable(f"{self.name} is not a function written in Python with def or lambda")
        self._globals = function.__globals__
        self._functions: list[FunctionType] = [function]
        self._references: dict[str, list[Any]] = {}

    def data(self) -> dict[str, Any]:
        parts = []
        for function in self._functions:  # it grows meanwhile
            parts.append(self._part(function))
            if len(parts) > _MOST:
                raise NotSendable(f"{self.name} refers to more than {_MOST} functions")
        module = self._globals.get("__name__", "function")
        return {"functions": parts, "globals": self._references, "module": str(module)}

    def _part(self, function: FunctionType) -> dict[str, Any]:
        code = function.__code__
        for name in _names(code):
            if name in self._globals and name not in self._references:
                self._references[name] = [None, None]  # it may refer to itself
                self._references[name] = self._reference(self._globals[name], name)
        return {
            "code": marshal.dumps(code),
            "name": function.__name__,
            "defaults": [self._reference(each, "a default") for each in function.__defaults__ or ()],
            "named": {k: self._reference(each, k) for k, each in (function.__kwdefaults__ or {}).items()},
            "closure": [
                self._reference(cell.cell_contents, name)
                for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True)
            ],
        }

    def _reference(self, value: Any, name: str) -> list[Any]:
        if isinstance(value, ModuleType):
            return ["module", value.__name__]
        if isinstance(value, FunctionType):
            return ["function", self._number(value, name)]
        _, memfds = values.pack(value, f"{self.name} refers to {name}, which")
        Descriptors(memfds).close()
        if memfds:
            raise NotSendable(f"{self.name} refers to {name}, a large buffer: pass it as an argument")
        return ["value", value]

    def _number(self, function: FunctionType, name: str) -> int:
        if function.__globals__ is not self._globals:
            raise NotSendable(
                f"{self.name} refers to {name}, a function of another module: import {function.__module__} inside it"
            )
        for number, known in enumerate(self._functions):
            if known is function:
                return number
        self._functions.append(function)
        return len(self._functions) - 1


_BY_NAME: Final = frozenset({"LOAD_GLOBAL", "LOAD_NAME"})


def _names(code: CodeType) -> Iterator[str]:
    """Global names that it, and what is defined in it, looks up."""
    yield from {each.argval for each in dis.get_instructions(code) if each.opname in _BY_NAME}
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
