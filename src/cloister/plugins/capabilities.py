"""What a plugin may do besides computing: declared by its manifest, granted by its host; it gets what both say."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Final

import msgspec

from ..errors import CapabilityRefused

__all__ = ["ABOUT", "AVAILABLE", "Held", "check_known", "resolve"]

log = logging.getLogger("cloister.plugins")

ABOUT: Final[Mapping[str, str]] = {
    "fs:read": "read the files and folders that are listed: Landlock, and a file tree that holds nothing else",
    "fs:write": "write in the folders that are listed",
    "fs:delete": "delete what is in the folders that are listed",
    "fs:metadata": "learn names, sizes and times of what is in the folders that are listed",
    "net:request": "request from the hosts that are listed",
    "net:dns": "look up names",
    "net:listen": "listen for connections",
    "sys:env": "know the variables of the host's environment that are listed: the rest was never in its memory",
    "sys:exec": "run the programs that are listed",
    "sys:time": "know the time. The kernel tells it to every process without a system call, so every plugin knows it",
    "plugin:call": "call the functions of the plugins that are listed",
    "plugin:message": "send messages to the plugins that are listed",
    "shm": "write into memory that its host sees",
}
"""Every capability, and what it is for."""

AVAILABLE: Final = frozenset({"fs:read", "sys:env", "sys:time"})
"""Those that this version holds a plugin to. Granting another one is refused: it would be a promise without a wall."""


class Held(msgspec.Struct, frozen=True):
    """What is left of what was declared and granted."""

    read_paths: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


def check_known(names: Iterable[str]) -> None:
    """Raise :class:`CapabilityRefused` for a name that is no capability."""
    for name in names:
        if name not in ABOUT:
            raise CapabilityRefused(f"there is no capability {name!r}; there are {', '.join(ABOUT)}")


def resolve(
    plugin: str, declared: Mapping[str, Iterable[str]] | None, granted: Mapping[str, Iterable[str]]
) -> Held:
    """What ``plugin`` gets. ``declared`` is None where it has no manifest: then what was granted counts.

    Raises :class:`CapabilityRefused` when something is granted that does not exist, or that nothing could hold.
    """
    check_known(granted)
    if missing := sorted(set(granted) - AVAILABLE):
        raise CapabilityRefused(
            f"{', '.join(missing)} cannot be granted yet: this version has no wall around it"
        )
    wanted = granted if declared is None else declared
    check_known(wanted)
    for name in sorted(set(wanted) - set(granted)):
        log.warning("%s declares %s, which was not granted", plugin, name)
    variables = sorted({*wanted.get("sys:env", ())} & {*granted.get("sys:env", ())})
    return Held(
        read_paths=_common(wanted.get("fs:read", ()), granted.get("fs:read", ())),
        environment=tuple((name, os.environ[name]) for name in variables if name in os.environ),
    )


def _common(wanted: Iterable[str], granted: Iterable[str]) -> tuple[str, ...]:
    """The paths that are inside one of both sides: the narrower of each two that overlap."""
    mine, theirs = [*map(_resolved, wanted)], [*map(_resolved, granted)]
    both = [a for a in mine if any(a.is_relative_to(b) for b in theirs)]
    both += [b for b in theirs if any(b.is_relative_to(a) for a in mine)]
    return tuple(sorted({str(path) for path in both}))


def _resolved(path: str | os.PathLike[str]) -> PurePosixPath:
    """Without symlinks, so that two names of one place are one, and none leads elsewhere later."""
    text = os.fspath(path)
    if not text.startswith("/"):
        raise CapabilityRefused(f"fs:read: {text!r} is not an absolute path")
    real = PurePosixPath(os.path.realpath(text))
    if real == PurePosixPath("/"):
        raise CapabilityRefused("fs:read: the root folder is everything; name the folders that are needed")
    return real
