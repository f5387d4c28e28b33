"""A program that has no file descriptor left is told so, loses nothing by it, and goes on when there are some again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloister import CloisterError, TimeoutError
from cloister.browser.async_page import AsyncPage
from cloister.errors import OutOfDescriptors, PageCrashed
from cloister.interfaces.web_content import GetLinks
from cloister.ipc import memory
from tests.faults.before import back_to_before
from tests.faults.world import TIMEOUT, World, picture
from tests.shortage import only

ROOT = Path(__file__).parents[2]


class Apart:
    """The server, in a process of its own: it needs descriptors, too."""

    def __init__(self, port: int) -> None:
        self._port = port

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._port}{path}"


_SERVER = """
import sys
from tests.faults.world import site
with site() as server:
    print(server.port, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Apart]:
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield Apart(int(process.stdout.readline()))
        process.stdin.close()


async def open_one(world: World, page: AsyncPage) -> object:
    other = await world.browser.new_page()
    try:
        return await other.set_content("<p>words", timeout=TIMEOUT)
    finally:
        await other.close()


async def fetch_one(world: World, page: AsyncPage) -> object:
    return await page.goto(world.server.url("/page"), timeout=TIMEOUT)


async def start_another(world: World, page: AsyncPage) -> object:
    browser = world.new_browser()
    try:
        return await browser.start()
    finally:
        await browser.close()


Action = Callable[[World, AsyncPage], Awaitable[object]]
ACTIONS: dict[str, Action] = {
    "goto": fetch_one,
    "set_content": open_one,
    "open_file": lambda world, page: page.open_file(__file__, timeout=TIMEOUT),
    "reload": lambda world, page: page.reload(timeout=TIMEOUT),
    "screenshot": lambda world, page: page.screenshot(full_page=True, timeout=TIMEOUT),
    "pdf": lambda world, page: page.pdf(timeout=TIMEOUT),
    "text": lambda world, page: page.text(timeout=TIMEOUT),
    "links": lambda world, page: page.links(timeout=TIMEOUT),
    "decode_image": lambda world, page: world.browser.decode_image(picture((1, 2, 3))),
    "decode_image of a file": lambda world, page: world.browser.decode_image(world.image_file),
    "start": start_another,
}


@pytest.mark.parametrize("name", ACTIONS)
def test_an_action_without_descriptors_works_or_says_that_there_are_none(world: World, name: str) -> None:
    """With none, with one more, with two more, until it works."""

    async def go() -> None:
        await world.recover()
        zygotes = world.pids("zygote")
        outcomes: list[Any] = []
        for left in range(24):
            page = await world.browser.new_page()
            await page.set_content("<p>Some <a href=/x>words</a>")
            await page.screenshot()
            with only(left):
                outcome = await world.act(ACTIONS[name](world, page))
                outcomes.append(outcome)
            await page.close()
            await back_to_before(world.before, world.folders)
            if not isinstance(outcome, CloisterError) and left > 1:
                break
        refused = [outcome for outcome in outcomes if isinstance(outcome, CloisterError)]
        strange = [error for error in refused if not isinstance(error, OutOfDescriptors)]
        assert not [repr(error) for error in strange]
        assert not isinstance(outcomes[-1], CloisterError)
        assert world.pids("zygote") == zygotes, "the zygote was ended for it"
        await world.all_is_well()

    world.run(go())


@pytest.mark.parametrize("left", [0, 4, 11])
@pytest.mark.parametrize("kind", ["zygote", "lookup_server"])
def test_what_dies_while_there_are_none_is_back_when_there_are_some(
    world: World, kind: str, left: int
) -> None:
    async def go() -> None:
        await world.recover()
        page = await world.browser.new_page()
        victim = min(world.pids(kind))
        with only(left):
            os.kill(victim, signal.SIGKILL)
            await asyncio.sleep(0.1)
            for _ in range(4):
                outcome = await world.act(page.goto(world.server.url("/page"), timeout=1000))
                if not isinstance(outcome, CloisterError):
                    break
                assert outcome.retriable or isinstance(outcome, TimeoutError), repr(outcome)
        await page.close()
        await world.all_is_well(died=victim if kind == "zygote" else None)

    world.run(go())


def test_what_was_to_be_given_to_a_page_that_is_gone_is_closed_although_the_error_is_kept(
    world: World,
) -> None:
    async def go() -> None:
        await world.recover()
        page = await world.browser.new_page()
        fd = memory.sealed(b"given away")
        with pytest.raises(PageCrashed) as kept:
            await page._ask(GetLinks(), [fd], deadline=time.monotonic() + 5, timeout=5000)
        assert kept.tb is not None
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
        await page.close()

    world.run(go())


_BROWSER = """
from tests.shortage import only
from cloister import Browser
from cloister.errors import OutOfDescriptors, PageCrashed
from cloister.interfaces.web_content import GetLinks
from cloister.ipc import memory
with only(1):
    try:
        Browser()
    except OutOfDescriptors:
        told = True
print(told)
with Browser():
    pass
"""


def test_a_browser_with_a_loop_of_its_own_says_so_too() -> None:
    """In a program of its own: asyncio complains of the loop that it could not make."""
    command = [sys.executable, "-c", _BROWSER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True, cwd=ROOT)
    assert done.stdout == "True\n"
