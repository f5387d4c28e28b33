"""What a plugin may do besides computing: declared by its manifest, granted by its host; it gets what both say."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Final, TypeVar

import msgspec

from ..errors import CapabilityRefused
from . import hosts, listeners
from .mounts import check_mounts

__all__ = ["ABOUT", "Held", "check_known", "check_program", "covers", "resolve", "settled"]

log = logging.getLogger("cloister.plugins")

T = TypeVar("T", str, PurePosixPath)

_MOST_PATHS: Final = 256
_LONGEST_PATH: Final = 4095  # bytes: PATH_MAX without its NUL

ABOUT: Final[Mapping[str, tuple[str, str]]] = {
    "fs:read": (
        "read the files and folders that are listed",
        "Landlock, and a file tree that holds nothing else",
    ),
    "fs:write": (
        "make and write files and folders in those that are listed",
        "Landlock, the file tree, and the filter of system calls",
    ),
    "fs:delete": (
        "delete what is in the folders that are listed; with fs:write, rename it",
        "Landlock, the file tree, and the filter of system calls",
    ),
    "fs:metadata": (
        "learn names, sizes and times of what is in the folders that are listed, without reading it",
        "Landlock for names, the file tree for the rest",
    ),
    "net:request": (
        "request from the hosts that are listed",
        "it has no socket: the host asks, and the process that connects judges the address",
    ),
    "net:dns": ("look up names", "it has no socket: the host asks"),
    "net:listen": (
        "listen for connections at the addresses that are listed",
        "it is handed sockets that listen, and the filter lets it make, bind or connect none",
    ),
    "sys:env": (
        "know the variables of the host's environment that are listed",
        "the rest was never in its memory",
    ),
    "sys:exec": (
        "run the programs that are listed",
        "the filter: the host has each run in a sandboxed process of its own",
    ),
    "sys:time": ("have a clock that goes on during a call", "nothing: the kernel tells everybody the time"),
    "plugin:call": ("call the functions of the plugins that are listed", "it has no channel but to the host"),
    "plugin:message": ("send messages to the plugins that are listed", "it has no channel but to the host"),
    "shm": (
        "write into a SharedBuffer that its host passed to it",
        "the descriptor: read-only for everybody else, and its size is sealed",
    ),
}
"""Every capability: what it lets a plugin do, and what holds each to what it was granted."""


_OF_PATHS: Final = frozenset({"fs:read", "fs:write", "fs:delete", "fs:metadata", "sys:exec"})


class Held(msgspec.Struct, frozen=True):
    """What is left of what was declared and granted, each field that of one capability."""

    read_paths: tuple[str, ...] = ()
    write_paths: tuple[str, ...] = ()
    delete_paths: tuple[str, ...] = ()
    metadata_paths: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    """To request from."""
    names: tuple[str, ...] = ()
    """To look up."""
    listen: tuple[str, ...] = ()
    """Addresses with ports."""
    environment: tuple[tuple[str, str], ...] = ()
    programs: tuple[tuple[str, str], ...] = ()
    """Names by which they were listed, and the paths of the files."""
    knows_time: bool = False
    calls: tuple[str, ...] = ()
    """Plugins."""
    messages: tuple[str, ...] = ()
    """Plugins."""
    shares_memory: bool = False


def settled(granted: Mapping[str, Iterable[str]]) -> Mapping[str, tuple[str, ...]]:
    """The same for good: whatever it is made of may change, and so may the symlinks in paths. Raises
    :class:`CapabilityRefused` for a path that cannot be granted."""
    return {
        name: tuple(str(_resolved(name, each)) if name in _OF_PATHS else each for each in values)
        for name, values in granted.items()
    }


def check_known(names: Iterable[str]) -> None:
    """Raise :class:`CapabilityRefused` for a name that is no capability."""
    for name in names:
        if name not in ABOUT:
            raise CapabilityRefused(f"there is no capability {name!r}; there are {', '.join(ABOUT)}")


_ASKED_FOR: Final = {
    "net:request": "hosts",
    "net:dns": "names",
    "net:listen": "listen",
    "sys:exec": "programs",
    "plugin:call": "calls",
    "plugin:message": "messages",
    "shm": "shares_memory",
}


def check_program(plugin: str, held: Held) -> None:
    """Raise :class:`CapabilityRefused` for what a plugin that is a program cannot ask for: it has no ``host``."""
    if wrong := [name for name, field in _ASKED_FOR.items() if getattr(held, field)]:
        raise CapabilityRefused(f"{plugin} is a program, and has no way to ask for {', '.join(wrong)}")


def resolve(
    plugin: str, declared: Mapping[str, Iterable[str]] | None, granted: Mapping[str, Iterable[str]]
) -> Held:
    """What ``plugin`` gets. ``declared`` is None where it has no manifest: then what was granted counts.

    Raises :class:`CapabilityRefused` when something is granted that does not exist, or that nobody could
    use.
    """
    check_known(granted)
    wanted = granted if declared is None else declared
    check_known(wanted)
    for name in sorted(set(wanted) - set(granted)):
        log.warning("%s declares %s, which was not granted", plugin, name)

    def paths(name: str) -> tuple[str, ...]:
        mine, theirs = ([_resolved(name, path) for path in side.get(name, ())] for side in (wanted, granted))
        both = _narrower(mine, theirs, lambda a, b: b.is_relative_to(a))
        if len(both) > _MOST_PATHS:
            raise CapabilityRefused(
                f"{name}: {len(both)} paths; {_MOST_PATHS} at most, so name the folders above them"
            )
        check_mounts(name, both)
        return tuple(map(str, both))

    def both_name(
        name: str, normalised: Callable[[Iterable[str]], list[str]], covers: Callable[[str, str], bool]
    ) -> tuple[str, ...]:
        return tuple(_narrower(normalised(wanted.get(name, ())), normalised(granted.get(name, ())), covers))

    def names(name: str) -> tuple[str, ...]:
        return tuple(_narrower([*wanted.get(name, ())], [*granted.get(name, ())], covers))

    both = {*wanted} & {*granted}
    return Held(
        read_paths=paths("fs:read"),
        write_paths=paths("fs:write"),
        delete_paths=paths("fs:delete"),
        metadata_paths=paths("fs:metadata"),
        hosts=both_name("net:request", hosts.normalised, hosts.covers) if "net:request" in both else (),
        names=both_name("net:dns", lambda names: [name.lower() for name in names], covers),
        listen=both_name("net:listen", listeners.normalised, str.__eq__),
        environment=tuple((name, os.environ[name]) for name in names("sys:env") if name in os.environ),
        programs=_programs(paths("sys:exec"), {*wanted.get("sys:exec", ()), *granted.get("sys:exec", ())}),
        knows_time="sys:time" in both,
        calls=names("plugin:call"),
        messages=names("plugin:message"),
        shares_memory="shm" in both,
    )


def _programs(both: Iterable[str], listed: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Each of ``both`` by every name that it has among those ``listed``: a program looks at what it is called by."""
    names = {path: path for path in both}
    for path in names:
        if not Path(path).is_file() or not os.access(path, os.X_OK):
            raise CapabilityRefused(f"sys:exec: {path} is no program")
    names |= {name: real for name in listed if (real := os.path.realpath(name)) in names}
    return tuple(sorted(names.items()))


