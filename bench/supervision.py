"""What looking after processes costs: pings, crashes, pages at rest, a bitmap handed over. All in one run.

    python bench/supervision.py [--quick] [--json]

Each row says what its time is made of in the function that measures it. What stands beside ours is measured in the
same run, in turn with ours, so that both meet the same machine; figures are medians. Memory is PSS, summed over the
browser's process, the zygote, its branches and all that they forked; reading it needs root, because sandboxed
processes are not dumpable.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from cloister import AsyncBrowser, Browser, NetworkPolicy
from cloister.browser.async_page import AsyncPage
from cloister.browser.renderer import Renderer
from cloister.interfaces.web_content import PAGE, Paint, Painted
from cloister.ipc import Channel, Connection, Descriptors, memory
from cloister.process import ChildProcess
from processes import DEADLINE, adopt_orphans, descendants, helper, new_processes, pss
from table import Row, ratio, table

PAGES = 50
SETTLE = 4  # seconds in which a page lets go of what it no longer needs
PAUSE = 0.3  # seconds between two timings, so that neither pays for what the other still clears away
AT_A_TIME = 100  # round trips of one kind before those of the other
WORDS = 64  # bytes of a raw round trip; a Ping is 13, a Paint 20
BITMAP = (2048, 1024)  # pixels of four bytes: 8 MiB
WAIT = 10.0  # seconds for anything that is waited for


@contextmanager
def peer(role: str) -> Iterator[tuple[socket.socket, int]]:
    """This script again as another process, at the other end of a socketpair, and its pid. It ends with its channel."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, __file__, "--peer", role, str(there.fileno())]
    with here, subprocess.Popen(command, pass_fds=[there.fileno()]) as process:
        there.close()
        try:
            yield here, process.pid
        finally:
            here.close()
            process.wait(DEADLINE)


def echo(channel: int) -> None:
    """The peer of a raw round trip: blocking calls, and nothing else."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=channel) as there:
        while data := there.recv(WORDS):
            there.send(data)


def ballast(channel: int) -> None:
    """The peer of a crash: a plain process with as much memory of its own as it is told, in pages of 4 KiB."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fileno=channel) as there:
        size = int(there.recv(WORDS))
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        pages.madvise(mmap.MADV_NOHUGEPAGE)
        for start in range(0, size, mmap.PAGESIZE):
            pages[start] = 1
        there.send(b"ready")
        there.recv(WORDS)


def paint(channel: int) -> None:
    """The peer of a hand-over: it maps each bitmap as a page does, checks included, and answers."""

    async def painted(message: Paint, fds: Descriptors) -> Painted:
        fd = fds.take()
        try:
            memory.map_bitmap(fd, message.width * message.height * 4).close()
        finally:
            os.close(fd)
        return Painted()

    async def serve() -> None:
        gone = asyncio.Event()
        Connection(Channel(channel), PAGE, "server", {Paint: painted}, on_close=lambda _error: gone.set())
        await gone.wait()

    asyncio.run(serve())


def hold(url: str, host: str) -> None:
    """Hold fifty pages open until stdin closes."""
    with Browser(network=NetworkPolicy(allow_hosts=[host]), max_live_pages=PAGES) as browser:
        for number in range(PAGES):
            page = browser.new_page()
            page.goto(f"{url}?{number}")
            page.screenshot()
        time.sleep(SETTLE)
        print(len(browser.pages), flush=True)
        sys.stdin.read()


# ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Bench:
    """Where the site is, and how often to try."""

    def __init__(self, host: str, *, quick: bool) -> None:
        self.host = host
        self.url = f"http://{host}/"
        self._quick = quick

    def times(self, full: int, quick: int) -> range:
        return range(quick if self._quick else full)

    def browser(self) -> AsyncBrowser:
        return AsyncBrowser(network=NetworkPolicy(allow_hosts=[self.host]))


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    await work()
    return (time.perf_counter() - started) * 1000


def raw_trip(here: socket.socket) -> float:
    """Milliseconds from send() to the end of recv(), both blocking."""
    started = time.perf_counter()
    here.send(bytes(WORDS))
    here.recv(WORDS)
    return (time.perf_counter() - started) * 1000


