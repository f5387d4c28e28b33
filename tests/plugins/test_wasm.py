"""Plugins in WebAssembly: numbers, values and functions of the host, what a module may do wrong, and how it is held."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.cli import main
from cloister.errors import (
    CpuLimit,
    InvalidArgument,
    MemoryLimit,
    NoSuchFunction,
    NotSendable,
    OutputLimit,
    PluginCrashed,
    PluginRaised,
    ResultLimit,
    Timeout,
)
from cloister.interfaces.plugin_host import Language, PreloadOptions
from cloister.plugin_host.sandbox import policy
from cloister.plugins.limits import Limits
from cloister.plugins.plugin import Plugin
from cloister.plugins.runtime import PluginRuntime

ALLOC = """
  (memory (export "memory") 1)
  (global $next (mut i32) (i32.const 4096))
  (func $alloc (export "cloister_alloc") (param $size i32) (result i32)
    (local $start i32)
    (local.set $start (global.get $next))
    (global.set $next (i32.add (local.get $start) (local.get $size)))
    (block $there
      (br_if $there (i32.le_u (global.get $next) (i32.mul (memory.size) (i32.const 65536))))
      (drop (memory.grow (i32.add (i32.div_u (local.get $size) (i32.const 65536)) (i32.const 1)))))
    (local.get $start))
  (func $pair (param i32 i32) (result i64)
    (i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32)) (i64.extend_i32_u (local.get 1))))
