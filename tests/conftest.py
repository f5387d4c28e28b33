"""What every test leaves behind is looked at: no process, no zombie, no descriptor of ours."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# How long an example takes is the machine's affair: on a busy one they would fail.
settings.register_profile("cloister", deadline=None)
settings.load_profile("cloister")


def children() -> set[int]:
    """The pids of this process's children, zombies too."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        try:
            found.update(map(int, (task / "children").read_text().split()))
        except (OSError, ValueError):  # the thread is gone; a kernel without CONFIG_PROC_CHILDREN
            continue
    return found


def descriptors() -> dict[int, str]:
    """What this process has open, but for what pytest and Python open for themselves as they please."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
    return {fd: what for fd, what in found.items() if "/proc/" not in what and "urandom" not in what}


@pytest.fixture(autouse=True, scope="session")
def no_report_goes_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests let crash is reported into a folder of theirs, never into the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True, scope="module")
def nothing_is_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the module whose tests leave a child process, a zombie, a socket, a memfd or any other descriptor."""
    before_children, before_descriptors = children(), descriptors()
    yield
    gc.collect()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        left = children() - before_children
        opened = {fd: what for fd, what in descriptors().items() if before_descriptors.get(fd) != what}
        if not left and not opened:
            return
        time.sleep(0.01)
    names = {pid: _name(pid) for pid in left}
    pytest.fail(f"{request.node.name} left processes {names} and descriptors {opened}", pytrace=False)


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") or "a zombie"
    except OSError:
        return "gone"
