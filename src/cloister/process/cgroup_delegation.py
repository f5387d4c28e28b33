"""Which cgroup this process may make others in; and, with version 2, how it comes to be without processes of its own.

A cgroup has one writer: whoever made it, unless it was delegated (systemd's CGROUP_DELEGATION, cgroups(7)). So an
unprivileged process uses what it was given write access to; root, which could write everywhere, uses what is marked as
delegated, or is the topmost in its view, so that nobody is above it to be disturbed.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

from .cgroup_mounts import Place
from .usage import parse_fields

__all__ = ["Nest", "may_use", "new_name", "remove", "remove_abandoned"]

log = logging.getLogger("cloister.process")

_NAME = r"cloister-(\d{1,20})-(\d{1,10})-\d{1,20}"
_numbers = itertools.count(1)

_ROUNDS: Final = 10
"""How often the processes of a cgroup are moved: they may fork meanwhile."""


def new_name() -> str:
    """For a cgroup; no other has it. A pid means something in one pid namespace only, so that is in it too."""
    return _name(next(_numbers))


def _name(number: int) -> str:
    return f"cloister-{_pid_namespace()}-{os.getpid()}-{number}"


def _pid_namespace() -> int:
    return Path("/proc/self/ns/pid").stat().st_ino


def remove(folder: Path) -> bool:
    """Remove a cgroup; False while something is in it."""
    try:
        folder.rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in {errno.EBUSY, errno.ENOTEMPTY}:
            raise
        return False
    return True


def remove_abandoned(folder: Path) -> None:
    """Remove the empty cgroups in ``folder`` that processes made which are gone, killed before they could."""
    namespace = _pid_namespace()
    for entry in folder.iterdir():
        made = re.fullmatch(_NAME, entry.name, re.ASCII)
        if made is None or int(made[1]) != namespace or Path("/proc", made[2]).exists():
            continue
        try:
            if remove(entry):
                log.debug("removed %s, which a killed process had left", entry)
        except OSError as error:
            log.debug("%s, which a killed process had left, stays: %s", entry, error.strerror)


def may_use(place: Place, *files: str) -> bool:
    """Whether this process may make cgroups in ``place``, and write its ``files``."""
    if not all(os.access(place.folder / name, os.W_OK) for name in (".", "cgroup.procs", *files)):
        return False
    return os.geteuid() != 0 or place.is_top or _is_delegated(place.folder)


def _is_delegated(folder: Path) -> bool:
    """Whether systemd marked it so: ``user.delegate`` since version 251; only root sees the older mark."""
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(folder, name) == b"1":
                return True
    return False


class Nest:
    """A cgroup of version 2 in which limited ones can be made.

    Limits can be set only below a cgroup that has no processes itself ("no internal processes", cgroups(7)). Where
    this process is in it, it moves into a cgroup of its own, beside those that are to come.
    """

    def __init__(self, folder: Path, home: Path, *, is_moved: bool) -> None:
        """``home``: where this process is, or is to be moved to, if that is another than ``folder``."""
        self.folder = folder
        self._home = home
        self._is_moved = is_moved
        self._enabled: list[str] = []

    @classmethod
    def make(cls, own: Place, controllers: Sequence[str]) -> Self | None:
        """In this process's cgroup, or in the one above, if that is what was delegated. None if it cannot be: not
        delegated, or shared with processes that are not this one's children."""
        above = Place(own.folder.parent, is_top=False)
        if not own.is_top and own.folder.name == _name(0):  # another Nest of this process's
            nest = cls(above.folder, own.folder, is_moved=True)
        elif not own.is_top and _is_delegated(above.folder) and may_use(above, "cgroup.subtree_control"):
            nest = cls(above.folder, own.folder, is_moved=False)  # systemd's DelegateSubgroup=
        elif may_use(own, "cgroup.subtree_control"):
            # The root of the hierarchy has no type, and may have processes.
            is_root = not (own.folder / "cgroup.type").exists()
            home = own.folder if is_root else own.folder / _name(0)
            nest = cls(own.folder, home, is_moved=not is_root)
        else:
            return None
        remove_abandoned(nest.folder)
        try:
            if nest._prepare(controllers):
                return nest
        except OSError as error:
            log.debug("%s cannot have limited cgroups: %s", nest.folder, error.strerror)
        nest.leave()
        return None

    def enabled(self) -> frozenset[str]:
        """The controllers with which the cgroups below can be limited."""
        return frozenset((self.folder / "cgroup.subtree_control").read_text().split())

    def _prepare(self, controllers: Sequence[str]) -> bool:
        there = (self.folder / "cgroup.controllers").read_text().split()
        wanted = [name for name in controllers if name in there and name not in self.enabled()]
        if wanted and self._is_moved:
            if not all(map(_is_ours, _processes(self.folder))):
                log.debug("%s has other processes, and so cannot have limited cgroups", self.folder)
                return False
            self._home.mkdir(exist_ok=True)
            _move_all(self.folder, self._home)
        for name in wanted:
            (self.folder / "cgroup.subtree_control").write_text(f"+{name}")
            self._enabled.append(name)
        return not self.enabled().isdisjoint(controllers)

    def leave(self) -> None:
        """Put things back as they were, unless others use them: another Nest's cgroups are still there."""
        others = [entry for entry in self.folder.iterdir() if entry.is_dir() and entry != self._home]
        if others or not self._home.exists():
            return
        try:
            for name in self.enabled() if self._is_moved else self._enabled:
                (self.folder / "cgroup.subtree_control").write_text(f"-{name}")
            if self._is_moved:
                _move_all(self._home, self.folder)
                remove(self._home)
        except OSError as error:
            log.warning("%s was left as it is: %s", self.folder, error.strerror)


def _move_all(source: Path, target: Path) -> None:
    for _ in range(_ROUNDS):
        pids = _processes(source)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                (target / "cgroup.procs").write_text(str(pid))
        if not pids:
            return


def _processes(folder: Path) -> list[int]:
    return [int(pid) for pid in (folder / "cgroup.procs").read_text().split()]


def _is_ours(pid: int) -> bool:
    """Whether it is this process or was forked below it. 0 is one outside of this pid namespace."""
    while pid != os.getpid():
        if pid <= 1:
            return False
        try:
            pid = parse_fields(Path("/proc", str(pid), "status").read_text(errors="replace")).get("PPid", 0)
        except (FileNotFoundError, ProcessLookupError):
            return True  # it has ended: nothing is to be moved
    return True
