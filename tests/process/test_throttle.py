"""A throttled process keeps to its share, in short stops, and runs on when it is let go."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cloister.process.throttle import LONGEST_STOP, Throttle
from cloister.process.usage import cpu_seconds


class Child(NamedTuple):
    pid: int
    pidfd: int


@contextlib.contextmanager
def running(program: str) -> Iterator[Child]:
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        pidfd = os.pidfd_open(process.pid)
        try:
            yield Child(process.pid, pidfd)
        finally:
            process.kill()
            os.close(pidfd)


def spinner() -> contextlib.AbstractContextManager[Child]:
    return running("while True: pass")


def is_stopped(child: Child) -> bool:
    return Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def used(child: Child) -> float:
    seconds = cpu_seconds(child.pid)
    assert seconds is not None
    return seconds


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.002)


def run(coroutine: Any) -> None:
    asyncio.run(asyncio.wait_for(coroutine, 50))


def test_a_busy_process_is_held_to_its_share() -> None:
    async def go() -> None:
        with spinner() as child, Throttle(child.pid, child.pidfd, 10) as throttle:
            await until(lambda: throttle.is_over)  # it has used what it had at once
            before = used(child), asyncio.get_running_loop().time()
            await asyncio.sleep(1)
            share = (used(child) - before[0]) / (asyncio.get_running_loop().time() - before[1])
            assert 0 < share < 0.4  # without, it would be 1; between is what a machine may come late

    run(go())


def test_a_process_within_its_share_is_never_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = signals(monkeypatch)

    async def go() -> None:
        idle = running("import time\nwhile True: time.sleep(0.05)")
        with idle as child, Throttle(child.pid, child.pidfd, 80) as throttle:
            await asyncio.sleep(0.5)
            assert not throttle.is_over
        assert signal.SIGSTOP not in sent

    run(go())


def signals(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Those that are sent from now on; they are really sent."""
    sent: list[int] = []
    send = signal.pidfd_send_signal

    def record(pidfd: int, number: int) -> None:
        send(pidfd, number)
        sent.append(number)

    monkeypatch.setattr(signal, "pidfd_send_signal", record)
    return sent


def test_each_stop_is_short_and_followed_by_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = signals(monkeypatch)

    async def go() -> None:
        loop = asyncio.get_running_loop()
        call_later = loop.call_later
        planned: list[float] = []

        def record(delay: float, callback: Callable[..., None], *arguments: Any) -> asyncio.TimerHandle:
            if getattr(callback, "__self__", None) is throttle and sent[-1] == signal.SIGSTOP:
                planned.append(delay)
            return call_later(delay, callback, *arguments)

        throttle = None
        with spinner() as child:
            throttle = Throttle(child.pid, child.pidfd, 2)
            monkeypatch.setattr(loop, "call_later", record)
            with throttle:
                sent.append(signal.SIGCONT)
                await until(lambda: sent.count(signal.SIGSTOP) >= 4)
        assert planned
        assert max(planned) <= LONGEST_STOP
        assert sent[1:8] == [signal.SIGSTOP, signal.SIGCONT] * 3 + [signal.SIGSTOP]

    run(go())


def test_a_process_that_is_let_go_in_the_middle_of_a_stop_runs_on() -> None:
    async def go() -> None:
        with spinner() as child:
            with Throttle(child.pid, child.pidfd, 1) as throttle:
                await until(lambda: is_stopped(child))
            before = used(child)
            await until(lambda: used(child) > before + 0.05)
            assert not is_stopped(child)
            throttle.close()  # closing twice is fine

    run(go())


def test_a_throttle_that_nobody_closed_leaves_no_stopped_process() -> None:
    async def go(child: Child) -> None:
        throttle = Throttle(child.pid, child.pidfd, 1)
        await until(lambda: is_stopped(child))
        assert throttle.is_over

    with spinner() as child:
        run(go(child))
        gc.collect()
        before = used(child)
        asyncio.run(until(lambda: used(child) > before + 0.05))


def test_the_end_of_the_process_is_the_end_of_its_throttle() -> None:
    async def go() -> None:
        with running("") as child:
            throttle = Throttle(child.pid, child.pidfd, 50)
            os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
            await until(lambda: not throttle._finalizer.alive)

    run(go())


def test_the_callers_descriptor_stays_the_callers() -> None:
    async def go() -> None:
        with spinner() as child:
            with Throttle(child.pid, child.pidfd, 50):
                pass
            signal.pidfd_send_signal(child.pidfd, 0)

    run(go())


@pytest.mark.parametrize("percent", [0, 0.5, -1, float("nan")])
def test_no_process_is_throttled_to_a_standstill(percent: float) -> None:
    async def go() -> None:
        with spinner() as child, pytest.raises(ValueError, match="1 is the least"):
            Throttle(child.pid, child.pidfd, percent)

    run(go())
