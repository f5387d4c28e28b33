from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import pytest

from cloister.interfaces.web_content import Options
from cloister.interfaces.zygote import PreloadKind
from cloister.process import Zygote

from .window import Window

OpenWindow = Callable[..., Window]


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session", autouse=True)
def zygote(runner: asyncio.Runner) -> Iterator[Zygote]:
    """Shared by all modules, so begun before any of them is watched for what it leaves."""
    kind = PreloadKind("web_content", "cloister.web_content.main", b"")
    zygote = runner.run(Zygote.start([kind]))
    runner.run(zygote.ready())
    yield zygote
    runner.run(zygote.close())


@pytest.fixture
def open_window(runner: asyncio.Runner, zygote: Zygote) -> Iterator[OpenWindow]:
    """Opens pages of a given viewport; they end with the test."""
    windows: list[Window] = []

    def open_one(width: int = 200, height: int = 100, **options: int) -> Window:
        window = runner.run(Window.open(runner.run, zygote, Options(width, height, **options)))
        windows.append(window)
        return window

    yield open_one
    for window in windows:
        runner.run(window.close())


@pytest.fixture
def window(open_window: OpenWindow) -> Window:
    """A page of 200 by 100 CSS pixels."""
    return open_window()