async def ping_rows(bench: Bench) -> list[Row]:
    """``ChildProcess.ping`` of a loaded page's process, in a browser where nothing else goes on.

    Ours: encode, send, the child's event loop, decode there, answer, decode here, and the wake-up of who waits;
    under the sandbox's system call filter on that side. The peer: a bare recv() and send() in a plain process, which
    this process asks with blocking calls. Which cores the two are on decides more than anything that they do, so
    both are told: to wake a core that sleeps takes five times what a switch on one core does.
    """
    here, *others = sorted(os.sched_getaffinity(0))
    async with bench.browser() as browser:
        page = await loaded(browser, bench.url)
        await asyncio.sleep(SETTLE)
        (child,) = (each for each in renderer(page).processes if each.kind == "web_content")
        rows = [await ping_row(bench, child, "both on one core", here, here)]
        if others:
            # The bound is for this one, as processes that have work run on cores of their own. Of a round trip on one
            # core two event loops take more than the system calls do, whatever passes through them.
            rows[0] = replace(rows[0], bound="", holds=None)
            rows.insert(0, await ping_row(bench, child, "each on a core of its own", here, others[0]))
    return rows


async def ping_row(bench: Bench, child: ChildProcess, where: str, here: int, there: int) -> Row:
    ours: list[float] = []
    raw: list[float] = []
    cores = os.sched_getaffinity(0)
    with peer("echo") as (channel, pid):
        os.sched_setaffinity(pid, {there})
        os.sched_setaffinity(child.pid, {there})
        os.sched_setaffinity(0, {here})
        try:
            for _ in range(AT_A_TIME):
                raw_trip(channel)
                await child.ping()
            for _ in bench.times(20, 4):
                raw += [raw_trip(channel) for _ in range(AT_A_TIME)]
                ours += [await timed(child.ping) for _ in range(AT_A_TIME)]
        finally:
            os.sched_setaffinity(0, cores)
    mine, theirs = ([1000 * each for each in took] for took in (ours, raw))
    return ratio(f"ping of a locked-down child, {where}", "µs", mine, theirs, 2, "")


async def crash_rows(bench: Bench) -> list[Row]:
    """What follows the SIGKILL of a page's process, 0.3 s after it was looked at."""
    async with bench.browser() as browser:
        page = await loaded(browser, bench.url)
        heard = asyncio.Event()
        page.on("crash", lambda _page: heard.set())

        async def crash() -> None:
            heard.clear()
            os.kill(renderer(page).web_content.pid, signal.SIGKILL)
            async with asyncio.timeout(WAIT):
                await heard.wait()

        return [await noticed_row(bench, page, crash), await back_row(bench, browser, page, crash)]


async def noticed_row(bench: Bench, page: AsyncPage, crash: Callable[[], Awaitable[None]]) -> Row:
    """From just before the signal until ``page.on("crash")`` is called. Beside it stands the kernel's share: a plain
    process with as much memory of its own, from the signal until its pidfd says that it has ended."""
    noticed: list[float] = []
    plain: list[float] = []
    for _ in bench.times(20, 5):
        await asyncio.sleep(PAUSE)
        size = own_memory(renderer(page).web_content.pid)
        noticed.append(await timed(crash))
        plain.append(plain_end(size))
        await page.reload()
        await page.screenshot()
    took = statistics.median(noticed)
    return Row("a crash is noticed", "ms", took, statistics.median(plain), took, "≤ 5 ms", took <= 5)


async def back_row(
    bench: Bench, browser: AsyncBrowser, page: AsyncPage, crash: Callable[[], Awaitable[None]]
) -> Row:
    """``reload()`` and a screenshot after a crash, beside a new page with ``goto()`` and a screenshot of the same."""
    back: list[float] = []
    fresh: list[float] = []
    opened: list[AsyncPage] = []

    async def come_back() -> None:
        await page.reload()
        await page.screenshot()

    async def begin() -> None:
        opened.append(await loaded(browser, bench.url))

    for _ in bench.times(20, 5):
        await asyncio.sleep(PAUSE)
        await crash()
        await asyncio.sleep(PAUSE)
        back.append(await timed(come_back))
        await asyncio.sleep(PAUSE)
        fresh.append(await timed(begin))
        await opened.pop().close()
    return ratio("a page back after a crash, beside a fresh one", "ms", back, fresh, 1.5, "")


