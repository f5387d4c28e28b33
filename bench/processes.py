"""The processes below this one: which there are, what memory they take, and how a benchmark starts its own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["DEADLINE", "adopt_orphans", "descendants", "helper", "new_processes", "peak_pss", "pss", "reap"]

DEADLINE = 120  # seconds for any one process of the benchmark
_PR_SET_CHILD_SUBREAPER = 36  # include/uapi/linux/prctl.h


def adopt_orphans() -> None:
    """Keep below this process whatever a child of it leaves behind."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def descendants(root: int) -> set[int]:
    """``root`` and every process below it; orphans too, after :func:`adopt_orphans`."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue  # it ended meanwhile
            children.setdefault(parent, []).append(int(folder.name))
    found, todo = {root}, [root]
    while todo:
        fresh = [pid for pid in children.get(todo.pop(), ()) if pid not in found]
        found.update(fresh)
        todo += fresh
    return found


def pss(pids: set[int]) -> float:
    """MiB, of the processes that still run. Raises PermissionError without the right to look."""
    total = 0
    for pid in pids:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 1024


def new_processes(before: set[int]) -> set[int]:
    """What runs below us now and did not ``before``."""
    return descendants(os.getpid()) - before


def peak_pss(command: list[str]) -> float:
    """The most MiB that ``command`` and all it starts had together, looked at as often as can be."""
    before = descendants(os.getpid())
    peak = 0.0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        end = time.monotonic() + DEADLINE
        while process.poll() is None and time.monotonic() < end:
            peak = max(peak, pss(new_processes(before)))
        process.kill()
    reap()
    return peak


def reap() -> None:
    """Take in the orphans that came to us as their subreaper."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


@contextmanager
def helper(script: str, *arguments: str) -> Iterator[str]:
    """A script beside this one as another process, and its first line; it ends with its standard input."""
    command = [sys.executable, str(Path(__file__).with_name(script)), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline()
        finally:
            process.stdin.close()
            process.wait(DEADLINE)
    reap()
