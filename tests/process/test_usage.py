"""What a process uses: exact where the kernel shows it, and never less than it is where it does not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.interfaces import image_decoder
from cloister.interfaces.zygote import PreloadKind
from cloister.ipc import Channel
from cloister.process import Zygote
from cloister.process.kinds import MODULES
from cloister.process.usage import (
    cpu_seconds,
    descriptor_count,
    parent_of,
    parse_fields,
    pss,
    resident,
    usage,
)

MIB = 1 << 20
GONE = 2**22 + 1  # pids end before it: PID_MAX_LIMIT, proc_sys_kernel(5)

PROGRAM = "import sys\nfor line in sys.stdin:\n  exec(line)\n  print('done', flush=True)"


class Child:
    """A Python that does each line that it is told, and says when it has."""

    def __init__(self, fds: Sequence[int] = ()) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=fds,
        )
        self.pid = self.process.pid

    def do(self, line: str) -> str:
        """What it printed, before it was done."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(line, file=self.process.stdin, flush=True)
        return "".join(iter(self.process.stdout.readline, "done\n"))


@contextlib.contextmanager
def a_child(fds: Sequence[int] = ()) -> Iterator[Child]:
    child = Child(fds)
    with child.process as process:
        child.do("pass")
        yield child
        process.kill()


@pytest.fixture
def child() -> Iterator[Child]:
    with a_child() as child:
        yield child


def of(figure: int | None) -> int:
    assert figure is not None
    return figure


# A megabyte of leeway: the interpreter gives some of its own back meanwhile.
def test_memory_that_a_process_takes_is_in_both_figures(child: Child) -> None:
    before = of(pss(child.pid)), of(resident(child.pid))
    child.do(f"eaten = b'x' * {64 * MIB}")
    after = of(pss(child.pid)), of(resident(child.pid))
    for then, now in zip(before, after, strict=True):
        assert 63 * MIB <= now - then < 72 * MIB


def test_memory_that_two_share_is_halved_in_pss_and_whole_in_the_upper_estimate() -> None:
    memfd = os.memfd_create("shared")
    try:
        os.ftruncate(memfd, 64 * MIB)
        with a_child([memfd]) as one, a_child([memfd]) as other:
            before = of(pss(one.pid)), of(resident(one.pid))
            for child in (one, other):
                child.do(f"import mmap; m = mmap.mmap({memfd}, {64 * MIB}); m.write(b'x' * len(m))")
            share, whole = of(pss(one.pid)) - before[0], of(resident(one.pid)) - before[1]
            assert 31 * MIB <= share < 40 * MIB
            assert 63 * MIB <= whole < 72 * MIB
    finally:
        os.close(memfd)


def test_a_child_of_the_zygote_is_measured_exactly_by_root_and_from_above_by_others() -> None:
    async def go() -> None:
        zygote = await Zygote.start([PreloadKind("image_decoder", MODULES["image_decoder"])])
        ours, theirs = Channel.pair()
        options = msgspec.msgpack.encode(image_decoder.Options())
        child = await zygote.fork("image_decoder", options, [theirs], keep=[ours])
        await child.ready()
        found = usage(child.pid)
        assert found is not None
        if os.geteuid() == 0:
            assert found.exact
            assert MIB < found.pss_bytes < of(resident(child.pid))
        else:  # it is not dumpable
            assert pss(child.pid) is None
            assert not found.exact
            assert found.pss_bytes == resident(child.pid)
        assert found.threads == 1
        assert found.cpu_seconds > 0
        if os.geteuid() == 0 or Path("/proc/self/fd").stat().st_size:  # Linux 6.2
            assert found.descriptors is not None
            assert 2 <= found.descriptors < 20
        else:
            assert found.descriptors is None
        await child.end()
        await zygote.close()

    asyncio.run(go())


def test_cpu_seconds_are_those_that_the_process_itself_knows_of(child: Child) -> None:
    line = "import time; end = time.process_time() + 0.1\nwhile time.process_time() < end: pass"
    child.do(f"exec({line!r})")
    told = float(child.do("print(time.process_time())"))
    seen = cpu_seconds(child.pid)
    assert seen is not None
    assert told > 0.1
    assert told <= seen < told + 0.1


def test_the_time_of_threads_that_have_ended_counts(child: Child) -> None:
    before = cpu_seconds(child.pid)
    spin = "end = time.thread_time() + 0.1\nwhile time.thread_time() < end: pass"
    child.do(f"import time, threading; t = threading.Thread(target=exec, args=({spin!r},{{'time': time}}))")
    child.do("t.start(); t.join()")
    after = cpu_seconds(child.pid)
    assert before is not None
    assert after is not None
    assert after - before > 0.1


def test_descriptors_and_threads_are_counted(child: Child) -> None:
    before = usage(child.pid)
    # It has one more open itself while it looks.
    told = int(child.do("import os; print(len(os.listdir('/proc/self/fd')) - 1)"))
    child.do("opened = [open('/dev/null') for _ in range(7)]")
    child.do("import threading; stop = threading.Event(); threading.Thread(target=stop.wait).start()")
    after = usage(child.pid)
    assert before is not None
    assert after is not None
    assert before.descriptors == told
    assert after.descriptors == told + 7
    assert (before.threads, after.threads) == (1, 2)
    child.do("stop.set()")


@pytest.mark.parametrize("pid", [GONE, 0, -1])
def test_of_a_process_that_is_not_there_nothing_is_said(pid: int) -> None:
    assert usage(pid) is None
    assert pss(pid) is None
    assert resident(pid) is None
    assert cpu_seconds(pid) is None
    assert descriptor_count(pid) is None


def test_a_zombie_has_no_memory() -> None:
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert resident(process.pid) == 0
        assert pss(process.pid) is None
        found = usage(process.pid)
        assert found is not None
        assert (found.pss_bytes, found.exact) == (0, False)


def test_a_process_cannot_add_a_line_to_its_status_by_its_name(child: Child) -> None:
    child.do("import ctypes; ctypes.CDLL(None).prctl(15, b'\\nVmX:1 kB', 0, 0, 0)")
    assert "VmX" not in parse_fields(Path(f"/proc/{child.pid}/status").read_text())
    child.do("ctypes.CDLL(None).prctl(15, b'\\x0bVmX:1 kB', 0, 0, 0)")
    text = Path(f"/proc/{child.pid}/status").read_text()
    assert "\x0bVmX:1 kB" in text
    assert "VmX" not in parse_fields(text)


def test_a_process_has_the_parent_that_started_it_whatever_it_calls_itself(child: Child) -> None:
    child.do("import ctypes; ctypes.CDLL(None).prctl(15, b'\\nPPid:\\t1\\n', 0, 0, 0)")
    assert parent_of(child.pid) == os.getpid()
    with subprocess.Popen(["true"]) as process:
        pass
    assert parent_of(process.pid) is None


@given(st.dictionaries(st.text("VmRSwap_", min_size=1), st.integers(0, 2**64 - 1), max_size=5))
def test_numbers_are_read_with_their_unit(fields: dict[str, int]) -> None:
    text = "".join(f"{name}:\t{value:8} kB\n" for name, value in fields.items())
    assert parse_fields(text) == {name: value * 1024 for name, value in fields.items()}
    text = "".join(f"{name}:\t{value}\n" for name, value in fields.items())
    assert parse_fields(text) == fields


@given(st.text() | st.text("Vm:\t 0123456789kB\n-²", max_size=200))
def test_any_text_is_read_without_an_error(text: str) -> None:
    assert all(value >= 0 for value in parse_fields(text).values())
