"""What a process may do with its user's files, besides reading those that its own kind needs."""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from typing import Final

import msgspec

__all__ = ["NODEV", "NOEXEC", "Files", "Programs"]


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
        """Those that are there and need a mount of their own, each before what is inside it, and whether anything is
        to be changed in it. What is inside another one and no different is not apart from it: to move a file from
        one mount to the next fails.
        """
        changed = {*self.write, *self.delete}
        found: dict[str, bool] = {}
        for path in sorted({*self.all}):
            if os.path.realpath(path) != path or not os.access(path, os.F_OK):
                continue
            above = [str(parent) for parent in PurePosixPath(path).parents]
            is_changed = not changed.isdisjoint([path, *above])
            around = next((found[parent] for parent in above if parent in found), None)
            if around is not is_changed or os.path.ismount(path):
                found[path] = is_changed
        return found


# include/uapi/linux/mount.h: MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC
NODEV: Final = 0x4
NOEXEC: Final = 0x8


class Programs(msgspec.Struct, frozen=True):
    """What a process may run. Absolute paths; each is bound where it is named, wherever a symlink there leads, and what
    symlinks below it lead to has to be listed itself: these are large folders.
    """

    paths: tuple[str, ...] = ()
    """What is below them can be read, and run."""
    devices: tuple[str, ...] = ()
    """Device files that can be read and written: ``/dev/null``."""

    def __post_init__(self) -> None:
        if relative := [path for path in (*self.paths, *self.devices) if not path.startswith("/")]:
            raise ValueError(f"not an absolute path: {', '.join(relative)}")

    def __or__(self, other: Programs) -> Programs:
        """What either may run."""
        return Programs(
            tuple(dict.fromkeys(self.paths + other.paths)),
            tuple(dict.fromkeys(self.devices + other.devices)),
        )

    def lifted(self) -> dict[str, int]:
        """Those that are there, and which restriction of a mount is not for them."""
        lifted = dict.fromkeys(self.paths, NOEXEC) | dict.fromkeys(self.devices, NODEV)
        return {path: restriction for path, restriction in lifted.items() if os.path.exists(path)}  # noqa: PTH110
