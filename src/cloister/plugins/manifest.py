"""The manifest of a plugin: what it is, what it offers, and what it asks for. TOML or JSON.

It is the one file of a plugin that the host reads itself: by a parser in Python, of a bounded size, into fixed types.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from ..errors import CapabilityRefused, DependencyError, ManifestError
from ..interfaces.plugin_host import Language
from .capabilities import check_known
from .limits import Limits
from .versions import Range, Version

__all__ = [
    "API_VERSION",
    "Manifest",
    "check_dependents",
    "find_program",
    "load_order",
    "parse",
    "read",
    "read_source",
]

API_VERSION: Final = (1, 0)
"""Major and minor of what this host offers to plugins."""

MAX_MANIFEST: Final = 256 * 1024  # bytes
MAX_SOURCE: Final = 16 * 1024 * 1024  # bytes

Name = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,63}\Z")]
Identifier = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}\Z")]
Text = Annotated[str, Meta(max_length=2000)]
Word = Annotated[str, Meta(min_length=1, max_length=200)]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """A manifest that holds; :func:`read` makes it."""

    name: Name
    version: str
    """As semver.org has it."""
    api_version: str
    """``major.minor`` of the host that it was written for."""
    source: Word
    """The file with its code, in the manifest's folder."""
    language: Language
    exports: Annotated[tuple[Identifier, ...], Meta(min_length=1, max_length=256)]
    idempotent: Annotated[tuple[Identifier, ...], Meta(max_length=256)] = ()
    """Those of its exports that may be called again when its process failed."""
    description: Text = ""
    authors: Annotated[tuple[Word, ...], Meta(max_length=64)] = ()
    licence: Annotated[str, Meta(max_length=200)] = ""
    capabilities: dict[str, Annotated[tuple[Word, ...], Meta(max_length=256)]] = {}
    """What it wants, each with what it is about: paths, hosts, names of variables."""
    dependencies: dict[Name, str] = {}
    """Names of plugins, and ranges of versions."""
    tags: Annotated[tuple[Word, ...], Meta(max_length=64)] = ()
    metadata: dict[Word, str | int | float | bool] = {}
    limits: Limits = Limits()

    def satisfies(self, wanted: str) -> bool:
        """Whether its version is in the range ``wanted``."""
        return Version.parse(self.version) in Range(wanted)


def read(path: str | os.PathLike[str], within: Iterable[Path] = ()) -> Manifest:
    """The manifest in a file: JSON if its name ends with ``.json``, TOML otherwise. ``within`` are the folders, without
    symlinks, in one of which it must really be; wherever it is if there is none.

    Raises :class:`ManifestError`, which names the key and the line, or OSError when the file cannot be read.
    """
    file = Path(path)
    try:
        text = _read(file, MAX_MANIFEST, within).decode()
    except (ValueError, UnicodeDecodeError) as error:
        raise ManifestError(str(file), None, None, str(error)) from None
    return parse(text, str(file), is_json=file.suffix == ".json")


def parse(text: str, source: str = "manifest", *, is_json: bool = False) -> Manifest:
    """The manifest in ``text``; ``source`` is its name in errors. Raises :class:`ManifestError`."""
    try:
        data = json.loads(text) if is_json else tomllib.loads(text)
    except RecursionError:
        raise ManifestError(source, None, None, "it nests too deep") from None
    except ValueError as error:  # what both parsers raise
        line = getattr(error, "lineno", None) or _line_in_words(str(error))
        raise ManifestError(source, None, line, str(error)) from None
    find = _line_of_json if is_json else _line_of_toml
    try:
        manifest = msgspec.convert(data, type=Manifest)
    except msgspec.ValidationError as error:
        key, why = _key_of(str(error))
        if key == "limits" and (limit := re.match(r"([a-z_]+)(?::| is) ", why)):  # what Limits itself refused
            key = f"limits.{limit[1].replace('_', '-')}"
        raise ManifestError(source, key, find(text, key), why) from None
    _check(manifest, lambda key, why: ManifestError(source, key, find(text, key), why))
    return manifest


def read_source(manifest: Manifest, folder: Path) -> bytes:
    """The plugin's code, from the file that ``manifest`` names in ``folder``.

    Raises :class:`ManifestError` when that file is elsewhere, is no file, or is too large, and OSError.
    """
    path = _inside(manifest, folder)
    try:
        return _read(path, MAX_SOURCE, [folder.resolve()])
    except ValueError as error:
        raise ManifestError(str(path), "source", None, str(error)) from None


def find_program(manifest: Manifest, folder: Path) -> str:
    """The path of the program that ``manifest`` names in ``folder``, without symlinks.

    Raises :class:`ManifestError` when that is elsewhere, or no program.
    """
    path = _inside(manifest, folder)
    if not path.is_file():
        raise ManifestError(str(path), "source", None, "it is not a file")
    if not os.access(path, os.X_OK):
        raise ManifestError(str(path), "source", None, "it is not a program: chmod +x makes it one")
    return str(path)


def _inside(manifest: Manifest, folder: Path) -> Path:
    path = folder / manifest.source
    real = Path(os.path.realpath(path))
    if not real.is_relative_to(os.path.realpath(folder)):
        raise ManifestError(str(path), "source", None, "a symlink leads out of the manifest's folder")
    return real


