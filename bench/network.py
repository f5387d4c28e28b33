"""What it costs to have HTTP spoken by a process that can do nothing else, beside httpx in the program's own process.

    python bench/network.py [--quick] [--json]

Ours is a request_server as a page gets one, locked down, with a lookup_server to connect for it: asked on its channel,
and its answer copied out of the memfd that a large body comes in. httpx is asked in this process, where a program
would have it. Both are warm, speak over connections that are open, and are timed in turn; figures are medians. A whole
page is loaded beside Chromium (Debian's package, driven by Playwright), where these are installed.
Reading the memory of the process needs root, because sandboxed processes are not dumpable.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import os
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from typing import Any

import websockets.asyncio.client

from cloister import AsyncBrowser, NetworkPolicy
from cloister.browser.cookies import CookieAccess
from cloister.interfaces.fetch import Destination, Fetch
from cloister.interfaces.request_server import Options
from cloister.interfaces.requests import REQUESTS
from cloister.ipc import Channel, Connection, blob
from cloister.process import ChildProcess
from first_light import CHROMIUM, CHROMIUM_OPTIONS, PAUSE, VIEWPORT
from http_server import LARGE, SMALL
from mixed_page import SUBRESOURCES
from processes import adopt_orphans, helper, pss
from table import Row, ratio, table

REQUESTS_AT_ONCE = 16  # as a page's process does
SMALL_REQUESTS = 200
WAIT = 60.0  # seconds for anything that is waited for
SETTLE = 1.0  # seconds in which nothing is asked for

Get = Callable[[str, int], Awaitable[None]]
"""Fetches a URL whose body has so many bytes."""


class Site:
    """Where bench/http_server.py is."""

    def __init__(self, line: str) -> None:
        plain, secure, sockets, self.roots = line.split()
        self.plain = f"http://localhost:{plain}"
        self.secure = f"https://localhost:{secure}"
        self.echo = f"ws://localhost:{sockets}"
        self.hosts = [f"localhost:{port}" for port in (plain, secure, sockets)]


@asynccontextmanager
async def ours(site: Site) -> AsyncIterator[tuple[Get, ChildProcess]]:
    """A request_server of a browser, and how to ask it."""
    network = NetworkPolicy(allow_hosts=site.hosts)
    async with AsyncBrowser(network=network, ca_certs=site.roots) as browser:
        options = Options(user_agent="bench", max_requests=100_000, max_total_bytes=2**40, for_browser=True)
        cookies = CookieAccess(lambda: None)
        child = await browser._running().fork_request_server(options, cookies.handlers)
        connection = Connection(Channel(child.channel.detach()), REQUESTS, "client")

        async def get(url: str, size: int) -> None:
            reply, fds = await connection.request(Fetch(url, Destination.IMAGE), timeout=WAIT)
            if len(blob.unpack(reply.body, fds, len(LARGE))) != size:
                raise RuntimeError(f"{url} has another size")

        try:
            yield get, child
        finally:
            connection.close()


@asynccontextmanager
async def peers(site: Site) -> AsyncIterator[Get | None]:
    """httpx; None where it is not installed."""
    try:
        httpx: Any = importlib.import_module("httpx")
    except ImportError:
        yield None
        return
    context = ssl.create_default_context(cafile=site.roots)
    async with httpx.AsyncClient(http2=True, verify=context, timeout=WAIT) as client:

        async def get(url: str, size: int) -> None:
            if len((await client.get(url)).content) != size:
                raise RuntimeError(f"{url} has another size")

        yield get


async def timed(work: Awaitable[object]) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    await work
    return (time.perf_counter() - started) * 1000


async def large(get: Get, url: str) -> None:
    await get(f"{url}/large", len(LARGE))


async def small(get: Get, url: str) -> None:
    await get(f"{url}/", len(SMALL))


async def many(get: Get, url: str) -> None:
    """200 small requests, 16 at once."""
    turn = asyncio.Semaphore(REQUESTS_AT_ONCE)

    async def one(number: int) -> None:
        async with turn:
            await get(f"{url}/{number}", len(SMALL))

    await asyncio.gather(*(one(number) for number in range(SMALL_REQUESTS)))


class Bench:
    """Both clients, asked for the same in turn."""

    def __init__(self, site: Site, mine: Get, theirs: Get | None, *, quick: bool) -> None:
        self.site = site
        self._mine = mine
        self._theirs = theirs
        self._quick = quick

    async def compare(
        self, work: Callable[[Get, str], Awaitable[None]], url: str, full: int, quick: int
    ) -> tuple[list[float], list[float]]:
        """Milliseconds of ours, and of httpx's, for work on ``url``."""
        took: tuple[list[float], list[float]] = ([], [])
        clients = ((self._mine, took[0]), (self._theirs, took[1]))
        for number in range(-1, quick if self._quick else full):  # the first one connects
            for client, figures in clients:
                if client is not None:
                    figure = await timed(work(client, url))
                    if number >= 0:
                        figures.append(figure)
        return took

    async def rows(self) -> list[Row]:
        site, missing = self.site, "needs httpx"
        ways = (("HTTP/1.1", site.plain), ("HTTP/2 and TLS", site.secure))
        rows: list[Row] = []
        for name, url in ways:
            mine, theirs = await self.compare(large, url, 15, 3)
            rows.append(ratio(f"50 MB over {name}", "ms", mine, theirs, 1.3, missing))
        mine, theirs = await self.compare(many, site.secure, 15, 3)
        rows.append(ratio("200 small requests over HTTP/2", "ms", mine, theirs, 1.5, missing))
        for name, url in ways:
            mine, theirs = await self.compare(small, url, 300, 50)
            rows.append(added(f"one request over {name}", mine, theirs, missing))
        return rows


