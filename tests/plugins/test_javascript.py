"""Plugins in JavaScript: what comes and goes, what they may do wrong, and that they reach nothing."""

from __future__ import annotations

import datetime
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister.errors import (
    CpuLimit,
    InvalidArgument,
    MemoryLimit,
    NoSuchFunction,
    NotSendable,
    OutputLimit,
    PluginError,
    PluginRaised,
    ResultLimit,
    Timeout,
)
from cloister.plugins import languages
from cloister.plugins.limits import Limits
from cloister.plugins.plugin import Plugin
from cloister.plugins.runtime import PluginRuntime

CODE = """
export function same(x) { return x; }
export function pieces(n) { let s = ""; for (let i = 0; i < n; i++) s += `${i},`; return [s, host.echo(s)]; }
export function kinds(...values) { return values.map((x) => x === null ? "null" : x.constructor.name); }
export function* count(n) { for (let i = 0; i < n; i++) yield i; }
export async function* countLater(n) { for (let i = 0; i < n; i++) yield await i; }
export async function later(x) { await null; return [x]; }
export async function rejects() { await null; throw new RangeError("later"); }
export const never = () => new Promise(() => {});
export const hidden = 3;
let calls = 0;
export default function () { return ++calls; }

class Own extends Error { get name() { return "Own"; } }
export function fails(what) {
  if (what === "own") throw new Own("mine");
  if (what === "text") throw "a text";
  if (what === "null") throw null;
  if (what === "liar") throw { get message() { throw 1; }, name: "x" };
  null.f();
}
export function sum(array) { let s = array[0] - array[0]; for (const x of array) s += x; return s; }
export function array(kind, n) { return new globalThis[kind](n); }
export function odd(which) {
  const holds = {}; holds.a = [holds];
  return { map: new Map(), f: [1, { "a b": () => 1 }], symbol: Symbol("s"), class: new Own("x"), holds,
           date: new Date(NaN), far: new Date(8.64e15), half: new Float16Array(1), error: new Error("x"),
           proxy: new Proxy({}, { ownKeys() { throw new Error("trap"); } }) }[which];
}
export function says() { console.log("one", { a: [2] }, 3n, undefined); console.error("tw\\u0000o\\ud800"); }
export function asks(...values) { return host.echo(...values); }
export function asksWrongly(name, ...values) {
  try { return host[name](...values); } catch (error) { return [error.name, error.message]; }
}
export function now() { return [Date.now(), new Date(), +new Date(5), Date() === Date()]; }
export function work() { let x = 0; for (let i = 0; i < 3e6; i++) x += i; return Date.now(); }
"""


@pytest.fixture(scope="module")
def runtime() -> Iterator[PluginRuntime]:
    """With a plugin that stays: without any, the zygote of its language would end and start again with each test."""
    with PluginRuntime(limits=Limits(memory="96 MiB", result="1 MiB")) as made:
        made.load_source(
            CODE, "example", language="javascript", functions={"echo": lambda *values: [*values]}
        )
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


# ── values ───────────────────────────────────────────────────────────────────────────────────────────────────────

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary(max_size=200)
    | st.datetimes(timezones=st.just(datetime.UTC)).map(
        lambda d: d.replace(microsecond=d.microsecond // 1000 * 1000)
    ),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("$a_\0é", max_size=3) | st.just("__proto__"), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None)
@given(plain)
def test_values_come_back_as_they_were(shared: Plugin, value: Any) -> None:
    assert shared.call("same", value) == value
    assert shared.call("asks", value) == [value]


def test_a_text_that_was_put_together_of_many(shared: Plugin) -> None:
    text = "".join(f"{i}," for i in range(5000))
    assert shared.call("pieces", 5000) == [text, [text]]


def test_numbers_of_both_languages(shared: Plugin) -> None:
    assert shared.call("kinds", None, True, 1, 2**53, 1.5, "x", b"x", [], {}, datetime.datetime.now(datetime.UTC)) == [
        "null", "Boolean", "Number", "BigInt", "Number", "String", "Uint8Array", "Array", "Object", "Date",
    ]  # fmt: skip
    assert type(shared.call("same", 3.0)) is int, "JavaScript has one kind of number"
    assert math.isnan(shared.call("same", math.nan))
    assert math.copysign(1, shared.call("same", -0.0)) == -1
    assert shared.call("same", datetime.datetime(2020, 1, 1)) == datetime.datetime(
        2020, 1, 1, tzinfo=datetime.UTC
    )


