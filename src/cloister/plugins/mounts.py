"""What is mounted where: a folder that was granted may hold the way into another file system."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Final

from ..errors import CapabilityRefused

__all__ = ["check_mounts"]

_MOST: Final = 4 << 20
"""Bytes read of mountinfo; a machine with 10,000 mounts has 2 MB of it."""


def check_mounts(
    capability: str, paths: Collection[PurePosixPath], mountinfo: Path = Path("/proc/self/mountinfo")
) -> None:
    """Raise :class:`CapabilityRefused` where ``paths``, which are without symlinks, reach what is mounted inside one of
    them and not named itself, or /proc, which holds doors to other processes."""
    if not paths:
        return
    mounts = _mounts(mountinfo)
    for path in paths:
        around = [point for point in mounts if path.is_relative_to(point)]
        if around and mounts[max(around, key=lambda point: len(point.parts))] == "proc":
            raise CapabilityRefused(
                f"{capability}: {path} is in /proc, which is about every process; not for plugins"
            )
        for point in mounts:
            if point != path and point.is_relative_to(path) and point not in paths:
                raise CapabilityRefused(
                    f"{capability}: another file system is mounted inside {path}, at {point}; grant that by name too, "
                    "or the folders beside it"
                )


def _mounts(mountinfo: Path) -> dict[PurePosixPath, str]:
    """Mount point → kind of file system (proc_pid_mountinfo(5)); of what is mounted on another, the upper."""
    try:
        with mountinfo.open("rb") as file:
            text = file.read(_MOST).decode(errors="surrogateescape")
    except OSError as error:
        raise CapabilityRefused(f"what is mounted where cannot be seen: {error}") from None
    found = {}
    for line in text.split("\n"):
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if separator and len(fields) >= 6:
            found[PurePosixPath(_unescaped(fields[4]))] = after.split(" ")[0]
    return found


def _unescaped(text: str) -> str:
    r"""Space, tab, line feed and backslash are written as ``\040``, ``\011``, ``\012`` and ``\134``."""
    return re.sub(r"\\([0-3][0-7]{2})", lambda match: chr(int(match[1], 8)), text)