def added(measure: str, mine: list[float], theirs: list[float], missing: str) -> Row:
    """What ours takes longer, in milliseconds."""
    took = statistics.median(mine)
    if not theirs:
        return Row(measure, "ms", took, None, None, "≤ + 1 ms", None, missing)
    peer = statistics.median(theirs)
    return Row(measure, "ms", took, peer, took - peer, "≤ + 1 ms", took - peer <= 1)


async def echo_row(site: Site, *, quick: bool) -> Row:
    """A message of a WebSocket, there and back: through a process, and by the websockets library in this one."""
    took: tuple[list[float], list[float]] = ([], [])
    network = NetworkPolicy(allow_hosts=site.hosts)
    async with (
        AsyncBrowser(network=network) as browser,
        browser.websocket(site.echo) as mine,
        websockets.asyncio.client.connect(site.echo) as theirs,
    ):
        for _ in range(50 if quick else 300):
            for socket, figures in ((mine, took[0]), (theirs, took[1])):
                figures.append(await timed(echo(socket)))
    mine_took, theirs_took = map(statistics.median, took)
    return Row(
        "a WebSocket message there and back", "ms", mine_took, theirs_took, mine_took - theirs_took, "", None
    )


async def echo(socket: Any) -> None:
    await socket.send("x" * 100)
    await socket.recv()


async def memory(child: ChildProcess) -> float:
    """MiB, once it has nothing to do. Its branch shares what neither has written to."""
    await asyncio.sleep(SETTLE)
    return pss({child.pid})


@asynccontextmanager
async def chromium() -> AsyncIterator[Any]:
    """Chromium under Playwright, or None where either is missing."""
    try:
        module: Any = importlib.import_module("playwright.async_api")
    except ImportError:
        module = None
    if module is None or CHROMIUM is None:
        yield None
        return
    options = [option for option in CHROMIUM_OPTIONS if option != "--headless"]
    async with module.async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        try:
            yield browser
        finally:
            await browser.close()


async def load(browser: Any, url: str, **how: Any) -> float:
    """Milliseconds for a new page and its ``goto``: the same lines for both."""
    started = time.perf_counter()
    page = await browser.new_page(viewport=VIEWPORT, **how)
    await page.goto(url)
    took = (time.perf_counter() - started) * 1000
    await page.close()
    await asyncio.sleep(PAUSE)
    return took


async def page_rows(site: Site, *, quick: bool) -> list[Row]:
    """A document with 60 subresources, beside Chromium: both have loaded it before, and neither has it in a cache."""
    rows: list[Row] = []
    network = NetworkPolicy(allow_hosts=site.hosts)
    async with AsyncBrowser(network=network, ca_certs=site.roots) as mine, chromium() as theirs:
        for name, base in (("HTTP/1.1", site.plain), ("HTTP/2 and TLS", site.secure)):
            took: tuple[list[float], list[float]] = ([], [])
            for number in range(-2, 5 if quick else 25):
                ours = await load(mine, f"{base}/page")
                peer = await load(theirs, f"{base}/page", ignore_https_errors=True) if theirs else None
                if number >= 0:
                    took[0].append(ours)
                    took[1].extend([] if peer is None else [peer])
            measure = f"a page with {SUBRESOURCES} subresources over {name}"
            row = ratio(measure, "ms", *took, 1.3, "needs chromium and playwright")
            rows.append(row if base == site.plain else replace(row, bound="", holds=None))
    return rows


def import_row(*, quick: bool) -> Row:
    """A Python that loads the kind's libraries and ends, less one that loads nothing; beside httpx with HTTP/2."""
    mine, theirs = (
        [importing(module) for _ in range(3 if quick else 11)]
        for module in ("cloister.request_server.main", "httpx, h2.connection")
    )
    took = statistics.median(mine)
    peer = statistics.median(theirs) if all(theirs) else None
    return Row("loading its libraries", "ms", took, peer, took, "", None)


def importing(modules: str) -> float:
    """Milliseconds; 0 if there is no such module."""
    figures = []
    for code in (f"import {modules}", "pass"):
        started = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL, check=False)
        figures.append((time.perf_counter() - started) * 1000)
        if done.returncode:
            return 0.0
    return figures[0] - figures[1]


async def measure(site: Site, *, quick: bool) -> list[Row]:
    async with ours(site) as (mine, child), peers(site) as theirs:
        idle = await memory(child)
        rows = await Bench(site, mine, theirs, quick=quick).rows()
        after = await memory(child)
    return [
        *rows,
        *await page_rows(site, quick=quick),
        Row("an idle request_server, PSS", "MiB", idle, None, idle, "≤ 12 MiB", idle <= 12),
        Row("the same after all of the above", "MiB", after, None, after, "", None),
        await echo_row(site, quick=quick),
        import_row(quick=quick),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--json", action="store_true", help="rows as JSON")
    arguments = parser.parse_args()
    adopt_orphans()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is loaded twice is compiled once
    with helper("http_server.py") as line:
        rows = asyncio.run(measure(Site(line), quick=arguments.quick))
    print(json.dumps([asdict(row) for row in rows], indent=2) if arguments.json else table(rows))
    return 0 if all(row.holds is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
