"""Modules that are loaded when something is asked of them."""

from __future__ import annotations

import ast
import asyncio
import functools
import importlib
import inspect
import linecache
import logging
import subprocess
import sys
import traceback
import types
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from cloister.process import later

BEGINS = """
import sys
from cloister.process import later, lean
later.load_when_asked()
lean.load_msgspec()
import asyncio, argparse, logging, pathlib, traceback, msgspec
"""
LOCKED = BEGINS + "sys.path.clear(); sys.path_importer_cache.clear(); sys.meta_path.clear()\n"
"""As after lock-down: nothing more can be loaded."""


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=30, check=False
    )


def check(code: str) -> None:
    done = run(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="a later asyncio asks for more")
def test_who_imports_them_does_not_load_them() -> None:
    check(BEGINS + "assert all(type(sys.modules[name]) is later._StandIn for name in later.STAND_INS)\n")


def test_what_is_asked_of_one_is_what_the_module_has() -> None:
    check(
        BEGINS
        + """
import inspect, textwrap, subprocess, urllib.parse
from msgspec import inspect as of_msgspec
def add(one: int, other: int) -> int: ...
assert list(inspect.signature(add).parameters) == ["one", "other"]
assert type(sys.modules["inspect"]) is type(sys)
assert textwrap.dedent(" a") == "a"
assert subprocess.run([sys.executable, "-c", "print(2)"], stdout=subprocess.PIPE).stdout == b"2\\n"
assert urllib.parse.urlsplit("http://[::1]/a").hostname == "::1"
import urllib.parse as again
assert again.quote("a b") == "a%20b"
from urllib.parse import unquote
assert unquote("a%20b") == "a b"
assert of_msgspec.type_info(int) == of_msgspec.IntType()
assert "properties" in msgspec.json.schema(type("S", (msgspec.Struct,), {"__annotations__": {"a": int}}))["$defs"]["S"]
assert pathlib.Path("/a b").as_uri() == "file:///a%20b"
"""
    )


def test_one_that_was_loaded_before_stays() -> None:
    check(
        "import sys, inspect\nfrom cloister.process import later\nlater.load_when_asked()\n"
        "assert sys.modules['inspect'] is inspect and inspect.signature\n"
    )


def test_once_all_are_loaded_whoever_imports_one_gets_the_module() -> None:
    check(
        BEGINS
        + """
import inspect as before, urllib.parse as parse_before
later.load_all()
import inspect, urllib.parse, msgspec.inspect
assert not any(isinstance(each, later._StandIn) for each in (inspect, urllib.parse, msgspec.inspect))
assert before.getsource is inspect.getsource and parse_before.quote is urllib.parse.quote
"""
    )


def test_threads_that_ask_at_once_get_the_same() -> None:
    check(
        BEGINS
        + """
import inspect, threading
barrier, found = threading.Barrier(8), []
def ask():
    barrier.wait()
    found.append(inspect.signature)
threads = [threading.Thread(target=ask) for _ in range(8)]
for each in threads: each.start()
for each in threads: each.join()
assert len(found) == 8 and len(set(found)) == 1, found
"""
    )


def test_one_that_cannot_be_loaded_any_more_raises_and_stays() -> None:
    check(
        LOCKED
        + """
import inspect
for _ in range(2):
    try:
        inspect.signature
    except ImportError:
        pass
    else:
        raise SystemExit("it was loaded")
assert inspect.isfunction(print) is False
"""
    )


def test_after_lock_down_a_failure_is_told_with_its_stack() -> None:
    done = run(
        LOCKED
        + """
def fails():
    raise ValueError("in a callback")
async def main():
    asyncio.get_running_loop().call_soon(fails)
    await asyncio.sleep(0.01)
asyncio.run(main())
try:
    raise KeyError("in a function")
except KeyError:
    traceback.print_exc()
"""
    )
    assert done.returncode == 0, done.stderr
    assert "Exception in callback fails" in done.stderr
    assert "ValueError: in a callback" in done.stderr
    assert "KeyError: 'in a function'" in done.stderr
    assert "ImportError" not in done.stderr
    assert "ModuleNotFoundError" not in done.stderr


