"""What is left of a process that ended as it should not have: a report for whoever looks after the program."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

from .handle import ChildProcess

__all__ = ["report_crash"]

log = logging.getLogger("cloister.process")

_PINGS = ("Ping", "Pong")  # two a second, of no interest


async def report_crash(child: ChildProcess, plugin: str | None = None) -> None:
    """Write the report of an ended ``child``; ``plugin`` is the one that it ran. One that cannot be written is logged,
    and nothing else."""
    status = child.status
    if status is None:
        return
    facts: dict[str, Any] = {
        "kind": child.kind,
        "pid": child.pid,
        "end": child.ending,
        "site": child.site,
        "plugin": plugin,
        "trace": child.last_words.text if child.last_words else "",
        "messages": [seen for each in child.connections for seen in each.recent() if seen[1] not in _PINGS],
        "layers": child.report.layers if child.report else (),
    }
    used = {
        "max_rss_bytes": status.max_rss,
        "cpu_seconds": status.cpu_seconds,
        "age_seconds": time.monotonic() - child.started,
    }
    await asyncio.to_thread(_write, facts, used)


def _write(facts: dict[str, Any], used: dict[str, Any]) -> None:
    """In a thread: it looks up versions and writes a file."""
    try:
        from .crashes import CrashReport, CrashStore, ResourceUse

        CrashStore().write(CrashReport.of(**facts, usage=ResourceUse(**used)))
    except (OSError, ImportError) as error:  # no descriptor is left to read what is imported
        log.warning("no crash report of %s %d was kept: %s", facts["kind"], facts["pid"], error)
