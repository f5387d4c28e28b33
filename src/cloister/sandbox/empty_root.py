"""A file tree with nothing in it but what a policy lists, read-only unless that says more."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection, Container, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from cloister.errors import LaunchError

from .files import NODEV, NOEXEC, Files, Programs
from .kernel import libc, syscall
from .layers import Layer, in_force, mark
from .paths import mount_points

__all__ = ["build", "cover", "enter_empty_root"]

# include/uapi/linux/mount.h and fcntl.h
_NOSUID: Final = 0x2
_NODEV: Final = 0x4
_NOEXEC: Final = 0x8
_BIND: Final = 0x1000
_RECURSIVE: Final = 0x4000
_PRIVATE: Final = 1 << 18
_DETACH: Final = 0x2
_ATTR_RDONLY: Final = 0x1
_ATTR_NOSUID: Final = 0x2
_RESTRICTIONS: Final = _ATTR_RDONLY | _ATTR_NOSUID | NODEV | NOEXEC
_AT_FDCWD: Final = -100
_AT_RECURSIVE: Final = 0x8000

# The one folder that is sure to be there, and that nothing is ever bound from.
_STAGE: Final = "/proc"
_NO_FILES: Final = Files()
_NO_PROGRAMS: Final = Programs()


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def enter_empty_root(
    paths: Iterable[str], files: Files = _NO_FILES, programs: Programs = _NO_PROGRAMS
) -> bool:
    """Make the root of this process an empty folder that holds ``paths``, at the same places, and what symlinks
    in them lead to, ``files``, and ``programs``; all of it without setuid, and read-only but for what of ``files`` is
    to be changed. Nothing but a program can be run, and there is no device but theirs. The rest cannot be named any
    more: open first what is needed. There is no /proc.

    Returns ``False``, and does nothing, where that cannot be had: in a process that :func:`isolate` did not put into a
    mount namespace, unless it may call chroot(2) and there are no ``paths``. Paths that are not there are skipped.

    Raises:
        LaunchError: the kernel refused a mount.
    """
    lifted = programs.lifted()
    # What is in a folder of programs is there with it.
    binds = {path: real for path, real in mount_points(paths).items() if not _is_in(path, lifted)}
    binds |= {path: os.path.realpath(path) for path in lifted}
    places = {
        path: changes for path, changes in files.places().items() if changes or not _is_in(path, lifted)
    }
    if Layer.MOUNT_NAMESPACE in in_force():
        try:
            writable = {path for path in places if places[path]}
            build({**binds, **{path: path for path in places}}, writable, lifted)
        except OSError as error:
            raise LaunchError(f"the process could not be given an empty root: {error}") from error
    elif binds or files.all or not _change_root():
        return False
    mark({Layer.EMPTY_ROOT})
    return True


def cover(folder: str) -> bool:
    """Have an empty folder in memory in the place of ``folder``, for this process and what it forks alone: what is
    written there is gone with them, whatever ends them. Returns ``False``, and does nothing, in a process without a
    mount namespace of its own, and where the kernel refuses."""
    if Layer.MOUNT_NAMESPACE not in in_force():
        return False
    try:
        _mount(None, "/", None, _RECURSIVE | _PRIVATE)
        _mount("tmpfs", folder, "tmpfs", _NOSUID | _NODEV | _NOEXEC, b"mode=0700,size=1m,nr_inodes=16")
    except OSError:
        return False
    return True


def _is_in(path: str, folders: Container[str]) -> bool:
    return any(str(parent) in folders for parent in PurePosixPath(path).parents)


def _change_root() -> bool:
    """Make the root a folder that is deleted, so that nothing can ever be made in it. Root may where a container
    refuses mounts, and anybody in a user namespace. The way back takes CAP_SYS_CHROOT, which :func:`enter` drops, or a
    descriptor of a folder outside.
    """
    name = f"/tmp/cloister-{os.urandom(8).hex()}"  # noqa: S108 - if somebody foresaw it, mkdir(2) fails
    umask = os.umask(0o022)  # it is root's, and for nobody to pass
    try:
        os.mkdir(name)  # noqa: PTH102
        try:
            os.chdir(name)
        finally:
            os.rmdir(name)  # noqa: PTH106
        os.chroot(".")
    except OSError:  # EPERM: no CAP_SYS_CHROOT; EROFS, ENOENT: no /tmp to write to
        return False
    finally:
        os.umask(umask)
        os.chdir("/")
    return True


def build(
    binds: Mapping[str, str], writable: Collection[str] = (), lifted: Mapping[str, int] | None = None
) -> None:
    """Make the root a folder that holds ``binds``: where each is to be, and which real file or folder it is, each
    before what is inside it. Those that are ``writable`` can be changed as far as their file system can; what is
    mounted inside them cannot. ``lifted`` are restrictions that one of them does not get (MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NODEV).

    Raises:
        OSError: the kernel refused a mount.
    """
    _mount(None, "/", None, _RECURSIVE | _PRIVATE)
    # It holds empty folders and files only, to mount on.
    _mount("tmpfs", _STAGE, "tmpfs", _NOSUID | _NODEV | _NOEXEC, b"mode=0755,size=1m,nr_inodes=4k")
    umask = os.umask(0o022)  # the folders are root's and are for nobody to pass
    try:
        for place, real in sorted(binds.items()):  # what is inside another one after it
            _bind(real, Path(_STAGE + place))
            attributes = _MountAttr(attr_set=_RESTRICTIONS & ~(lifted or {}).get(place, 0))
            _set(_STAGE + place, attributes, _AT_RECURSIVE)
    finally:
        os.umask(umask)
    os.chdir(_STAGE)
    # pivot_root(2), NOTES: the old root on top of the new one, and off it at once.
    syscall("pivot_root", b".", b".")
    syscall("umount2", b".", _DETACH)
    os.chdir("/")
    _set("/", _MountAttr(attr_set=_RESTRICTIONS), 0)
    for place in writable:
        try:
            _set(place, _MountAttr(attr_clr=_ATTR_RDONLY), 0)
        except PermissionError:
            continue  # it was read-only before, and stays so


def _set(place: str, attributes: _MountAttr, flags: int) -> None:
    # Linux 5.12; MS_REMOUNT would leave the mounts inside a bound folder writable.
    size = ctypes.sizeof(attributes)
    syscall("mount_setattr", _AT_FDCWD, os.fsencode(place), flags, ctypes.byref(attributes), size)


def _bind(real: str, place: Path) -> None:
    if place.exists():  # in a folder that was bound
        pass
    elif Path(real).is_dir():
        place.mkdir(parents=True, exist_ok=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    # Recursive: in a user namespace a tree cannot be bound without the mounts inside it.
    _mount(real, str(place), None, _BIND | _RECURSIVE)


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: bytes | None = None) -> None:
    result = libc.mount(
        source and os.fsencode(source),
        os.fsencode(target),
        kind and kind.encode(),
        ctypes.c_ulong(flags),
        data,
    )
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)
