"""A plugin in WebAssembly, run by wasmtime's interpreter.

Wasmtime compiles to machine code as a rule; for its target Pulley it compiles to a code of its own, and interprets
that. So there is no new executable memory here either.

Numbers go in and out as they are. A module that exports ``memory`` and ``cloister_alloc(size) -> address`` may have
functions of other values: each of type ``(i32, i32) -> i64`` is given the address and the length of its arguments, a
list in JSON, and returns those of its result, the address in the upper half. The functions of the host that it imports
from ``host`` are of the same two kinds.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Final, NoReturn

import msgspec
from wasmtime import (
    Caller,
    Config,
    Engine,
    Func,
    FuncType,
    Instance,
    Linker,
    Memory,
    Module,
    Store,
    Trap,
    TrapCode,
    ValType,
    WasmtimeError,
)

from cloister.interfaces.plugin_host import Options, Outcome, Raised

from . import wasi
from .engine import Host
from .execution import Finished, Streaming, Told, fit
from .plain_json import check

__all__ = ["WebAssembly", "preload"]

_GIB: Final = 2**30
_ALLOC: Final = "cloister_alloc"
_FREE: Final = "cloister_free"
_INITIALIZE: Final = "_initialize"
"""What a library that was made for WASI has called first."""
_OURS: Final = frozenset({_ALLOC, _FREE, _INITIALIZE})
_MESSAGE: Final = (["i32", "i32"], ["i64"])
_NO_LIMIT: Final = 2**62
_LOW: Final = 2**32 - 1
_MOST_TABLES: Final = 16
_MOST_ELEMENTS: Final = 1_000_000
_BITS: Final = {"i32": 32, "i64": 64}

_engine: Engine | None = None


class _NoFuel(Told):
    """One call used all that it had."""


def preload() -> None:
    """Make the engine, which all plugins of this branch share, and have it do everything once."""
    global _engine  # noqa: PLW0603 - a branch is of one language for good
    config = Config()
    config.target = f"pulley{ctypes.sizeof(ctypes.c_void_p) * 8}"
    config.consume_fuel = True
    config.parallel_compilation = False  # by threads, which a zygote has none of
    config.signals_based_traps = False  # no handler of a signal ever returns here
    config.native_unwind_info = False
    config.memory_init_cow = False
    # So that memory grows in its place: addresses, which are not counted as memory before they are used.
    config.memory_reservation = 4 * _GIB
    config.memory_guard_size = 0
    config.wasm_threads = False
    config.wasm_multi_memory = False
    _engine = Engine(config)
    _warm(_engine)


def _warm(engine: Engine) -> None:
    text = """(module (import "host" "f" (func $f (param i32) (result i32))) (memory (export "memory") 1 2)
        (func (export "f") (param i32) (result i32) (drop (memory.grow (i32.const 1))) (call $f (local.get 0)))
        (func (export "trap") unreachable))"""
    store = Store(engine)
    store.set_fuel(1000)
    store.set_limits(memory_size=2**20)
    module = Module(engine, text)
    linker = Linker(engine)
    linker.define_func(
        "host", "f", FuncType([ValType.i32()], [ValType.i32()]), lambda _caller, x: x, access_caller=True
    )
    works, traps = linker.instantiate(store, module).exports(store).by_index[1:]
    if not isinstance(works, Func) or not isinstance(traps, Func):
        raise TypeError
    works(store, 1)
    try:
        traps(store)
    except Trap as trap:
        str(trap)


class WebAssembly:
    """The engine of one plugin."""

    def __init__(self, host: Host, options: Options) -> None:
        if _engine is None:
            raise RuntimeError("the engine was not preloaded")
        self._engine = _engine
        self._host = host
        self._options = options
        self._store: Any = None
        self._functions: dict[str, Func] = {}
        self._messages: set[str] = set()
        """Names of the functions that take values in JSON."""
        self._memory: Any = None
        self._alloc: Any = None
        self._free: Any = None

    def load(self, name: str, source: bytes) -> list[str]:
        module = self._compiled(name, source)
        self._store = store = Store(self._engine)
        self._refuel()
        store.set_limits(
            memory_size=self._options.memory,
            table_elements=_MOST_ELEMENTS,
            instances=1,
            tables=_MOST_TABLES,
            memories=1,
        )
        instance = self._instance(module)
        exports = {
            each.name: item
            for each, item in zip(module.exports, instance.exports(store).by_index, strict=True)
        }
        self._functions = {each: item for each, item in exports.items() if isinstance(item, Func)}
        memory = exports.get("memory")
        self._memory = memory if isinstance(memory, Memory) else None
        self._alloc, self._free = self._functions.get(_ALLOC), self._functions.get(_FREE)
        self._messages = set()
        if self._memory is not None and self._alloc is not None:
            self._messages = {n for n, f in self._functions.items() if _signature(f.type(store)) == _MESSAGE}
        if _INITIALIZE in self._functions:
            self._run(self._functions[_INITIALIZE])
        return [each for each in self._functions if each not in _OURS]

    def call(self, function: str, arguments: list[Any], named: dict[str, Any]) -> Finished | Streaming:
        called = self._functions.get(function)
        if called is None or function in _OURS:
            return Finished(Outcome.NO_FUNCTION, Raised("NoSuchFunction", function))
        if named:
            raise TypeError("a function in WebAssembly has no named arguments")
        self._refuel()
        try:
            if function in self._messages:
                return self._exchanged(called, arguments)
            kinds = _signature(called.type(self._store))[0]
            if len(arguments) != len(kinds):
                raise TypeError(f"{function} takes {len(kinds)} numbers, and {len(arguments)} were given")
            return Finished(Outcome.VALUE, self._run(called, *map(_number, arguments, kinds)))
        except _NoFuel as error:
            return Finished(Outcome.NO_FUEL, error.raised)

    def next(self, _number: int) -> Outcome:
        """There are no streams."""
        return Outcome.END

    def close(self, _number: int) -> None:
        return

    # ── loading ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _compiled(self, name: str, source: bytes) -> Module:
        binary = source if source.startswith(b"\0asm") else source.decode()
        try:
            return Module(self._engine, binary)
        except (WasmtimeError, SyntaxError) as error:
            self._tell("CompileError", str(error))

    def _instance(self, module: Module) -> Instance:
        linker = Linker(self._engine)
        for each in module.imports:
            kind, name = each.type, each.name or ""
            if not isinstance(kind, FuncType) or each.module not in ("host", wasi.MODULE):
                self._tell(
                    "LinkError",
                    f"it imports {each.module}.{name}: there are functions of host, and some of WASI",
                )
            made = wasi.function(name) if each.module == wasi.MODULE else self._of_host(name, kind)
            linker.define_func(each.module, name, kind, made, access_caller=True)
        try:
            found: Instance = self._running(lambda: linker.instantiate(self._store, module))
        except WasmtimeError as error:
            if "memory" in str(error):
                raise MemoryError from None
            self._tell("LinkError", str(error))
        return found

    def _of_host(self, name: str, kind: FuncType) -> Callable[..., Any]:
        parameters, results = _signature(kind)
        if len(results) > 1:
            self._tell("LinkError", f"host.{name} cannot return {len(results)} numbers")

        def compute(_caller: Caller, *numbers: Any) -> Any:
            value = self._host(name, [*numbers])
            return _number(value, results[0]) if results else None

        def ask(caller: Caller, start: int, length: int) -> int:
            memory = wasi.memory_of(caller)
            arguments = msgspec.json.decode(wasi.read(caller, memory, start, length))
            if not isinstance(arguments, list):
                raise TypeError(f"the arguments of host.{name} are no list")
            value = self._host(name, arguments)
            check(value, "result")
            alloc = caller.get(_ALLOC)
            if not isinstance(alloc, Func):
                raise ValueError(f"the module exports no {_ALLOC}")  # noqa: TRY004
            start, length = _put(caller, memory, alloc, msgspec.json.encode(value))
            return _signed(start << 32 | length, 64)

        return ask if (parameters, results) == _MESSAGE else compute

    # ── running ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _refuel(self) -> None:
        self._store.set_fuel(self._options.fuel or _NO_LIMIT)

    def _run(self, function: Func, *numbers: Any) -> Any:
        return self._running(lambda: function(self._store, *numbers))

    def _running(self, work: Callable[[], Any]) -> Any:
        """What ``work`` returns; a trap as what the plugin raised."""
        try:
            return work()
        except Trap as trap:
            if trap.trap_code is TrapCode.OUT_OF_FUEL:
                raise _NoFuel(Raised("Trap", "all its fuel is used", fit(str(trap), 32_000))) from None
            self._tell("Trap", str(trap))
        except wasi.Exit as error:
            self._tell("Exit", str(error))

    def _tell(self, kind: str, message: str) -> NoReturn:
        # Traps and what the compiler says end with the cause; what the parser of the text says begins with it.
        words = message.strip()
        brief = words.rpartition("\n")[2] if "Caused by:" in words else words.partition("\n")[0]
        brief = brief.strip().removeprefix("wasm trap: ")
        raise Told(Raised(kind, fit(brief, 4000), fit(words, 32_000)))

    def _exchanged(self, called: Func, arguments: list[Any]) -> Finished:
        """What a function of values returns."""
        check(arguments, "args")
        given = self._running(
            lambda: _put(self._store, self._memory, self._alloc, msgspec.json.encode(arguments))
        )
        found = self._run(called, *given)
        start, length = (found >> 32) & _LOW, found & _LOW
        if length > self._options.result:
            what = f"the result takes {length} bytes, and may take {self._options.result}"
            return Finished(Outcome.TOO_LARGE, Raised("ResultLimit", what))
        value = msgspec.json.decode(wasi.read(self._store, self._memory, start, length))
        if self._free is not None:
            self._run(self._free, _signed(start, 32), length)
        return Finished(Outcome.VALUE, value)


def _put(store: Any, memory: Memory, alloc: Func, data: bytes) -> tuple[int, int]:
    """Where ``data`` is once it is in the module's memory, and its length."""
    start = alloc(store, len(data)) & _LOW
    wasi.write(store, memory, start, data)
    return _signed(start, 32), len(data)


def _signature(kind: FuncType) -> tuple[list[str], list[str]]:
    return [str(each) for each in kind.params], [str(each) for each in kind.results]


def _number(value: Any, kind: str) -> int | float:
    """``value`` for a parameter of that type. An int may be given signed or unsigned. Raises TypeError, ValueError."""
    if kind in ("f32", "f64") and isinstance(value, int | float):
        return float(value)
    bits = _BITS.get(kind)
    if bits is None or not isinstance(value, int):
        raise TypeError(f"{type(value).__name__} for a parameter of type {kind}")
    if not -(2 ** (bits - 1)) <= value < 2**bits:
        raise ValueError(f"{value} does not fit {kind}")
    return _signed(value, bits)


def _signed(value: int, bits: int) -> int:
    value &= 2**bits - 1
    return value - 2**bits if value >> (bits - 1) else value
