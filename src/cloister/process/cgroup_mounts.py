"""Where in the file system the cgroups of this process are: what /proc/self/cgroup and /proc/self/mountinfo say."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

__all__ = ["Mount", "Place", "own_places", "parse_memberships", "parse_mounts"]

UNIFIED = ""
"""The name of the cgroup v2 hierarchy in /proc/self/cgroup; a v1 hierarchy is named for its controllers."""

_MOST = 4 << 20
"""Bytes read of mountinfo; a machine with 10,000 mounts has 2 MB of it."""


class Mount(NamedTuple):
    """A mounted cgroup hierarchy."""

    root: str
    """Which of its cgroups is mounted: ``/`` unless it is another's, as in a container."""
    point: str
    """Where."""
    controllers: frozenset[str]
    """Of version 1; :data:`UNIFIED` alone for version 2."""


class Place(NamedTuple):
    """This process's cgroup in one hierarchy."""

    folder: Path
    is_top: bool
    """Whether it is the topmost that can be seen: the root of the hierarchy, of a cgroup namespace, or of what a
    container has mounted."""


def parse_memberships(text: str) -> dict[str, str]:
    """Controller → path of the cgroup in its hierarchy, from /proc/PID/cgroup (cgroups(7))."""
    found: dict[str, str] = {}
    for line in text.split("\n"):
        match line.split(":", 2):
            case [_, controllers, path] if path.startswith("/"):
                found.update(dict.fromkeys(controllers.split(","), path))
    return found


def parse_mounts(text: str) -> list[Mount]:
    """The cgroup hierarchies in /proc/PID/mountinfo (proc_pid_mountinfo(5))."""
    found = []
    for line in text.split("\n"):
        before, separator, after = line.partition(" - ")
        fields, source = before.split(" "), after.split(" ")
        if not separator or len(fields) < 6 or len(source) < 3:
            continue
        if source[0] == "cgroup2":
            controllers = frozenset({UNIFIED})
        elif source[0] == "cgroup":
            controllers = frozenset(source[2].split(","))
        else:
            continue
        found.append(Mount(_unescaped(fields[3]), _unescaped(fields[4]), controllers))
    return found


def own_places(root: Path = Path("/")) -> dict[str, Place]:
    """Controller → this process's cgroup, as far as it is mounted where this process can see it; :data:`UNIFIED` for
    version 2. ``root`` is where /proc and /sys are."""
    memberships = parse_memberships(_read(root / "proc/self/cgroup"))
    places: dict[str, Place] = {}
    for mount in parse_mounts(_read(root / "proc/self/mountinfo")):
        for controller in mount.controllers & memberships.keys() - places.keys():
            path = PurePosixPath(memberships[controller])
            # ".." stands for what is outside of the cgroup namespace.
            if ".." in path.parts or not path.is_relative_to(mount.root):
                continue
            below = path.relative_to(mount.root)
            folder = root / mount.point.lstrip("/") / below
            if folder.is_dir():
                places[controller] = Place(folder, is_top=not below.parts)
    return places


def _unescaped(text: str) -> str:
    r"""Space, tab, line feed and backslash are written as ``\040``, ``\011``, ``\012`` and ``\134``."""
    return re.sub(r"\\([0-3][0-7]{2})", lambda match: chr(int(match[1], 8)), text)


def _read(path: Path) -> str:
    """The text; none where there is no such file: a kernel without cgroups."""
    try:
        with path.open("rb") as file:
            return file.read(_MOST).decode(errors="surrogateescape")
    except FileNotFoundError:
        return ""
