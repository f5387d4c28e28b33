"""A pool: an Executor whose calls can be cancelled while they run."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor

import pytest

from cloister.errors import (
    InvalidArgument,
    NoSuchPlugin,
    NotSendable,
    PluginCrashed,
    PluginRaised,
    RuntimeClosed,
)
from cloister.plugins.limits import Limits
from cloister.plugins.pool import PluginPool, PoolBroken
from cloister.plugins.runtime import PluginRuntime
from cloister.plugins.shared_runtime import close_shared

CODE = """
import os, time
count = 0
def double(x): return 2 * x
def counted():
    global count
    count += 1
    return [os.getpid(), count]
def leave(): os._exit(3)
def sleep(seconds): time.sleep(seconds); return seconds
def fail(x): raise ValueError(x)
"""


@pytest.fixture(autouse=True, scope="module")
def closed() -> Iterator[None]:
    yield
    close_shared()


@pytest.fixture
def named(runtime: PluginRuntime) -> PluginRuntime:
    runtime.load_source(CODE, "work")
    return runtime


def square(x: int) -> int:
    return x * x


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def same_code(executor: concurrent.futures.Executor) -> list[object]:
    """What a program does with an executor."""
    futures = [executor.submit(square, x) for x in range(20)]
    done, not_done = concurrent.futures.wait(futures)
    failed = executor.submit(square, "x")  # type: ignore[arg-type]
    return [
        [future.result() for future in futures],
        len(done),
        len(not_done),
        list(executor.map(square, range(5), timeout=30)),
        sorted(
            f.result() for f in concurrent.futures.as_completed(executor.submit(square, x) for x in range(5))
        ),
        failed.exception() is not None,
    ]


def test_code_for_another_executor_runs_with_one_line_changed() -> None:
    with ThreadPoolExecutor(2) as executor:
        expected = same_code(executor)
    with PluginPool(size=2) as pool:
        assert same_code(pool) == expected
    with pytest.raises(RuntimeError, match="shut down"):
        pool.submit(square, 1)


def test_a_named_pool_calls_a_plugin(named: PluginRuntime) -> None:
    with PluginPool("work", size=2, runtime=named) as pool:
        assert list(pool.map("double", range(50))) == [2 * x for x in range(50)]  # type: ignore[arg-type]
        with pytest.raises(PluginRaised, match="no"):
            pool.submit("fail", "no").result()
        with pytest.raises(NotSendable):
            pool.submit("double", object()).result()
        with pytest.raises(InvalidArgument):
            pool.submit(square, 1)
    with pytest.raises(NoSuchPlugin):
        PluginPool("other", runtime=named)
    with pytest.raises(InvalidArgument):
        PluginPool("work")
    with pytest.raises(InvalidArgument), PluginPool(size=0):
        pass


def test_what_is_left_of_a_call_is_as_was_asked(named: PluginRuntime) -> None:
    def counts(calls: str) -> list[list[int]]:
        with PluginPool("work", size=1, calls=calls, runtime=named) as pool:  # type: ignore[arg-type]
            return [pool.submit("counted").result() for _ in range(3)]

    reused, reset, fresh = counts("reused"), counts("reset"), counts("fresh")
    assert [n for _, n in reused] == [1, 2, 3]
    assert [n for _, n in reset] == [n for _, n in fresh] == [1, 1, 1]
    assert [len({pid for pid, _ in found}) for found in (reused, reset, fresh)] == [1, 1, 3]


def test_a_crash_takes_its_own_call_along_and_no_other(named: PluginRuntime) -> None:
    with PluginPool("work", size=2, runtime=named) as pool:
        futures = [
            pool.submit("leave" if n % 5 == 2 else "double", *([] if n % 5 == 2 else [n])) for n in range(15)
        ]
        for n, future in enumerate(futures):
            if n % 5 == 2:
                assert isinstance(future.exception(), PluginCrashed)
            else:
                assert future.result() == 2 * n


def test_a_pool_that_does_not_restart_is_broken(named: PluginRuntime) -> None:
    with PluginPool("work", size=1, restart_on_crash=False, runtime=named) as pool:
        first, second = pool.submit("leave"), pool.submit("double", 1)
        assert isinstance(first.exception(), PluginCrashed)
        assert isinstance(second.exception(), PoolBroken)
        assert isinstance(second.exception(), concurrent.futures.BrokenExecutor)
        with pytest.raises(PoolBroken):
            pool.submit("double", 1)


def test_a_full_queue_makes_submit_wait(named: PluginRuntime) -> None:
    with PluginPool("work", size=1, queue_size=2, runtime=named) as pool:
        running = pool.submit("sleep", 30)
        until(running.running)
        waiting = [pool.submit("double", n) for n in range(2)]
        entered = threading.Event()
        late: list[int] = []

        def submit() -> None:
            entered.set()
            late.append(pool.submit("double", 5).result())

        thread = threading.Thread(target=submit)
        thread.start()
        entered.wait()
        thread.join(0.05)
        assert thread.is_alive()
        assert running.cancel()
        thread.join(20)
        assert [future.result() for future in waiting] == [0, 2]
        assert late == [10]


def test_cancelling_what_runs_ends_its_process(named: PluginRuntime) -> None:
    with PluginPool("work", size=1, runtime=named) as pool:
        before = pool.submit("counted").result()[0]
        running, waiting = pool.submit("sleep", 30), pool.submit("double", 4)
        until(running.running)
        until(running.cancel)
        with pytest.raises(CancelledError):
            running.result()
        assert running.cancelled()
        assert waiting.result() == 8
        assert pool.submit("counted").result()[0] != before
        assert not waiting.cancel()


def test_shutdown_does_what_waits_or_cancels_it(named: PluginRuntime) -> None:
    pool = PluginPool("work", size=1, runtime=named)
    futures = [pool.submit("double", n) for n in range(5)]
    pool.shutdown()
    assert [future.result() for future in futures] == [0, 2, 4, 6, 8]
    pool.shutdown()
    pool = PluginPool("work", size=1, runtime=named)
    running = pool.submit("sleep", 0.1)
    until(running.running)
    waiting = [pool.submit("double", n) for n in range(5)]
    pool.shutdown(cancel_futures=True)
    assert running.result() == 0.1
    assert all(future.cancelled() for future in waiting)


def test_waiting_for_all(named: PluginRuntime) -> None:
    with PluginPool("work", size=2, runtime=named) as pool:
        futures = [pool.submit("double", n) for n in range(10)]
        assert pool.wait(20)
        assert all(future.done() for future in futures)
        running = pool.submit("sleep", 30)
        assert not pool.wait(0.01)
        until(running.cancel)


def test_for_asyncio_too(named: PluginRuntime) -> None:
    async def run() -> None:
        found = await asyncio.gather(*(pool.run("double", n) for n in range(30)))
        assert found == [2 * n for n in range(30)]
        task = asyncio.ensure_future(pool.run("sleep", 30))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await pool.run("double", 3) == 6

    with PluginPool("work", size=1, queue_size=3, runtime=named) as pool:
        asyncio.run(run())


def test_many_functions_of_the_program_do_not_pile_up() -> None:
    with PluginPool(size=1, limits=Limits(memory="64 MiB")) as pool:
        found = [pool.submit(eval(f"lambda x: x + {n}"), 1) for n in range(300)]
        assert [future.result() for future in found] == [n + 1 for n in range(300)]


def test_a_pool_that_nobody_shuts_down_leaves_nothing(named: PluginRuntime) -> None:
    pool = PluginPool("work", size=2, runtime=named)
    assert pool.submit("double", 1).result() == 2
    del pool
    until(lambda: not any(thread.name == "cloister-pool" for thread in threading.enumerate()))


def test_closing_the_runtime_ends_its_pools() -> None:
    with PluginRuntime() as runtime:
        runtime.load_source(CODE, "work")
        pool = PluginPool("work", size=1, runtime=runtime)
        assert pool.submit("double", 1).result() == 2
    with pytest.raises((RuntimeClosed, PluginCrashed)):
        pool.submit("double", 1).result()
    pool.shutdown()