def covers(pattern: str, name: str) -> bool:
    """Whether ``pattern`` is ``name``, or ``*``, or ``*.`` and a domain that ``name`` is under."""
    return pattern in ("*", name) or (pattern.startswith("*.") and name.endswith(pattern[1:]))


def _narrower(mine: Collection[T], theirs: Collection[T], covers: Callable[[T, T], bool]) -> list[T]:
    """What is inside one of both sides: of each two where one ``covers`` the other, the other."""
    both = {a for a in mine if any(covers(b, a) for b in theirs)}
    both |= {b for b in theirs if any(covers(a, b) for a in mine)}
    return sorted(both)


def _resolved(capability: str, path: str | os.PathLike[str]) -> PurePosixPath:
    """Without symlinks, so that two names of one place are one, and none leads elsewhere later."""
    text = os.fspath(path)
    if not text.startswith("/"):
        raise CapabilityRefused(f"{capability}: {text!r} is not an absolute path")
    try:
        resolved = os.path.realpath(text)
        usable = len(resolved.encode()) <= _LONGEST_PATH
    except ValueError:  # a NUL; a name that is not UTF-8, which a process cannot be told
        usable = False
    if not usable:
        raise CapabilityRefused(f"{capability}: {text[:100]!r} is no path that can be granted")
    real = PurePosixPath(resolved)
    if real == PurePosixPath("/"):
        raise CapabilityRefused(
            f"{capability}: the root folder is everything; name the folders that are needed"
        )
    return real
