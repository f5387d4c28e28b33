"""What a plugin may do to the process that runs it, to fool whoever asked: the host and its neighbours go on."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import pytest

from cloister.errors import NotSendable, PluginError, PluginRaised
from cloister.plugins.limits import Limits
from cloister.plugins.runtime import PluginRuntime

CODE = """
import builtins, ctypes, gc, importlib, os, sys, types

def fine(): return 'fine'

# ── imports, and what is imported already ──
def no_modules():
    for name in list(sys.modules):
        if not name.startswith('_'): del sys.modules[name]
def own_import():
    builtins.__import__ = lambda *a, **k: types.SimpleNamespace()
def own_builtins():
    for name in ('isinstance', 'len', 'type', 'list', 'open', 'print'): setattr(builtins, name, lambda *a, **k: None)
def own_codec():
    sys.modules['cloister.ipc.codec'].Packet = None
    sys.modules['cloister.plugin_host.conversation'].Returned = lambda *a: 1 / 0
def own_channel():
    for each in gc.get_objects():
        if type(each).__name__ == 'Channel': each.send = each.receive = lambda *a: (b'', [])
def no_channel():
    for each in gc.get_objects():
        if type(each).__name__ == 'Channel': each.close()
def own_class():
    class Evil(sys.modules['cloister.plugin_host.execution'].Finished.__mro__[-2]): pass
    sys.modules['cloister.plugin_host.conversation'].Finished = Evil
def own_encoder():
    values = sys.modules['cloister.ipc.values']
    values._encode = lambda value: b'\\xc7\\xff\\xff' * 1000
def own_exit():
    sys.exit = os._exit = quit = lambda *a: None
    sys.excepthook = sys.unraisablehook = lambda *a: 1 / 0
def own_trace():
    sys.settrace(lambda *a: 1 / 0)
    sys.setprofile(lambda *a: 1 / 0)
def own_streams():
    sys.stdout = sys.stderr = sys.__stdout__ = None
    sys.displayhook = None
def no_recursion(): sys.setrecursionlimit(60)
def no_interning():
    ctypes.memset(id(5), 0, 24)
    ctypes.memset(id(True), 0, 24)
def other_code(): fine.__code__ = (lambda: 'not fine').__code__
def audit(): sys.addaudithook(lambda *a: 1 / 0)
def finder():
    class Finder:
        def find_spec(self, *a): raise SystemExit
    sys.meta_path.insert(0, Finder())
    import sched
def reload_us():
    for name in [name for name in sys.modules if name.startswith('cloister')]: importlib.reload(sys.modules[name])
def installed():
    found = []
    for name in ('numpy', 'PIL', 'cloister.browser', 'cloister.cli', 'cloister.plugins', 'pip', 'site_packages'):
        try: found.append(importlib.import_module(name).__name__)
        except Exception: pass
    return found

# ── values that are not what they seem ──
class Text(str):
    def __reduce__(self): return print, ('gotcha',)
    def __len__(self): return -1
class Number(int):
    def __index__(self): 1 / 0
class Class:
    __class__ = str
    def __reduce_ex__(self, _): return os.system, ('true',)
    def __getstate__(self): return {}
    def __array_interface__(self): return 1
class Buffer:
    def __buffer__(self, _): return memoryview(b'x')
class Items(dict):
    def items(self): return [(1, print)]
    def __iter__(self): return iter(int, 1)
class Stream:
    def __iter__(self): return self
    def __next__(self): return Class()
def value(name):
    endless = []
    endless.append(endless)
    deep = []
    for _ in range(500): deep = [deep]
    return {
        'text': Text('x'), 'number': Number(1), 'class': Class(), 'items': Items(), 'endless': endless, 'deep': deep,
        'type': int, 'module': sys, 'code': fine.__code__, 'frame': sys._getframe(), 'function': fine, 'set': {1},
        'buffer': Buffer(), 'key': {(1, 2): 3},
        'big key': {10**30: 1}, 'half': '\\ud800', 'error': OSError(), 'complex': 1j,
        'released': _released(), 'odd': memoryview(bytearray(8)).cast('@e') if sys.version_info > (3, 12) else {1},
    }[name]
