"""What ``cloister top`` knows: the processes of every browser of this user, and of every runtime of plugins, asked for
at their monitors."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import os
import time

import msgspec

from cloister.errors import CloisterError, ProcessError, RequestFailed, TimeoutError
from cloister.interfaces.base import Request
from cloister.interfaces.monitor import (
    BROWSER,
    MAX_TABLE,
    MONITOR,
    Done,
    GetProcesses,
    KillProcess,
    ProcessRow,
    ProcessRows,
    ReloadPage,
)
from cloister.ipc import Connection, blob
from cloister.ipc.codec import decoded
from cloister.process import monitor

__all__ = ["Lookout", "Seen"]

_PATIENCE = 2.0
"""Seconds in which a browser says what runs. It takes some milliseconds for each process."""
_RELOAD = 35.0
"""Seconds for a page to be loaded again: its own time is 30."""
_ROWS: msgspec.msgpack.Decoder[tuple[ProcessRow, ...]] = msgspec.msgpack.Decoder(ProcessRows)


@dataclasses.dataclass(frozen=True)
class Seen:
    """A process of the browser, or the runtime of plugins, ``browser`` (the pid of its program, and which of that
    program's it is).

    The rates are those since the look before; at the first look, since the process began.
    """

    browser: str
    row: ProcessRow
    cpu_percent: float
    messages_per_second: float

    @property
    def key(self) -> tuple[str, int]:
        """Which process this is, from one look to the next."""
        return self.browser, self.row.pid


class Lookout:
    """Belongs to the event loop that it is used on. ``trouble`` says why no browser is to be seen, if none is."""

    def __init__(self) -> None:
        self.trouble = ""
        self._connections: dict[str, Connection] = {}
        self._before: dict[tuple[str, int], tuple[float, ProcessRow]] = {}

    async def look(self) -> list[Seen]:
        """Every process: browser by browser, each before its children."""
        names = self._connect()
        tables = await asyncio.gather(*(self._table(name) for name in names))
        seen = [
            self._seen(name.removesuffix(".sock"), row)
            for name, rows in zip(names, tables, strict=True)
            for row in rows
        ]
        now = time.monotonic()
        self._before = {each.key: (now, each.row) for each in seen}
        self.trouble = self.trouble or ("" if seen else "No browser is running, and no plugin.")
        return seen

    async def kill(self, seen: Seen) -> str:
        """End a process; what became of that, in a few words."""
        return await self._ask(seen, KillProcess(seen.row.pid), _PATIENCE, "killed")

    async def reload(self, seen: Seen) -> str:
        """Load a process's page again; what became of that, in a few words."""
        return await self._ask(seen, ReloadPage(seen.row.pid), _RELOAD, "page loaded again")

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def _connect(self) -> list[str]:
        """Be connected to every browser that there is; their names."""
        self.trouble = ""
        try:
            folder = monitor.open_folder(create=False)
        except OSError as error:
            if error.errno != errno.ENOENT:  # then there was never one
                self.trouble = f"No browser can be found: {error}."
            return []
        try:
            names = sorted(monitor.sockets(folder), key=lambda name: [int(n) for n in name[:-5].split("-")])
            for name in names:
                if name not in self._connections or self._connections[name].closed:
                    self._connections.pop(name, None)
                    try:
                        self._connections[name] = Connection(monitor.connect(folder, name), MONITOR, "client")
                    except OSError:  # what a killed program left, or one that just ends
                        continue
        finally:
            os.close(folder)
        for name in self._connections.keys() - set(names):
            self._connections.pop(name).close()
        return [name for name in names if name in self._connections]

    async def _table(self, name: str) -> tuple[ProcessRow, ...]:
        connection = self._connections[name]
        try:
            reply, fds = await connection.request(GetProcesses(), timeout=_PATIENCE)
            rows = decoded(_ROWS, blob.unpack(reply.body, fds, MAX_TABLE), "the table")
        except TimeoutError:
            pid = int(name.partition("-")[0])
            before = self._before.get((name.removesuffix(".sock"), pid))
            return (ProcessRow(before[1].kind if before else BROWSER, pid, "unresponsive"),)
        except (ProcessError, RequestFailed):  # it ends, or it is no browser of ours
            connection.close()
            return ()
        return rows

    def _seen(self, browser: str, row: ProcessRow) -> Seen:
        messages = row.sent + row.received
        if (before := self._before.get((browser, row.pid))) is None:
            seconds, cpu = row.age_seconds, row.cpu_seconds
        else:
            seconds, cpu = time.monotonic() - before[0], row.cpu_seconds - before[1].cpu_seconds
            messages -= before[1].sent + before[1].received
        if seconds <= 0:
            return Seen(browser, row, 0.0, 0.0)
        return Seen(browser, row, max(0.0, 100 * cpu / seconds), max(0.0, messages / seconds))

    async def _ask(self, seen: Seen, request: Request[Done], timeout: float, done: str) -> str:
        what = f"{seen.row.kind} {seen.row.pid}"
        connection = self._connections.get(f"{seen.browser}.sock")
        if connection is None:
            return f"{what}: its browser is gone"
        try:
            await connection.request(request, timeout=timeout)
        except CloisterError as error:
            return f"{what}: {error}"
        return f"{what}: {done}"
