"""When what has ended is started again, and when not."""

from __future__ import annotations

import asyncio

import pytest

from cloister.errors import BrowserClosed, CircuitOpen, LaunchError, ProcessLost
from cloister.process.keep import Breaker, Kept


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_each_end_doubles_the_delay_and_jitter_stays_within_its_half() -> None:
    clock = Clock()
    breaker = Breaker("it", clock)
    wanted = Breaker.FIRST
    for _ in range(Breaker.MOST - 1):
        breaker.ended()
        delays = {breaker.delay() for _ in range(50)}
        assert len(delays) > 1
        assert all(wanted / 2 <= delay <= wanted for delay in delays)
        wanted *= 2


def test_a_loop_opens_the_circuit_then_one_try_is_allowed_then_it_opens_again() -> None:
    clock = Clock()
    breaker = Breaker("it", clock)
    for _ in range(Breaker.MOST):
        breaker.ended()
    with pytest.raises(
        CircuitOpen, match="it ended 6 times within 60 s, so it is not started again for 30 s"
    ):
        breaker.delay()
    clock.now += Breaker.OPEN + 1
    assert breaker.delay() == 0
    breaker.ended()
    with pytest.raises(CircuitOpen):
        breaker.delay()


def test_ends_that_are_long_ago_are_forgotten() -> None:
    clock = Clock()
    breaker = Breaker("it", clock)
    for _ in range(Breaker.MOST * 3):
        breaker.ended()
        breaker.delay()
        clock.now += Breaker.WINDOW / (Breaker.MOST - 2)
    clock.now += Breaker.WINDOW
    assert breaker.delay() <= Breaker.FIRST


class Starts:
    """What starts: a number, unless told to fail."""

    def __init__(self, *fails: int) -> None:
        self.count = 0
        self.fails = fails

    async def __call__(self) -> int:
        self.count += 1
        if self.count in self.fails:
            raise LaunchError(f"start {self.count} failed")
        return self.count


def test_who_asks_after_an_end_gets_the_next_one() -> None:
    async def go() -> None:
        kept = Kept("it", Starts())
        assert await kept.begin() == 1
        assert await kept.get(1) == 1
        kept.ended()
        assert kept.current is None
        assert await kept.get(5) == 2
        assert kept.current == 2
        await kept.close()

    asyncio.run(go())


def test_a_start_that_fails_is_tried_again() -> None:
    async def go() -> None:
        kept = Kept("it", Starts(2, 3))
        await kept.begin()
        kept.ended()
        assert await kept.get(5) == 4
        await kept.close()

    asyncio.run(go())


def test_the_first_start_that_fails_is_no_loop() -> None:
    async def go() -> None:
        starts = Starts(1)
        kept = Kept("it", starts)
        with pytest.raises(LaunchError):
            await kept.begin()
        assert starts.count == 1
        await kept.close()

    asyncio.run(go())


def test_who_waits_in_a_loop_hears_of_it_and_later_ones_try_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Breaker, "FIRST", 0.001)

    async def go() -> None:
        starts = Starts(*range(2, 100))
        kept = Kept("it", starts)
        await kept.begin()
        kept.ended()
        with pytest.raises(CircuitOpen):
            await kept.get(5)
        tried = starts.count
        with pytest.raises(CircuitOpen):
            await kept.get(5)
        assert starts.count == tried
        starts.fails = ()
        monkeypatch.setattr(Breaker, "OPEN", 0.0)
        assert await kept.get(5) == tried + 1
        await kept.close()

    asyncio.run(go())


def test_nobody_waits_longer_than_asked_or_after_the_end() -> None:
    async def go() -> None:
        started = asyncio.Event()

        async def never() -> int:
            if started.is_set():
                await asyncio.sleep(60)
            started.set()
            return 1

        kept = Kept("it", never)
        await kept.begin()
        kept.ended()
        with pytest.raises(ProcessLost, match="it has not come back within 0.2 s"):
            await kept.get(0.2)
        await kept.close()
        with pytest.raises(BrowserClosed):
            await kept.get(0.2)

    asyncio.run(go())
