"""Page after page while processes are killed: is every load answered, do the others notice, does anything pile up?

    python bench/soak.py [--loads 2000] [--kills 0.05] [--at-once 8] [--seed N] [--json]

A load is ``new_page``, ``goto``, ``screenshot`` (``text`` every fourth time) and ``close``. In one load of twenty a
process is sent SIGKILL at a moment that chance decides: mostly one of that very page, at times an image decoder,
the lookup_server, or the zygote and with it everything. The last two are killed ``APART`` seconds apart, as the sixth
end of such a process within a minute opens its circuit breaker; a kill that comes too early for that takes the page's
own process instead.

A load is *undisturbed* when none of its own page's processes was killed, and none that serves all pages was killed,
or had yet to come back, while it ran. Whose image a decoder had cannot be seen from outside, so it serves all pages
here. Loads go in rounds of fifty: between two rounds nothing is loaded, and the memory of the browser's process is
read (RSS after ``gc.collect()``: this very process, the few bytes that the benchmark notes of each load included).
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import hashlib
import json
import logging
import math
import os
import random
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cloister import AsyncBrowser, CloisterError, NetworkPolicy
from cloister.browser.async_page import AsyncPage
from cloister.browser.memory import INTERVAL
from processes import adopt_orphans, descendants, helper
from table import Row, table

SEED = 1
ROUND = 50
VICTIMS = {"web_content": 50, "request_server": 25, "image_decoder": 15, "lookup_server": 5, "zygote": 5}
"""What is killed, in parts of a hundred."""
KEPT = ("lookup_server", "zygote")
"""What the browser starts again."""
APART = 15.0
"""Seconds between two kills of those. A zygote takes the lookup_server with it, and a start that fails counts as
an end too: four a minute leave room for that."""
STANDING = Counter(zygote=5, lookup_server=1, image_decoder=1)
"""A browser at rest: a zygote with four branches, and a spare decoder."""
TIMEOUT = 20.0
"""Seconds that each of the two actions of a load may take."""
LOST_AFTER = 2 * TIMEOUT + 5
SETTLE = 15.0
"""Seconds in which a browser comes to rest."""
LOOK = 0.002  # seconds between two looks at whether there is something to kill, or whether it is back


@dataclass
class Load:
    """One load: what is to be killed meanwhile, and what came of it."""

    wants_text: bool
    victim: str | None = None
    moment: float = 0.0
    """When it is killed, in parts of what a load usually takes."""
    was_hit: bool = False
    started: float = 0.0
    ended: float = 0.0
    outcome: str = "lost"
    """``as usual``, ``incomplete``, ``lost``, or the name of an error."""


@dataclass
class Outage:
    """From when until when all pages may feel a kill."""

    began: float
    ended: float = math.inf


def plan(loads: int, kills: float, seed: int) -> list[Load]:
    """What chance decides, before anything runs."""
    chance = random.Random(seed)
    planned = [Load(wants_text=number % 4 == 3) for number in range(loads)]
    for load in chance.sample(planned, round(loads * kills)):
        (load.victim,) = chance.choices(list(VICTIMS), list(VICTIMS.values()))
        load.moment = chance.uniform(0, 0.8)
    return planned


@dataclass
class Soak:
    """One run in one browser."""

    browser: AsyncBrowser
    url: str
    loads: list[Load]
    memory: list[float] = field(default_factory=list)
    """MiB, after each round."""
    killed: Counter[str] = field(default_factory=Counter)
    outages: list[Outage] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    _expected: dict[bool, str] = field(default_factory=dict)
    _usual: float = 0.2
    _next_kept: float = 0.0
    _ends: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self, at_once: int) -> None:
        for wants_text in (False, True):
            page = await self.browser.new_page()
            self._expected[wants_text] = await self._answer(page, wants_text)
            await page.close()
        for done in range(0, len(self.loads), ROUND):
            todo = deque(self.loads[done : done + ROUND])
            await asyncio.gather(*(self._work(todo) for _ in range(at_once)))
            gc.collect()
            self.memory.append(rss())
            self._usual = statistics.median(took(self.loads[: done + ROUND]) or [self._usual])
            tell(done + ROUND, len(self.loads))
        await asyncio.gather(*self._ends)

    async def _work(self, todo: deque[Load]) -> None:
        while todo:
            await self._load(todo.popleft())

    async def _load(self, load: Load) -> None:
        load.started = time.monotonic()
        page = await self.browser.new_page()
        killing = asyncio.create_task(self._kill(load, page))
        try:
            async with asyncio.timeout(LOST_AFTER):
                answer = await self._answer(page, load.wants_text)
                await page.close()
            load.outcome = "as usual" if answer == self._expected[load.wants_text] else "incomplete"
        except CloisterError as error:
            load.outcome = type(error).__name__
        except Exception as error:  # also the builtin TimeoutError: nobody answered
            self.lost.append(repr(error))
        load.ended = time.monotonic()
        killing.cancel()
        await asyncio.gather(page.close(), killing, return_exceptions=True)

    async def _answer(self, page: AsyncPage, wants_text: bool) -> str:
        await page.goto(self.url, timeout=TIMEOUT * 1000)
        if wants_text:
            return await page.text(timeout=TIMEOUT * 1000)
        return hashlib.sha256(await page.screenshot(timeout=TIMEOUT * 1000)).hexdigest()

    # ── killing ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _kill(self, load: Load, page: AsyncPage) -> None:
        """Do what is planned for this load, unless it ends before there is anything to kill."""
        if load.victim is None:
            return
        await asyncio.sleep(load.moment * self._usual)
        kind = load.victim
        if kind in KEPT and time.monotonic() < self._next_kept:
            kind = "web_content"
        while not (pids := self._pids(kind, page)):  # noqa: ASYNC110 - nobody tells of a fork
            await asyncio.sleep(LOOK)
        victim = random.choice(pids)
        os.kill(victim, signal.SIGKILL)
        self.killed[kind] += 1
        if kind in ("web_content", "request_server"):
            load.was_hit = True
            return
        outage = Outage(time.monotonic())
        self.outages.append(outage)
        if kind in KEPT:
            self._next_kept = outage.began + APART
            self._ends.add(asyncio.create_task(self._until_back(outage, set(pids))))
        else:
            self._ends.add(asyncio.create_task(self._until_gone(outage, victim)))

    def _pids(self, kind: str, page: AsyncPage) -> list[int]:
        if kind in ("web_content", "request_server"):
            return [process.pid for process in page.processes if process.kind == kind]
        if kind != "image_decoder":
            return [process.pid for process in self.browser.processes() if process.kind == kind]
        *_, branch = self._pids("zygote", page) or [0]  # the last to branch is the one that forks decoders
        return children(branch)

    async def _until_gone(self, outage: Outage, pid: int) -> None:
        """A spare decoder that dies looks alive for the milliseconds in which the kernel frees its memory, and a page
        that begins just then may get it."""
        deadline = outage.began + LOST_AFTER
        while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:  # noqa: ASYNC110, ASYNC240 - /proc is memory
            await asyncio.sleep(LOOK)
        outage.ended = time.monotonic()

    async def _until_back(self, outage: Outage, gone: set[int]) -> None:
        """Until there is a whole zygote and a lookup_server, and none of them is one of those that ended."""
        wanted = Counter({kind: STANDING[kind] for kind in KEPT})
        while time.monotonic() < outage.began + LOST_AFTER:
            await asyncio.sleep(LOOK)
            here = [each for each in self.browser.processes() if each.kind in KEPT]
            if Counter(each.kind for each in here) == wanted and not gone & {each.pid for each in here}:
                outage.ended = time.monotonic()
                return
        self.lost.append("what serves all pages did not come back")

    # ── what came of it ──────────────────────────────────────────────────────────────────────────────────────

    def undisturbed(self) -> list[Load]:
        return [
            load
            for load in self.loads
            if not load.was_hit
            and all(load.ended < outage.began or load.started > outage.ended for outage in self.outages)
        ]

    def rows(self) -> list[Row]:
        quiet = self.undisturbed()
        wrong = sum(load.outcome != "as usual" for load in quiet)
        return [
            count(f"answers lost, of {len(self.loads)} loads", len(self.lost)),
            count(f"undisturbed loads that were not as usual, of {len(quiet)}", wrong),
            self._tail_row(took(quiet)),
            self._memory_row(),
        ]

    def _tail_row(self, seconds: list[float]) -> Row:
        measure, bound = "an undisturbed load: p99, beside the median", "≤ 3 ×"
        if len(seconds) < 100:
            return Row(measure, "ms", 0, None, None, bound, None, "too few loads")
        middle, tail = statistics.median(seconds) * 1000, statistics.quantiles(seconds, n=100)[98] * 1000
        return Row(measure, "ms", tail, middle, tail / middle, bound, tail <= 3 * middle)

    def _memory_row(self) -> Row:
        """The medians of a quarter, so that one odd reading does not decide."""
        measure, bound = "memory of the browser's process: fourth quarter, beside the third", "≤ 1.05 ×"
        quarter = len(self.memory) // 4
        if not quarter:
            return Row(measure, "MiB", self.memory[-1], None, None, bound, None, "too few loads")
        third = statistics.median(self.memory[2 * quarter : 3 * quarter])
        fourth = statistics.median(self.memory[3 * quarter :])
        return Row(measure, "MiB", fourth, third, fourth / third, bound, fourth <= 1.05 * third)


def took(loads: list[Load]) -> list[float]:
    """Seconds, of those that gave what a load usually gives."""
    return [load.ended - load.started for load in loads if load.outcome == "as usual"]


def count(measure: str, number: int) -> Row:
    """Something that there must be none of."""
    return Row(measure, "", number, None, number, "0", number == 0)


def rss() -> float:
    """MiB that this process has in memory (proc(5), statm)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def children(pid: int) -> list[int]:
    """None, too, where the process has ended."""
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return []


