"""Plugins are loaded, called, restarted and unloaded; what they do wrong is theirs, and told."""

from __future__ import annotations

import datetime
import gc
import logging
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.errors import (
    CapabilityRefused,
    CloisterError,
    DependencyError,
    HostError,
    InvalidArgument,
    ManifestError,
    NoSuchFunction,
    NoSuchPlugin,
    NotSendable,
    PluginCrashed,
    PluginError,
    PluginRaised,
    RuntimeClosed,
    Timeout,
)
from cloister.ipc.shared_buffer import SharedBuffer
from cloister.plugins.limits import Limits
from cloister.plugins.plugin import Crashed, Plugin, Running, Terminated, Unresponsive
from cloister.plugins.runtime import PluginRuntime
from cloister.process import later

MANIFEST = """\
name = "greeter"
version = "1.0.0"
api-version = "1.0"
source = "greeter.py"
language = "python"
exports = ["greet"]
"""


def loaded(runtime: PluginRuntime, code: str, **given: Any) -> Plugin:
    return runtime.load_source(code, "example", **given)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def manifest(
    folder: Path, text: str = MANIFEST, code: str = "def greet(name): return f'Hello {name}'\n"
) -> Path:
    (folder / "greeter.py").write_text(code)
    path = folder / "plugin.toml"
    path.write_text(text)
    return path


# ── loading ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_plugin_of_a_manifest_is_called_by_its_name(runtime: PluginRuntime, tmp_path: Path) -> None:
    plugin = runtime.load(manifest(tmp_path))
    assert runtime.call("greeter", "greet", "Ada") == "Hello Ada"
    assert runtime.call("greeter", "greet", name="Ada") == "Hello Ada"
    assert (plugin.exports, runtime.status("greeter"), runtime.plugins) == (("greet",), Running(), (plugin,))


def test_a_plugin_has_the_names_that_python_gives_every_program(runtime: PluginRuntime) -> None:
    """``site`` makes them, and puts in place what was installed for development."""
    code = "import builtins\ndef has(*names): return [name for name in names if hasattr(builtins, name)]"
    runtime.load_source(code, name="names")
    names = ["exit", "help", "print", "quit"]
    assert runtime.call("names", "has", *names) == names


STAND_INS = (
    "inspect",
    "gettext",
    "msgspec.inspect",
    "platform",
    "subprocess",
    "textwrap",
    "tokenize",
    "urllib.parse",
)


def test_a_plugin_imports_modules_and_nothing_that_stands_in_for_them(runtime: PluginRuntime) -> None:
    """Cloister's own processes have such (process/later.py)."""
    assert set(STAND_INS) >= set(later.STAND_INS)
    source = f"""
import importlib, types
def kinds():
    found = [importlib.import_module(name) for name in {[name for name in STAND_INS if "msgspec" not in name]}]
    return [type(each) is types.ModuleType and bool(each.__file__) for each in found]
"""
    runtime.load_source(source, name="imports")
    assert all(runtime.call("imports", "kinds"))


def test_only_what_is_exported_can_be_called(runtime: PluginRuntime, tmp_path: Path) -> None:
    runtime.load(manifest(tmp_path, code="def greet(): return 1\ndef other(): return 2\n"))
    with pytest.raises(NoSuchFunction, match="exports greet, and not other"):
        runtime.call("greeter", "other")
    plugin = loaded(runtime, "from json import dumps\n__all__ = ['dumps', 'x']\nx = 3\ndef hidden(): pass\n")
    assert plugin.exports == ("dumps",)
    assert loaded_names(runtime, "def a(): pass\ndef _b(): pass\nfrom json import dumps\n") == ("a",)


def loaded_names(runtime: PluginRuntime, code: str) -> tuple[str, ...]:
    return runtime.load_source(code, "names").exports


def test_an_export_that_is_missing_is_told(runtime: PluginRuntime, tmp_path: Path) -> None:
    with pytest.raises(NoSuchFunction, match="manifest exports: greet"):
        runtime.load(manifest(tmp_path, code="x = 1"))
    assert runtime.plugins == ()


