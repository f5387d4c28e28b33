"""What this program holds: its processes with their zombies, its descriptors by kind, its files. After a fault it
holds what it held before."""

from __future__ import annotations

import asyncio
import gc
import os
import re
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Holdings", "back_to_before", "descendants", "holdings"]

DEADLINE = 8.0
"""Seconds in which everything is back. Milliseconds are enough; this machine may be busy."""
_WITHOUT_HELP = 0.3
"""Seconds before the garbage collector is called: what hangs on a cycle is let go of sooner or later."""
_REPORT = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]+\.json")


@dataclass(frozen=True)
class Holdings:
    """``processes`` counts descendants by their state, ``descriptors`` and ``mapped`` by kind; ``files`` are those in
    the folders that were named, but for crash reports: they are there to stay."""

    processes: Counter[str]
    descriptors: Counter[str]
    mapped: Counter[str]
    files: frozenset[str]

    def differences(self, now: Holdings) -> list[str]:
        """In words; none when it is the same."""
        found = [
            f"{name}: {what} {now_count} instead of {count}"
            for name in ("processes", "descriptors", "mapped")
            for what, count, now_count in _changes(getattr(self, name), getattr(now, name))
        ]
        found += [f"a file was left: {path}" for path in sorted(now.files - self.files)]
        found += [f"a file is gone: {path}" for path in sorted(self.files - now.files)]
        return found


def holdings(folders: Iterable[Path] = ()) -> Holdings:
    """What it is now."""
    return Holdings(
        Counter("zombie" if state == "Z" else "alive" for _, state, _ in descendants()),
        Counter(_kind(what) for what in _descriptors()),
        Counter(_kind(line.split(maxsplit=5)[5].strip()) for line in _maps() if "/memfd:cloister" in line),
        frozenset(str(path) for folder in folders for path in folder.rglob("*") if _counts(path)),
    )


async def back_to_before(before: Holdings, folders: Iterable[Path] = ()) -> None:
    """Wait until it is ``before`` again; fail with what is not."""
    start = time.monotonic()
    while differences := before.differences(holdings(folders)):
        waited = time.monotonic() - start
        if waited > DEADLINE:
            tree = "\n".join(f"  {pid} {state} {command}" for pid, state, command in descendants())
            raise AssertionError("not as before: " + "; ".join(differences) + "\n" + tree)
        if waited > _WITHOUT_HELP:
            gc.collect()
        await asyncio.sleep(0.01)


def descendants(pid: int | None = None) -> list[tuple[int, str, str]]:
    """Every process below this one: pid, state (``Z`` for a zombie), command."""
    found = []
    for child in _children(pid or os.getpid()):
        try:
            state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
            command = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ").strip()
        except OSError:
            continue
        found += [(child, state, command), *descendants(child)]
    return found


def _children(pid: int) -> list[int]:
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    except OSError:  # it is gone
        pass
    return found


def _descriptors() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:  # the listing's own
            continue
    return [what for what in found if "/proc/" not in what]


def _maps() -> list[str]:
    return Path("/proc/self/maps").read_text().splitlines()


def _kind(what: str) -> str:
    """``socket`` for ``socket:[4711]``; a path as it is."""
    return what.partition(":[")[0].removesuffix(" (deleted)")


def _counts(path: Path) -> bool:
    return not _REPORT.fullmatch(path.name) and (path.is_symlink() or not path.is_dir())


def _changes(before: Counter[str], now: Counter[str]) -> list[tuple[str, int, int]]:
    return [(what, before[what], now[what]) for what in sorted(before | now) if before[what] != now[what]]
