"""What a process uses now, from /proc."""

from __future__ import annotations

import dataclasses
import os
import re
import time
from pathlib import Path

__all__ = ["Usage", "age", "usage"]

_PSS = re.compile(r"^Pss:\s+(\d+) kB$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Usage:
    """``pss_bytes`` is what is resident, shared pages in full, unless ``exact``: an unprivileged browser may not ask
    more about a child that is not dumpable. ``descriptors`` is None where the kernel does not tell."""

    pss_bytes: int
    exact: bool
    cpu_seconds: float
    descriptors: int | None


def usage(pid: int) -> Usage | None:
    """None when there is no such process."""
    process = Path(f"/proc/{pid}")
    try:
        fields = _stat(process)
        resident = int((process / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        pss = _PSS.search((process / "smaps_rollup").read_text())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        pss = None
    try:
        descriptors = sum(1 for _ in (process / "fd").iterdir())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        descriptors = None
    return Usage(
        pss_bytes=int(pss[1]) * 1024 if pss else resident,
        exact=pss is not None,
        cpu_seconds=(int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"),  # utime and stime
        descriptors=descriptors,
    )


def age(pid: int) -> float:
    """Seconds since the process began; 0 when there is none."""
    try:
        began = int(_stat(Path(f"/proc/{pid}"))[19]) / os.sysconf("SC_CLK_TCK")
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - began)


def _stat(process: Path) -> list[str]:
    """proc_pid_stat(5) from its third field on: the second is a name of the process's own choice, in parentheses."""
    return (process / "stat").read_text(errors="replace").rpartition(")")[2].split()