def test_code_that_fails_to_load_is_told_and_nothing_stays(runtime: PluginRuntime) -> None:
    for code, name in (
        ("1 / 0", "ZeroDivisionError"),
        ("def (", "SyntaxError"),
        ("import numpy", "ModuleNotFoundError"),
    ):
        with pytest.raises(PluginRaised) as caught:
            loaded(runtime, code)
        assert caught.value.type_name == name
    assert runtime.plugins == ()


def test_names_are_taken_once(runtime: PluginRuntime) -> None:
    loaded(runtime, "")
    with pytest.raises(InvalidArgument, match="loaded already"):
        loaded(runtime, "")
    for name in ("", "Upper", "a b", "../x", "x\n"):
        with pytest.raises(InvalidArgument):
            runtime.load_source("", name)
    runtime.unload("example")
    with pytest.raises(NoSuchPlugin):
        runtime.call("example", "f")
    loaded(runtime, "")


def test_what_this_version_cannot_do_is_refused(runtime: PluginRuntime, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="language"):
        runtime.load(manifest(tmp_path, MANIFEST.replace('"python"', '"perl"')))
    with pytest.raises(CapabilityRefused, match="no capability"):
        loaded(runtime, "", grants={"fs:everything": []})
    with pytest.raises(DependencyError):
        runtime.load(manifest(tmp_path, MANIFEST + "[dependencies]\nother = '*'\n"))
    with pytest.raises(ManifestError):
        runtime.load(manifest(tmp_path, MANIFEST + "colour = 'red'\n"))


# ── values ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_plain_values_come_back_as_they_were(runtime: PluginRuntime) -> None:
    loaded(runtime, "def same(x): return x")
    now = datetime.datetime.now(datetime.UTC)
    for value in (None, True, 0, -1, 2**64, -(10**50), 1.5, "é\n\0", b"\0\xff", [1, [2, {}]], {"a": {1: b"x"}}, now,
                  now.replace(tzinfo=None), [True, 2**70, {"k": now}], "x" * 100_000, list(range(50_000))):  # fmt: skip
        found = runtime.call("example", "same", value)
        assert found == value
        assert type(found) is type(value)
    assert runtime.call("example", "same", (1, (2,))) == [1, [2]]


def test_what_does_not_travel_is_named_before_it_is_sent(runtime: PluginRuntime) -> None:
    plugin = loaded(runtime, "def same(x): return x\ndef bad(): return {'a': [1, {2}]}")
    for value, where in (
        ({"x": [object()]}, r'args\[0\]\["x"\]\[0\]'),
        ({1, 2}, r"args\[0\]"),
        ({(1,): 2}, "key"),
    ):
        with pytest.raises(NotSendable, match=where):
            plugin.call("same", value)
    with pytest.raises(NotSendable, match=r'named\["x"\]'):
        plugin.call("same", x=object())
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(NotSendable, match="nests"):
        plugin.call("same", endless)
    with pytest.raises(NotSendable, match=r'result\["a"\]\[1\]'):
        plugin.call("bad")
    assert plugin.call("same", 1) == 1, "the same process goes on"


def test_buffers_arrive_without_a_copy_and_read_only(runtime: PluginRuntime) -> None:
    plugin = loaded(
        runtime,
        "def total(x): return [sum(x[:10]), len(x), x.readonly]\n"
        "def make(n): return bytearray(b'x' * n)\n"
        "def write(x): x[0] = 1\n",
    )
    shared = SharedBuffer(2**20)
    shared[:3] = b"\1\2\3"
    assert plugin.call("total", shared) == [6, 2**20, True]
    assert plugin.call("total", memoryview(shared)) == [6, 2**20, True]
    shared[0] = 11
    assert plugin.call("total", shared) == [16, 2**20, True]
    assert plugin.call("total", bytearray(b"\1" * 200_000)) == [10, 200_000, True]
    assert plugin.call("total", bytearray(b"\1" * 20)) == [10, 20, True]
    with pytest.raises(PluginRaised, match="read-only"):
        plugin.call("write", shared)
    for size in (5, 500_000):
        made = plugin.call("make", size)
        assert made == b"x" * size
        assert made.readonly


