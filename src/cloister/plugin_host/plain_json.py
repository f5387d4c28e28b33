"""What is sent on as JSON, to a program or to a module of WebAssembly."""

from __future__ import annotations

import math
from typing import Any

from cloister.errors import NotSendable

__all__ = ["check"]


def check(value: Any, where: str) -> None:
    """Raise :class:`NotSendable` for what JSON does not have. Values nest as deep as the host lets them."""
    kind = type(value)
    if kind is list:
        for index, each in enumerate(value):
            check(each, f"{where}[{index}]")
    elif kind is dict:
        for key, each in value.items():
            if type(key) is not str:
                raise NotSendable(f"{where} has a key that is no str: it goes on as JSON")
            check(each, f'{where}["{key[:80]}"]')
    elif kind is float and not math.isfinite(value):
        raise NotSendable(f"{where} is {value}: it goes on as JSON, which has no such number")
    elif kind is int and not -(2**63) <= value < 2**64:
        raise NotSendable(f"{where} is an int of more than 64 bits: it goes on as JSON")
    elif kind not in (type(None), bool, int, float, str):
        raise NotSendable(f"{where} is a {kind.__name__}: it goes on as JSON, which has none")
