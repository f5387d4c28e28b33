"""Plugins that are written while they run: read again, tried beside the old version, and put in its place."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import queue
import shutil
import threading
from pathlib import Path
from typing import Any, Final

import pytest

from cloister.errors import (
    CloisterError,
    DependencyError,
    InvalidArgument,
    ManifestError,
    NoSuchFunction,
    PluginCrashed,
    PluginError,
    PluginRaised,
    Timeout,
)
from cloister.plugins.async_runtime import AsyncPluginRuntime
from cloister.plugins.events import PluginEvent
from cloister.plugins.file_watcher import Debounce
from cloister.plugins.limits import Limits
from cloister.plugins.pool import PluginPool
from cloister.plugins.runtime import PluginRuntime
from tests.plugins.test_runtime import until

MANIFEST: Final = """\
name = "counter"
version = "%s"
api-version = "1.0"
source = "%s"
language = "python"
exports = ["count", "version"]
"""
CODE: Final = """
import time
seen = 0
def count():
    global seen
    seen += 1
    return seen
def version(): return %r
"""
STATE: Final = """
def save_state(): return {"seen": seen}
def restore_state(state):
    global seen
    seen = state["seen"]
"""
SOON: Final = Debounce.fixed(0.02)


def write(
    folder: Path, version: str, code: str = CODE + STATE, more: str = "", source: str = "code.py"
) -> Path:
    """The whole plugin."""
    (folder / source).write_text(code % version if "%r" in code else code)
    path = folder / "plugin.toml"
    path.write_text(MANIFEST % (version, source) + more)
    return path


@pytest.fixture
def loaded(runtime: PluginRuntime, tmp_path: Path) -> Path:
    path = write(tmp_path, "1.0.0")
    runtime.load(path)
    return path


@pytest.fixture
def heard(runtime: PluginRuntime) -> queue.Queue[PluginEvent]:
    told: queue.Queue[PluginEvent] = queue.Queue()
    runtime.on("reloaded", told.put)
    runtime.on("reload_failed", told.put)
    return told


def until_told(heard: queue.Queue[PluginEvent], name: str, said: str) -> int:
    """Wait for that event: how many came before it, as files are written one after the other, and may be read between
    two."""
    for before in itertools.count():
        event = heard.get(timeout=20)
        assert event.plugin == "counter"
        if event.name == name and said in event.what:
            return before
    raise AssertionError


# ── by hand ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_new_version_takes_the_old_ones_place_and_its_state(
    runtime: PluginRuntime, loaded: Path, heard: queue.Queue[PluginEvent]
) -> None:
    assert [runtime.call("counter", "count") for _ in range(3)] == [1, 2, 3]
    before = runtime.get("counter").pid
    write(loaded.parent, "1.1.0")
    runtime.reload("counter")
    assert runtime.call("counter", "version") == "1.1.0"
    assert runtime.call("counter", "count") == 4
    assert until_told(heard, "reloaded", "1.0.0 → 1.1.0") == 0
    plugin = runtime.get("counter")
    assert plugin.manifest is not None
    assert (plugin.manifest.version, plugin.pid != before) == ("1.1.0", True)
    runtime.restart("counter")
    assert runtime.call("counter", "count") == 1, "a restart begins anew"
    assert runtime.call("counter", "version") == "1.1.0"


@pytest.mark.parametrize(
    ("old", "new"),
    [(CODE, CODE + STATE), (CODE + STATE, CODE), (CODE, CODE)],
    ids=["saves", "restores", "neither"],
)
def test_state_needs_both_sides(runtime: PluginRuntime, tmp_path: Path, old: str, new: str) -> None:
    runtime.load(write(tmp_path, "1.0.0", old))
    runtime.call("counter", "count")
    write(tmp_path, "1.0.1", new)
    runtime.reload("counter")
    assert runtime.call("counter", "version") == "1.0.1"
    assert runtime.call("counter", "count") == 1


BAD: Final[dict[str, tuple[dict[str, str], type[Exception], str]]] = {
    "manifest": ({"more": "colour = 1\n"}, ManifestError, "unknown field `colour`"),
    "torn manifest": ({"more": 'tags = ["a'}, ManifestError, "Unterminated string"),
    "name": ({"more": "", "name": "other"}, ManifestError, "name: it is loaded as counter"),
    "dependency": ({"more": '[dependencies]\ntables = "^2"\n'}, DependencyError, "tables"),
    "syntax": ({"code": "def count(:"}, PluginRaised, "SyntaxError"),
    "raises": ({"code": "1 / 0"}, PluginRaised, "ZeroDivisionError"),
    "exits": ({"code": "import os; os._exit(1)"}, PluginCrashed, "exited with code 1"),
    "exports": ({"code": "def count(): pass"}, NoSuchFunction, "version"),
    "never ends": ({"code": "while True: pass", "more": "limits = {timeout = 0.1}\n"}, Timeout, "0.1 s"),
    "restore": (
        {"code": CODE + "def restore_state(state): raise ValueError('older')"},
        PluginRaised,
        "older",
    ),
    "no source": ({"source": "missing.py"}, OSError, "missing.py"),
}


@pytest.mark.parametrize("what", BAD)
def test_the_old_version_serves_on_when_the_new_one_fails(
    runtime: PluginRuntime, loaded: Path, heard: queue.Queue[PluginEvent], what: str
) -> None:
    changed, error, said = BAD[what]
    before = runtime.get("counter").pid
    runtime.call("counter", "count")
    write(loaded.parent, "2.0.0", changed.get("code", CODE + STATE), changed.get("more", ""))
    if "source" in changed:
        (loaded.parent / "plugin.toml").write_text(MANIFEST % ("2.0.0", changed["source"]))
    if "name" in changed:
        loaded.write_text(loaded.read_text().replace("counter", "other"))
    with pytest.raises(error, match=said):
        runtime.reload("counter")
    assert until_told(heard, "reload_failed", said) == 0
    assert runtime.call("counter", "version") == "1.0.0"
    assert runtime.call("counter", "count") == 2
    assert runtime.get("counter").pid == before


def test_a_state_that_cannot_be_had_keeps_the_old_version(runtime: PluginRuntime, tmp_path: Path) -> None:
    for save, error in (
        ("raise KeyError", PluginRaised),
        ("yield 1", PluginError),
        ("return object()", PluginError),
    ):
        runtime.load(write(tmp_path, "1.0.0", CODE + f"def save_state(): {save}\n"))
        before = runtime.get("counter").pid
        with pytest.raises(error):
            runtime.reload("counter")
        assert runtime.get("counter").pid == before
        runtime.unload("counter")


def test_a_call_that_runs_is_answered_by_the_old_version(runtime: PluginRuntime, tmp_path: Path) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        inside.set()
        go_on.wait(20)

    code = "import host\n" + (CODE + STATE).replace(
        "    return seen", "    host.wait(); return [seen, version()]"
    )
    runtime.load(write(tmp_path, "1.0.0", code), functions={"wait": wait})
    answers: list[Any] = []
    caller = threading.Thread(target=lambda: answers.append(runtime.call("counter", "count")))
    caller.start()
    assert inside.wait(20)
    write(tmp_path, "2.0.0", code)
    reloader = threading.Thread(target=runtime.reload, args=("counter",))
    reloader.start()
    reloader.join(0.05)
    assert reloader.is_alive()
    go_on.set()
    reloader.join(20)
    caller.join(20)
    assert answers == [[1, "1.0.0"]]
    assert runtime.call("counter", "count") == [2, "2.0.0"]


def test_calls_from_many_threads_see_one_version_after_the_other(
    runtime: PluginRuntime, loaded: Path
) -> None:
    stop, wrong = threading.Event(), list[object]()

    def work() -> None:
        last = 0
        try:
            while not stop.is_set():
                found = runtime.call("counter", "count")
                if found <= last:
                    wrong.append((last, found))
                last = found
        except CloisterError as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(4):
        write(loaded.parent, f"1.{number}.0")
        runtime.reload("counter")
    stop.set()
    for thread in threads:
        thread.join(20)
    assert not wrong


def test_a_new_manifest_gets_no_more_than_was_granted(runtime: PluginRuntime, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    granted, other, home = tmp_path / "granted", tmp_path / "other", tmp_path / "home"
    for folder in (granted, other, home):
        folder.mkdir()
        (folder / "file").write_text(folder.name)
    read = CODE.replace("def count():", "def count(path):\n return open(path).read()\ndef _count():")
    link = tmp_path / "link"
    link.symlink_to(granted)
    asks = '[capabilities]\n"fs:read" = ["%s"]\n'
    runtime.load(write(home, "1.0.0", read, asks % granted), grants={"fs:read": [str(link)]})
    assert runtime.call("counter", "count", str(granted / "file")) == "granted"
    link.unlink()
    link.symlink_to(other)
    write(home, "1.1.0", read, asks % tmp_path)
    before = set(runtime.pids)
    runtime.reload("counter")
    assert runtime.call("counter", "count", str(granted / "file")) == "granted"
    with pytest.raises(PluginRaised):
        runtime.call("counter", "count", str(other / "file"))
    write(home, "1.2.0", read)
    runtime.reload("counter")
    with pytest.raises(PluginRaised):
        runtime.call("counter", "count", str(granted / "file"))
    assert len(runtime.pids) < len(before), "the zygote that could read went with the version that might"


def test_what_others_need_stays(runtime: PluginRuntime, loaded: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    needs = write(tmp_path / "other", "1.0.0", more='[dependencies]\ncounter = "^1"\n')
    needs.write_text(needs.read_text().replace('"counter"\n', '"needs"\n', 1))
    runtime.load(needs)
    write(loaded.parent, "2.0.0")
    with pytest.raises(DependencyError, match=r"needs needs counter \^1, and 2.0.0 is there"):
        runtime.reload("counter")
    write(loaded.parent, "1.5.0")
    runtime.reload("counter")


def test_symlinks_that_lead_elsewhere_later_are_not_followed(
    runtime: PluginRuntime, loaded: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    write(outside, "9.0.0")
    for name, key in (("code.py", "source"), ("plugin.toml", None)):
        there = loaded.parent / name
        kept = there.read_text()
        there.unlink()
        there.symlink_to(outside / name)
        with pytest.raises(ManifestError, match="leads out of") as caught:
            runtime.reload("counter")
        assert caught.value.key == key
        there.unlink()
        there.write_text(kept)
    assert runtime.call("counter", "version") == "1.0.0"


def test_what_has_no_manifest_is_not_reloaded(runtime: PluginRuntime) -> None:
    runtime.load_source("def f(): pass", "plain")
    for reload in (runtime.reload, runtime.watch):
        with pytest.raises(InvalidArgument, match="from its source"):
            reload("plain")


def test_a_pool_follows_call_by_call(runtime: PluginRuntime, loaded: Path) -> None:
    with PluginPool("counter", size=2, runtime=runtime) as pool:
        assert {pool.submit("version").result(20) for _ in range(6)} == {"1.0.0"}
        write(loaded.parent, "1.1.0")
        runtime.reload("counter")
        assert {pool.submit("version").result(20) for _ in range(6)} == {"1.1.0"}


# ── by itself ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_files_that_change_are_read_again(
    runtime: PluginRuntime, loaded: Path, heard: queue.Queue[PluginEvent]
) -> None:
    runtime.watch("counter", SOON)
    write(loaded.parent, "1.1.0")
    until_told(heard, "reloaded", "1.0.0 → 1.1.0")
    (loaded.parent / "code.py").write_text("def count(:")
    until_told(heard, "reload_failed", "SyntaxError")
    assert runtime.call("counter", "version") == "1.1.0"
    put_in_place(loaded.parent / "code.py", CODE % "newer")
    until_told(heard, "reloaded", "1.1.0 → 1.1.0")
    assert runtime.call("counter", "version") == "newer"


def put_in_place(path: Path, text: str) -> None:
    """As editors save."""
    new = path.with_suffix(".new")
    new.write_text(text)
    os.replace(new, path)


def test_a_manifest_that_is_deleted_and_a_folder_that_is_another_one(
    runtime: PluginRuntime, loaded: Path, heard: queue.Queue[PluginEvent]
) -> None:
    runtime.watch("counter", SOON)
    loaded.unlink()
    until_told(heard, "reload_failed", "No such file")
    assert runtime.call("counter", "version") == "1.0.0"
    other = loaded.parent.with_name("other")
    other.mkdir()
    write(other, "1.2.0")
    shutil.rmtree(loaded.parent)
    other.rename(loaded.parent)
    until_told(heard, "reloaded", "1.0.0 → 1.2.0")
    write(loaded.parent, "1.3.0")
    until_told(heard, "reloaded", "1.2.0 → 1.3.0")


def test_a_source_that_comes_after_its_manifest(
    runtime: PluginRuntime, loaded: Path, heard: queue.Queue[PluginEvent]
) -> None:
    runtime.watch("counter", SOON)
    loaded.write_text(MANIFEST % ("1.1.0", "next.py"))
    until_told(heard, "reload_failed", "next.py")
    (loaded.parent / "next.py").write_text(CODE % "next")
    until_told(heard, "reloaded", "1.0.0 → 1.1.0")


def test_a_storm_is_waited_out_and_what_is_not_the_plugins_is_nothing(
    runtime: PluginRuntime, loaded: Path, heard: queue.Queue[PluginEvent]
) -> None:
    runtime.watch("counter", Debounce.adaptive(0.05, 0.2))
    for number in range(80):
        (loaded.parent / f"noise-{number}").write_text("x")
        write(loaded.parent, f"1.{number}.1")
    assert until_told(heard, "reloaded", "→ 1.79.1") < 20


def test_a_touch_is_no_change(
    runtime: PluginRuntime, loaded: Path, heard: queue.Queue[PluginEvent], tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = write(tmp_path / "other", "1.0.0")
    other.write_text(other.read_text().replace('"counter"', '"other"'))
    runtime.load(other)
    for name in ("counter", "other"):
        runtime.watch(name, SOON)
    loaded.touch()
    put_in_place(other, other.read_text().replace("1.0.0", "1.1.0"))
    assert heard.get(timeout=20) == PluginEvent("reloaded", "other", "1.0.0 → 1.1.0"), "it changed later"


def test_a_plugin_that_was_unloaded_is_not_looked_at(
    runtime: PluginRuntime, loaded: Path, heard: queue.Queue[PluginEvent]
) -> None:
    runtime.watch("counter", SOON)
    runtime.unload("counter")
    write(loaded.parent, "1.1.0")
    runtime.load(loaded)
    runtime.watch("counter", SOON)
    write(loaded.parent, "1.2.0")
    until_told(heard, "reloaded", "1.1.0 → 1.2.0")


def test_the_thread_ends_with_its_runtime(tmp_path: Path) -> None:
    before = {*threading.enumerate()}
    with PluginRuntime() as runtime:
        runtime.load(write(tmp_path, "1.0.0"))
        runtime.watch("counter")
        assert "cloister-watch" in {thread.name for thread in threading.enumerate() if thread not in before}
    assert {*threading.enumerate()} <= before


def test_a_runtime_that_nobody_closes_watches_nothing(tmp_path: Path) -> None:
    before = {*threading.enumerate()}
    runtime = PluginRuntime()
    runtime.load(write(tmp_path, "1.0.0"))
    runtime.watch("counter", SOON)
    del runtime
    gc.collect()
    until(lambda: {*threading.enumerate()} <= before)


def test_waits_grow_while_changes_keep_coming() -> None:
    adaptive = Debounce.adaptive(0.1, 2.0)
    assert [adaptive.rest(n) for n in (1, 2, 3, 9, 10**9)] == [0.1, 0.2, 0.4, 2.0, 2.0]
    assert {Debounce.fixed(0.3).rest(n) for n in (1, 2, 1000)} == {0.3}
    for first, most in ((0.0, 1.0), (2.0, 1.0), (float("nan"), 1.0), (1.0, float("nan"))):
        with pytest.raises(InvalidArgument):
            Debounce(first, most)


def test_for_asyncio_too(tmp_path: Path) -> None:
    async def run() -> None:
        async with AsyncPluginRuntime(limits=Limits(timeout=20)) as runtime:
            told: asyncio.Queue[str] = asyncio.Queue()
            loop = asyncio.get_running_loop()
            runtime.on("reloaded", lambda event: loop.call_soon_threadsafe(told.put_nowait, event.what))
            await runtime.load(write(tmp_path, "1.0.0"))
            write(tmp_path, "1.1.0")
            await runtime.reload("counter")
            assert await told.get() == "1.0.0 → 1.1.0"
            await runtime.watch("counter", SOON)
            write(tmp_path, "1.2.0")
            assert await told.get() == "1.1.0 → 1.2.0"
            assert await runtime.call("counter", "version") == "1.2.0"

    asyncio.run(asyncio.wait_for(run(), 30))