def test_numbers_keep_their_kind_and_shape(runtime: PluginRuntime) -> None:
    plugin = loaded(
        runtime, "def same(x): return x\ndef facts(x): return [x.format, list(x.shape), x.tolist()]\n"
    )
    grid = memoryview(b"".join(n.to_bytes(4, "little") for n in range(6))).cast("i", (2, 3))
    assert plugin.call("facts", grid) == ["i", [2, 3], [[0, 1, 2], [3, 4, 5]]]
    assert plugin.call("same", grid).tolist() == grid.tolist()
    assert plugin.call("same", grid[::-1]).tolist() == [[3, 4, 5], [0, 1, 2]]


def test_too_many_large_buffers_are_refused_and_no_descriptor_is_left(runtime: PluginRuntime) -> None:
    plugin = loaded(runtime, "def count(*x): return len(x)")
    large = bytearray(100_000)
    assert plugin.call("count", *[large] * 6) == 6
    with pytest.raises(NotSendable, match="more than 6"):
        plugin.call("count", *[large] * 7)
    assert plugin.call("count", *[bytearray(9)] * 100) == 100


# ── exceptions, output ───────────────────────────────────────────────────────────────────────────────────────────


def test_an_exception_comes_back_as_text(runtime: PluginRuntime) -> None:
    plugin = loaded(runtime, "def inner(x):\n    raise KeyError(x)\ndef outer(x):\n    inner(x)\n")
    with pytest.raises(PluginRaised) as caught:
        plugin.call("outer", "\x1b[2Jk\n")
    error = caught.value
    assert error.type_name == "KeyError"
    assert "line 4, in outer" in error.traceback
    assert "    raise KeyError(x)" in error.traceback
    assert "cloister" not in error.traceback
    assert "\x1b" not in error.traceback + error.message + str(error)
    assert plugin.status == Running()


@pytest.mark.parametrize(
    ("call", "name"),
    [("f()", "TypeError"), ("exit(3)", "SystemExit"), ("g()", "Odd"), ("deep()", "RecursionError"),
     ("stop()", "StopIteration"), ("base()", "BaseException"), ("late()", "RuntimeError")],
)  # fmt: skip
def test_whatever_is_raised_is_an_exception_of_the_plugin(
    runtime: PluginRuntime, call: str, name: str
) -> None:
    plugin = loaded(
        runtime,
        "def f(x): pass\ndef deep(): return deep()\n"
        "class Odd(Exception):\n def __str__(self): raise ValueError\n __qualname__ = 'Odd'; __module__ = 'builtins'\n"
        "def g(): raise Odd\ndef stop(): raise StopIteration\ndef base(): raise BaseException\n"
        "def late():\n import threading\n raise RuntimeError('\\ud800')\n"
        f"def run(): {call}\n",
    )
    with pytest.raises(PluginRaised) as caught:
        plugin.call("run")
    assert caught.value.type_name == name
    with pytest.raises(PluginRaised):
        plugin.call("run")


