"""What a process uses now: memory, processor time, descriptors, threads. From /proc, and cheap where it can be.

A child is not dumpable, so /proc gives only the world's part of it to an unprivileged browser; root, and whoever has
CAP_SYS_PTRACE over the child's user namespace, sees all of it. What each is told, and what it costs:

=============  ==========================================  ================  ==========
figure         from                                        unprivileged      µs
=============  ==========================================  ================  ==========
PSS            /proc/PID/smaps_rollup (Linux 4.14)         no                20 per MiB
resident       /proc/PID/status                            yes               20
CPU seconds    the process's CPU clock (Linux 2.6.12)      yes               0.5
descriptors    stat() of /proc/PID/fd (Linux 6.2)          yes               5
descriptors    listing /proc/PID/fd, before that           no                15
threads        /proc/PID/status                            yes               with resident
=============  ==========================================  ================  ==========

A /proc mounted with ``hidepid=2`` hides non-dumpable processes whole; then there are only CPU seconds.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple

from ..errors import descriptors_left

__all__ = ["Usage", "cpu_seconds", "descriptor_count", "parent_of", "pss", "resident", "usage"]

_MOST = 65536
"""Bytes read of one file of /proc. They have a tenth of that."""


class Usage(NamedTuple):
    """What one process used when it was asked."""

    pss_bytes: int
    """Its memory: private pages in full, shared ones by its share of them, swapped ones too. Exact if ``exact``;
    otherwise an upper estimate, :func:`resident`, that counts in full what a fork shares with its zygote (half of
    an idle child)."""
    exact: bool
    cpu_seconds: float
    descriptors: int | None
    """None where the kernel does not tell: unprivileged, before Linux 6.2."""
    threads: int


def usage(pid: int) -> Usage | None:
    """All of it; None when there is no such process, or none that /proc shows.

    The page tables are walked for PSS: 0.7 ms for an idle child, 10 ms for one with 512 MiB. A supervisor of many
    asks :func:`resident` first, which is never less, and this only about those that may be over their limit.
    """
    status = _fields_of(pid)
    seconds = cpu_seconds(pid)
    if status is None or seconds is None:
        return None
    exact = pss(pid)
    return Usage(
        pss_bytes=_resident(status) if exact is None else exact,
        exact=exact is not None,
        cpu_seconds=seconds,
        descriptors=descriptor_count(pid),
        threads=status.get("Threads", 0),
    )


def pss(pid: int) -> int | None:
    """Bytes of memory, exact: the proportional set size, and the same of what is swapped out (proc_pid_smaps(5)).

    None when the process may not be looked at (an unprivileged browser's children), is gone, or is a zombie, which
    has no memory.
    """
    text = _read(f"/proc/{pid}/smaps_rollup")
    if text is None:
        return None
    found = parse_fields(text)
    return None if "Pss" not in found else found["Pss"] + found.get("SwapPss", 0)


def resident(pid: int) -> int | None:
    """Bytes of memory, an upper estimate of :func:`pss`: all that is mapped and in memory, shared or not, and what
    is swapped out. 0 for a zombie, None when the process is gone.

    Since Linux 6.2 the kernel may add it up loosely: 32 pages for each processor, more with many, are not in it yet.
    """
    status = _fields_of(pid)
    return None if status is None else _resident(status)


def cpu_seconds(pid: int) -> float | None:
    """Seconds of processor time, user and system, of all threads, ended ones too; to the nanosecond. None when the
    process is gone.

    The clock is the one of clock_getcpuclockid(3), which any process may read of any other. Python has no name for
    that call; its result is this arithmetic (``make_process_cpuclock`` of the kernel, in its ABI since 2.6.12).
    """
    if pid <= 0:  # 0 would be this process
        return None
    cpuclock_sched = 2
    try:
        return time.clock_gettime(~pid << 3 | cpuclock_sched)
    except OSError:  # EINVAL: no such process
        return None


def descriptor_count(pid: int) -> int | None:
    """Open descriptors; None when the kernel does not tell, or the process is gone."""
    folder = Path("/proc", str(pid), "fd")
    try:
        # The size is the count since Linux 6.2, and 0 before. A child has one at least: its control channel.
        return folder.stat().st_size or sum(1 for _ in folder.iterdir())
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def parse_fields(text: str) -> dict[str, int]:
    """The numbers of ``status`` and ``smaps_rollup``: ``Name: 12 kB`` in bytes, ``Name: 12`` as it is. Lines of any
    other form are left out."""
    fields: dict[str, int] = {}
    # Not splitlines(): status begins with a name that the process chose itself. The kernel escapes a line feed in
    # it, but not the other characters at which Python breaks lines, and a child could add a line of its own.
    for line in text.split("\n"):
        name, _, value = line.partition(":")
        match value.split():
            case [number] if _is_number(number):
                fields[name] = int(number)
            case [number, "kB"] if _is_number(number):
                fields[name] = int(number) * 1024
    return fields


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 20  # 2⁶⁴ has 20 digits


def _resident(status: dict[str, int]) -> int:
    return status.get("VmRSS", 0) + status.get("VmSwap", 0)


def parent_of(pid: int) -> int | None:
    """The pid of the process that started it; None when it is gone, or hidden. It is asked for each process that is
    forked: the fifty other lines are not looked at."""
    text = _read(f"/proc/{pid}/status")
    if text is None:
        return None
    number = text.partition("\nPPid:")[2].partition("\n")[0].strip()
    return int(number) if _is_number(number) else None


def _fields_of(pid: int) -> dict[str, int] | None:
    """The numbers of /proc/PID/status; None when the process is gone, or hidden."""
    text = _read(f"/proc/{pid}/status")
    return None if text is None else parse_fields(text)


def _read(path: str) -> str | None:
    try:
        with descriptors_left(), open(path, "rb") as file:  # noqa: PTH123
            return file.read(_MOST).decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