def own_memory(pid: int) -> int:
    """Bytes that a process shares with no file (proc(5))."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (kibibytes,) = (int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
    return kibibytes * 1024


def plain_end(size: int) -> float:
    """Milliseconds that the kernel takes to end a process with ``size`` bytes."""
    with peer("ballast") as (channel, pid):
        channel.send(str(size).encode())
        channel.recv(WORDS)
        pidfd = os.pidfd_open(pid)
        try:
            ended = select.poll()
            ended.register(pidfd, select.POLLIN)
            time.sleep(PAUSE)
            started = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            ended.poll(WAIT * 1000)
            return (time.perf_counter() - started) * 1000
        finally:
            os.close(pidfd)


async def loaded(browser: AsyncBrowser, url: str) -> AsyncPage:
    """A new page that shows ``url``, and was looked at."""
    page = await browser.new_page()
    await page.goto(url)
    await page.screenshot()
    return page


def renderer(page: AsyncPage) -> Renderer:
    """What is behind a page: programs have no ping of their own."""
    assert page._renderer is not None
    return page._renderer


def idle_row(bench: Bench) -> Row:
    """All processes of a browser with fifty pages at rest, divided by fifty: the Python process that is the browser,
    the zygote, its four branches, the lookup_server and a spare decoder are in the sum."""
    before = descendants(os.getpid())
    with helper("supervision.py", "--hold", bench.url, bench.host) as answer:
        if answer.strip() != str(PAGES):
            raise RuntimeError("the pages were not opened")
        each = pss(new_processes(before)) / PAGES
    return Row(
        f"{PAGES} idle pages, PSS of all processes, each", "MiB", each, None, each, "≤ 15 MiB", each <= 15
    )


async def bitmap_row(bench: Bench) -> Row:
    """A bitmap of 8 MiB is made, sent with a Paint, checked and mapped by another process, and Painted comes back.

    It is the message of a screenshot and the same code on both sides, without the painting: nobody touches a pixel,
    so the kernel gives no memory to it yet. The other process is a plain one."""
    width, height = BITMAP
    took: list[float] = []
    with peer("paint") as (channel, _pid):
        connection = Connection(Channel(channel.detach()), PAGE, "client")

        async def hand_over() -> None:
            fd = memory.create_bitmap(width * height * 4)
            await connection.request(Paint(0, 0, width, height), [fd], timeout=WAIT)

        await hand_over()
        for _ in bench.times(500, 100):
            took.append(await timed(hand_over))
        connection.close()
    mine = statistics.median(took)
    return Row("a bitmap of 8 MiB handed over, and the answer", "ms", mine, None, mine, "≤ 1 ms", mine <= 1)


# ── the run ─────────────────────────────────────────────────────────────────────────────────────────────────────


async def measure(bench: Bench) -> list[Row]:
    return [*await ping_rows(bench), *await crash_rows(bench), idle_row(bench), await bitmap_row(bench)]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--json", action="store_true", help="rows as JSON")
    parser.add_argument("--hold", nargs=2, metavar=("URL", "HOST"), help=argparse.SUPPRESS)
    parser.add_argument("--peer", nargs=2, metavar=("ROLE", "FD"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.hold:
        hold(*arguments.hold)
        return 0
    if arguments.peer:
        role, channel = arguments.peer
        {"echo": echo, "ballast": ballast, "paint": paint}[role](int(channel))
        return 0
    adopt_orphans()
    with tempfile.TemporaryDirectory() as state, helper("site_server.py") as line:
        os.environ["XDG_STATE_HOME"] = state  # the crashes of this benchmark are nobody's to look into
        bench = Bench(f"localhost:{line.split()[0]}", quick=arguments.quick)
        rows = asyncio.run(measure(bench))
    print(json.dumps([asdict(row) for row in rows], indent=2) if arguments.json else table(rows))
    return 0 if all(row.holds is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
