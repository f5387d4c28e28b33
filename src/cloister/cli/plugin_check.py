"""``cloister plugin check``: whether a plugin is in order, what it offers, what it asks for, and what would hold it."""

from __future__ import annotations

import json
import shlex
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from cloister.errors import CloisterError, ManifestError, PluginRaised, SandboxUnavailable, printable
from cloister.plugins.capabilities import ABOUT, resolve
from cloister.plugins.manifest import Manifest, read
from cloister.plugins.plugin import Plugin

from . import output
from .failure import USAGE
from .plugin import FAILED, failures, find, loaded

__all__ = ["check"]


def check(arguments: Namespace) -> int:
    """Read its manifest and load it in its sandbox; 1 unless both hold."""
    file = find(arguments.path)
    if arguments.json:
        return _as_json(arguments, file)
    with failures() as codes:
        manifest = read(file)
        _print(_about(manifest, (file.parent / manifest.source).stat().st_size))
        began = time.monotonic()
        with loaded(arguments, file) as (_, plugin):
            _print(_loaded(plugin, manifest, time.monotonic() - began))
    if codes == [USAGE] and arguments.grant:  # else it is the manifest that asks for what cannot be
        return USAGE
    return FAILED if codes else 0


def _print(lines: Iterator[str]) -> None:
    output.write("-", "".join(f"{line}\n" for line in lines).encode(errors="replace"))


def _about(manifest: Manifest, size: int) -> Iterator[str]:
    source = printable(manifest.source, 200)
    yield f"{manifest.name} {manifest.version}: {manifest.language}, {source} of {size} bytes"
    if manifest.description:
        yield printable(manifest.description, 2000)
    yield f"exports   {', '.join(manifest.exports)}"
    for name, about in manifest.capabilities.items():
        yield f"asks for  {name} {printable(', '.join(about), 500)}".rstrip()
        does, held = ABOUT[name]
        yield f"          to {does}"
        yield f"          what holds it: {held}"
        if refused := _refused(manifest, name):
            yield f"          it cannot be granted here: {refused}"
    if not manifest.capabilities:
        yield "asks for  nothing but to compute"
    for name, versions in manifest.dependencies.items():
        yield f"needs     {name} {printable(versions, 100)}"
    for name, value in _limits(manifest).items():
        yield f"limit     {name} {value}"


def _loaded(plugin: Plugin, manifest: Manifest, seconds: float) -> Iterator[str]:
    report = plugin.report
    missing = f"; this machine has no {', '.join(report.missing)}" if report.missing else ""
    yield f"starts    in {seconds * 1000:.0f} ms with its zygote, held by {len(report.layers)} layers{missing}"
    yield "It is in order."
    if options := [*_grants(manifest)]:
        yield f"What it asks for is granted with {' '.join(options)}"


def _grants(manifest: Manifest) -> Iterator[str]:
    for name, values in manifest.capabilities.items():
        for value in values or [""] if _refused(manifest, name) is None else ():
            yield "--grant " + shlex.quote(printable(f"{name}={value}" if value else name, 300))


def _refused(manifest: Manifest, capability: str) -> str | None:
    """Why what it asks for could not be granted on this machine, if it could not."""
    asked = {capability: manifest.capabilities[capability]}
    try:
        resolve(manifest.name, asked, asked)
    except CloisterError as error:
        return printable(str(error), 500)
    return None


def _limits(manifest: Manifest) -> dict[str, Any]:
    return {name: value for name, value in msgspec.to_builtins(manifest.limits).items() if value is not None}


def _as_json(arguments: Namespace, file: Path) -> int:
    problem: dict[str, object] | None = None
    told: dict[str, object] = {}
    try:
        manifest = read(file)
        (file.parent / manifest.source).stat()
        told = {"name": manifest.name, "version": manifest.version, "language": manifest.language}
        told |= {"exports": manifest.exports, "capabilities": manifest.capabilities}
        told |= {"refused": {name: _refused(manifest, name) for name in manifest.capabilities}}
        told |= {"dependencies": manifest.dependencies, "limits": _limits(manifest)}
        with loaded(arguments, file) as (_, plugin):
            told |= {"layers": plugin.report.layers, "missing": plugin.report.missing}
    except SandboxUnavailable:
        raise
    except (CloisterError, OSError) as error:
        problem = {"type": type(error).__name__, "message": printable(str(error), 1000)}
        if isinstance(error, ManifestError):
            problem |= {"key": error.key, "line": error.line}
        if isinstance(error, PluginRaised):
            problem["traceback"] = error.traceback
    print(json.dumps({"manifest": str(file), "ok": problem is None, "problem": problem, **told}, indent=2))
    return 0 if problem is None else FAILED