def test_what_it_prints_and_logs_is_kept_apart(
    runtime: PluginRuntime, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    plugin = loaded(
        runtime,
        "import logging, sys\nprint('loading')\n"
        "def talk():\n print('out\\x1b[2J'); print('err', file=sys.stderr)\n"
        " logging.getLogger('mine').warning('log \\x1b[2J')\n"
        "def much(): print('x' * 500_000)\n",
    )
    with caplog.at_level(logging.INFO, "cloister.plugin.example"):
        plugin.call("talk")
    assert plugin.output == "loading\nout?[2J\nerr\n"
    assert [(line.level, line.logger, line.text) for line in plugin.logs] == [(30, "mine", "log ?[2J")]
    assert "log ?[2J" in caplog.text
    assert capfd.readouterr() == ("", "")
    plugin.call("much")
    assert len(plugin.output) <= 64 * 1024 + 15_000


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_generator_is_a_stream_that_is_pulled(runtime: PluginRuntime) -> None:
    plugin = loaded(
        runtime,
        "made = []\n"
        "def count(n):\n for i in range(n):\n  made.append(i)\n  yield i\n"
        "def seen(): return made\n"
        "def endless():\n try:\n  while True: yield 1\n finally: made.append('closed')\n"
        "def fails():\n yield 1\n raise ValueError('later')\n",
    )
    assert list(plugin.call("count", 4)) == [0, 1, 2, 3]
    with plugin.call("endless") as stream:
        assert [next(stream), next(stream)] == [1, 1]
    assert plugin.call("seen") == [0, 1, 2, 3, "closed"]
    lazy = plugin.call("count", 10)
    assert next(lazy) == 0
    assert plugin.call("seen")[-1] == 0, "no more was made than was asked for"
    failing = plugin.call("fails")
    assert next(failing) == 1
    with pytest.raises(PluginRaised, match="later"):
        next(failing)
    assert list(failing) == []


def test_a_stream_ends_with_its_process(runtime: PluginRuntime) -> None:
    plugin = loaded(runtime, "def count():\n yield 1\n yield 2\n")
    stream = plugin.call("count")
    next(stream)
    plugin.restart()
    with pytest.raises(PluginCrashed):
        next(stream)
    assert list(plugin.call("count")) == [1, 2]


# ── host functions ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_plugin_calls_what_its_host_registered_and_nothing_else(
    runtime: PluginRuntime, caplog: pytest.LogCaptureFixture
) -> None:
    def secret(_x: object) -> None:
        raise OSError("/home/ada/password")

    def polite(_x: object) -> None:
        raise HostError("not on Sundays")

    plugin = loaded(
        runtime,
        "import host\n"
        "def ask(name, *x):\n"
        " try: return getattr(host, name)(*x)\n"
        " except host.HostFunctionError as error: return str(error)\n",
        functions={"add": lambda a, b: a + b, "secret": secret, "polite": polite, "odd": lambda: {1}},
    )
    assert plugin.call("ask", "add", 1, 2) == 3
    assert plugin.call("ask", "add", "x" * 100_000, "y") == "x" * 100_000 + "y"
    with caplog.at_level(logging.CRITICAL, "cloister.plugins"):
        assert plugin.call("ask", "secret", 1) == "OSError"
        assert plugin.call("ask", "add", 1) == "TypeError"
    assert plugin.call("ask", "polite", 1) == "HostError: not on Sundays"
    assert plugin.call("ask", "odd") == "NotSendable: its result does not travel"
    assert "no function of that name" in plugin.call("ask", "unlink")


def test_a_host_function_that_calls_its_caller_is_told(runtime: PluginRuntime) -> None:
    told: list[str] = []

    def again() -> None:
        with pytest.raises(PluginError) as caught:
            runtime.call("example", "f")
        told.append(str(caught.value))

    loaded(runtime, "import host\ndef f(): host.again()", functions={"again": again}).call("f")
    assert "itself waiting for" in told[0]


# ── life ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_crash_is_told_and_the_next_call_has_a_new_process(runtime: PluginRuntime) -> None:
    plugin = loaded(runtime, "import os\nstate = []\ndef f(): state.append(1); return len(state)\n"
                             "def leave(n): os._exit(n)\ndef fault():\n import ctypes\n ctypes.string_at(0)\n",
    )  # fmt: skip
    assert [plugin.call("f"), plugin.call("f")] == [1, 2]
    with pytest.raises(PluginCrashed) as caught:
        plugin.call("leave", 7)
    assert (caught.value.exit_code, caught.value.signal, caught.value.retriable) == (7, None, True)
    assert plugin.status == Crashed(7, None)
    assert plugin.call("f") == 1
    with pytest.raises(PluginCrashed) as caught:
        plugin.call("fault")
    assert caught.value.signal == signal.SIGSEGV
    assert plugin.status == Crashed(None, signal.SIGSEGV)
    assert plugin.call("f") == 1


def test_a_deadline_ends_the_process_and_not_the_plugin(runtime: PluginRuntime) -> None:
    plugin = loaded(runtime, "def spin():\n while True: pass\ndef f(): return 1\n")
    began = threading.Event()

    def spin() -> None:
        began.set()
        with pytest.raises(Timeout):
            plugin.call("spin", timeout=1.5)

    thread = threading.Thread(target=spin)
    thread.start()
    began.wait()
    until(lambda: isinstance(plugin.status, Unresponsive))
    with pytest.raises(Timeout, match="busy"):
        plugin.call("f", timeout=0.01)
    thread.join()
    until(lambda: isinstance(plugin.status, Terminated))
    assert plugin.call("f") == 1
    assert plugin.status == Running()


