"""A pool's one thread: whatever a plugin does or says, the others are served meanwhile."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from cloister.errors import CloisterError, CpuLimit, NoSuchFunction, PluginCrashed, ResultLimit, Timeout
from cloister.plugins.limits import Limits
from cloister.plugins.pool import PluginPool
from cloister.plugins.runtime import PluginRuntime
from cloister.plugins.stream import Stream
from tests.plugins import test_forged_messages as forged
from tests.plugins.test_runtime import until

CODE = (
    forged.CODE
    + """
import host
def double(x): return 2 * x
def ask(): return host.ask()
def talk(x): print(x); return x
def spin():
    while True: pass
def count(): yield from range(3)
def large(size): return bytes(size)
def length(x): return len(x)
def pid(): return os.getpid()
def speak_first(junk):
    os.write(sockets()[1], junk)
    return 1
"""
)


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    made = threading.Event()
    yield made
    made.set()


@pytest.fixture
def pool(runtime: PluginRuntime, gate: threading.Event) -> Iterator[PluginPool]:
    limits = Limits(output="4 KiB", result="1 MiB", timeout=20)
    runtime.load_source(CODE, "work", limits=limits, functions={"ask": lambda: gate.wait(20)})
    with PluginPool("work", size=2, queue_size=4, runtime=runtime) as made:
        yield made
        gate.set()


def test_a_host_function_that_waits_keeps_nobody_else(pool: PluginPool, gate: threading.Event) -> None:
    asking = pool.submit("ask")
    assert [pool.submit("double", n).result(20) for n in range(20)] == [2 * n for n in range(20)]
    assert not asking.done()
    gate.set()
    assert asking.result(20) is True


def test_who_is_called_back_may_submit_to_a_full_pool(pool: PluginPool) -> None:
    later: list[Future[Any]] = []
    first: list[Future[Any]] = []

    def again(_done: Future[Any]) -> None:
        later.extend(pool.submit("double", n) for n in range(20))  # it waits for room

    for _ in range(4):
        first.append(pool.submit("double", 1))
        first[-1].add_done_callback(again)
    assert pool.submit("double", 4).result(20) == 8
    until(lambda: len(later) == 80)
    assert sorted(f.result(20) for f in later) == sorted([2 * n for n in range(20)] * 4)


def test_a_deadline_passes_for_its_call_alone(runtime: PluginRuntime) -> None:
    runtime.load_source(CODE, "short", limits=Limits(timeout=0.15))
    with PluginPool("short", size=2, runtime=runtime) as pool:
        assert pool.submit("double", 1).result(20) == 2
        spinning = pool.submit("spin")
        assert [pool.submit("double", n).result(20) for n in range(20)] == [2 * n for n in range(20)]
        assert isinstance(spinning.exception(20), Timeout)
        assert pool.submit("double", 2).result(20) == 4


@pytest.mark.parametrize(
    "what", ["nothing known", "an answer to what was not asked", "a message of the host"]
)
def test_what_is_not_due_ends_its_own_call(pool: PluginPool, what: str) -> None:
    pool.submit("double", 1).result(20)
    sending = pool.submit("send", [forged.FORGED[what]], forged.WORK)
    spoken = pool.submit("speak_first", forged.FORGED[what])
    assert isinstance(sending.exception(20), PluginCrashed)
    assert isinstance(spoken.exception(20), PluginCrashed)
    assert [pool.submit("double", n).result(20) for n in range(4)] == [0, 2, 4, 6]


def test_calls_of_every_kind_side_by_side(pool: PluginPool) -> None:
    wanted = {
        "talk": pool.submit("talk", "x"),
        "length": pool.submit("length", bytearray(200_000)),
        "double": pool.submit("double", "ab"),
        "large": pool.submit("large", 500_000),
    }
    found = {name: future.result(20) for name, future in wanted.items()}
    assert found == {"talk": "x", "length": 200_000, "double": "abab", "large": bytes(500_000)}
    stream = pool.submit("count").result(20)
    assert isinstance(stream, Stream)
    assert list(stream) == [0, 1, 2]
    assert isinstance(pool.submit("large", 2**21).exception(20), ResultLimit)
    assert isinstance(pool.submit("nothing").exception(20), NoSuchFunction)
    assert isinstance(pool.submit("talk", "x" * 10_000).exception(20), CloisterError)
    assert pool.wait(20)


def test_processes_that_end_while_nobody_calls_them_are_replaced(pool: PluginPool) -> None:
    before = {pool.submit("pid").result(20) for _ in range(10)}
    for plugin in pool._work._plugins:
        if plugin.pid is not None:
            os.kill(plugin.pid, signal.SIGKILL)
    until(lambda: all(plugin.pid is None for plugin in pool._work._plugins))
    assert not before & {pool.submit("pid").result(20) for _ in range(10)}


def test_processor_time_is_bounded_in_a_pool_too(runtime: PluginRuntime) -> None:
    runtime.load_source(CODE, "busy", limits=Limits(cpu_time=0.1))
    with PluginPool("busy", size=1, runtime=runtime) as pool:
        assert isinstance(pool.submit("spin").exception(20), CpuLimit)
        assert pool.submit("double", 1).result(20) == 2
