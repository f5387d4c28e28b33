"""A plugin in JavaScript: an ES module, run by QuickJS.

The engine is an interpreter, so there is no executable memory; what holds it is the process, as with Python. Values
cross as JSON, with tags for what JSON lacks, and buffers in pieces in base64: the binding passes nothing but texts
safely (it cuts them at a NUL, and wraps ints of more than 32 bits).
"""

from __future__ import annotations

import binascii
import datetime
import json
import math
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import _quickjs

from cloister.errors import NotSendable
from cloister.interfaces.plugin_host import Options, Outcome, Raised

from .engine import Host
from .execution import Finished, Streaming, Told, fit, raised

__all__ = ["JavaScript", "preload"]

_PRELUDE: Final = Path(__file__).with_name("prelude.js").read_text(encoding="utf-8")
_WAITS: Final = '["w",null]'
_EXPORT: Final = 'import * as exports from "<input>"; globalThis.__exported(exports);'
"""The binding names every module so; of two of that name the first is found."""
_STACK: Final = 2 * 1024 * 1024
"""Bytes of C's stack that JavaScript may use; the process has 8 MiB."""
_PIECE: Final = 768 * 1024
"""Bytes of a buffer that cross at once; a multiple of three."""
_OURS: Final = ("at __plugin ", "at __cloister ")
"""Lines of a stack from which on it is the prelude's."""
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MILLISECOND: Final = datetime.timedelta(milliseconds=1)
_SAFE: Final = 2**53 - 1
"""The largest whole number that a number of JavaScript tells from its neighbours."""

_ARRAYS: Final = {
    **{"?": "Uint8Array", "B": "Uint8Array", "b": "Int8Array", "h": "Int16Array", "H": "Uint16Array"},
    **{"i": "Int32Array", "I": "Uint32Array", "f": "Float32Array", "d": "Float64Array"},
    **{"l": "BigInt64Array", "q": "BigInt64Array", "L": "BigUint64Array", "Q": "BigUint64Array"},
}
"""What a buffer becomes, by the format of its elements: a long has 64 bits wherever Cloister runs."""
_FORMATS: Final = {
    **{name: each for each, name in _ARRAYS.items() if each != "?"},
    **dict.fromkeys(("ArrayBuffer", "Uint8ClampedArray"), "B"),
}


def preload() -> None:
    """Nothing besides this module."""


