"""A function of the host's program, put together again from its code and what it refers to.

``marshal`` must not be fed by somebody who is not trusted. Here the sender is the host, and the receiver is a process
that may do nothing: the other way round there is no marshal.
"""

from __future__ import annotations

import importlib
import marshal
from types import CellType, FunctionType
from typing import Any

__all__ = ["rebuild"]


def rebuild(bundle: dict[str, Any]) -> FunctionType:
    """The first of the ``functions`` in a bundle. Each has ``code``, and what its ``globals``, ``defaults``, ``named``
    and ``closure`` refer to: ``["value", v]``, ``["module", name]`` or ``["function", number]``."""
    parts = bundle["functions"]
    namespace: dict[str, Any] = {"__name__": bundle["module"], "__builtins__": __builtins__}
    made: list[FunctionType] = []
    for part in parts:
        cells = tuple(CellType() for _ in part["closure"])
        made.append(FunctionType(marshal.loads(part["code"]), namespace, part["name"], None, cells))  # noqa: S302

    def value(reference: list[Any]) -> Any:
        match reference:
            case ["function", number]:
                return made[number]
            case ["module", name]:
                return importlib.import_module(name)
            case [_, plain]:
                return plain
            case _:
                return None

    for function, part in zip(made, parts, strict=True):
        function.__defaults__ = tuple(map(value, part["defaults"])) or None
        function.__kwdefaults__ = {name: value(each) for name, each in part["named"].items()}
        for cell, each in zip(function.__closure__ or (), part["closure"], strict=True):
            cell.cell_contents = value(each)
    namespace.update({name: value(each) for name, each in bundle["globals"].items()})
    return made[0]
