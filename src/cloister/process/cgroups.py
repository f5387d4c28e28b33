"""Limits that the kernel itself holds, where this process may make cgroups: version 2 (delegated), or version 1.

``systemd-run --user --scope -p Delegate=yes cloister ...`` gives a command a cgroup in which it may.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, Self

from ..errors import ProcessError
from .cgroup_delegation import Nest, may_use, new_name, remove, remove_abandoned
from .cgroup_mounts import UNIFIED, own_places

__all__ = ["Cgroup", "CgroupParent"]

log = logging.getLogger("cloister.process")

_CONTROLLERS: Final[tuple[str, ...]] = ("memory", "cpu", "pids")

_PERIOD: Final = 100_000
"""Microseconds in which processor time is handed out: the kernel's own default."""

_DRAIN_TIMEOUT: Final = 2.0
"""Seconds that a cgroup has to become empty. Its processes are killed by then, but may not be gone."""


class Cgroup:
    """The limits of one process, or of several together. Made by :meth:`CgroupParent.child`."""

    def __init__(self, folders: Mapping[str, Path], *, is_v2: bool) -> None:
        self._folders = folders
        self._is_v2 = is_v2

    def add(self, pid: int) -> None:
        """Move a process in. The memory that it has stays counted where it was; what it takes from now on counts here.

        Raises ``ProcessLookupError`` when it is gone, :class:`ProcessError` when the kernel refuses.
        """
        try:
            for folder in set(self._folders.values()):
                (folder / "cgroup.procs").write_text(str(pid))
        except ProcessLookupError:
            raise
        except OSError as error:
            raise ProcessError(f"process {pid} could not be put into a cgroup: {error.strerror}") from error

    def memory_bytes(self) -> int | None:
        """What its processes have taken, pages of files that they were first to read included. None without the
        memory controller."""
        name = "memory.current" if self._is_v2 else "memory.usage_in_bytes"
        return int(self._folders["memory"].joinpath(name).read_text()) if "memory" in self._folders else None

    def oom_kills(self) -> int | None:
        """How many of its processes the kernel has killed for being over ``memory_max``. None without the memory
        controller, and with version 1 before Linux 4.13."""
        name = "memory.events" if self._is_v2 else "memory.oom_control"
        if "memory" not in self._folders:
            return None
        return parse_counts(self._folders["memory"].joinpath(name).read_text()).get("oom_kill")

    async def close(self, timeout: float = _DRAIN_TIMEOUT) -> None:
        """Remove it; its processes have been ended. One that is still not empty after ``timeout`` seconds is left, and
        the log says so. Closing twice is fine."""
        deadline = time.monotonic() + timeout
        while not all(remove(folder) for folder in set(self._folders.values())):
            if time.monotonic() >= deadline:
                log.warning("a cgroup still had processes after %g s, and was left", timeout)
                return
            await asyncio.sleep(0.01)


