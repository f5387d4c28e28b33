"""One browser for the cases of a module, with the waits of a day made short."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloister.browser import ahead, decoders
from cloister.process import handle, supervisor
from cloister.process.keep import Breaker
from tests.faults.world import World, site
from tests.servers import Server


@pytest.fixture(scope="module")
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def hurried(patch: pytest.MonkeyPatch) -> None:
    """What is forked ahead is let go at once, pings are frequent, and no number of deaths opens a circuit breaker."""
    patch.setattr(decoders, "_BURST", 0.02)
    patch.setattr(decoders, "_IDLE", 0.04)
    patch.setattr(ahead, "_AFTER", 0.02)
    patch.setattr(ahead, "_IDLE", 0.04)
    patch.setattr(supervisor, "INTERVAL", 0.03)
    patch.setattr(handle, "_CLOSING_TIMEOUT", 0.2)
    patch.setattr(Breaker, "WINDOW", -1.0)
    patch.setattr(Breaker, "FIRST", 0.01)


@pytest.fixture(scope="module")
def folders(patch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """Where this program could leave files."""
    names = {"XDG_STATE_HOME": "state", "TMPDIR": "temporary", "XDG_RUNTIME_DIR": "runtime"}
    paths = {name: tmp_path_factory.mktemp(folder) for name, folder in names.items()}
    for name, path in paths.items():
        patch.setenv(name, str(path))
    return tuple(paths.values())


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with site() as server:
        yield server


@pytest.fixture(scope="module")
def world(hurried: None, folders: tuple[Path, ...], server: Server) -> Iterator[World]:
    world = World(server, folders)
    world.run(world.start())
    yield world
    world.close()