def tell(done: int, of: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done >= of else ""
        print(f"\r{min(done, of)} of {of} loads", end=end, file=sys.stderr, flush=True)


# ── the run ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Complaints(logging.Handler):
    """What is logged as an error: an exception that nobody took, a process that is not started again."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(self.format(record))


def holdings() -> tuple[int, int]:
    """How many descriptors this process has, and how many processes there are below it."""
    return len(os.listdir("/proc/self/fd")), len(descendants(os.getpid())) - 1  # noqa: PTH208 - a count, not paths


async def at_rest(browser: AsyncBrowser, wanted: tuple[int, int] | None = None) -> tuple[int, int]:
    """What there is when only standing processes are left, and no more than ``wanted``; or when time is up."""
    end = time.monotonic() + SETTLE
    while time.monotonic() < end:
        await asyncio.sleep(0.1)
        rests = Counter(process.kind for process in browser.processes()) == STANDING
        if rests and (wanted is None or holdings() == wanted):
            break
    return holdings()


async def soak(host: str, arguments: argparse.Namespace) -> dict[str, Any]:
    complaints = Complaints()
    logging.basicConfig(handlers=[complaints])
    outside = holdings()
    async with AsyncBrowser(network=NetworkPolicy(allow_hosts=[host])) as browser:
        await asyncio.sleep(1.5 * INTERVAL)  # the pressure on the machine's memory is watched from then on
        before = await at_rest(browser)
        run = Soak(browser, f"http://{host}/", plan(arguments.loads, arguments.kills, arguments.seed))
        await run.run(arguments.at_once)
        after = await at_rest(browser, before)
    left = holdings()
    rows = [
        *run.rows(),
        Row(
            "descriptors at rest, beside those at the start",
            "",
            after[0],
            before[0],
            after[0] - before[0],
            "+ 0",
            after[0] == before[0],
        ),
        Row(
            "processes at rest, beside those at the start",
            "",
            after[1],
            before[1],
            after[1] - before[1],
            "+ 0",
            after[1] == before[1],
        ),
        count("descriptors and processes left after close()", sum(left) - sum(outside)),
        count("errors logged", len(complaints.said)),
    ]
    return {
        "seed": arguments.seed,
        "rows": rows,
        "killed": dict(run.killed),
        "outcomes": dict(Counter(load.outcome for load in run.loads)),
        "memory": [round(each, 2) for each in run.memory],
        "lost": run.lost,
        "logged": complaints.said,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--loads", type=int, default=2000)
    parser.add_argument("--kills", type=float, default=0.05, help="in how many of the loads, from 0 to 1")
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    adopt_orphans()
    with tempfile.TemporaryDirectory() as state, helper("site_server.py") as line:
        os.environ["XDG_STATE_HOME"] = state  # the crashes of this benchmark are nobody's to look into
        result = asyncio.run(soak(f"localhost:{line.split()[0]}", arguments))
    rows = result["rows"]
    if arguments.json:
        print(json.dumps({**result, "rows": [asdict(row) for row in rows]}, indent=2))
    else:
        print(table(rows))
        for name in ("seed", "killed", "outcomes", "lost", "logged"):
            print(f"{name}: {result[name]}")
    return 0 if all(row.holds is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
