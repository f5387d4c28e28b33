"""Amounts of memory as people write them."""

from __future__ import annotations

import re

from ..errors import InvalidArgument

__all__ = ["size"]

_UNITS = {"": 1, "B": 1, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def size(name: str, value: int | str) -> int:
    """Bytes: a number, or a text such as ``"512 MiB"``. Raises :class:`InvalidArgument`, which names the argument."""
    if isinstance(value, int) and value > 0:
        return value
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,3})?) ?([KMG]i?B|B)?", str(value), re.IGNORECASE)
    count = int(float(found[1]) * _UNITS[(found[2] or "").upper()]) if found else 0
    if count <= 0:
        raise InvalidArgument(f"{name}: {value!r} is no size: give bytes, or a text such as '512 MiB'")
    return count
