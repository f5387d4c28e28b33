"""The figures that the documents quote: Cloister beside Debian's Chromium and in-process Pillow, in one run.

    python bench/first_light.py [--quick] [--json]

Chromium is Debian's package `chromium` and Playwright comes from PyPI; both are optional, and a row that lacks its
peer says so. Memory is PSS (smaps_rollup: shared pages are divided among those that share them), summed over every
process of the tree, our own Python included; reading it needs root, because sandboxed processes are not dumpable.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import importlib
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from PIL import Image

from cloister import Browser, NetworkPolicy
from cloister.browser import Viewport
from cloister.interfaces import image_decoder
from cloister.interfaces.zygote import PreloadKind
from cloister.ipc import Channel
from cloister.process import Zygote
from cloister.process.kinds import MODULES
from processes import DEADLINE, adopt_orphans, descendants, helper, new_processes, peak_pss, pss
from table import Row, ratio, table

CHROMIUM = shutil.which("chromium")
CHROMIUM_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
VIEWPORT: Viewport = {"width": 1280, "height": 720}
PAGES = 8
SETTLE = 4  # seconds in which both let go of what they no longer need
PAUSE = 0.3  # seconds between two timings, so that neither pays for what the other still clears away


def hold(url: str, host: str) -> None:
    """Hold eight pages open until stdin closes."""
    with Browser(network=NetworkPolicy(allow_hosts=[host]), viewport=VIEWPORT) as browser:
        for number in range(PAGES):
            page = browser.new_page()
            page.goto(f"{url}?{number}")
            page.screenshot()
        time.sleep(SETTLE)
        print("open", flush=True)
        sys.stdin.read()


# ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────────


def timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    time.sleep(PAUSE)
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


@dataclass
class Bench:
    """Where the site is, and how often to try."""

    host: str
    folder: Path
    quick: bool

    @property
    def url(self) -> str:
        return f"http://{self.host}/"

    def times(self, full: int, quick: int) -> range:
        return range(quick if self.quick else full)

    @property
    def policy(self) -> NetworkPolicy:
        return NetworkPolicy(allow_hosts=[self.host])

    def chromium(self, number: int) -> list[str]:
        """The command, with a profile folder that nobody used before."""
        profile = tempfile.mkdtemp(dir=self.folder)
        size = f"--window-size={VIEWPORT['width']},{VIEWPORT['height']}"
        out = f"--screenshot={self.folder / f'chromium-{number}.png'}"
        return [str(CHROMIUM), *CHROMIUM_OPTIONS, f"--user-data-dir={profile}", size, out, self.url]

    def cloister(self) -> list[str]:
        out = str(self.folder / "cloister.png")
        return [
            str(Path(sys.executable).with_name("cloister")),  # as it was installed beside this Python
            "screenshot",
            self.url,
            "-o",
            out,
            "--allow-host",
            self.host,
        ]


def fork_row(bench: Bench) -> Row:
    """A fork of the zygote until the locked-down child has answered a ping."""

    async def measure() -> list[float]:
        kind = "image_decoder"
        options = msgspec.msgpack.encode(image_decoder.Options())
        zygote = await Zygote.start([PreloadKind(kind, MODULES[kind], options)])
        took = []
        try:
            await zygote.ready()
            for _ in bench.times(100, 20):
                ours, theirs = Channel.pair()
                started = time.perf_counter()
                child = await zygote.fork(kind, options, [theirs], keep=[ours])
                await child.ping()
                took.append((time.perf_counter() - started) * 1000)
                await child.shutdown()
        finally:
            await zygote.close()
        return took

    mine = statistics.median(asyncio.run(measure()))
    return Row("zygote fork to first reply, locked down", "ms", mine, None, mine, "≤ 5 ms", mine <= 5)


def cold_rows(bench: Bench) -> list[Row]:
    """One command from nothing to a picture on disk."""
    run = functools.partial(
        subprocess.run, check=True, timeout=DEADLINE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    took: tuple[list[float], list[float]] = ([], [])
    for number in bench.times(9, 3):  # in turn, so that both meet the same machine
        took[0].append(timed(lambda: run(bench.cloister())))
        if CHROMIUM:
            took[1].append(timed(lambda n=number: run(bench.chromium(n))))  # type: ignore[misc]
    peaks: tuple[list[float], list[float]] = ([], [])
    for number in bench.times(3, 1):  # apart from the times, which looking on would lengthen
        peaks[0].append(peak_pss(bench.cloister()))
        if CHROMIUM:
            peaks[1].append(peak_pss(bench.chromium(number)))
    missing = "" if CHROMIUM else "chromium is not installed"
    return [
        ratio("cold screenshot command, time", "ms", *took, 0.4, missing),
        ratio("cold screenshot command, peak PSS", "MiB", *peaks, 0.5, missing),
    ]


@contextmanager
def playwright_browser() -> Iterator[Any]:
    """Chromium under Playwright, or None where either is missing."""
    try:
        module = importlib.import_module("playwright.sync_api")
    except ImportError:
        module = None
    if module is None or CHROMIUM is None:
        yield None
        return
    options = [option for option in CHROMIUM_OPTIONS if option != "--headless"]
    with module.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        try:
            yield browser
        finally:
            browser.close()


def one_page(browser: Any, url: str) -> None:
    """The same lines for both: ours and Playwright's. Both give a new page a world of its own."""
    page = browser.new_page(viewport=VIEWPORT)
    page.goto(url)
    page.screenshot()
    page.close()


