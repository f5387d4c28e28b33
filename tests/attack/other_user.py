"""Becoming nobody in a process that is about to run this very Python, wherever that is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import cloister
from cloister.sandbox.kernel import libc, syscall
from cloister.sandbox.privileges import NOBODY

_NEW_MOUNTS = 0x00020000
_PRIVATE = 0x40000 | 0x4000  # MS_PRIVATE | MS_REC
_BIND = 0x1000 | 0x4000  # MS_BIND | MS_REC


def become_nobody() -> None:
    """In the child: give up root, in mounts of its own where every user reaches this Python and its libraries."""
    needed = [Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), Path(cloister.__file__).parents[1]]
    closed = {folder: path for path in needed if (folder := _closed_folder(path)) is not None}
    if closed:
        syscall("unshare", _NEW_MOUNTS)
        _mount(None, "/", None, _PRIVATE)
        for folder in closed:
            _open_up(folder, [path for path in needed if folder in path.parents])
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def _closed_folder(path: Path) -> Path | None:
    """The first folder on the way to ``path`` that not every user may pass."""
    return next((folder for folder in reversed(path.parents) if not folder.stat().st_mode & 0o001), None)


def _open_up(folder: Path, inside: list[Path]) -> None:
    """Put another folder over ``folder``, with nothing in it but what is at ``inside``."""
    held = {path: os.open(path, os.O_PATH) for path in inside}
    _mount("tmpfs", str(folder), "tmpfs", 0)
    folder.chmod(0o755)
    for path, descriptor in held.items():
        path.mkdir(parents=True)
        _mount(f"/proc/self/fd/{descriptor}", str(path), None, _BIND)
        os.close(descriptor)


def _mount(source: str | None, target: str, kind: str | None, flags: int) -> None:
    arguments = [None if each is None else each.encode() for each in (source, target, kind)]
    if libc.mount(*arguments, flags, None) != 0:
        raise OSError(f"{target} could not be mounted on")
