"""What the commands for plugins share: finding one, starting it with what was granted, and saying what went wrong.

The command itself reads of a plugin its manifest and nothing else. What a plugin says is its own words: marked with its
name, without what would drive a terminal.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from cloister.errors import (
    CapabilityRefused,
    CloisterError,
    InvalidArgument,
    LimitExceeded,
    ManifestError,
    PluginCrashed,
    PluginRaised,
    SandboxUnavailable,
    printable,
)
from cloister.plugins.events import PluginEvent
from cloister.plugins.limits import Limits
from cloister.plugins.plugin import Plugin
from cloister.plugins.runtime import PluginRuntime

from .failure import USAGE, CommandError

__all__ = ["FAILED", "failures", "find", "indented", "loaded"]

FAILED, LIMIT, CRASHED = 1, 4, 5
_MANIFESTS: Final = ("plugin.toml", "plugin.json")


def find(path: str) -> Path:
    """The manifest at ``path``, or in that folder. Raises CommandError when there is none."""
    place = Path(path)
    for file in [place / name for name in _MANIFESTS] if place.is_dir() else [place]:
        if file.is_file():
            return file
    what = "has no plugin.toml" if place.is_dir() else "there is no such file or folder"
    what = "is no file" if place.exists() and not place.is_dir() else what
    raise CommandError(f"{printable(path, 200)}: {what}", USAGE)


def _grants(given: list[str]) -> dict[str, list[str]]:
    """``fs:read=PATH``, from here on if it is relative, and ``sys:time`` for what has no value; the same again adds to
    it."""
    found: dict[str, list[str]] = {}
    for each in given:
        name, has_value, value = each.partition("=")
        is_path = name.startswith("fs:") or name == "sys:exec"
        values = [os.path.abspath(value) if is_path else value]  # noqa: PTH100 - Path.absolute() keeps the dots
        found.setdefault(name, []).extend(values if has_value else [])
    return found


def _limits(given: list[str], timeout: float | None) -> Limits:
    """``memory=50MiB``. Raises CommandError for a name or a value that is none."""
    told: dict[str, str | float] = {} if timeout is None else {"timeout": timeout}
    for each in given:
        name, has_value, value = each.partition("=")
        if not has_value:
            raise CommandError(f"--limit {printable(each, 100)}: NAME=VALUE, as in memory=50MiB", USAGE)
        told[name.replace("_", "-")] = value
    try:
        return msgspec.convert(told, Limits, strict=False)
    except (msgspec.ValidationError, InvalidArgument) as error:
        raise CommandError(f"--limit: {printable(str(error), 300)}", USAGE) from None


@contextlib.contextmanager
def loaded(arguments: Namespace, manifest: Path) -> Iterator[tuple[PluginRuntime, Plugin]]:
    """A runtime with the plugin, and before it those that it needs (``--with``). What they say meanwhile is shown."""
    allowed = _limits(arguments.limit, getattr(arguments, "timeout", None))
    others = [find(path) for path in arguments.needed]
    with (
        _overheard(),
        PluginRuntime(modules=arguments.module, allow_degraded=arguments.allow_degraded) as runtime,
    ):
        runtime.on("denied", _tell)
        for other in others:
            runtime.load(other)
        yield (
            runtime,
            runtime.load(
                manifest, grants=_grants(arguments.grant), limits=allowed, profile=arguments.profile
            ),
        )


def _tell(event: PluginEvent) -> None:
    print(f"cloister: {event.plugin}: denied: {printable(event.what, 500)}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def failures() -> Iterator[list[int]]:
    """Say on standard error what went wrong with a plugin; the exit code for it is put into the list."""
    codes: list[int] = []
    try:
        yield codes
    except (SandboxUnavailable, BrokenPipeError):  # they have exit codes of their own
        raise
    except CloisterError as error:
        print(f"cloister: {printable(str(error), 1000)}", file=sys.stderr)
        if isinstance(error, PluginRaised):
            print(indented(error.traceback), end="", file=sys.stderr)
        codes.append(_code_of(error))
    except OSError as error:  # a file of the plugin's
        print(f"cloister: {printable(str(error), 1000)}", file=sys.stderr)
        codes.append(FAILED)


def _code_of(error: CloisterError) -> int:
    """The exit code that tells what went wrong."""
    if isinstance(error, CapabilityRefused | InvalidArgument) and not isinstance(error, ManifestError):
        return USAGE
    if isinstance(error, LimitExceeded):
        return LIMIT
    return CRASHED if isinstance(error, PluginCrashed) else FAILED


def indented(text: str) -> str:
    """A plugin's own lines, so that none of them can pass for one of the command's."""
    return "".join(f"  {printable(line, 1000)}\n" for line in text.split("\n") if line.strip())


@contextlib.contextmanager
def _overheard() -> Iterator[None]:
    """Have on standard error what plugins print and log, a line at a time."""
    heard = _Marked()
    log = logging.getLogger("cloister.plugin")
    level, propagate = log.level, log.propagate
    log.addHandler(heard)
    log.setLevel(logging.DEBUG)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(heard)
        log.setLevel(level)
        log.propagate = propagate
        heard.end()


class _Marked(logging.Handler):
    """``NAME| line`` for each line. Printed text comes in pieces, by the logger ``NAME.output``; a record is whole."""

    def __init__(self) -> None:
        super().__init__()
        self._begun: dict[str, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        name, _, kind = record.name.removeprefix("cloister.plugin.").partition(".")
        if kind != "output":
            self._show(name, record.getMessage())
            return
        *lines, self._begun[name] = (self._begun.get(name, "") + record.getMessage()).split("\n")
        for line in lines:
            self._show(name, line)

    def end(self) -> None:
        for name, rest in self._begun.items():
            if rest:
                self._show(name, rest)

    def _show(self, name: str, line: str) -> None:
        print(f"{name}| {printable(line, 16_000)}", file=sys.stderr, flush=True)