@pytest.mark.parametrize(
    ("kind", "format", "value"),
    [
        ("Float64Array", "d", 1.5),
        ("Int16Array", "h", -3),
        ("BigUint64Array", "L", 2**63),
        ("Uint32Array", "I", 2**31),
    ],
)
def test_buffers_become_arrays_of_their_elements(
    shared: Plugin, kind: str, format: str, value: float
) -> None:
    for count in (1, 300_000):  # in the message, and in shared memory
        element: Any = format
        sent = memoryview(bytearray(count * struct.calcsize(format))).cast(element)
        sent[0] = value
        assert shared.call("kinds", sent) == [kind]
        assert shared.call("sum", sent) == value
        back = shared.call("same", sent)
        assert isinstance(back, memoryview)
        assert (back.format.replace("q", "l").replace("Q", "L"), back) == (format, sent)


def test_bytes_come_as_bytes_and_an_array_buffer_as_a_buffer(shared: Plugin) -> None:
    data = bytes(range(256)) * 3100  # more than one piece
    assert shared.call("same", data) == data
    assert shared.call("array", "Uint8Array", 3) == bytes(3)
    assert shared.call("array", "ArrayBuffer", 5 * 2**20).nbytes == 5 * 2**20
    assert shared.call("array", "Float32Array", 0).nbytes == 0


@pytest.mark.parametrize(
    ("which", "where"),
    [
        ("map", "result is a Map"), ("f", r'result\[1\]\["a b"\] is a function'), ("symbol", "result is a symbol"),
        ("class", "result is a Own"), ("holds", "deeper than 100"), ("date", "a Date that is none"),
        ("far", "a Date that is none"), ("half", "a Float16Array"), ("error", "result is a Error"),
    ],
)  # fmt: skip
def test_what_does_not_travel_is_named(shared: Plugin, which: str, where: str) -> None:
    with pytest.raises(NotSendable, match=where):
        shared.call("odd", which)


def test_what_javascript_lacks_is_named(shared: Plugin) -> None:
    with pytest.raises(NotSendable, match=r'args\[0\]\["a"\] has a key of type int'):
        shared.call("same", {"a": {1: 2}})
    with pytest.raises(PluginRaised, match="no named arguments"):
        shared.call("same", x=1)
    with pytest.raises(PluginRaised, match="trap"):
        shared.call("odd", "proxy")


# ── calls ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_functions_that_are_exported_can_be_called(shared: Plugin) -> None:
    assert {"same", "default", "never"} <= set(shared.exports)
    assert "hidden" not in shared.exports
    first = shared.call("default")
    assert shared.call("default") == first + 1
    for name in ("hidden", "toString", "missing"):
        with pytest.raises(NoSuchFunction):
            shared.call(name)


def test_generators_are_streams_and_promises_are_awaited(shared: Plugin) -> None:
    for name in ("count", "countLater"):
        assert [*shared.call(name, 3)] == [0, 1, 2]
        with shared.call(name, 10**9) as stream:
            assert [next(stream), next(stream)] == [0, 1]
    assert shared.call("later", 1) == [1]
    with pytest.raises(PluginRaised, match="RangeError: later"):
        shared.call("rejects")
    with pytest.raises(PluginRaised, match="nothing is left to settle"):
        shared.call("never")
    kept = []
    with pytest.raises(PluginRaised, match="64 streams are open"):
        for _ in range(65):
            kept.append(shared.call("count", 1))
    for each in kept:
        each.close()


