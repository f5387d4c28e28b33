"""The plugin's code: loaded, called, and its generators kept."""

from __future__ import annotations

import itertools
import linecache
import sys
import traceback
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Final, NamedTuple

from cloister.interfaces.plugin_host import Outcome, Raised

from .functions import rebuild

__all__ = ["Finished", "Plugin", "Streaming", "Told", "fit", "raised"]

_MOST_STREAMS: Final = 64


class Finished(NamedTuple):
    """A value (VALUE), or a Raised."""

    kind: Outcome
    value: Any


class Streaming(NamedTuple):
    """A generator that is kept, by number."""

    number: int


class Told(Exception):
    """What another engine raised, as that tells it."""

    def __init__(self, raised: Raised) -> None:
        super().__init__(raised.message)
        self.raised = raised


class Plugin:
    """What is loaded now: the engine of plugins in Python."""

    def __init__(self) -> None:
        self._functions: dict[str, Any] = {}
        self._streams: dict[int, Iterator[Any]] = {}
        self._numbers = itertools.count(1)

    def load(self, name: str, source: bytes) -> list[str]:
        """Run the source of the plugin ``name``; the names of what can be called."""
        self._streams.clear()
        module = ModuleType(name.replace("-", "_"))
        module.__file__ = f"<plugin {name}>"
        # So that a traceback shows the lines.
        lines = source.decode(errors="replace").splitlines(keepends=True)
        linecache.cache[module.__file__] = (len(source), None, lines, module.__file__)
        sys.modules[module.__name__] = module
        code = compile(source, module.__file__, "exec", dont_inherit=True)
        exec(code, module.__dict__)  # noqa: S102 - it is what this process is for
        self._functions = {key: value for key, value in module.__dict__.items() if callable(value)}
        return [*_exports(module)]

    def load_function(self, name: str, bundle: dict[str, Any]) -> list[str]:
        """Have the function of a :mod:`~cloister.plugins.functions` bundle called by ``name``."""
        self._functions[name] = rebuild(bundle)
        return [name]

    def call(self, function: str, arguments: list[Any], named: dict[str, Any]) -> Finished | Streaming:
        called = self._functions.get(function)
        if called is None:
            return Finished(Outcome.NO_FUNCTION, Raised("NoSuchFunction", function))
        result = called(*arguments, **named)
        if not isinstance(result, Iterator):
            return Finished(Outcome.VALUE, result)
        if len(self._streams) >= _MOST_STREAMS:
            raise RuntimeError(f"{_MOST_STREAMS} streams are open; close some")
        number = next(self._numbers)
        self._streams[number] = result
        return Streaming(number)

    def next(self, number: int) -> Finished | Outcome:
        """What the generator gives next. One that raised, or is at its end, is let go."""
        stream = self._streams.pop(number, None)
        if stream is None:
            return Outcome.END
        try:
            value = next(stream)
        except StopIteration:
            return Outcome.END
        self._streams[number] = stream
        return Finished(Outcome.VALUE, value)

    def close(self, number: int) -> None:
        stream = self._streams.pop(number, None)
        if stream is not None and hasattr(stream, "close"):
            stream.close()


def _exports(module: ModuleType) -> Iterator[str]:
    named = getattr(module, "__all__", None)
    for name, value in module.__dict__.items():
        mine = not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
        if callable(value) and (mine if named is None else name in named):
            yield name


def raised(error: BaseException) -> Raised:
    """The exception as text, from the plugin's own first line on."""
    if isinstance(error, Told):
        return error.raised
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    try:
        message = str(error)
    except BaseException:
        message = "(its message could not be made)"
    try:
        error.__traceback__ = _from_plugin(error)
        shown = "".join(traceback.format_exception(error))
    except BaseException:
        shown = ""
    return Raised(fit(name, 200), fit(message, 4000), fit(shown, 32_000))


def _from_plugin(error: BaseException) -> Any:
    """The traceback without the frames of this package that lead to the plugin's."""
    trace = error.__traceback__
    while trace is not None and str(trace.tb_frame.f_globals.get("__name__")).startswith(
        "cloister.plugin_host."
    ):
        trace = trace.tb_next
    return trace


def fit(text: str, most: int) -> str:
    """At most ``most`` characters, each of which can be encoded: the beginning and the end."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= most else text[: most // 2 - 1] + "…" + text[-(most // 2 - 1) :]