def test_all_that_is_asked_of_them_when_something_goes_wrong_is_there_after_lock_down() -> None:
    """What is asked for is read from the source of who asks."""
    sources = [inspect.getsourcefile(each) for each in (traceback, linecache, logging)]
    ours = [
        path
        for path in Path(str(inspect.getsourcefile(asyncio))).parent.glob("*.py")
        if "windows" not in path.name
    ]
    ours = [path for path in ours if path.name != "__main__.py"]
    asked = {
        (node.value.id, node.attr)
        for path in [*ours, *map(Path, map(str, sources))]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    assert ("textwrap", "indent") in asked
    lacks = {
        (name, own) for name, own in asked if name in later.STAND_INS and own not in later.STAND_INS[name]
    }
    assert lacks - {("subprocess", "Popen"), ("subprocess", "__all__")} == set()  # no child starts a program


def _function() -> None: ...


def _generator() -> Iterator[None]:
    yield


async def _coroutine() -> None: ...


async def _async_generator() -> AsyncIterator[None]:
    yield


@types.coroutine
def _old_coroutine() -> Iterator[None]:
    yield


class _Class:
    async def method(self) -> None: ...
    def plain(self) -> None: ...
    def __await__(self) -> Iterator[None]:
        yield


@functools.wraps(_coroutine)
def _wraps() -> None: ...


_METHODS = _Class()
GIVEN: list[Callable[[], object]] = [
    lambda: None,
    lambda: print,
    lambda: _function,
    lambda: _generator,
    lambda: _coroutine,
    lambda: _old_coroutine,
    lambda: _async_generator,
    _generator,
    _old_coroutine,
    _async_generator,
    lambda: _Class,
    _Class,
    lambda: _METHODS.method,
    lambda: _METHODS.plain,
    lambda: _Class.method,
    lambda: functools.partial(_coroutine),
    lambda: functools.partial(functools.partial(_METHODS.method)),
    lambda: functools.partial(_function),
    lambda: _wraps,
]


@pytest.mark.parametrize("name", sorted(later.STAND_INS["inspect"]))
@pytest.mark.parametrize("make", GIVEN)
def test_what_stands_in_for_a_function_answers_as_it_does(name: str, make: Callable[[], object]) -> None:
    stands_in = later.STAND_INS["inspect"][name]
    assert callable(stands_in)
    given = make()
    assert stands_in(given) == getattr(inspect, name)(given)


def test_a_coroutine_can_be_awaited() -> None:
    waiting = _coroutine()
    is_awaitable = later.STAND_INS["inspect"]["isawaitable"]
    assert callable(is_awaitable)
    assert is_awaitable(waiting)
    waiting.close()


@pytest.mark.parametrize("name", sorted(set(later.STAND_INS) - {"inspect", "msgspec.inspect"}))
def test_names_stand_for_the_same_as_in_the_module(name: str) -> None:
    module = importlib.import_module(name)
    for own, stands_in in later.STAND_INS[name].items():
        real = getattr(module, own)
        if name == "gettext":
            arguments: tuple[object, ...] = ("one", "more", 2)[: 1 if own == "gettext" else 3]
            assert callable(stands_in)
            assert stands_in(*arguments) == real(*arguments)
        elif own == "quote_from_bytes":
            assert callable(stands_in)
            assert stands_in(b"/a b%") == real(b"/a b%")
        elif own == "indent":
            assert callable(stands_in)
            text = "a\n\n b\nc"
            assert stands_in(text, "> ") == real(text, "> ")
            assert stands_in(text, "> ", lambda _line: True) == real(text, "> ", lambda _line: True)
        elif own == "open":
            assert callable(stands_in)
            with stands_in(__file__) as ours, real(__file__) as theirs:
                assert ours.read() == theirs.read()
                assert ours.encoding == theirs.encoding
        elif callable(stands_in):
            assert stands_in() == real()
        else:
            assert stands_in == real
