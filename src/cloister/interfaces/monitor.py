"""monitor ──> browser, or runtime of plugins. Whoever looks on (``cloister top``) is the client; the browser or the
runtime answers, and asks nothing."""

from typing import Annotated

import msgspec
from msgspec import Meta

from .base import Blob, ByteCount, Interface, ProcessId, Reply, Request
from .control import LayerName

__all__ = [
    "BROWSER",
    "MAX_TABLE",
    "MONITOR",
    "PLUGIN_RUNTIME",
    "Done",
    "GetProcesses",
    "KillProcess",
    "ProcessRow",
    "ProcessRows",
    "ProcessTable",
    "ReloadPage",
]

MAX_TABLE = 16 * 2**20
"""Bytes of a table. A row has some 500."""

BROWSER = "browser"
PLUGIN_RUNTIME = "plugin_runtime"
"""Kinds of what listens: the first row of a table."""

Name = Annotated[str, Meta(max_length=64)]
Seconds = Annotated[float, Meta(ge=0, le=1e10)]
Count = Annotated[int, Meta(ge=0, le=2**63 - 1)]


class ProcessRow(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One process. ``site`` is the scheme and host of its page and no more: whoever looks on need not know which page.
    For a plugin's it is the plugin's name.

    ``state`` is "starting", "running", "unresponsive", "spare" (nobody has used it yet), "ended", or for a page that
    has no process any more "crashed" or "discarded", with the pid of the one that it had.
    ``pss_bytes`` is an estimate unless ``exact``; ``descriptors`` is None where the kernel does not tell. ``sent``
    and ``received`` count the browser's messages to it and from it. ``layers`` of its sandbox are in force,
    ``missing`` are those that the kernel could not give.
    """

    kind: Name
    pid: ProcessId
    state: Name
    site: Annotated[str, Meta(max_length=300)] = ""
    sent: Count = 0
    received: Count = 0
    layers: Annotated[tuple[LayerName, ...], Meta(max_length=32)] = ()
    missing: Annotated[tuple[LayerName, ...], Meta(max_length=32)] = ()
    age_seconds: Seconds = 0.0
    cpu_seconds: Seconds = 0.0
    pss_bytes: ByteCount = 0
    exact: bool = False
    descriptors: Count | None = None


ProcessRows = Annotated[tuple[ProcessRow, ...], Meta(max_length=20_000)]


class ProcessTable(Reply, frozen=True):
    body: Blob  # ProcessRows in msgpack: the program itself, then its children


class GetProcesses(Request[ProcessTable], frozen=True):
    """What runs?"""


class Done(Reply, frozen=True):
    """It is done."""


class KillProcess(Request[Done], frozen=True):
    """End a child. Fails with NO_PROCESS for any other."""

    pid: ProcessId


class ReloadPage(Request[Done], frozen=True):
    """Load the page that this child works for again, in new processes, also after its end. Fails with NO_PROCESS
    when it works for none, and with whatever the load fails with."""

    pid: ProcessId


MONITOR = Interface("monitor", client=(GetProcesses, KillProcess, ReloadPage))
