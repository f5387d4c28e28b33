"""``cloister top``: the processes of a user's browsers and plugins, live, with what each uses and what holds it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import termios
import tty
from argparse import Namespace
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cloister.errors import printable
from cloister.interfaces.monitor import BROWSER, PLUGIN_RUNTIME

from .lookout import Lookout, Seen

__all__ = ["top"]

TERMINATED = 128 + signal.SIGTERM
_KEY = re.compile(r"\x1b[\[O][A-D]|.", re.DOTALL)
_UP, _DOWN = ("k", "\x1b[A", "\x1bOA"), ("j", "\x1b[B", "\x1bOB")
_HELP = "↑ ↓ select · x kill · r reload the page · q quit"
_PIPE_WIDTH = 160  # columns of a table that no terminal shows


def top(arguments: Namespace) -> int:
    """One table, or as many as are wanted: whatever is no terminal gets one."""
    if arguments.once or arguments.json or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return asyncio.run(_once(as_json=arguments.json))
    return asyncio.run(_live(arguments.interval))


async def _once(*, as_json: bool) -> int:
    lookout = Lookout()
    try:
        seen = await lookout.look()
    finally:
        lookout.close()
    if as_json:
        print(json.dumps([_as_json(each) for each in seen], indent=2))
    elif seen:
        console = Console() if sys.stdout.isatty() else Console(width=_PIPE_WIDTH)
        console.print(_table(seen))
    else:
        print(lookout.trouble)
    return 0


async def _live(interval: float) -> int:
    lookout = Lookout()
    try:
        seen = await lookout.look()
        if not seen:
            print(lookout.trouble)
            return 0
        events: asyncio.Queue[str | list[Seen]] = asyncio.Queue()
        with _keys(events.put_nowait), Live(screen=True, auto_refresh=False) as live:
            return await _Screen(lookout, live, seen).show(events, interval)
    finally:
        lookout.close()


class _Screen:
    """What is shown, and which process is selected."""

    def __init__(self, lookout: Lookout, live: Live, seen: list[Seen]) -> None:
        self._lookout = lookout
        self._live = live
        self._seen = seen
        self._at = 0
        self._said = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def show(self, events: asyncio.Queue[str | list[Seen]], interval: float) -> int:
        """Until a key or a signal ends it; the exit code."""
        self._begin(self._look(events, interval))
        try:
            while True:
                self._draw()
                event = await events.get()
                if isinstance(event, list):
                    self._update(event)
                elif event in ("q", ""):
                    return 0
                elif event == "SIGTERM":
                    return TERMINATED
                else:
                    self._press(event)
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _look(self, events: asyncio.Queue[str | list[Seen]], interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            events.put_nowait(await self._lookout.look())

    def _press(self, key: str) -> None:
        if key in _UP:
            self._at = max(0, self._at - 1)
        elif key in _DOWN:
            self._at = max(0, min(len(self._seen) - 1, self._at + 1))
        elif key in ("x", "r") and self._seen:
            act = self._lookout.kill if key == "x" else self._lookout.reload
            self._begin(self._act(act, self._seen[self._at]))

    async def _act(self, act: Callable[[Seen], Coroutine[None, None, str]], seen: Seen) -> None:
        self._said = await act(seen)
        self._update(await self._lookout.look())
        self._draw()

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _update(self, seen: list[Seen]) -> None:
        """The selection stays on its process, or where that was."""
        keys = [each.key for each in seen]
        selected = self._seen[self._at].key if self._seen else None
        self._at = keys.index(selected) if selected in keys else max(0, min(self._at, len(seen) - 1))
        self._seen = seen

    def _draw(self) -> None:
        rows = max(1, self._live.console.height - 3)  # without the head, and two lines below
        first = max(0, min(self._at - rows // 2, len(self._seen) - rows))
        shown = self._seen[first : first + rows]
        body = _table(shown, self._at - first) if shown else Text(self._lookout.trouble)
        programs = len({each.browser for each in self._seen})
        total = sum(each.row.pss_bytes for each in self._seen) / 2**20
        below = f"{len(self._seen)} processes · {programs} browsers or plugin runtimes · {total:.0f} MiB"
        said = Text(printable(self._said, 200), "yellow")
        self._live.update(Group(body, said, Text(f"{below}   {_HELP}", "dim")), refresh=True)


@contextmanager
def _keys(put: Callable[[str], None]) -> Iterator[None]:
    """Each key as it is pressed, an empty string at the end of input, "SIGTERM" at that; the terminal is as it was
    afterwards. Ctrl-C stays the interrupt that it is."""
    loop = asyncio.get_running_loop()
    fd = sys.stdin.fileno()

    def read() -> None:
        try:
            data = os.read(fd, 1024)
        except OSError:  # EIO: the terminal was closed
            data = b""
        if not data:
            loop.remove_reader(fd)
            put("")
        for key in _KEY.findall(data.decode("ascii", "replace")):
            put(key)

    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        loop.add_reader(fd, read)
        loop.add_signal_handler(signal.SIGTERM, put, "SIGTERM")
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        loop.remove_reader(fd)
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def _table(seen: Sequence[Seen], selected: int = -1) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="bold", pad_edge=False)
    for name in ("kind", "site or plugin", "state"):
        table.add_column(name, no_wrap=True, overflow="ellipsis")
    for name in ("pid", "CPU %", "PSS MiB", "fds", "age", "messages/s"):
        table.add_column(name, no_wrap=True, justify="right")
    table.add_column("layers", no_wrap=True, overflow="ellipsis")
    for index, each in enumerate(seen):
        table.add_row(*_cells(each), style="reverse" if index == selected else "")
    return table


def _cells(seen: Seen) -> Iterator[Text]:
    row = seen.row
    is_program = row.kind in (BROWSER, PLUGIN_RUNTIME)
    yield Text(printable(row.kind if is_program else f"  {row.kind}"), "bold" if is_program else "")
    yield Text(printable(row.site))
    yield Text(printable(row.state), "" if row.state in ("running", "spare") else "yellow")
    yield Text(str(row.pid))
    yield Text(f"{seen.cpu_percent:.1f}")
    yield Text(f"{'' if row.exact else '~'}{row.pss_bytes / 2**20:.1f}")
    yield Text("?" if row.descriptors is None else str(row.descriptors))
    yield Text(_age(row.age_seconds))
    yield Text("" if is_program else f"{seen.messages_per_second:.1f}")
    yield _layers(seen)


def _layers(seen: Seen) -> Text:
    row = seen.row
    if not row.missing:
        return Text(str(len(row.layers)) if row.layers else "")
    return Text(printable(f"{len(row.layers)}, not {', '.join(row.missing)}"), "yellow")


def _age(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _as_json(seen: Seen) -> dict[str, object]:
    rates = {
        "cpu_percent": round(seen.cpu_percent, 2),
        "messages_per_second": round(seen.messages_per_second, 2),
    }
    return {"browser": seen.browser, **msgspec.structs.asdict(seen.row), **rates}
