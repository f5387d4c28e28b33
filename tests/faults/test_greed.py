"""A process that takes what it can get, memory or processes, gets its share and is gone."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from cloister import sandbox
from cloister.process import launch
from tests.faults.before import back_to_before, descendants, holdings

ROOT = Path(__file__).parents[2]

_WITH_LITTLE_MEMORY = """
import resource
MIB = 2**20
resource.setrlimit(resource.RLIMIT_DATA, (500 * MIB, 500 * MIB))  # its children have no more than it may have

from cloister import Browser, PageCrashed
from cloister.ends import OutOfMemory

GREEN = '<body style="margin:0;background:rgb(0,255,0)">'
BOMB = (
    '<style>p { counter-increment: a } p::before { content: counters(a, ".") counter(a) "some words" }</style>'
    + "<p>" * 300_000
)

with Browser() as browser:
    beside, page = browser.new_page(), browser.new_page()
    beside.set_content(GREEN)
    (pid,) = (process.pid for process in beside.processes)
    try:
        page.set_content(BOMB, timeout=30_000)
    except PageCrashed as error:
        print(type(error.end).__name__)
    assert [process.pid for process in beside.processes] == [pid]
    assert beside.screenshot()
    page.set_content("small")
    print(page.text().strip())
"""


def test_a_page_that_wants_all_memory_ends_as_one_that_had_none_left() -> None:
    command = [sys.executable, "-c", _WITH_LITTLE_MEMORY]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, cwd=ROOT, check=False)
    assert done.stdout.split() == ["OutOfMemory", "small"], done.stderr


_BOMB = """
import os, sys, time

def main(start):
    for _ in range(12):
        if os.fork() == 0:
            os.setsid()
            while True:  # a new process takes over again and again, and its parent is gone
                if os.fork():
                    os._exit(0)
                time.sleep(0.002)
    start.control.send(b"begun")
    time.sleep(60)

def preload(options):
    pass
"""
_BEGIN = """#!{python}
import sys
sys.path.insert(0, {folder!r})
from cloister.process import entry, kinds
kinds.MODULES["bomb"] = "bomb"
sys.exit(entry.main("bomb"))
"""


def test_a_process_that_forks_without_end_takes_every_descendant_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kind of the test's own, without a sandbox but for its namespaces, started as any is that is started by exec."""
    if sandbox.Layer.PID_NAMESPACE not in sandbox.machine().available:
        pytest.skip("needs a pid namespace")
    begin = tmp_path / "begin"
    begin.write_text(_BEGIN.format(python=sys.executable, folder=str(tmp_path)))
    begin.chmod(0o700)
    (tmp_path / "bomb.py").write_text(_BOMB)

    async def go() -> None:
        before = holdings()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", str(begin))
            child = await launch("bomb", handlers={})
        child.control.close()
        async with asyncio.timeout(10):
            while len(descendants()) < sum(before.processes.values()) + 6:
                await asyncio.sleep(0.01)
        await child.end()
        await back_to_before(before)

    asyncio.run(go())
