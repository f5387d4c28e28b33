"""``cloister plugin test``: a plugin's own tests, each in a fresh process of the plugin."""

from __future__ import annotations

import dataclasses
import re
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Protocol

import msgspec
from msgspec import Meta

import cloister
from cloister.errors import CloisterError, PluginError, PluginRaised, printable
from cloister.interfaces.plugin_host import Language
from cloister.plugins.manifest import Manifest, read, read_source
from cloister.plugins.plugin import Plugin
from cloister.plugins.runtime import PluginRuntime

from . import output
from .failure import CommandError
from .plugin import FAILED, failures, find, indented, loaded

__all__ = ["test"]

_RUNNER: Final = Path(cloister.__file__).parent / "plugin_host" / "test_runner.py"
_MOST_FILES: Final = 256

Words = Annotated[str, Meta(max_length=4000)]
Test = tuple[Annotated[str, Meta(max_length=500)], Annotated[str, Meta(max_length=500)]]
Tests = Annotated[tuple[Test, ...], Meta(max_length=10_000)]


class _Failure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a plugin's process says of a test that did not pass: its own words."""

    what: Words
    line: Annotated[int, Meta(ge=0, le=2**31)] = 0
    code: Words = ""
    traceback: Annotated[str, Meta(max_length=30_000)] = ""
    skipped: bool = False


def test(arguments: Namespace) -> int:
    """Load the plugin, then run each of its tests; 1 unless there are some and all of them pass."""
    with failures() as codes:
        file = find(arguments.path)
        manifest = read(file)
        with loaded(arguments, file) as (runtime, plugin):
            return _all(_suite(runtime, plugin, manifest, file.parent), arguments.only)
    return codes[0]


def _suite(runtime: PluginRuntime, plugin: Plugin, manifest: Manifest, folder: Path) -> _Suite:
    if manifest.language is Language.PYTHON:
        return _PythonSuite(runtime, plugin, manifest, folder)
    if manifest.language is not Language.JAVASCRIPT:
        where = f"exported functions test* of {manifest.source}"
        return _ExportedSuite({manifest.source: plugin}, where)
    source = plugin.spec.code + b"\n"
    joined = {
        name: runtime.plugin(dataclasses.replace(plugin.spec, code=source + code, manifest=None))
        for name, code in _beside(manifest, folder, "test*.js").items()
    }
    where = "exported functions test* in files test*.js beside the source"
    return _ExportedSuite(joined, where, source.count(b"\n"))


def _all(suite: _Suite, only: str | None) -> int:
    failed = passed = skipped = 0
    for each in suite.tests():
        name = f"{each[0]}::{each[1]}"
        if only is not None and only not in name:
            continue
        began = time.monotonic()
        failure = suite.run(each)
        took = f"{(time.monotonic() - began) * 1000:.0f} ms"
        if failure is None:
            passed += 1
            _say(f"ok      {name} {took}")
        elif failure.skipped:
            skipped += 1
            _say(f"skipped {name}: {failure.what}")
        else:
            failed += 1
            _say(f"FAILED  {name} {took}")
            _say("\n".join(_lines(each[0], failure)), indent=True)
    if not passed + failed + skipped:
        raise CommandError(
            f"there are no tests{'' if only is None else ' of that name'}: {suite.where}", FAILED
        )
    _say(f"{passed} passed, {failed} failed" + (f", {skipped} skipped" if skipped else ""))
    return FAILED if failed else 0


def _lines(file: str, failure: _Failure) -> Iterator[str]:
    yield f"{file}:{failure.line}: {failure.what}" if failure.line else failure.what
    yield from (f"    {line}" for line in failure.code.split("\n"))
    yield failure.traceback


def _say(text: str, *, indent: bool = False) -> None:
    line = indented(text) if indent else f"{printable(text, 5000)}\n"
    output.write("-", line.encode(errors="replace"))


class _Suite(Protocol):
    """The tests of a plugin; ``where`` says where they would be."""

    where: str

    def tests(self) -> list[Test]:
        """Each with the file that it is in."""

    def run(self, test: Test) -> _Failure | None:
        """In a process that nothing has run in before."""


