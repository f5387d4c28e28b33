"""Programs are run as for a plugin that was granted them; one zygote for all tests of a module."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cloister.errors import RuntimeClosed
from cloister.plugins import program
from cloister.plugins.capabilities import Held
from cloister.plugins.limits import Limits
from cloister.plugins.programs import Programs
from cloister.plugins.zygotes import Zygotes
from cloister.process import ChildProcess
from cloister.process.loop_thread import LoopThread
from cloister.sandbox import Layer, machine

PYTHON = "/usr/bin/python3"
SHELL = "/bin/sh"


class World:
    """The host's side of programs."""

    def __init__(self) -> None:
        self.thread = LoopThread(lambda: RuntimeClosed("closed"))
        self.zygotes: Zygotes = self.thread.run(_make())
        self.programs = Programs(self.zygotes, self.thread.run)

    def run(
        self,
        path: str,
        *arguments: str | bytes,
        given: str | bytes = b"",
        seconds: float = 20,
        limits: Limits | None = None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> Mapping[str, Any]:
        held = Held(programs=((path, str(Path(path).resolve())),))
        return self.programs.run(
            path,
            list(arguments),
            given,
            held=held,
            limits=(limits or Limits()).filled(),
            seconds=seconds,
            wanted=wanted,
        )

    def python(self, code: str, *arguments: str, **given: Any) -> Any:
        """What ``code`` says on standard output, by a Python that is a stranger."""
        done = self.run(PYTHON, "-I", "-c", code, *arguments, **given)
        assert done["returncode"] == 0, done["stderr"].decode()
        return done["stdout"].decode()

    def start(
        self, path: str, *arguments: str, limits: Limits | None = None
    ) -> tuple[ChildProcess, list[int]]:
        """A program that goes on, and this side's ends of its pipes."""
        theirs, mine = program.pipes()
        real = str(Path(path).resolve())
        process: ChildProcess = self.thread.run(
            program.run(
                self.zygotes,
                program.preload([real], Held(), (limits or Limits()).filled()),
                real,
                [each.encode() for each in arguments],
                pipes=theirs,
                name=path,
                held=Held(),
                limits=(limits or Limits()).filled(),
            )
        )
        return process, mine.release()

    def branch_of(self, process: ChildProcess) -> int:
        """The pid of the zygote's branch that forked it."""
        status = Path(f"/proc/{process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:"))

    def close(self) -> None:
        self.thread.run(self.zygotes.close())
        self.thread.stop()


async def _make() -> Zygotes:
    await asyncio.sleep(0)
    return Zygotes(allow_degraded=False, cgroups=False)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@pytest.fixture
def python() -> None:
    if not Path(PYTHON).is_file():
        pytest.skip(f"no {PYTHON}")


@pytest.fixture
def forks() -> None:
    """Programs may start others."""
    if Layer.PID_NAMESPACE not in machine().available:
        pytest.skip("no pid namespace, without which nothing ends what a program started")
