"""A plugin's process, looked at from inside: what it has, and what it has not."""

from __future__ import annotations

import json
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.errors import MemoryLimit, PluginRaised
from cloister.plugins.plugin import Plugin
from cloister.plugins.runtime import PluginRuntime
from cloister.sandbox import Layer, Machine, machine

CODE = """
import ctypes, importlib, os, stat, sys

def imports(name): return importlib.import_module(name).__name__

def opens(path):
    try: open(path).close()
    except OSError as error: return error.errno
    return 0

def lists(path):
    try: return sorted(os.listdir(path))
    except OSError as error: return error.errno

def descriptors():
    found = {}
    for number in range(64):
        try: mode = os.fstat(number).st_mode
        except OSError: continue
        found[str(number)] = 'socket' if stat.S_ISSOCK(mode) else 'pipe' if stat.S_ISFIFO(mode) else 'other'
    return found

def ordinary():
    import dataclasses, enum, functools, inspect, pathlib, typing, warnings
    @dataclasses.dataclass(order=True)
    class Point:
        x: int
        y: int = 0
    class Colour(enum.Enum):
        RED = 1
    warnings.warn('careful')
    source = inspect.getsource(ordinary)[:3]
    return [dataclasses.asdict(Point(1)), Colour.RED.name, source, str(pathlib.Path('a').resolve())]

def callback(): return str(ctypes.CFUNCTYPE(None)(lambda: None))
def sort():
    compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(lambda a, b: 0)
    ctypes.CDLL(None).qsort(ctypes.create_string_buffer(8), 8, 1, compare)
def environment(): return dict(os.environ)
def path(): return sys.path
def arguments(): return [sys.argv, os.getcwd()]
"""


@pytest.fixture(scope="module")
def plugin() -> Iterator[Plugin]:
    with PluginRuntime() as runtime:
        yield runtime.load_source(CODE, "inside")


@pytest.fixture(scope="module")
def here() -> Machine:
    return machine()


def test_every_layer_that_the_machine_has_holds_it(plugin: Plugin, here: Machine) -> None:
    assert {Layer(layer) for layer in plugin.report.layers} == here.available
    assert set(plugin.report.missing) == {layer.value for layer in set(Layer) - here.available}


@pytest.mark.parametrize(
    "name",
    [
        "json", "csv", "email.message", "html.parser", "xml.dom.minidom", "concurrent.futures",
        "decimal", "fractions", "statistics", "zoneinfo", "urllib.parse", "unittest", "argparse",
        "tomllib", "difflib", "encodings.cp437", "asyncio", "logging.handlers", "hashlib", "zlib",
        "lzma",
    ],
)  # fmt: skip
def test_the_standard_library_is_imported_after_lock_down(plugin: Plugin, name: str) -> None:
    assert plugin.call("imports", name) == name


@pytest.mark.parametrize(
    "name", ["pytest", "pip", "rich", "turbohtml", "plutoprint", "cloister.browser", "test.support"]
)
def test_what_is_installed_beside_it_is_not(plugin: Plugin, name: str) -> None:
    with pytest.raises(PluginRaised, match="ModuleNotFoundError"):
        plugin.call("imports", name)


def test_no_file_is_there_but_the_librarys(plugin: Plugin, here: Machine, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_text("x")
    (tmp_path / "file").chmod(0o644)
    site = sysconfig.get_path("purelib")
    outside = ["/etc/passwd", "/proc/self/maps", "/dev/null", "/usr/bin/env", __file__, f"{tmp_path}/file"]
    for path in (*outside, f"{json.__file__}/../../x", f"{site}/pytest/__init__.py"):
        assert plugin.call("opens", path) in (2, 13, 20), path
    if Layer.EMPTY_ROOT in here.available:
        assert plugin.call("opens", json.__file__) == 0
        assert plugin.call("lists", site) in (2, 13)
        assert plugin.call("lists", "/") == 13, "its names are not told either"


def test_ordinary_code_runs(plugin: Plugin) -> None:
    assert plugin.call("ordinary") == [{"x": 1, "y": 0}, "RED", "def", "/a"]
    assert "careful" in plugin.output


def test_it_holds_two_channels_and_its_last_words(plugin: Plugin) -> None:
    found = plugin.call("descriptors")
    assert [found.pop(number) for number in ("0", "1", "2")] == ["other", "other", "pipe"]
    assert sorted(found.values()) == ["socket", "socket"]


def test_it_knows_nothing_of_who_started_it(plugin: Plugin) -> None:
    allowed = {"LANG", "LC_ALL", "LC_CTYPE", "TZ", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
               "NUMEXPR_NUM_THREADS"}  # fmt: skip
    assert set(plugin.call("environment")) <= allowed
    assert plugin.call("path") == []
    assert plugin.call("arguments") == [[""], "/"]


@pytest.mark.parametrize("language", ["python", "javascript", "wasm"])
def test_no_memory_can_be_written_and_run(language: str) -> None:
    """Not that of the handler of SIGSYS either, nor of the callbacks of a library."""
    code = {"python": CODE, "javascript": "", "wasm": "(module)"}[language]
    with PluginRuntime() as runtime:
        plugin = runtime.load_source(code, "mapped", language=language)
        if os.geteuid() == 0:  # nobody else may look at the memory of a sandboxed process
            rights = {
                line.split()[1][:3] for line in Path(f"/proc/{plugin.pid}/maps").read_text().splitlines()
            }
            assert "r-x" in rights
            assert "rwx" not in rights
        if language == "python":
            for function in ("callback", "sort"):
                with pytest.raises((MemoryLimit, PluginRaised)):
                    plugin.call(function)
                assert plugin.call("path") == []
