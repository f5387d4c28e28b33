"""Where the symlinks in a folder lead: what must be readable besides it for its files to be readable."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath
from typing import Final

__all__ = ["mount_points", "targets"]


# A font folder links to some dozens of places, each by one name or two. A maze of links ends here.
_MOST_PLACES: Final = 1024
_MOST_NAMES: Final = 4


def targets(paths: Iterable[str]) -> tuple[str, ...]:
    """``paths`` that exist, resolved, and all that symlinks in them lead to, each once."""
    return tuple(dict.fromkeys(mount_points(paths).values()))


def mount_points(paths: Iterable[str]) -> dict[str, str]:
    """Where something has to stand so that ``paths`` and the symlinks in them work in an otherwise empty tree:
    from each path, as written, to the real file or folder. None is inside another; what is not there is left out.
    """
    found: dict[str, str] = {}
    names: Counter[str] = Counter()
    waiting = [os.path.normpath(path) for path in paths]
    while waiting and len(found) < _MOST_PLACES:
        path = waiting.pop()
        real = os.path.realpath(path)
        if _covered(path, found) or names[real] == _MOST_NAMES or not os.access(real, os.F_OK):
            continue
        found[path] = real
        names[real] += 1
        waiting += [
            link for link in _links(path, real) if not _covered(link, found) and not _widens(link, found)
        ]
    return {path: real for path, real in sorted(found.items()) if not _inside(path, found)}


def _covered(path: str, found: Mapping[str, str]) -> bool:
    return path in found or _inside(path, found)


def _inside(path: str, found: Mapping[str, str]) -> bool:
    return any(str(parent) in found for parent in PurePosixPath(path).parents)


def _widens(link: str, found: Mapping[str, str]) -> bool:
    """Whether ``link`` leads above what was asked for: it would open the rest of the disk for one folder's sake."""
    target = PurePosixPath(os.path.realpath(link))
    return any(target in PurePosixPath(real).parents for real in found.values())


def _links(path: str, real: str) -> Iterator[str]:
    """The paths that symlinks below ``real`` name when it stands at ``path``."""
    for folder, folders, files in os.walk(real):
        for name in (*folders, *files):
            link = os.path.join(folder, name)  # noqa: PTH118
            if os.path.islink(link):  # noqa: PTH114
                seen_from = path + folder.removeprefix(real)
                yield os.path.normpath(os.path.join(seen_from, os.readlink(link)))  # noqa: PTH115, PTH118