@pytest.mark.parametrize(
    ("what", "name", "message"),
    [
        ("", "TypeError", "cannot read property"), ("own", "Own", "mine"), ("text", "string", "a text"),
        ("null", "object", "null"), ("liar", "x", "could not be made"),
    ],
)  # fmt: skip
def test_errors_come_with_their_stack(shared: Plugin, what: str, name: str, message: str) -> None:
    with pytest.raises(PluginRaised) as caught:
        shared.call("fails", what)
    assert (caught.value.type_name, message in caught.value.message) == (name, True)
    if what in ("", "own"):
        assert "at fails (<plugin example>:" in caught.value.traceback
        assert "__cloister" not in caught.value.traceback


def test_the_host_is_asked_and_its_errors_are_caught(shared: Plugin) -> None:
    assert shared.call("asks", b"x" * 100_000, [1]) == [b"x" * 100_000, [1]]
    assert shared.call("asksWrongly", "nothing") == [
        "HostFunctionError",
        "NoSuchFunction: the host has no function of that name",
    ]
    name, message = shared.call("asksWrongly", "request", "http://example.org/")
    assert (name, "net:request" in message) == ("Denied", True)
    for wrong in ("__class__", "_call", "HostFunctionError"):
        assert shared.call("asksWrongly", wrong)[0] in ("AttributeError", "TypeError", "NotSendable")


def test_what_it_prints_is_its_output(shared: Plugin) -> None:
    shared.call("says")
    assert 'one {"a":[2]} 3 undefined\ntw?o?\n' in shared.output


def test_the_clock_stands_unless_the_time_is_granted(shared: Plugin, runtime: PluginRuntime) -> None:
    stamp, date, five, same = shared.call("now")
    assert (date.timestamp() * 1000, five, same) == (stamp, 5, True)
    code = "export function ticks() { const began = Date.now(); while (Date.now() === began); return true; }"
    granted = runtime.load_source(code, "clock", language="javascript", grants={"sys:time": []})
    assert granted.call("ticks", timeout=10)
    frozen = runtime.load_source(code, "frozen", language="javascript")
    with pytest.raises(Timeout):
        frozen.call("ticks", timeout=0.1)


# ── what is wrong ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        ("export function (", "SyntaxError", "expected"),
        ("throw new RangeError('at once')", "RangeError", "at once"),
        ("await new Promise(() => {})", "Error", "nothing is left"),
        ("import fs from 'fs'", "ReferenceError", "could not load module"),
        ("\0", "ValueError", "null character"),
        (b"\xff", "UnicodeDecodeError", "0xff"),
        (
            "for (const n of Object.keys(globalThis)) delete globalThis[n]; x",
            "ReferenceError",
            "x",
        ),
    ],
)
def test_a_source_that_does_not_load_is_told(
    runtime: PluginRuntime, code: str | bytes, name: str, message: str
) -> None:
    with pytest.raises(PluginRaised, match=message) as caught:
        runtime.load_source(code, "broken", language="javascript")
    assert caught.value.type_name == name
    assert [plugin.name for plugin in runtime.plugins] == ["example"]


BAD = """
export const fine = () => "fine";
export const spin = () => { for (;;); };
export const jobs = async () => { for (;;) await null; };
export const waits = () => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
export const expression = () => /(a+)+$/.test("a".repeat(60) + "b");
export const recursion = () => recursion();
export const nested = () => { let x = []; for (let i = 0; i < 1e5; i++) x = [x]; return JSON.stringify(x); };
export const objects = () => { const kept = []; for (;;) kept.push({ a: new Array(1000).fill(1) }); };
export const buffers = () => { const kept = []; for (;;) kept.push(new Uint8Array(1e6).fill(1)); };
export const stubborn = () => { const kept = []; for (;;) try { kept.push(new Array(1e4)); } catch {} };
export const wide = (n) => new Uint8Array(n);
export const buffer = (n) => new ArrayBuffer(n);
export const flood = () => { for (;;) console.log("x".repeat(1000)); };
export const forged = () => {
  for (const each of [Object, Array, String, Number, Date, Promise, Map, Uint8Array, JSON, Reflect, Function])
    for (const from of [each, each.prototype])
      if (from) for (const name of Reflect.ownKeys(from)) try { from[name] = () => { throw 1; }; } catch {}
  Object.prototype.toJSON = Array.prototype.toJSON = () => '{"$":["b",7,"x"]}';
  Object.prototype.$ = ["b", -1, "Uint8Array"];
  Object.defineProperty(Array.prototype, 0, { set() { throw 1; }, configurable: true });
  globalThis.Promise = globalThis.JSON = globalThis.host = undefined;
  return [[1, { a: 2n }], new Date(0), new Uint8Array(3)];
};
export const lies = () => { Array.prototype.toJSON = () => ({ $: ["b", 1e9, "__class__"] }); return [1n]; };
"""


