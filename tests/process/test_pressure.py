"""Memory pressure: what the kernel says is read as it is meant, and what it does not say is not made up."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.process import pressure
from cloister.process.pressure import Pressure, PressureWatch
from tests.conftest import descriptors

CPU = Path("/proc/pressure/cpu")
"""Has the form of the memory's, and is easy to raise."""

needs_psi = pytest.mark.skipif(Pressure.read(CPU) is None, reason="this kernel has no PSI (psi=1 at start)")


def text(total: int) -> str:
    line = f"avg10=1.50 avg60=0.25 avg300=0.00 total={total}\n"
    return f"some {line}full {line}"


@contextmanager
def more_busy_processes_than_cores() -> Iterator[None]:
    count = len(os.sched_getaffinity(0)) + 1
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@needs_psi
def test_the_kernels_figures_are_read() -> None:
    found = Pressure.read()
    assert found is not None
    assert 0 <= found.avg10 <= 100
    assert 0 <= found.avg60 <= 100
    assert found.total >= 0


def test_a_kernel_without_psi_has_no_pressure_and_nothing_is_watched(tmp_path: Path) -> None:
    assert Pressure.read(tmp_path / "memory") is None

    async def go() -> None:
        with PressureWatch(print, path=tmp_path / "memory") as watch:
            assert watch.source is None

    asyncio.run(go())


def test_other_errors_are_not_hidden(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        Pressure.read(tmp_path)


@needs_psi
def test_the_kernel_calls_when_processes_have_waited() -> None:
    async def go() -> None:
        called: asyncio.Queue[Pressure] = asyncio.Queue()
        with PressureWatch(called.put_nowait, stalled=0.001, path=CPU) as watch:
            if watch.source != "trigger":
                pytest.skip("before Linux 6.4, PSI triggers are for CAP_SYS_RESOURCE")
            before = Pressure.read(CPU)
            assert before is not None
            with more_busy_processes_than_cores():
                first = await asyncio.wait_for(called.get(), 30)
            assert first.total > before.total
            # Readable is not enough: were it, the loop would never rest.
            assert called.qsize() <= 1
        assert watch.source is None

    asyncio.run(go())


def test_where_no_trigger_is_granted_the_file_is_read_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pressure, "_WINDOW", 0.02)
    file = tmp_path / "memory"

    async def go() -> None:
        called: asyncio.Queue[Pressure] = asyncio.Queue()
        file.write_text(text(5_000_000))
        with PressureWatch(called.put_nowait, stalled=0.01, path=file) as watch:
            assert watch.source == "timer"  # a file on a disk has no triggers
            replace(file, text(5_009_999))
            await asyncio.sleep(0.1)
            assert called.empty()  # too little
            replace(file, text(5_020_000))
            assert await asyncio.wait_for(called.get(), 10) == Pressure(1.5, 0.25, 5.02)
            await asyncio.sleep(0.1)
            assert called.empty()  # nothing since
        replace(file, text(9_000_000))
        await asyncio.sleep(0.1)
        assert called.empty()  # it is closed

    asyncio.run(go())


def replace(file: Path, content: str) -> None:
    """At once: a reader sees the old or the new."""
    new = file.with_name("new")
    new.write_text(content)
    new.rename(file)


@needs_psi
def test_a_closed_watch_has_no_descriptor_open() -> None:
    async def go() -> None:
        before = len(descriptors())
        watch = PressureWatch(print)
        watch.close()
        watch.close()
        assert len(descriptors()) == before

    asyncio.run(go())


@pytest.mark.parametrize("stalled", [0, -1, 2.1, float("nan")])
def test_a_threshold_that_cannot_be_reached_is_refused(stalled: float) -> None:
    async def go() -> None:
        with pytest.raises(ValueError, match="stalled is"):
            PressureWatch(print, stalled=stalled)

    asyncio.run(go())


@given(st.integers(0, 10000), st.integers(0, 10000), st.integers(0, 2**64 - 1))
def test_each_figure_is_found_in_its_place(ten: int, sixty: int, total: int) -> None:
    line = f"avg10={ten / 100:.2f} avg60={sixty / 100:.2f} avg300=3.00 total={total}"
    assert Pressure.parse(f"some {line}\nfull {line}\n") == Pressure(ten / 100, sixty / 100, total / 1e6)


@given(st.text() | st.text("some avg160=.total\n9²", max_size=200))
def test_any_other_text_is_no_pressure(text: str) -> None:
    assert Pressure.parse(text) is None or text.startswith("some avg10=")
