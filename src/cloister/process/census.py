"""What a client of the monitor is told, and what it may do. Imported when the first client comes."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

import msgspec

from ..errors import CloisterError, RequestFailed
from ..interfaces.base import FailureCode, Message
from ..interfaces.monitor import (
    MONITOR,
    Done,
    GetProcesses,
    KillProcess,
    ProcessRow,
    ProcessTable,
    ReloadPage,
)
from ..ipc import Channel, Connection, Descriptors, blob
from ..ipc.connection import CloseHandler, Handler
from .handle import ChildProcess
from .usage import usage

__all__ = ["Census", "Watched", "row"]

_GONE = ("ended", "crashed", "discarded")


class Watched(Protocol):
    """What is watched: the children of one browser, or of one runtime of plugins."""

    def rows(self) -> list[ProcessRow]:
        """This program and each child, without what it uses: nothing that has to be waited for."""

    def kill(self, pid: int) -> bool:
        """End a child; False when ``pid`` is none."""

    async def reload(self, pid: int) -> bool:
        """Load the page that a child works for again; False when ``pid`` works for none."""


class Census:
    """Answers the clients of one monitor."""

    def __init__(self, watched: Watched) -> None:
        self._watched = watched
        self._counting = asyncio.Lock()
        self._reloads: set[asyncio.Task[bool]] = set()

    def serve(self, channel: Channel, on_close: CloseHandler) -> Connection:
        """Answer one client until it goes, or breaks the protocol."""
        handlers: dict[type[Message], Handler] = {
            GetProcesses: self._table,
            KillProcess: self._kill,
            ReloadPage: self._reload,
        }
        return Connection(channel, MONITOR, "server", handlers, on_close)

    async def close(self) -> None:
        for task in self._reloads:
            task.cancel()
        await asyncio.gather(*self._reloads, return_exceptions=True)

    async def _table(self, _message: GetProcesses, _fds: Descriptors) -> tuple[ProcessTable, list[int]]:
        async with self._counting:  # one thread, however many ask
            body, fds = blob.pack(await asyncio.to_thread(_counted, self._watched.rows()))
        return ProcessTable(body), fds

    async def _kill(self, message: KillProcess, _fds: Descriptors) -> Done:
        if not self._watched.kill(message.pid):
            raise RequestFailed(FailureCode.NO_PROCESS, f"{message.pid} is no child here")
        return Done()

    async def _reload(self, message: ReloadPage, _fds: Descriptors) -> Done:
        # A client that goes meanwhile takes nothing with it: a load that is cancelled would leave an empty page.
        task = asyncio.ensure_future(self._watched.reload(message.pid))
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)
        try:
            found = await asyncio.shield(task)
        except CloisterError as error:
            # Not its words: they have the page's address.
            code = getattr(error, "code", FailureCode.INTERNAL)
            raise RequestFailed(code, f"the page was not loaded: {type(error).__name__}") from None
        if not found:
            raise RequestFailed(FailureCode.NO_PROCESS, f"{message.pid} works for no page")
        return Done()


def row(child: ChildProcess, state: str | None = None) -> ProcessRow:
    """What is known of a child without asking anybody; ``state`` where more is known of it than the child's own."""
    report = child.report
    return ProcessRow(
        child.kind,
        child.pid,
        state or child.state,
        child.site or "",
        sum(each.sent for each in child.connections),
        sum(each.received for each in child.connections),
        tuple(report.layers) if report is not None else (),
        tuple(report.missing) if report is not None else (),
        time.monotonic() - child.started,
    )


def _counted(rows: list[ProcessRow]) -> bytes:
    """In a thread, because the kernel walks page tables for it: the rows with what each process uses."""
    return msgspec.msgpack.encode([_with_usage(each) for each in rows])


def _with_usage(row: ProcessRow) -> ProcessRow:
    used = usage(row.pid) if row.state not in _GONE else None  # its pid may be another's by now
    if used is None:
        return row
    return msgspec.structs.replace(
        row,
        cpu_seconds=used.cpu_seconds,
        pss_bytes=used.pss_bytes,
        exact=used.exact,
        descriptors=used.descriptors,
    )