@pytest.fixture
def bad(runtime: PluginRuntime) -> Plugin:
    limits = Limits(memory="64 MiB", file_size="16 MiB", output="64 KiB", result="1 MiB", cpu_time=8)
    return runtime.load_source(BAD, "bad", language="javascript", limits=limits)


@pytest.mark.parametrize(
    ("function", "error"),
    [
        ("recursion", PluginRaised), ("waits", PluginRaised), ("nested", PluginRaised),
        ("objects", MemoryLimit), ("buffers", MemoryLimit),
        ("flood", OutputLimit),
    ],
)  # fmt: skip
def test_each_has_its_own_error_and_the_next_call_works(
    bad: Plugin, function: str, error: type[PluginError]
) -> None:
    with pytest.raises(error):
        bad.call(function)
    assert bad.call("fine") == "fine"


@pytest.mark.parametrize("function", ["spin", "jobs", "expression", "stubborn"])
def test_what_does_not_end_is_ended(bad: Plugin, function: str) -> None:
    with pytest.raises((Timeout, CpuLimit, MemoryLimit)):
        bad.call(function, timeout=0.2)
    assert bad.call("fine") == "fine"


def test_a_large_result_is_refused_and_the_process_stays(bad: Plugin) -> None:
    before = bad.pid
    with pytest.raises(ResultLimit, match="takes 9000005 bytes"):
        bad.call("wide", 9_000_000)
    with pytest.raises(ResultLimit, match="file_size"):
        bad.call("buffer", 17 * 2**20)
    assert len(bad.call("buffer", 15 * 2**20)) == 15 * 2**20
    assert bad.pid == before


@pytest.mark.parametrize("function", ["forged", "lies"])
def test_a_language_that_was_forged_forges_its_own_results_only(bad: Plugin, function: str) -> None:
    for _ in range(2):
        try:
            bad.call(function)
        except PluginError:
            continue
    bad.restart()
    assert bad.call("fine") == "fine"


# ── how it is loaded ─────────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_not_installed_is_named(runtime: PluginRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(languages, "_LIBRARIES", {"javascript": "a_module_that_is_not_there"})
    with pytest.raises(PluginError, match=r'pip install "cloister\[javascript\]"'):
        runtime.load_source("", "missing", language="javascript")


def test_a_source_is_in_a_language_that_there_is(runtime: PluginRuntime) -> None:
    for language in ("perl", "executable", ""):
        with pytest.raises(InvalidArgument, match="python, javascript"):
            runtime.load_source("", "x", language=language)


COUNTER = """
let count = 0;
export const next = () => (count += STEP);
export const save_state = () => ({ count });
export const restore_state = (state) => { count = state.count; };
"""


def test_a_new_version_takes_over_with_its_state(runtime: PluginRuntime, tmp_path: Path) -> None:
    manifest = """
name = "counter"
version = "1.0.0"
api-version = "1.0"
source = "counter.js"
language = "javascript"
exports = ["next"]
"""
    (tmp_path / "plugin.toml").write_text(manifest)
    (tmp_path / "counter.js").write_text(COUNTER.replace("STEP", "1"))
    runtime.load(tmp_path / "plugin.toml")
    assert [runtime.call("counter", "next") for _ in range(3)] == [1, 2, 3]
    (tmp_path / "counter.js").write_text(COUNTER.replace("STEP", "10"))
    runtime.reload("counter")
    assert runtime.call("counter", "next") == 13
    (tmp_path / "counter.js").write_text("export const next = (")
    with pytest.raises(PluginRaised, match="SyntaxError"):
        runtime.reload("counter")
    assert runtime.call("counter", "next") == 23
