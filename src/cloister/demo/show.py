"""What ``cloister demo`` does: opens good and hostile pages side by side, and reports what became of each."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path

from cloister import AsyncBrowser, AsyncPage, CloisterError, NetworkPolicy, PageCrashed, ProcessInfo
from cloister.browser import Viewport
from cloister.errors import TimeoutError as PageTimeout

from .server import DemoServer

__all__ = ["Killed", "Process", "Report", "Visit", "run"]

VIEWPORT: Viewport = {"width": 1120, "height": 800}
PATIENCE = 1200  # milliseconds for the page that sends a byte a second
DEADLINE = 20_000  # milliseconds for any other page, on a slow machine


@dataclass(frozen=True)
class Guest:
    """One page of the demo. ``tried`` is empty for an honest one; ``code`` is how a hostile one has to end."""

    path: str
    name: str
    tried: str = ""
    code: str = "shown"
    timeout: int = DEADLINE


GUESTS = (
    Guest("/", "article"),
    Guest("/daylight", "daylight"),
    Guest("/rooms", "rooms"),
    Guest(
        "/hostile/reach",
        "reach",
        "files, the cloud's key service and the service next door, as styles and images",
    ),
    Guest(
        "/hostile/images",
        "images",
        "a picture of 60,000 × 60,000 pixels, three cut in half, a packed gigabyte",
    ),
    Guest("/hostile/bomb", "bomb", "a megabyte of gzip that unpacks to a gigabyte", "too_large"),
    Guest(
        "/hostile/crash",
        "crash",
        "selectors within selectors, 26,000 deep, to overflow the engine's stack",
        "crashed",
    ),
    Guest("/hostile/drip", "drip", "one byte a second, for ever", "timed_out", PATIENCE),
)


@dataclass
class Visit:
    """What became of one page."""

    name: str
    url: str
    tried: str
    outcome: str  # "shown", or the code of what ended it
    words: str  # the title, or what refused it
    milliseconds: int
    held: bool  # it ended as it had to
    file: str | None = None


@dataclass(frozen=True)
class Attempt:
    """One address that a page has no business with, asked for directly, and the answer."""

    url: str
    refusal: str


@dataclass(frozen=True)
class Process:
    """One process as it was while the pages were open."""

    kind: str
    pid: int
    page: str | None
    layers: tuple[str, ...]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Killed:
    """The page whose process was killed on purpose, and the others after that."""

    name: str
    pid: int
    error: str
    others_alive: int
    others: int
    new_pid: int  # after reload()


@dataclass
class Report:
    """Everything that was seen. ``held`` is true if every wall did."""

    visits: list[Visit] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    processes: list[Process] = field(default_factory=list)
    killed: Killed | None = None
    canary: list[str] = field(default_factory=list)  # what reached the service next door
    left_running: list[int] = field(default_factory=list)
    pdf: str = ""
    folder: str = ""
    seconds: float = 0.0

    @property
    def held(self) -> bool:
        return (
            all(visit.held for visit in self.visits)
            and all(attempt.refusal for attempt in self.attempts)
            and self.killed is not None
            and self.killed.others_alive == self.killed.others
            and not self.canary
            and not self.left_running
        )


def run(
    folder: Path,
    *,
    allow_degraded: bool = False,
    trace_ipc: Path | None = None,
    trace_payload: bool = False,
) -> Report:
    """Serve the demo's site on loopback, open every page of it, write pictures and a PDF into ``folder``.

    Nothing runs any more when it returns. Raises SandboxUnavailable, OSError if ``folder`` cannot be written, and
    InvalidArgument if ``trace_ipc`` cannot be.
    """
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    report = Report(folder=str(folder))
    with DemoServer() as server:
        browser = AsyncBrowser(
            network=NetworkPolicy(allow_hosts=[server.site.host]),
            allow_degraded=allow_degraded,
            viewport=VIEWPORT,
            trace_ipc=trace_ipc,
            trace_payload=trace_payload,
        )
        seen = asyncio.run(_open_all(browser, server, folder, report))
        report.canary = list(server.canary.seen)
    report.left_running = sorted(pid for pid in seen if Path(f"/proc/{pid}").exists())
    report.seconds = round(time.monotonic() - started, 2)
    return report


async def _open_all(unstarted: AsyncBrowser, server: DemoServer, folder: Path, report: Report) -> set[int]:
    """Fills ``report``; the result is every process that was seen."""
    async with unstarted as browser:
        pages = [await browser.new_page() for _ in GUESTS]
        report.visits = list(
            await asyncio.gather(
                *(_visit(page, guest, server, folder) for page, guest in zip(pages, GUESTS, strict=True))
            )
        )
        report.attempts = await _attempts(browser, server)
        report.processes = [_process(info) for info in browser.processes()]
        standing = {
            v.name: page for v, page in zip(report.visits, pages, strict=True) if v.outcome == "shown"
        }
        if article := standing.get("article"):
            report.pdf = str(folder / "article.pdf")
            await article.pdf(report.pdf)
            report.killed = await _kill("article", standing)
        return {process.pid for process in report.processes} | {info.pid for info in browser.processes()}


async def _visit(page: AsyncPage, guest: Guest, server: DemoServer, folder: Path) -> Visit:
    """Load and paint: a page may fall at either."""
    url = server.site.url(guest.path)
    file: str | None = str(folder / f"{guest.name}.png")
    started = time.monotonic()
    try:
        await page.goto(url, timeout=guest.timeout)
        await page.screenshot(file, full_page=True, timeout=guest.timeout)
        outcome, words = "shown", await page.title()
    except CloisterError as error:
        outcome, words, file = _code(error), str(error).removeprefix(f"{url}: "), None
    took = round((time.monotonic() - started) * 1000)
    return Visit(guest.name, url, guest.tried, outcome, words, took, outcome == guest.code, file)


def _code(error: CloisterError) -> str:
    match error:
        case PageCrashed():
            return "crashed"
        case PageTimeout():
            return "timed_out"
        case _:
            return str(getattr(error, "code", type(error).__name__))


async def _attempts(browser: AsyncBrowser, server: DemoServer) -> list[Attempt]:
    """Ask for what the reaching page asks for, one by one, to hear what refuses each."""
    port = server.canary.port
    urls = (
        "file:///etc/passwd",
        "http://169.254.169.254/latest/meta-data/",
        f"http://[::1]:{port}/",
        f"http://2130706433:{port}/",
        f"http://[::ffff:127.0.0.1]:{port}/",
        f"http://localhost:{port}/",
        server.site.url("/hostile/redirect"),
    )
    page = await browser.new_page()
    attempts = []
    for url in urls:
        try:
            await page.goto(url, timeout=DEADLINE)
            refusal = ""
        except CloisterError as error:
            refusal = str(error).removeprefix(f"{url}: ")
        attempts.append(Attempt(url, refusal))
    await page.close()
    return attempts


async def _kill(name: str, standing: dict[str, AsyncPage]) -> Killed:
    """End one page's process from outside and ask every other page for its text."""
    page = standing[name]
    pid = _pid(page)
    os.kill(pid, signal.SIGKILL)
    try:
        await page.text()
        error = ""
    except PageCrashed as crash:
        error = str(crash)
    others = [other for key, other in standing.items() if key != name]
    answers = await asyncio.gather(*(other.text() for other in others), return_exceptions=True)
    alive = sum(isinstance(answer, str) for answer in answers)
    await page.reload(timeout=DEADLINE)
    return Killed(name, pid, error, alive, len(others), _pid(page))


def _pid(page: AsyncPage) -> int:
    return next(info.pid for info in page.processes if info.kind == "web_content")


def _process(info: ProcessInfo) -> Process:
    return Process(info.kind, info.pid, info.page_url, tuple(info.layers), tuple(info.missing))