class JavaScript:
    """The engine of one plugin."""

    def __init__(self, host: Host, options: Options) -> None:
        self._host = host
        self._frozen = not options.knows_time
        # Less than the process may have, so that there is room left to tell of it.
        self._memory = options.memory - options.memory // 8
        self._began = _most_memory()
        self._name = ""
        self._failure: BaseException | None = None
        """What went wrong on this side of a call from inside: the binding loses it."""
        self._incoming: list[memoryview] = []
        self._outgoing: list[bytearray] = []
        self._context: Any = None
        self._run: Any = None

    def load(self, name: str, source: bytes) -> list[str]:
        code = source.decode()
        self._name = name
        self._run = None  # it refers to the context before
        self._context = context = _quickjs.Context()
        context.set_memory_limit(self._memory)
        context.set_max_stack_size(_STACK)
        context.set("__frozen", self._frozen)
        for each in (self._ask, self._pull, self._push, self._print):
            context.add_callable(f"_{each.__name__}", self._guarded(each))
        self._run = context.eval(_PRELUDE)
        exported: list[Any] = []
        self._outcome("evaluated", self._telling(lambda: context.module(code)))
        context.add_callable("__exported", exported.append)
        self._telling(lambda: context.module(_EXPORT))
        context.eval("delete globalThis.__exported")
        names = self._outcome("exported", *exported)
        return names.value if isinstance(names, Finished) and names.kind is Outcome.VALUE else []

    def call(self, function: str, arguments: list[Any], named: dict[str, Any]) -> Finished | Streaming:
        if named:
            raise TypeError("a function in JavaScript has no named arguments")
        outcome = self._outcome("call", json.dumps(function), self._encode(arguments, "args"))
        if outcome is Outcome.NO_FUNCTION:
            return Finished(Outcome.NO_FUNCTION, Raised("NoSuchFunction", function))
        return outcome if isinstance(outcome, Streaming | Finished) else Finished(Outcome.VALUE, None)

    def next(self, number: int) -> Finished | Outcome:
        outcome = self._outcome("next", number)
        return outcome if isinstance(outcome, Finished) else Outcome.END

    def close(self, number: int) -> None:
        self._outcome("close", number)

    # ── what is asked of the engine ──────────────────────────────────────────────────────────────────────────────

    def _outcome(self, what: str, first: Any = None, second: Any = None) -> Finished | Streaming | Outcome:
        """The answer of the prelude's run(), after all that is left to do was done; a promise's once it is settled."""
        try:
            answer = self._telling(lambda: self._run(what, first, second, self._now()))
            self._finish_jobs()
            if answer == _WAITS:
                answer = self._telling(lambda: self._run("settled", None, None, self._now()))
            if self._failure is not None:
                raise self._failure
            return self._judged(answer)
        finally:
            self._failure = None
            self._incoming, self._outgoing = [], []

    def _telling(self, work: Callable[[], Any]) -> Any:
        """What ``work`` returns; what the engine raises, as what the plugin raised."""
        try:
            return work()
        except _quickjs.JSException as error:
            first, _, stack = str(error).partition("\n")
            if "out of memory" in first or (first == "null" and self._was_full()):
                raise MemoryError from None
            name, _, message = first.partition(": ")
            raise self._told(name, message, stack) from None

    def _was_full(self) -> bool:
        """Whether this process has had much of the memory that it may have."""
        return _most_memory() - self._began > self._memory // 2

    def _finish_jobs(self) -> None:
        """Run what promises wait for. What such a job raises, its promise has."""
        more = True
        while more:
            try:
                more = self._context.execute_pending_job()
            except _quickjs.JSException:
                continue

    def _judged(self, answer: Any) -> Finished | Streaming | Outcome:
        # Neither an answer nor an exception: there was no memory for it.
        if answer is None:
            raise MemoryError
        kind, content = self._decode(answer)
        match kind:
            case "v" | "V":
                return Finished(Outcome.VALUE, content)
            case "s":
                return Streaming(int(content))
            case "e":
                raise self._told(*content)
            case "n":
                raise NotSendable(fit(content, 4000))
            case "m":
                raise MemoryError
            case "0" if self._was_full():
                raise MemoryError
            case "f":
                return Outcome.NO_FUNCTION
            case "0":
                raise self._told("object", "null", "")
            case "p":
                raise self._told("Error", "it waits for a promise that nothing is left to settle", "")
        return Outcome.END

    def _told(self, name: str, message: str, stack: str) -> Told:
        lines = stack.replace("<input>", f"<plugin {self._name}>").splitlines()
        own = [index for index, line in enumerate(lines) if line.strip().startswith(_OURS)]
        shown = "\n".join([f"{name}: {message}" if message else name, *lines[: min(own, default=len(lines))]])
        return Told(Raised(fit(name, 200), fit(message, 4000), fit(shown, 32_000)))

    def _now(self) -> float:
        return float(time.time_ns() // 1_000_000)

    # ── what the engine asks ─────────────────────────────────────────────────────────────────────────────────────

    def _guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function``, which raises nothing: None, and what it raised is raised once the engine returns."""

        def call(*values: Any) -> Any:
            try:
                return function(*values)
            except BaseException as error:
                self._failure = error
                return None

        return call

    def _ask(self, name: str, arguments: str) -> str:
        """Call a function of the host's."""
        try:
            return self._encode(self._host(json.loads(name), self._decode(arguments)[1]), "result")
        except Exception as error:
            if isinstance(error, MemoryError):
                raise
            told = raised(error)
            return "e" + json.dumps([told.type_name.rpartition(".")[2], told.message])

    def _pull(self, index: float, start: float) -> str:
        """A piece of a buffer that goes in."""
        piece = self._incoming[int(index)][int(start) : int(start) + _PIECE]
        return binascii.b2a_base64(piece, newline=False).decode("ascii")

    def _push(self, index: int, start: float, text: str) -> bool:
        """A piece of one that comes out."""
        if not start:
            del self._outgoing[index:]
            self._outgoing.append(bytearray())
        self._outgoing[index] += binascii.a2b_base64(text)
        return True

    def _print(self, to_stderr: bool, text: str) -> None:
        (sys.stderr if to_stderr else sys.stdout).write(json.loads(text))

    # ── values ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _encode(self, value: Any, name: str) -> str:
        """What the prelude's decoded() takes."""
        self._incoming = []
        packer = _Packer(self._incoming)
        plain = packer.plain(value, name)
        return ("V" if packer.tagged else "v") + json.dumps(plain)

    def _decode(self, text: str) -> Any:
        """An answer of the prelude's: a letter and its content."""
        if not text.startswith('["V"'):
            return json.loads(text)
        buffers, self._outgoing = self._outgoing, []

        def revived(found: dict[str, Any]) -> Any:
            if "$" not in found:
                return {key[1:] if key[:1] == "$" else key: each for key, each in found.items()}
            kind, content, *more = found["$"]
            match kind:
                case "f":
                    return float(content)
                case "i":
                    return int(content, 16)
                case "d":
                    return _EPOCH + datetime.timedelta(milliseconds=content)
            data = bytes(buffers[content])
            element: Any = _FORMATS[more[0]]
            return data if more[0] == "Uint8Array" else memoryview(data).cast(element)

        return json.loads(text, object_hook=revived)


def _most_memory() -> int:
    """Bytes: what this process had at its largest."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


_Where = tuple[Any, Any] | str


class _Packer:
    """Makes of a value that came from the host what JSON has. ``tagged``: whether there are tags in it."""

    def __init__(self, buffers: list[memoryview]) -> None:
        self.tagged = False
        self._buffers = buffers

    def plain(self, value: Any, where: _Where) -> Any:  # noqa: PLR0911
        kind = type(value)
        if kind is int:
            return value if -_SAFE <= value <= _SAFE else self._tag("i", f"{value:x}")
        if kind is float:
            return value if math.isfinite(value) else self._tag("f", _name(value))
        if kind in (str, bool, type(None)):
            return value
        if kind in (list, tuple):
            return [self.plain(each, (where, index)) for index, each in enumerate(value)]
        if kind is dict:
            return {self._key(key, where): self.plain(each, (where, key)) for key, each in value.items()}
        if kind is datetime.datetime:
            moment = value if value.tzinfo is not None else value.replace(tzinfo=datetime.UTC)
            return self._tag("d", (moment - _EPOCH) // _MILLISECOND)
        return self._buffer(value, where)

    def _key(self, key: Any, where: _Where) -> str:
        if type(key) is not str:
            raise NotSendable(
                f"{_path(where)} has a key of type {type(key).__name__}; in JavaScript keys are str"
            )
        if key[:1] == "$":
            self.tagged = True
            return "$" + key
        return key

    def _buffer(self, value: Any, where: _Where) -> Any:
        try:
            view = memoryview(value)
        except TypeError:
            what = f"{_path(where)} is a {type(value).__name__}"
            raise NotSendable(f"{what}, which JavaScript does not have") from None
        content = view.cast("B") if view.nbytes else memoryview(b"")
        self._buffers.append(content)
        return self._tag("b", len(self._buffers) - 1, _ARRAYS[view.format], view.nbytes)

    def _tag(self, *content: Any) -> dict[str, Any]:
        self.tagged = True
        return {"$": content}


def _name(value: float) -> str:
    """What JavaScript calls a float that JSON has not."""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _path(where: _Where) -> str:
    """``args[0]["x"]``."""
    keys: list[str] = []
    while isinstance(where, tuple):
        where, key = where
        keys.append(f"[{json.dumps(key)[:80]}]")
    return where + "".join(reversed(keys))
