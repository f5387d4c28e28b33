"""The runtime for asyncio: many calls at once, and cancellation that ends what was cancelled."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from cloister.errors import NoSuchPlugin, PluginRaised, RuntimeClosed, Timeout
from cloister.plugins.async_runtime import AsyncPluginRuntime, AsyncStream
from cloister.plugins.plugin import Running
from tests.plugins.test_runtime import manifest

CODE = """
import time
def double(x): return 2 * x
def sleep(seconds): time.sleep(seconds); return seconds
def count(n): yield from range(n)
def fail(): raise ValueError('no')
"""


def test_a_program_with_asyncio(tmp_path: Path) -> None:
    async def run() -> None:
        with pytest.raises(RuntimeClosed):
            await AsyncPluginRuntime().call("x", "y")
        async with AsyncPluginRuntime() as runtime:
            for name in ("one", "two", "three"):
                await runtime.load_source(CODE, name)
            await runtime.load(manifest(tmp_path))
            assert await runtime.call("greeter", "greet", "Ada") == "Hello Ada"
            found = await asyncio.gather(
                *(runtime.call(n, "double", x) for n in ("one", "two") for x in range(20))
            )
            assert found == [2 * x for x in range(20)] * 2
            with pytest.raises(PluginRaised):
                await runtime.call("one", "fail")
            with pytest.raises(NoSuchPlugin):
                await runtime.call("four", "fail")
            await each_has_its_own_time(runtime)
            await cancelled(runtime)
            await streamed(runtime)
            await runtime.restart("two")
            await runtime.unload("two")
            assert [plugin.name for plugin in runtime.plugins] == ["one", "three", "greeter"]
        with pytest.raises(RuntimeClosed):
            await runtime.call("one", "double", 1)

    asyncio.run(run())


async def each_has_its_own_time(runtime: AsyncPluginRuntime) -> None:
    started = time.monotonic()
    names = ("one", "two", "three")
    await asyncio.gather(*(runtime.call(name, "sleep", 0.5) for name in names))
    assert time.monotonic() - started < 1.5, "they ran side by side"
    with pytest.raises(Timeout):
        await runtime.call("one", "sleep", 30, timeout=0.05)


async def cancelled(runtime: AsyncPluginRuntime) -> None:
    running = asyncio.ensure_future(runtime.call("one", "sleep", 30))
    await asyncio.sleep(0.1)  # each is called from a thread, and any thread may be first
    waiting = asyncio.ensure_future(runtime.call("one", "sleep", 30))
    kept = asyncio.ensure_future(runtime.call("one", "double", 4))
    await asyncio.sleep(0.1)
    waiting.cancel()
    running.cancel()
    for each in (running, waiting):
        with pytest.raises(asyncio.CancelledError):
            await each
    assert await kept == 8
    assert runtime.status("one") == Running()


async def streamed(runtime: AsyncPluginRuntime) -> None:
    stream = await runtime.call("one", "count", 4)
    assert isinstance(stream, AsyncStream)
    assert [each async for each in stream] == [0, 1, 2, 3]
    async with await runtime.call("one", "count", 10**9) as endless:
        assert await anext(endless) == 0
    assert await runtime.call("one", "double", 1) == 2