def warm_rows(bench: Bench) -> list[Row]:
    """The page of all rows, and the same with three times the images: where a process for each image costs most."""
    gallery = warm_row(bench, "warm, the same with 24 images", f"{bench.url}gallery")
    return [
        warm_row(bench, "warm: new page, goto, screenshot", bench.url),
        replace(gallery, bound="", holds=None),
    ]


def warm_row(bench: Bench, measure: str, url: str) -> Row:
    """New page, goto, screenshot, close, in a browser that has done it before."""
    ours: list[float] = []
    peer: list[float] = []
    with Browser(network=bench.policy, viewport=VIEWPORT) as browser, playwright_browser() as chromium:
        for _ in range(2):
            one_page(browser, url)
            if chromium:
                one_page(chromium, url)
        for _ in bench.times(20, 5):
            ours.append(timed(lambda: one_page(browser, url)))
            if chromium:
                peer.append(timed(lambda: one_page(chromium, url)))
    missing = "" if peer else "needs chromium and playwright"
    return ratio(measure, "ms", ours, peer, 0.25, missing)


def eight_pages_row(bench: Bench) -> Row:
    """All processes while eight pages are open. Chromium's are its own only, without Playwright's driver."""
    ours: list[float] = []
    peer: list[float] = []
    for _ in bench.times(3, 1):
        before = descendants(os.getpid())
        with helper("first_light.py", "--hold", bench.url, bench.host) as answer:
            if answer.strip() != "open":
                raise RuntimeError("the eight pages were not opened")
            ours.append(pss(new_processes(before)))
        before = descendants(os.getpid())
        with playwright_browser() as chromium:
            if chromium:
                for number in range(PAGES):
                    page = chromium.new_page(viewport=VIEWPORT)
                    page.goto(f"{bench.url}?{number}")
                    page.screenshot()
                time.sleep(SETTLE)
                peer.append(pss({pid for pid in new_processes(before) if is_chromium(pid)}))
    missing = "" if peer else "needs chromium and playwright"
    return ratio(f"{PAGES} pages open, PSS of all processes", "MiB", ours, peer, 0.25, missing)


def is_chromium(pid: int) -> bool:
    try:
        return "chrom" in Path(f"/proc/{pid}/exe").readlink().name
    except OSError:
        return False


def image_row(bench: Bench) -> Row:
    """A JPEG of 320 × 200 to RGBA bytes: in a fresh decoder, and by Pillow in this process."""
    with urllib.request.urlopen(f"{bench.url}1.jpg", timeout=DEADLINE) as response:
        data = response.read()
    ours: list[float] = []
    peer: list[float] = []
    with Browser() as browser:
        browser.decode_image(data)
        for _ in bench.times(40, 10):
            ours.append(timed(lambda: browser.decode_image(data).rgba))
            peer.append(timed(lambda: Image.open(io.BytesIO(data)).convert("RGBA").tobytes()))
    mine, theirs = statistics.median(ours), statistics.median(peer)
    added = mine - theirs
    return Row(
        "an image in a fresh decoder, against Pillow here", "ms", mine, theirs, added, "≤ + 6 ms", added <= 6
    )


# ── the run ─────────────────────────────────────────────────────────────────────────────────────────────────────


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--json", action="store_true", help="rows as JSON")
    parser.add_argument("--hold", nargs=2, metavar=("URL", "HOST"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.hold:
        hold(*arguments.hold)
        return 0
    adopt_orphans()
    # An installed package is compiled; a checkout is so after its first run, unless this is set.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with helper("site_server.py") as line, tempfile.TemporaryDirectory() as folder:
        port, size = line.split()
        print(f"a page of {int(size) / 1000:.0f} KB with 2 style sheets and 8 images", file=sys.stderr)
        bench = Bench(f"localhost:{port}", Path(folder), arguments.quick)
        rows = [
            fork_row(bench),
            *cold_rows(bench),
            *warm_rows(bench),
            eight_pages_row(bench),
            image_row(bench),
        ]
    print(json.dumps([asdict(row) for row in rows], indent=2) if arguments.json else table(rows))
    return 0 if all(row.holds is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