def load_order(manifests: Iterable[Manifest], present: Mapping[str, str] | None = None) -> list[Manifest]:
    """``manifests`` with each after those that it depends on. ``present`` are further plugins: name and version.

    Raises :class:`DependencyError` for one that is missing, of another version, or in a circle.
    """
    mine = {manifest.name: manifest for manifest in manifests}
    versions = {**(present or {}), **{name: manifest.version for name, manifest in mine.items()}}
    for manifest in mine.values():
        for needed in manifest.dependencies:
            _check_version(manifest, needed, versions)
    try:
        order = [*TopologicalSorter({name: m.dependencies for name, m in mine.items()}).static_order()]
    except CycleError as error:
        # graphlib names each before the one that needs it.
        circle = " → ".join(reversed(error.args[1]))
        raise DependencyError(f"plugins need each other in a circle: {circle}") from None
    return [mine[name] for name in order if name in mine]


def check_dependents(manifest: Manifest, others: Iterable[Manifest]) -> None:
    """Raise :class:`DependencyError` if one of ``others`` needs another version of it."""
    for other in others:
        if manifest.name in other.dependencies:
            _check_version(other, manifest.name, {manifest.name: manifest.version})


def _check_version(manifest: Manifest, needed: str, versions: Mapping[str, str]) -> None:
    wanted = manifest.dependencies[needed]
    if needed not in versions:
        raise DependencyError(f"{manifest.name} needs {needed} {wanted}, which is not there")
    if Version.parse(versions[needed]) not in Range(wanted):
        raise DependencyError(f"{manifest.name} needs {needed} {wanted}, and {versions[needed]} is there")


def _read(path: Path, limit: int, within: Iterable[Path]) -> bytes:
    """A regular file of at most ``limit`` bytes; ValueError for any other. A pipe is not waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        # Of what was opened: between a look at the path and the opening a symlink may be put into it.
        real, folders = Path(f"/proc/self/fd/{descriptor}").readlink(), [*within]
        if folders and not any(real.is_relative_to(folder) for folder in folders):
            raise ValueError("a symlink leads out of the manifest's folder")
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is not a file")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise ValueError(f"it has more than {limit} bytes")
    return data


def _check(manifest: Manifest, error: Callable[[str, str], ManifestError]) -> None:
    """What types do not say."""
    try:
        Version.parse(manifest.version)
    except ValueError as why:
        raise error("version", str(why)) from None
    _check_api(manifest.api_version, error)
    path = PurePosixPath(manifest.source)
    if path.is_absolute() or ".." in path.parts or "\0" in manifest.source:
        raise error("source", "a file in the manifest's folder, or below it")
    try:
        check_known(manifest.capabilities)
    except CapabilityRefused as why:
        raise error("capabilities", str(why)) from None
    if unknown := sorted({*manifest.idempotent} - {*manifest.exports}):
        raise error("idempotent", f"{', '.join(unknown)}: not among its exports")
    for name, wanted in manifest.dependencies.items():
        try:
            Range(wanted)
        except ValueError as why:
            raise error(f"dependencies.{name}", str(why)) from None
    if manifest.name in manifest.dependencies:
        raise error(f"dependencies.{manifest.name}", "a plugin cannot need itself")


def _check_api(text: str, error: Callable[[str, str], ManifestError]) -> None:
    found = re.fullmatch(r"([0-9]{1,4})\.([0-9]{1,4})", text)
    mine = ".".join(map(str, API_VERSION))
    if found is None:
        raise error("api-version", f"{text!r} is none: major.minor, such as {mine!r}")
    major, minor = int(found[1]), int(found[2])
    if major != API_VERSION[0] or minor > API_VERSION[1]:
        raise error("api-version", f"it was written for {text}, and this host offers {mine}")


# ── where in the file ────────────────────────────────────────────────────────────────────────────────────────────


def _key_of(said: str) -> tuple[str | None, str]:
    """The key that msgspec complains about, and the complaint."""
    why, _, place = said.partition(" - at `$")
    parents = [part for part in re.split(r"[.\[\]`]+", place) if part and part != "..."]
    parents = [part for part in parents if not part.isdigit()]
    if field := re.search(r"field `([^`]{1,200})`", why):
        parents.append(field[1])
    return ".".join(parents) or None, why


def _line_in_words(said: str) -> int | None:
    found = re.search(r"at line ([0-9]+)", said)  # TOMLDecodeError, before Python 3.14
    return int(found[1]) if found else None


def _line_of_toml(text: str, key: str | None) -> int | None:
    """Where ``key`` ("limits.memory") is set, or the table that lacks it; None for what is not there."""
    if key is None:
        return None
    table, best = "", None
    for number, line in enumerate(text.split("\n"), 1):
        if header := re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]", line):
            table = _unquoted(header[1])
            if key == table or key.startswith(table + "."):
                best = number
        elif setting := re.match(r"\s*((?:\"[^\"]*\"|'[^']*'|[A-Za-z0-9_.-])+)\s*=", line):
            name = _unquoted(setting[1])
            full = f"{table}.{name}" if table else name
            if full == key:
                return number
            if key.startswith(full + "."):
                best = number
    return best


def _unquoted(key: str) -> str:
    return re.sub(r"[\"'\s]", "", key)


def _line_of_json(text: str, key: str | None) -> int | None:
    """The same: each part of the key is looked for after the one before it."""
    if key is None:
        return None
    at, found = 0, None
    for part in key.split("."):
        place = re.compile(re.escape(json.dumps(part)) + r"\s*:").search(text, at)
        if place is None:
            break
        at = place.end()
        found = text.count("\n", 0, place.start()) + 1
    return found