def _released():
    view = memoryview(bytearray(8)); view.release(); return view
def stream(): return Stream()
def count(a, /, b, *, c=1): return [a, b, c]
"""


@pytest.fixture(scope="module")
def both() -> Iterator[PluginRuntime]:
    with PluginRuntime(limits=Limits(timeout=2, memory="64 MiB")) as runtime:
        runtime.load_source(CODE, "tricky")
        runtime.load_source("kept = []\ndef add(x): kept.append(x); return len(kept)", "neighbour")
        yield runtime


@pytest.mark.parametrize(
    "trick",
    [
        *("no_modules", "own_import", "own_builtins", "own_codec", "own_channel", "no_channel", "own_class"),
        *(
            "own_encoder",
            "own_exit",
            "own_trace",
            "own_streams",
            "no_recursion",
            "no_interning",
            "other_code",
        ),
        *("audit", "finder", "reload_us"),
    ],
)
def test_who_tampers_with_its_own_process_harms_nobody_else(both: PluginRuntime, trick: str) -> None:
    neighbour = both.get("neighbour")
    before = neighbour.pid, neighbour.call("add", 1)
    with contextlib.suppress(PluginError):
        both.call("tricky", trick)
    with contextlib.suppress(PluginError):
        both.call("tricky", "fine", timeout=0.5)
    both.restart("tricky")
    assert both.call("tricky", "fine") == "fine"
    assert (neighbour.pid, neighbour.call("add", 1)) == (before[0], before[1] + 1)


def test_what_is_installed_here_is_out_of_reach(both: PluginRuntime) -> None:
    assert both.call("tricky", "installed") == []


@pytest.mark.parametrize(
    "name",
    [
        *(
            "text",
            "number",
            "class",
            "items",
            "endless",
            "deep",
            "type",
            "module",
            "code",
            "frame",
            "function",
        ),
        *("set", "key", "big key", "half", "error", "complex", "released", "odd"),
    ],
)
def test_a_value_of_another_type_does_not_travel(both: PluginRuntime, name: str) -> None:
    before = both.get("tricky").pid
    with pytest.raises(NotSendable, match="^tricky: result"):
        both.call("tricky", "value", name)
    assert both.get("tricky").pid == before


def test_what_says_that_it_is_a_buffer_travels_as_its_bytes_where_python_knows_that(
    both: PluginRuntime,
) -> None:
    if sys.version_info >= (3, 12):  # PEP 688
        assert both.call("tricky", "value", "buffer") == b"x"
    else:
        with pytest.raises(NotSendable):
            both.call("tricky", "value", "buffer")


def test_a_stream_of_such_ends_with_the_first(both: PluginRuntime) -> None:
    with both.call("tricky", "stream") as stream, pytest.raises(NotSendable):
        next(stream)
    assert both.call("tricky", "fine") == "fine"


@pytest.mark.parametrize(
    ("arguments", "named", "words"),
    [
        ((), {}, "missing 2 required positional arguments"),
        ((1, 2, 3), {}, "takes 2 positional arguments but 3 were given"),
        ((1,), {"b": 2, "d": 3}, "unexpected keyword argument 'd'"),
        ((1, 2), {"b": 3}, "multiple values for argument 'b'"),
        ((), {"a": 1, "b": 2}, "positional-only arguments passed as keyword"),
    ],
)
def test_wrong_arguments_are_the_plugins_error(
    both: PluginRuntime, arguments: tuple[int, ...], named: dict[str, int], words: str
) -> None:
    with pytest.raises(PluginRaised, match=words) as caught:
        both.call("tricky", "count", *arguments, **named)
    assert caught.value.type_name == "TypeError"
    assert both.call("tricky", "count", 1, 2, c=3) == [1, 2, 3]
