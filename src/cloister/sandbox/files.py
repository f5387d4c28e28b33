"""What a process may do with its user's files, besides reading those that its own kind needs."""

from __future__ import annotations

import os

import msgspec

__all__ = ["Files"]


class Files(msgspec.Struct, frozen=True):
    """Absolute paths of folders and files, each without a symlink in it. One that is not there, or is a symlink by now,
    gives nothing; nor does a symlink inside one lead anywhere that is not itself in here.
    """

    read: tuple[str, ...] = ()
    """Files below them can be read, folders listed."""
    write: tuple[str, ...] = ()
    """Files below them can be made and written, folders made."""
    delete: tuple[str, ...] = ()
    """What is below them can be deleted; with ``write``, renamed."""
    metadata: tuple[str, ...] = ()
    """Folders below them can be listed."""

    def __post_init__(self) -> None:
        if relative := [path for path in self.all if not path.startswith("/")]:
            raise ValueError(f"not an absolute path: {', '.join(relative)}")

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.read, *self.write, *self.delete, *self.metadata)

    def __or__(self, other: Files) -> Files:
        """What either may do."""
        pairs = zip(msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True)
        return Files(*(tuple(dict.fromkeys(mine + theirs)) for mine, theirs in pairs))

    def places(self) -> dict[str, bool]:
        """Those that are there, each before what is inside it, and whether anything is to be changed in it."""
        changed = {*self.write, *self.delete}
        there = (path for path in sorted({*self.all}) if os.path.realpath(path) == path)
        return {path: path in changed for path in there if os.access(path, os.F_OK)}
