"""What is forked for the next page, and let go when there is none."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from cloister.browser import ahead
from cloister.browser.ahead import Ahead


def test_what_comes_late_is_let_go_of_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "_AFTER", 0.001)
    monkeypatch.setattr(ahead, "_IDLE", 0.01)

    async def go() -> None:
        renderer: Any = object()
        seen_off: list[object] = []
        asked, come = asyncio.Event(), asyncio.Event()

        async def slowly() -> Any:
            asked.set()
            await come.wait()
            return renderer

        next_one = Ahead(slowly, seen_off.append)
        next_one.loaded()
        next_one.loaded()
        await asked.wait()
        await asyncio.sleep(0.03)  # by now it would have been let go of, had it been there
        come.set()
        async with asyncio.timeout(5):
            while not seen_off:
                await asyncio.sleep(0.005)
        assert seen_off == [renderer]
        await next_one.close()

    asyncio.run(go())