"""
CODE = f"""(module $example
  (import "host" "twice" (func $twice (param i64) (result i64)))
  (import "host" "echo" (func $echo (param i32 i32) (result i64)))
  (import "host" "request" (func $request (param i32 i32) (result i64)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  {ALLOC}
  (data (i32.const 8) "\\10\\00\\00\\00\\03\\00\\00\\00hi\\0a[\\"http://x.org/\\"]")
  (global $freed (mut i32) (i32.const 0))
  (func (export "cloister_free") (param i32 i32) (global.set $freed (i32.add (global.get $freed) (local.get 1))))
  (func (export "freed") (result i32) (global.get $freed))
  (func (export "_initialize") (i32.store (i32.const 0) (i32.const 42)))
  (func (export "initialised") (result i32) (i32.load (i32.const 0)))
  (func (export "i32") (param i32) (result i32) (local.get 0))
  (func (export "i64") (param i64) (result i64) (local.get 0))
  (func (export "f32") (param f32) (result f32) (local.get 0))
  (func (export "f64") (param f64) (result f64) (local.get 0))
  (func (export "nothing"))
  (func (export "both") (result i32 f64) (i32.const -1) (f64.const 0.5))
  (func (export "twice") (param i64) (result i64) (call $twice (local.get 0)))
  (func (export "same") (param i32 i32) (result i64) (call $pair (local.get 0) (local.get 1)))
  (func (export "asks") (param i32 i32) (result i64) (call $echo (local.get 0) (local.get 1)))
  (func (export "requests") (drop (call $request (i32.const 19) (i32.const 17))))
  (func (export "prints") (result i32) (call $fd_write (i32.const 2) (i32.const 8) (i32.const 1) (i32.const 64)))
  (func (export "floods")
    (loop (drop (call $fd_write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 64))) (br 0)))
  (func (export "time") (result i64)
    (drop (call $clock (i32.const 0) (i64.const 0) (i32.const 64))) (i64.load (i32.const 64)))
  (func (export "random") (result i64) (drop (call $random (i32.const 64) (i32.const 8))) (i64.load (i32.const 64)))
  (func (export "folders") (result i32) (call $prestat (i32.const 3) (i32.const 64)))
  (func (export "opens") (result i32) (call $open (i32.const 3) (i32.const 0) (i32.const 8) (i32.const 1) (i32.const 0)
    (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 64)))
  (func (export "exits") (call $exit (i32.const 3)))
)"""


def echo(*values: Any) -> list[Any]:
    return [*values]


FUNCTIONS = {"twice": lambda x: 2 * x, "echo": echo}


@pytest.fixture(scope="module")
def runtime() -> Iterator[PluginRuntime]:
    """With a plugin that stays: without any, the zygote of its language would end and start again with each test."""
    with PluginRuntime() as made:
        made.load_source(CODE, "example", language="wasm", functions=FUNCTIONS)
        yield made


@pytest.fixture(autouse=True)
def unloaded(runtime: PluginRuntime) -> Iterator[None]:
    """The others go with their test."""
    yield
    for plugin in runtime.plugins:
        if plugin.name != "example":
            runtime.unload(plugin.name)


@pytest.fixture(scope="module")
def shared(runtime: PluginRuntime) -> Plugin:
    return runtime.get("example")


def loaded(runtime: PluginRuntime, code: str | bytes, **given: Any) -> Plugin:
    return runtime.load_source(code, "other", language="wasm", **given)


# ── numbers and values ───────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("function", "value", "result"),
    [
        ("i32", -1, -1), ("i32", 2**32 - 1, -1), ("i32", True, 1), ("i64", -(2**63), -(2**63)),
        ("i64", 2**64 - 1, -1), ("f32", 1.5, 1.5), ("f64", 0.1, 0.1), ("f64", 3, 3.0), ("f64", math.inf, math.inf),
        ("twice", 21, 42),
    ],
)  # fmt: skip
def test_numbers_go_in_and_out(shared: Plugin, function: str, value: float, result: float) -> None:
    assert shared.call(function, value) == result


def test_results_are_none_one_or_a_list(shared: Plugin) -> None:
    assert shared.call("nothing") is None
    assert shared.call("both") == [-1, 0.5]
    assert shared.call("initialised") == 42


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("i32", (2**32,), "does not fit i32"), ("i64", (-(2**63) - 1,), "does not fit i64"),
        ("i32", (1.5,), "float for a parameter of type i32"), ("f64", ("x",), "str for a parameter of type f64"),
        ("i32", (), "takes 1 numbers, and 0 were given"), ("i32", (1, 2), "takes 1 numbers, and 2 were given"),
    ],
)  # fmt: skip
def test_numbers_that_are_none_are_refused(
    shared: Plugin, function: str, arguments: tuple[Any, ...], message: str
) -> None:
    with pytest.raises(PluginRaised, match=message):
        shared.call(function, *arguments)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("a\0é", max_size=3), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=40, deadline=None)
@given(json_values)
def test_values_that_json_has_come_back_as_they_were(shared: Plugin, value: Any) -> None:
    assert shared.call("same", value) == [value]
    assert shared.call("asks", value, value) == [value, value]


def test_a_text_that_memory_has_to_grow_for(shared: Plugin) -> None:
    before = shared.call("freed")
    assert shared.call("same", "x" * 300_000) == ["x" * 300_000]
    assert shared.call("freed") - before == 300_004


@pytest.mark.parametrize("value", [b"x", {1: 2}, math.nan, 2**64])
def test_what_json_lacks_is_named(shared: Plugin, value: Any) -> None:
    with pytest.raises(NotSendable, match=r"args\[0\]\[0\]"):
        shared.call("same", [value])


def test_the_host_is_asked_and_refuses(shared: Plugin) -> None:
    with pytest.raises(PluginRaised, match="Denied: net:request"):
        shared.call("requests")


def test_a_little_of_wasi_is_there_and_no_file(shared: Plugin) -> None:
    assert shared.call("prints") == 0
    assert shared.output == "hi\n"
    assert shared.call("time") > 10**18
    assert shared.call("random") != shared.call("random")
    assert (shared.call("folders"), shared.call("opens")) == (8, 52)  # EBADF, ENOSYS
    with pytest.raises(PluginRaised, match=r"Exit: proc_exit\(3\)"):
        shared.call("exits")


def test_what_a_module_has_for_cloister_is_not_called(shared: Plugin) -> None:
    assert "i32" in shared.exports
    for name in ("cloister_alloc", "cloister_free", "_initialize", "memory", "missing"):
        with pytest.raises(NoSuchFunction):
            shared.call(name, 1)


def test_a_binary_is_loaded_and_so_is_a_manifest(runtime: PluginRuntime, tmp_path: Path) -> None:
    assert main(["plugin", "new", "adder", "--path", str(tmp_path / "adder"), "--language", "wasm"]) == 0
    plugin = runtime.load(tmp_path / "adder" / "plugin.toml")
    assert plugin.call("add", 2, 3) == 5
    assert loaded(runtime, (tmp_path / "adder" / "adder.wasm").read_bytes()).exports == ("add", "test_adds")


# ── what is wrong ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        ("(module", "CompileError", ""),
        (b"\0asm\1\0\0\0\xff", "CompileError", ""),
        ("(module (func (result i32)))", "CompileError", "type mismatch"),
        ('(module (import "env" "f" (func)))', "LinkError", "it imports env.f"),
        ('(module (import "host" "memory" (memory 1)))', "LinkError", "it imports host.memory"),
        ('(module (import "host" "f" (func (result i32 i32))))', "LinkError", "cannot return 2 numbers"),
        ("(module (func $f unreachable) (start $f))", "Trap", "unreachable"),
        ("(module (func $f (loop (br 0))) (start $f))", "Trap", "fuel"),
    ],
)
def test_a_source_that_does_not_load_is_told(
    runtime: PluginRuntime, code: str | bytes, name: str, message: str
) -> None:
    with pytest.raises(PluginRaised) as caught:
        loaded(runtime, code, limits=Limits(fuel=100_000))
    assert (caught.value.type_name, message in caught.value.message) == (name, True)
    assert [plugin.name for plugin in runtime.plugins] == ["example"]


BAD = f"""(module
  {ALLOC}
  (func (export "fine") (result i32) (i32.const 1))
  (func (export "unreachable") unreachable)
  (func (export "outside") (drop (i32.load (i32.const -4))))
  (func (export "divides") (result i32) (i32.div_u (i32.const 1) (i32.const 0)))
  (func $recursion (export "recursion") (call $recursion))
  (func (export "spin") (loop (br 0)))
  (func (export "grows") (result i32)
    (loop (br_if 0 (i32.ne (memory.grow (i32.const 16)) (i32.const -1))))
    (memory.fill (i32.const 0) (i32.const 1) (i32.mul (memory.size) (i32.const 65536)))
    (memory.size))
  (func (export "elsewhere") (param i32 i32) (result i64) (i64.const 0x7fffffff_00000010))
  (func (export "noJson") (param i32 i32) (result i64) (call $pair (i32.const 0) (i32.const 8)))
  (func (export "empty") (param i32 i32) (result i64) (i64.const 0))
  (func (export "all") (param i32 i32) (result i64) (i64.const 0x00000000_ffffffff))
  (table (export "table") 1 funcref)
  (func (export "elements") (result i32) (table.grow (ref.null func) (i32.const 100000000)))
)"""


@pytest.fixture
def bad(runtime: PluginRuntime) -> Plugin:
    return loaded(runtime, BAD, limits=Limits(memory="32 MiB"))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("unreachable", "unreachable"), ("outside", "out of bounds memory access"), ("divides", "divide by zero"),
        ("recursion", "call stack exhausted"),
    ],
)  # fmt: skip
def test_a_trap_has_its_backtrace(bad: Plugin, function: str, message: str) -> None:
    with pytest.raises(PluginRaised, match=message) as caught:
        bad.call(function)
    assert caught.value.type_name == "Trap"
    assert "wasm backtrace" in caught.value.traceback
    assert bad.call("fine") == 1


def test_memory_grows_to_its_limit_and_no_further(bad: Plugin, runtime: PluginRuntime) -> None:
    pages = bad.call("grows")
    assert 200 < pages <= 512
    assert bad.call("elements") == -1
    with pytest.raises(MemoryLimit):
        runtime.load_source(
            "(module (memory 513))", "larger", language="wasm", limits=Limits(memory="32 MiB")
        )


@pytest.mark.parametrize("function", ["elsewhere", "noJson", "empty"])
def test_a_result_that_is_none_is_told(bad: Plugin, function: str) -> None:
    with pytest.raises(PluginRaised):
        bad.call(function)
    assert bad.call("fine") == 1


def test_a_large_result_is_refused_and_the_process_stays(bad: Plugin) -> None:
    before = bad.pid
    with pytest.raises(ResultLimit, match="takes 4294967295 bytes"):
        bad.call("all")
    assert bad.pid == before


def test_what_does_not_end_is_ended_by_time_or_by_fuel(bad: Plugin, runtime: PluginRuntime) -> None:
    with pytest.raises(Timeout):
        bad.call("spin", timeout=0.1)
    assert bad.call("fine") == 1
    metered = runtime.load_source(BAD, "metered", language="wasm", limits=Limits(fuel=10_000))
    for _ in range(3):
        assert [metered.call("fine") for _ in range(10)] == [1] * 10
        with pytest.raises(CpuLimit, match="fuel: 10000"):
            metered.call("spin")
    for wrong in (0, -1, 2**63):
        with pytest.raises(InvalidArgument, match="fuel"):
            Limits(fuel=wrong)


def test_what_it_prints_is_bounded(runtime: PluginRuntime) -> None:
    plugin = loaded(runtime, CODE, functions=FUNCTIONS, limits=Limits(output="1 KiB"))
    with pytest.raises(OutputLimit):
        plugin.call("floods")


# ── how it is held ───────────────────────────────────────────────────────────────────────────────────────────────


def test_the_same_layers_hold_it_as_a_plugin_in_python(runtime: PluginRuntime, shared: Plugin) -> None:
    assert shared.report == runtime.load_source("", "python").report
    policies = [policy(PreloadOptions(language=language)) for language in Language]
    assert policies == [policies[0]] * len(policies)


def test_a_zygote_stays_with_one_thread(runtime: PluginRuntime) -> None:
    for pid in runtime.pids:
        if Path(f"/proc/{pid}/task").exists():
            assert len([*Path(f"/proc/{pid}/task").iterdir()]) == 1


def test_what_is_not_in_wasmtimes_interpreter_is_no_error_of_ours(runtime: PluginRuntime) -> None:
    """SIMD: Pulley has it too, so that modules of today's compilers load."""
    code = """(module (func (export "f") (result i32)
      (i32x4.extract_lane 2 (i32x4.add (v128.const i32x4 1 2 3 4) (v128.const i32x4 1 2 3 4)))))"""
    assert loaded(runtime, code).call("f") == 6


def test_a_parameter_that_is_no_number_is_told(runtime: PluginRuntime) -> None:
    code = '(module (func (export "f") (param externref)) (func (export "vector") (param v128)))'
    plugin = loaded(runtime, code)
    with pytest.raises(PluginRaised, match="int for a parameter of type anyref"):
        plugin.call("f", 1)
    with pytest.raises(
        PluginCrashed
    ):  # wasmtime cannot tell its type, and aborts: that is the plugin's process
        plugin.call("vector", 1)
    assert plugin.exports == ("f", "vector")