class CgroupParent:
    """Where this process may make cgroups. ``close()`` it after them."""

    def __init__(self, folders: Mapping[str, Path], nest: Nest | None) -> None:
        self._folders = folders
        self._nest = nest

    @property
    def controllers(self) -> frozenset[str]:
        """What can be limited: some of ``memory``, ``cpu``, ``pids`` and ``io``."""
        return frozenset(self._folders)

    @classmethod
    def find(cls, root: Path = Path("/"), also: tuple[str, ...] = ()) -> Self | None:
        """None where there is none. ``root`` is where /proc and /sys are. ``also``: controllers of version 2 besides
        memory, cpu and pids.

        Empty cgroups that killed programs left there are removed. With version 2 this process and its children may be
        moved, into a cgroup of their own beside those to come (see :class:`Nest`), until :meth:`close`.
        """
        places = own_places(root)
        if UNIFIED in places:
            wanted = (*_CONTROLLERS, *also)
            nest = Nest.make(places[UNIFIED], wanted)
            if nest is not None:
                enabled = nest.enabled()
                return cls({name: nest.folder for name in wanted if name in enabled}, nest)
        folders = {
            name: places[name].folder for name in _CONTROLLERS if name in places and may_use(places[name])
        }
        for folder in set(folders.values()):
            remove_abandoned(folder)
        return cls(folders, None) if folders else None

    def child(
        self,
        *,
        memory_max: int | None = None,
        cpu_percent: float | None = None,
        pids_max: int | None = None,
        cpu_weight: int | None = None,
        io_weight: int | None = None,
    ) -> Cgroup:
        """A new cgroup: at most ``memory_max`` bytes, swap included; ``cpu_percent`` of one core, 1 at least; and
        ``pids_max`` processes and threads. The weights, of 1 to 10000, are its shares where others want the same; a
        kernel may have no scheduler of disks that knows any, and then that one does nothing.

        Raises :class:`ProcessError` when ``controllers`` has not what a limit needs, or the kernel refuses.
        """
        asked = (
            ("memory", memory_max), ("cpu", cpu_percent), ("pids", pids_max), ("cpu", cpu_weight), ("io", io_weight)
        )  # fmt: skip
        lacking = [name for name, limit in asked if limit is not None and name not in self._folders]
        if lacking:
            raise ProcessError(f"cgroups of this process cannot limit {' and '.join(lacking)}")
        name = new_name()
        folders = {controller: folder / name for controller, folder in self._folders.items()}
        made: list[Path] = []
        try:
            for folder in set(folders.values()):
                folder.mkdir()
                made.append(folder)
            is_v2 = self._nest is not None
            limits = _limits(memory_max, cpu_percent, pids_max, is_v2=is_v2)
            for controller, file, value, is_needed in (
                *limits,
                *_weights(cpu_weight, io_weight, is_v2=is_v2),
            ):
                path = folders[controller] / file
                if is_needed or path.exists():
                    path.write_text(str(value))
        except OSError as error:
            for folder in made:
                remove(folder)
            raise ProcessError(f"a cgroup could not be made: {error.strerror}") from error
        return Cgroup(folders, is_v2=self._nest is not None)

    def close(self) -> None:
        """Put this process back to where it was."""
        if self._nest is not None:
            self._nest.leave()


def _limits(
    memory_max: int | None, cpu_percent: float | None, pids_max: int | None, *, is_v2: bool
) -> Iterable[tuple[str, str, str | int, bool]]:
    """Controller, file, value, and whether every kernel with the controller has the file."""
    if memory_max is not None and is_v2:
        yield "memory", "memory.max", memory_max, True
        yield (
            "memory",
            "memory.swap.max",
            0,
            False,
        )  # a process over its limit shall end, not slow the machine down
    elif memory_max is not None:
        yield "memory", "memory.limit_in_bytes", memory_max, True
        yield "memory", "memory.memsw.limit_in_bytes", memory_max, False
    if cpu_percent is not None:
        quota = round(_PERIOD * cpu_percent / 100)
        if is_v2:
            yield "cpu", "cpu.max", f"{quota} {_PERIOD}", True
        else:
            yield "cpu", "cpu.cfs_period_us", _PERIOD, True
            yield "cpu", "cpu.cfs_quota_us", quota, True
    if pids_max is not None:
        yield "pids", "pids.max", pids_max, True


def _weights(
    cpu_weight: int | None, io_weight: int | None, *, is_v2: bool
) -> Iterable[tuple[str, str, str | int, bool]]:
    if cpu_weight is not None and is_v2:
        yield "cpu", "cpu.weight", cpu_weight, True
    elif cpu_weight is not None:
        yield "cpu", "cpu.shares", max(2, cpu_weight * 1024 // 100), True
    if io_weight is not None:  # the io controller is version 2's
        yield "io", "io.weight", f"default {io_weight}", False
        yield "io", "io.bfq.weight", f"default {min(io_weight, 1000)}", False


def parse_counts(text: str) -> dict[str, int]:
    """Lines of ``name number``, as memory.events and memory.oom_control have them; others are left out."""
    found: dict[str, int] = {}
    for line in text.split("\n"):
        match line.split(" "):
            case [name, number] if number.isascii() and number.isdigit() and len(number) <= 20:
                found[name] = int(number)
    return found
