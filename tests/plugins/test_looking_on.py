"""What is left of a plugin that ended as it should not have, and what ``cloister top`` shows of a runtime."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cloister.cli.lookout import Lookout, Seen
from cloister.cli.top import _table
from cloister.errors import MemoryLimit, PluginCrashed, Timeout
from cloister.plugins.limits import Limits
from cloister.plugins.plugin import Terminated
from cloister.plugins.runtime import PluginRuntime
from cloister.plugins.watched import WatchedPlugins
from cloister.process.crashes import CrashReport, CrashStore

CODE = """
import ctypes, os, time
def fine(): return 1
def fault(): ctypes.string_at(0)
def leave(): os._exit(7)
def memory(): return ctypes.memset(ctypes.create_string_buffer(2**33), 1, 2**33)
def forbidden():
    import signal
    os.kill(1, signal.SIGTERM)
def wait(): time.sleep(60)
"""


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


def reports_of(runtime: PluginRuntime) -> list[CrashReport]:
    runtime.close()  # waits for those that are being written
    return CrashStore().list()


def test_a_crash_leaves_a_report_with_the_plugins_name() -> None:
    with PluginRuntime() as runtime:
        plugin = runtime.load_source(CODE, "faulty")
        pid = plugin.pid
        with pytest.raises(PluginCrashed):
            plugin.call("fault")
        with pytest.raises(PluginCrashed):
            plugin.call("leave")
        assert plugin.call("fine") == 1
        left, fault = reports_of(runtime)
    assert (fault.kind, fault.pid, fault.plugin, fault.site) == ("plugin_host", pid, "faulty", None)
    assert fault.signal == "SIGSEGV"
    assert "Segmentation fault" in fault.trace
    assert "seccomp" in fault.layers
    assert (left.plugin, left.end) == ("faulty", {"type": "Exited", "code": 7})


def test_so_does_one_that_is_a_program(tmp_path: Path) -> None:
    (tmp_path / "plugin.toml").write_text(
        'name = "foreign"\nversion = "1.0.0"\napi-version = "1.0"\nsource = "program"\nlanguage = "executable"\n'
        'exports = ["f"]\n'
    )
    (tmp_path / "program").write_text("#!/bin/sh\nread line\nkill -SEGV $$\n")
    (tmp_path / "program").chmod(0o755)
    with PluginRuntime() as runtime:
        runtime.load(tmp_path / "plugin.toml")
        watched = WatchedPlugins(runtime._registry, runtime._zygotes).rows()
        assert [row.kind for row in watched if row.site == "foreign"] == ["program_host", "plugin_host"]
        with pytest.raises(PluginCrashed):
            runtime.call("foreign", "f")
        (report,) = reports_of(runtime)
    assert (report.kind, report.plugin, report.signal) == ("program_host", "foreign", "SIGSEGV")


def test_what_is_part_of_ordinary_life_leaves_none() -> None:
    with PluginRuntime(limits=Limits(memory="64 MiB")) as runtime:
        plugin = runtime.load_source(CODE, "good")
        with pytest.raises(Timeout):
            plugin.call("wait", timeout=0.1)
        with pytest.raises(MemoryLimit):
            plugin.call("memory")
        plugin.restart()
        runtime.unload("good")
        assert reports_of(runtime) == []


def test_none_is_left_where_none_is_wanted() -> None:
    with PluginRuntime(crash_reports=False) as runtime:
        plugin = runtime.load_source(CODE, "faulty")
        with pytest.raises(PluginCrashed):
            plugin.call("fault")
        assert reports_of(runtime) == []


def test_a_runtime_and_its_plugins_are_shown_and_can_be_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    async def go(pid: int) -> tuple[list[Seen], str, str]:
        lookout = Lookout()
        try:
            seen = await lookout.look()
            mine = next(each for each in seen if each.row.pid == pid)
            return seen, await lookout.reload(mine), await lookout.kill(mine)
        finally:
            lookout.close()

    with PluginRuntime() as runtime:
        plugin = runtime.load_source(CODE, "shown")
        pid = plugin.pid or 0
        seen, reloaded, killed = asyncio.run(go(pid))
        assert [(each.row.kind, each.row.site) for each in seen] == [
            ("plugin_runtime", ""),
            ("zygote", ""),
            ("zygote", ""),
            ("plugin_host", "shown"),
        ]
        me, *_, row = (each.row for each in seen)
        assert me.pid == os.getpid()
        assert (row.pid, row.state) == (pid, "running")
        assert "seccomp" in row.layers
        assert row.pss_bytes > 2**20
        assert "works for no page" in reloaded
        assert killed == f"plugin_host {pid}: killed"
        assert "shown" in [str(cell) for column in _table(seen).columns for cell in column.cells]
        until(lambda: plugin.status == Terminated("on request, through the monitor"))
        assert plugin.call("fine") == 1
    assert list(tmp_path.rglob("*.sock")) == []


def test_a_plugin_that_is_silent_is_shown_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: PluginRuntime
) -> None:
    monkeypatch.setattr("cloister.plugins.plugin._SILENCE", 0.05)
    plugin = runtime.load_source(CODE, "shown")
    watched = WatchedPlugins(runtime._registry, runtime._zygotes)

    def states() -> list[str]:
        return [row.state for row in watched.rows() if row.site == "shown"]

    assert states() == ["running"]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(plugin.call, "wait")
        until(lambda: states() == ["unresponsive"])
        assert not watched.kill(os.getpid())
        assert runtime._thread.run(killed(watched, plugin.pid or 0))
        with pytest.raises(PluginCrashed):
            waiting.result(20)


async def killed(watched: WatchedPlugins, pid: int) -> bool:
    return watched.kill(pid)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