class _ExportedSuite:
    """Functions that a source exports. What is tested and its tests are one source, the tests after the rest."""

    def __init__(self, plugins: dict[str, Plugin], where: str, before: int = 0) -> None:
        """``before``: lines in each before those of the file of tests."""
        self.where = where
        self._plugins = plugins
        self._before = before

    def tests(self) -> list[Test]:
        found: list[Test] = []
        for file, plugin in self._plugins.items():
            try:
                plugin.load()
            except PluginRaised as error:
                raise self._placed(error, file) from None
            found += [(file, name) for name in plugin.exports if name.startswith("test")]
        return found

    def run(self, test: Test) -> _Failure | None:
        plugin = self._plugins[test[0]]
        plugin.restart()
        return _failure(lambda: self._called(plugin, test))

    def _called(self, plugin: Plugin, test: Test) -> _Failure | None:
        try:
            plugin.call(test[1])
        except PluginRaised as raised:
            error = self._placed(raised, test[0])
            what = f"{error.type_name}: {error.message}"
            at = re.search(rf"{re.escape(test[0])}:([0-9]{{1,7}})", error.traceback)
            trace = error.traceback.removeprefix(what).lstrip("\n")  # it says that once more
            return _Failure(what=what[:4000], line=int(at[1]) if at else 0, traceback=trace[:30_000])
        return None

    def _placed(self, error: PluginRaised, file: str) -> PluginRaised:
        """With the places in ``file`` as its reader counts them."""

        def place(found: re.Match[str]) -> str:
            line = int(found[1]) - self._before
            return f"{file}:{line}" if line > 0 and self._before else found[0]

        trace = re.sub(rf"<plugin {re.escape(error.plugin)}>:([0-9]{{1,7}})", place, error.traceback)
        return PluginRaised(error.plugin, error.type_name, error.message, trace)


class _PythonSuite:
    """Functions ``test*`` in files ``test*.py`` beside the source."""

    where = "functions test* in files test*.py beside the source"

    def __init__(self, runtime: PluginRuntime, plugin: Plugin, manifest: Manifest, folder: Path) -> None:
        self._what = (
            manifest.name,
            Path(manifest.source).name,
            plugin.spec.code,
            _beside(manifest, folder, "test*.py"),
        )
        # The plugin's grants and limits, and its manifest no more: that says what *its* source exports.
        spec = dataclasses.replace(plugin.spec, code=_RUNNER.read_bytes(), manifest=None)
        self._plugin = runtime.plugin(spec)

    def tests(self) -> list[Test]:
        found = _judged(self._plugin.call("names", *self._what), Tests)
        return [*found]

    def run(self, test: Test) -> _Failure | None:
        self._plugin.restart()
        return _failure(lambda: self._told(test))

    def _told(self, test: Test) -> _Failure | None:
        told = self._plugin.call("run", self._what, *test)
        return None if told is None else _judged(told, _Failure)


def _failure(run: Callable[[], Any]) -> _Failure | None:
    """What ``run`` says, or what was raised instead."""
    try:
        told = run()
    except PluginRaised as error:
        return _Failure(what=f"{error.type_name}: {error.message}"[:4000], traceback=error.traceback[:30_000])
    except CloisterError as error:
        return _Failure(what=printable(str(error), 2000))
    return told if isinstance(told, _Failure) else None


def _judged(told: Any, kind: Any) -> Any:
    """What came from the plugin's process, if it is of that type."""
    try:
        return msgspec.convert(told, kind)
    except msgspec.ValidationError as error:
        raise PluginError(f"the plugin did not let its tests be run: {error}") from None


def _beside(manifest: Manifest, folder: Path, pattern: str) -> dict[str, bytes]:
    """The files beside the source that ``pattern`` finds, by name, and what is in them."""
    source = Path(manifest.source)
    names = sorted(path.name for path in (folder / source).parent.glob(pattern) if path.name != source.name)
    if len(names) > _MOST_FILES:
        raise PluginError(f"more than {_MOST_FILES} files of tests")
    files = {name: msgspec.structs.replace(manifest, source=str(source.with_name(name))) for name in names}
    return {name: read_source(file, folder) for name, file in files.items()}