def test_unloading_a_busy_plugin_ends_its_call(runtime: PluginRuntime) -> None:
    plugin = loaded(runtime, "def spin():\n while True: pass\n")
    caught: list[BaseException] = []

    def spin() -> None:
        try:
            plugin.call("spin")
        except CloisterError as error:
            caught.append(error)

    thread = threading.Thread(target=spin)
    thread.start()
    until(lambda: plugin._process is not None and plugin._process.asked is not None)
    runtime.unload("example")
    thread.join(10)
    assert isinstance(caught[0], PluginCrashed)
    assert plugin.status == Terminated("it was unloaded")
    with pytest.raises(RuntimeClosed):
        plugin.call("spin")


def test_many_threads_call_and_load_at_once(runtime: PluginRuntime) -> None:
    loaded(runtime, "def double(x): return 2 * x")
    wrong: list[object] = []

    def work(number: int) -> None:
        runtime.load_source(f"def f(): return {number}", f"of-{number}")
        wrong.extend(x for x in range(20) if runtime.call("example", "double", x) != 2 * x)
        if runtime.call(f"of-{number}", "f") != number:
            wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(runtime.plugins) == 7


def test_a_runtime_that_nobody_closes_leaves_nothing() -> None:
    forgotten = PluginRuntime()
    plugin = forgotten.load_source("def f(): return 1", "example")
    assert plugin.call("f") == 1
    del forgotten
    gc.collect()
    with pytest.raises(RuntimeClosed):
        plugin.call("f")


def test_when_the_zygote_dies_the_next_call_has_another(runtime: PluginRuntime) -> None:
    plugin = loaded(runtime, "def f(): return 1")
    (kept,) = runtime._zygotes._kept.values()
    assert kept.current is not None
    kept.current.process.kill()
    until(lambda: plugin.status != Running())
    assert plugin.call("f") == 1


# ── capabilities ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_files_are_read_where_both_sides_say_so(runtime: PluginRuntime, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    for name in ("given", "kept"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    read = "import os\ndef greet(path):\n try: return open(path).read()\n except OSError as error: return error.errno\n"
    text = MANIFEST + f'[capabilities]\n"fs:read" = ["{tmp_path}"]\n"sys:env" = ["HOME", "CLOISTER_TEST"]\n'
    path = manifest(tmp_path, text, read)
    runtime.load(path)
    assert runtime.call("greeter", "greet", str(tmp_path / "given/file")) in (2, 13)
    runtime.unload("greeter")
    before = set(runtime.pids)
    runtime.load(path, grants={"fs:read": [str(tmp_path / "given")]})
    assert runtime.call("greeter", "greet", str(tmp_path / "given/file")) == "given"
    assert runtime.call("greeter", "greet", str(tmp_path / "kept/file")) in (2, 13)
    assert runtime.call("greeter", "greet", str(tmp_path / "given/../kept/file")) in (2, 13)
    runtime.unload("greeter")
    assert set(runtime.pids) == before, "its zygote went with it"


def test_variables_come_where_both_sides_say_so(
    runtime: PluginRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOISTER_TEST", "yes")
    monkeypatch.setenv("CLOISTER_OTHER", "no")
    text = MANIFEST + '[capabilities]\n"sys:env" = ["CLOISTER_TEST", "HOME"]\n'
    path = manifest(tmp_path, text, "import os\ndef greet(): return dict(os.environ)\n")
    runtime.load(path, grants={"sys:env": ["CLOISTER_TEST", "CLOISTER_OTHER"]})
    found = runtime.call("greeter", "greet")
    assert found["CLOISTER_TEST"] == "yes"
    assert not {"HOME", "CLOISTER_OTHER", "PATH"} & set(found)


def test_modules_are_there_where_the_host_says_so() -> None:
    with PluginRuntime(modules=["h11"], limits=Limits(memory="64 MiB")) as with_module:
        plugin = with_module.load_source("import h11, h11._events\ndef f(): return h11.__name__", "example")
        assert plugin.call("f") == "h11"
        with pytest.raises(PluginRaised, match="msgspec_|No module"):
            with_module.load_source("import rich", "other")
