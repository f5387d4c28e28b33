"""Whoever looks after the children goes on doing so, whatever one of them or a listener does."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cloister.errors import BadMessage
from cloister.process import ChildProcess, supervisor
from cloister.process.supervisor import HealthEvent, Supervisor


class Child:
    """What a supervisor asks of a handle."""

    kind, pid, site, state = "web_content", 1, None, "running"

    def __init__(self, answer: Exception | None) -> None:
        self.is_unresponsive = False
        self.asked = 0
        self._answer = answer

    def when_ended(self, callback: Any) -> None:
        pass

    def probe(self) -> asyncio.Future[object]:
        self.asked += 1
        if self._answer is not None:
            raise self._answer
        return asyncio.get_running_loop().create_future()


def test_a_child_that_broke_the_protocol_a_moment_ago_does_not_end_the_supervision_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervisor, "INTERVAL", 0.005)

    async def go() -> None:
        watcher = Supervisor(lambda _child, _event: None, lambda _child: None)
        broken: Any = Child(BadMessage("what it said is not in its interface"))
        other: Any = Child(None)
        watcher.adopt(broken)
        watcher.adopt(other)
        async with asyncio.timeout(5):
            while broken.asked < 3 or not other.asked:
                await asyncio.sleep(0.005)
        watcher.close()

    asyncio.run(go())


def test_a_listener_that_raises_does_not_end_the_supervision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "INTERVAL", 0.005)
    monkeypatch.setattr(supervisor, "OVERDUE", 0.01)
    raised: list[object] = []

    def listen(_child: ChildProcess, _event: HealthEvent) -> None:
        raise RuntimeError("of the program's own making")

    async def go() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, what: raised.append(what["exception"]))
        watcher = Supervisor(listen, lambda _child: None)
        children: list[Any] = [Child(None), Child(None)]
        for child in children:
            watcher.adopt(child)
        async with asyncio.timeout(5):
            while not all(child.is_unresponsive for child in children):
                await asyncio.sleep(0.005)
        watcher.close()

    asyncio.run(go())
    assert [str(error) for error in raised] == ["of the program's own making"] * 2
