"""``@isolated``: the function runs elsewhere, with what it refers to and nothing else."""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cloister.errors import MemoryLimit, NotSendable, PluginCrashed, PluginRaised, Timeout
from cloister.plugins.isolated import isolated
from cloister.plugins.shared_runtime import close_shared

FACTOR = 3
UNSENDABLE = object()
secret = "what only this program knows"


@pytest.fixture(autouse=True, scope="module")
def closed() -> Iterator[None]:
    yield
    close_shared()


def helper(x: int) -> int:
    return x * FACTOR


@isolated
def uses_its_module(x: int, *, more: int = 1) -> list[Any]:
    return [helper(x) + more, math.gcd(12, 18), json.dumps({"a": 1})]


@isolated
def recursive(n: int) -> int:
    return 1 if n < 2 else n * recursive.__wrapped__(n - 1)  # type: ignore[attr-defined]


def factorial(n: int) -> int:
    return 1 if n < 2 else n * factorial(n - 1)


def test_it_runs_with_what_it_refers_to() -> None:
    assert uses_its_module(2) == [7, 6, '{"a": 1}']
    assert uses_its_module(2, more=5)[0] == 11
    assert isolated(factorial)(20) == 2432902008176640000
    assert isolated(lambda: [x + 1 for x in range(3)])() == [1, 2, 3]
    assert uses_its_module.__name__ == "uses_its_module"


def test_a_closure_goes_along_by_value() -> None:
    def make(n: int) -> Callable[[int], int]:
        def double(x: int) -> int:
            return 2 * x

        return lambda x: double(x) + n

    assert isolated(make(5))(1) == 7


def test_it_is_another_process_with_no_memory_of_this_one() -> None:
    @isolated
    def look() -> list[Any]:
        import gc
        import sys

        found = [o for o in gc.get_objects() if isinstance(o, dict) and "UNSENDABLE" in o]
        return [os.getpid(), len(found), "pytest" in sys.modules, dict(os.environ).get("HOME")]

    pid, found, pytest_there, home = look()
    assert (found, pytest_there, home) == (0, False, None)
    assert pid != look()[0], "a fresh one each time"
    assert pid != os.getpid()


def test_state_does_not_last() -> None:
    @isolated
    def remember() -> int:
        import builtins

        builtins.count = getattr(builtins, "count", 0) + 1  # type: ignore[attr-defined]
        return builtins.count  # type: ignore[attr-defined,no-any-return]

    assert [remember(), remember()] == [1, 1]


def test_what_does_not_go_along_is_named() -> None:
    @isolated
    def refers() -> object:
        return UNSENDABLE

    with pytest.raises(NotSendable, match="refers refers to UNSENDABLE, which is a object"):
        refers()
    with pytest.raises(NotSendable, match="refers to wraps, a function of another module"):
        isolated(functools_wraps)()
    with pytest.raises(NotSendable, match="not a function written in Python"):
        isolated(len)([1])
    with pytest.raises(NotSendable, match=r"args\[0\]"):
        uses_its_module(object())  # type: ignore[arg-type]


def functools_wraps() -> object:
    return wraps


wraps = functools.wraps


def test_limits_and_errors_are_those_of_plugins() -> None:
    @isolated(memory="30 MiB", timeout=5)
    def greedy(n: int) -> int:
        return len(bytes(n))

    assert greedy(2**20) == 2**20
    with pytest.raises(MemoryLimit):
        greedy(2**28)

    @isolated(timeout=0.2)
    def endless() -> None:
        while True:
            pass

    with pytest.raises(Timeout):
        endless()
    with pytest.raises(PluginRaised, match="ZeroDivisionError"):
        isolated(lambda: 1 / 0)()
    with pytest.raises(PluginCrashed):
        isolated(lambda: os._exit(3))()


def test_files_are_out_of_reach() -> None:
    @isolated
    def read(path: str) -> str:
        with open(path) as file:
            return file.read()

    for path in ("/etc/passwd", __file__, "/proc/self/maps"):
        with pytest.raises(PluginRaised, match="FileNotFoundError|PermissionError"):
            read(path)
