"""Where the symlinks in a folder lead: what must be readable besides it for its files to be readable."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

__all__ = ["mount_points", "targets"]


def targets(paths: Iterable[str]) -> tuple[str, ...]:
    """``paths`` that exist, resolved, and all that symlinks in them lead to, each once."""
    return tuple(dict.fromkeys(mount_points(paths).values()))


def mount_points(paths: Iterable[str]) -> dict[str, str]:
    """Where something has to stand so that ``paths`` and the symlinks in them work in an otherwise empty tree:
    from each path, as written, to the real file or folder. None is inside another; what is not there is left out.
    """
    found: dict[str, str] = {}
    waiting = [os.path.normpath(path) for path in paths]
    while waiting:
        path = waiting.pop()
        real = os.path.realpath(path)
        if not os.path.exists(real) or _covered(path, found):  # noqa: PTH110 - paths here are plain strings
            continue
        found[path] = real
        # A link to an ancestor would open the rest of the disk for the sake of one folder.
        waiting += [link for link in _links(path, real) if not _within(path, link)]
    return {path: real for path, real in sorted(found.items()) if not _covered(path, found)}


def _links(path: str, real: str) -> Iterator[str]:
    """The paths that symlinks below ``real`` name when it stands at ``path``."""
    for folder, folders, files in os.walk(real):
        for name in (*folders, *files):
            link = os.path.join(folder, name)  # noqa: PTH118
            if os.path.islink(link):  # noqa: PTH114
                seen_from = path + folder.removeprefix(real)
                yield os.path.normpath(os.path.join(seen_from, os.readlink(link)))  # noqa: PTH115, PTH118


def _covered(path: str, found: dict[str, str]) -> bool:
    return any(other != path and _within(path, other) for other in found)


def _within(path: str, folder: str) -> bool:
    return PurePosixPath(path).is_relative_to(folder)
