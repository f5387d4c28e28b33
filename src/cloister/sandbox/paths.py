"""Where the symlinks in a folder lead: what must be readable besides it for its files to be readable."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Final

__all__ = ["mount_points", "targets"]


_MOST: Final = 1024
"""Places; a font folder links to some dozens. A maze of links ends here."""


def targets(paths: Iterable[str]) -> tuple[str, ...]:
    """``paths`` that exist, resolved, and all that symlinks in them lead to, each once."""
    return tuple(dict.fromkeys(mount_points(paths).values()))


def mount_points(paths: Iterable[str]) -> dict[str, str]:
    """Where something has to stand so that ``paths`` and the symlinks in them work in an otherwise empty tree:
    from each path, as written, to the real file or folder. None is inside another; what is not there is left out.
    """
    found: dict[str, str] = {}
    waiting = [os.path.normpath(path) for path in paths]
    while waiting and len(found) < _MOST:
        path = waiting.pop()
        real = os.path.realpath(path)
        if path in found or _covered(path, found) or not Path(real).exists():
            continue
        found[path] = real
        waiting += [link for link in _links(path, real) if not _widens(link, found)]
    return {path: real for path, real in sorted(found.items()) if not _covered(path, found)}


def _widens(link: str, found: Mapping[str, str]) -> bool:
    """Whether ``link`` leads above what was asked for: it would open the rest of the disk for one folder's sake."""
    target = os.path.realpath(link)
    return any(real != target and _within(real, target) for real in found.values())


def _links(path: str, real: str) -> Iterator[str]:
    """The paths that symlinks below ``real`` name when it stands at ``path``."""
    for folder, folders, files in os.walk(real):
        for name in (*folders, *files):
            link = os.path.join(folder, name)  # noqa: PTH118
            if os.path.islink(link):  # noqa: PTH114
                seen_from = path + folder.removeprefix(real)
                yield os.path.normpath(os.path.join(seen_from, os.readlink(link)))  # noqa: PTH115, PTH118


def _covered(path: str, found: Mapping[str, str]) -> bool:
    return any(other != path and _within(path, other) for other in found)


def _within(path: str, folder: str) -> bool:
    return PurePosixPath(path).is_relative_to(folder)
