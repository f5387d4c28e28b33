"""Reports to test with, and how the tests look at them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cloister.ends import Crashed
from cloister.process.crashes import CrashReport, CrashStore

IDS = tuple(f"20261120T1301{second:02}Z-00000{second % 10}" for second in range(60))


def report(id: str | None = None, **fields: Any) -> CrashReport:
    made = CrashReport.of(**{"kind": "web_content", "pid": 4711, "end": Crashed(11), **fields})
    return made if id is None else msgspec.structs.replace(made, id=id)


def names(folder: Path) -> set[str]:
    """The ids of what is really there."""
    return {path.stem for path in folder.iterdir()}


def ids(store: CrashStore) -> list[str]:
    return [found.id for found in store.list()]


@contextmanager
def refusing(caplog: pytest.LogCaptureFixture, *words: str) -> Iterator[None]:
    caplog.clear()
    with caplog.at_level(logging.DEBUG, "cloister"):
        yield
    (warning,) = caplog.records
    assert (warning.name, warning.levelname) == ("cloister.process.crashes", "WARNING")
    assert all(word in warning.getMessage() for word in ("no crash report of web_content 4711", *words))


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from texts([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts(item)
