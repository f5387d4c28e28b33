"""Plugins that are programs: each call is a line of JSON, each answer another one."""

from __future__ import annotations

import concurrent.futures
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cloister import ends
from cloister.errors import (
    CapabilityRefused,
    CpuLimit,
    LaunchError,
    ManifestError,
    MemoryLimit,
    NoSuchFunction,
    NotSendable,
    OutputLimit,
    PluginCrashed,
    PluginRaised,
    ResultLimit,
    Timeout,
)
from cloister.plugins.limits import Limits
from cloister.plugins.plugin import Plugin
from cloister.plugins.pool import PluginPool
from cloister.plugins.runtime import PluginRuntime
from cloister.plugins.status import Crashed, Running
from cloister.sandbox import Layer, machine

MANIFEST = """\
name = "program"
version = "1.0.0"
api-version = "1.0"
source = "program"
language = "executable"
exports = [{exports}]
{more}
"""
PYTHON = "/usr/bin/python3"
CODE = f"""#!{PYTHON} -I
import json, os, sys, time

def say(line):
    os.write(1, line if isinstance(line, bytes) else line.encode())

def answer(value):
    say(json.dumps({{"type": "result", "value": value}}) + "\\n")

kept = 0
for line in sys.stdin:
    call = json.loads(line)
    name, args = call["function"], call["args"]
    if name == "echo": answer([args, call.get("kwargs")])
    elif name == "count":
        kept += 1
        answer(kept)
    elif name == "fail": say(json.dumps({{"type": "error", "message": "no such \\x1b[31m thing"}}) + "\\n")
    elif name == "say":
        for each in args: say(each)
    elif name == "late":
        line = '{{"type": "result", "value": 1}}\\n'
        say(line + line)
    elif name == "log":
        for level in ("debug", "warning", "made up"):
            say(json.dumps({{"type": "log", "level": level, "message": "at " + level}}) + "\\n")
        print("on standard error", file=sys.stderr, flush=True)
        answer(None)
    elif name == "exit": sys.exit(args[0])
    elif name == "ends":
        say(json.dumps({{"type": "result", "value": "last words"}}) + "\\n")
        sys.exit(0)
    elif name == "close":
        os.close(1)
        time.sleep(60)
    elif name == "memory": answer(len(b"x" * 1_000_000_000))
    elif name == "spin":
        while True: pass
    elif name == "flood":
        while True: sys.stderr.write("x" * 1000)
    elif name == "sleep": time.sleep(60)
    elif name == "writes":
        try: answer(open(args[0], "w").write("written"))
        except OSError as error: answer(str(error))
    elif name == "opens":
        try: answer(open(args[0]).read())
        except OSError as error: answer(error.errno)
    elif name == "environment": answer(dict(os.environ))
"""
NAMES = [
    "echo", "count", "fail", "say", "late", "log", "exit", "ends", "close", "memory", "spin", "flood", "sleep", "opens",
    "writes", "environment",
]  # fmt: skip

pytestmark = pytest.mark.skipif(not Path(PYTHON).is_file(), reason=f"no {PYTHON}")


def write(folder: Path, code: str, *names: str, more: str = "") -> Path:
    program = folder / "program"
    program.write_text(code)
    program.chmod(0o755)
    path = folder / "plugin.toml"
    path.write_text(MANIFEST.format(exports=", ".join(f'"{name}"' for name in names), more=more))
    return path


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the same program for every test, so that they share its zygote."""
    return write(tmp_path_factory.mktemp("program"), CODE, *NAMES)


@pytest.fixture(scope="module")
def keeper(manifest: Path, runtime: PluginRuntime) -> Iterator[Plugin]:
    """Keeps the zygote while tests load and unload the plugin."""
    plugin = runtime.plugin(runtime.load(manifest).spec)
    plugin.load()
    yield plugin
    plugin.close()


@pytest.fixture
def plugin(manifest: Path, runtime: PluginRuntime, keeper: Plugin) -> Plugin:
    assert keeper.status == Running()
    return next((p for p in runtime.plugins if p.name == "program"), None) or runtime.load(manifest)


def test_a_call_is_a_line_and_so_is_its_answer(plugin: Plugin) -> None:
    assert plugin.exports == tuple(NAMES)
    value: list[Any] = [None, True, -1, 2**63, 1.5, "é\n\0\u2028", [], {"a": {"b": [1]}}]
    assert plugin.call("echo", *value) == [value, None]
    assert plugin.call("echo", 1, limit=2) == [[1], {"limit": 2}]
    assert plugin.call("echo", (1, 2)) == [[[1, 2]], None]
    large = "x" * 3_000_000  # more than pipes hold, both ways
    assert plugin.call("echo", large) == [[large], None]
    with pytest.raises(NoSuchFunction):
        plugin.call("other")


def test_it_keeps_what_it_knows_until_it_is_restarted(plugin: Plugin) -> None:
    assert [plugin.call("count") for _ in range(3)] == [1, 2, 3]
    before = plugin.pid
    plugin.restart()
    assert plugin.pid != before
    assert plugin.call("count") == 1


def test_what_json_does_not_have_is_refused_by_name_and_changes_nothing(plugin: Plugin) -> None:
    plugin.call("count")
    for value, name in (
        (b"x", r"args\[0\] is a bytes"),
        ([{"a": float("inf")}], r'args\[0\]\[0\]\["a"\] is inf'),
        (2**64, "more than 64 bits"),
        ({1: 2}, "no str"),
        (memoryview(b"x" * 100_000), "is a mmap|is a memoryview"),
    ):
        with pytest.raises(NotSendable, match=name):
            plugin.call("echo", value)
    assert plugin.call("count") == 2


def test_an_error_is_raised_and_the_program_goes_on(plugin: Plugin) -> None:
    with pytest.raises(PluginRaised, match="program raised Error: no such") as caught:
        plugin.call("fail")
    assert "\x1b" not in caught.value.message
    assert plugin.status == Running()


def test_what_it_logs_and_what_it_writes_on_standard_error_is_kept(plugin: Plugin) -> None:
    plugin.call("log")
    plugin.call("echo")
    assert [(line.level, line.text) for line in plugin.logs] == [
        (10, "at debug"), (30, "at warning"), (20, "at made up"),
    ]  # fmt: skip
    until(lambda: plugin.call("echo") is not None and "on standard error" in plugin.output)


@pytest.mark.parametrize(
    "line",
    [
        b"garbage\n", b"\n", b'{"type": "result", "value": NaN}\n', b'{"type": "stream"}\n', b"[]\n", b"\xff\n",
        b'{"type": "result", "value": ' + b"[" * 5000 + b"\n", b'{"type": "log"}\n',
        b'{"type": "error", "message": 3}\n',
    ],
)  # fmt: skip
def test_a_line_that_is_no_answer_ends_it(plugin: Plugin, line: bytes) -> None:
    with pytest.raises(PluginCrashed) as caught:
        plugin.call("say", line.decode("latin-1"))
    assert isinstance(caught.value.end, ends.BadMessage)
    assert plugin.call("count") == 1


def test_an_answer_that_nobody_asked_for_ends_it(plugin: Plugin) -> None:
    assert plugin.call("late") == 1
    with pytest.raises(PluginCrashed, match="not asked"):
        plugin.call("echo")
    assert plugin.call("echo") == [[], None]


def test_a_result_that_is_too_large_is_refused_and_the_program_goes_on(plugin: Plugin) -> None:
    pid = plugin.pid
    with pytest.raises(ResultLimit):
        plugin.call("echo", *["x" * 1_000_000] * 9)
    assert plugin.call("echo", 1) == [[1], None]
    assert plugin.pid == pid


def test_how_it_ended_is_told(plugin: Plugin) -> None:
    with pytest.raises(PluginCrashed) as caught:
        plugin.call("exit", 3)
    assert (caught.value.end, plugin.status) == (ends.Exited(3), Crashed(3, None))
    with pytest.raises(PluginCrashed, match="closed its standard output"):
        plugin.call("close")
    assert plugin.call("ends") == "last words"
    until(lambda: plugin.status == Crashed(0, None))
    plugin.call("echo")
    assert plugin.pid is not None
    os.kill(plugin.pid, 11)
    until(lambda: plugin.status == Crashed(None, 11))
    assert plugin.call("count") == 1


def test_a_limit_ends_it_and_the_next_call_works(
    plugin: Plugin, runtime: PluginRuntime, manifest: Path
) -> None:
    with pytest.raises(MemoryLimit):
        plugin.call("memory")
    with pytest.raises(OutputLimit):
        plugin.call("flood")
    with pytest.raises(Timeout):
        plugin.call("say", '{"type": "result", "value": ', timeout=0.2)
    with pytest.raises(Timeout):
        plugin.call("sleep", timeout=0.2)
    pid = plugin.pid
    assert pid is None
    assert plugin.call("count") == 1
    runtime.unload("program")
    limited = runtime.load(manifest, limits=Limits(cpu_time=0.1))
    with pytest.raises(CpuLimit):
        limited.call("spin")
    assert limited.call("count") == 1


def test_its_two_processes_end_together(plugin: Plugin, runtime: PluginRuntime) -> None:
    plugin.call("echo")
    before = set(runtime.pids)
    plugin.restart()
    plugin.restart()
    until(lambda: len(runtime.pids) == len(before))
    program = plugin.pid
    assert program is not None
    runtime.unload("program")
    assert not Path(f"/proc/{program}").exists()


def test_a_pool_has_a_program_for_each_of_its_processes(plugin: Plugin, runtime: PluginRuntime) -> None:
    with PluginPool("program", size=2, runtime=runtime) as pool:
        assert [future.result() for future in [pool.submit("echo", n) for n in range(6)]] == [
            [[n], None] for n in range(6)
        ]
        slow = pool.submit("sleep")
        until(slow.running)
        slow.cancel()
        with pytest.raises(concurrent.futures.CancelledError):
            slow.result(10)
    with PluginPool("program", size=1, runtime=runtime, calls="reset") as pool:
        assert [pool.submit("count").result() for _ in range(2)] == [1, 1]


def test_it_gets_what_it_was_granted(runtime: PluginRuntime, tmp_path: Path) -> None:
    data, given = tmp_path / "data", tmp_path / "given"
    data.mkdir(mode=0o755)
    given.mkdir()
    given.chmod(0o777)
    (data / "file").write_text("text")
    (tmp_path / "other").write_text("text")
    tmp_path.chmod(0o755)
    folder = tmp_path / "plugin"
    folder.mkdir()
    path = write(
        folder, CODE, "opens", "writes", "environment",
        more=f'[capabilities]\n"fs:read" = ["{data}"]\n"fs:write" = ["{given}"]\n"sys:env" = ["CLOISTER_TEST"]',
    )  # fmt: skip
    os.environ["CLOISTER_TEST"] = "given"
    try:
        plugin = runtime.load(
            path, grants={"fs:read": [str(data)], "fs:write": [str(given)], "sys:env": ["CLOISTER_TEST"]}
        )
    finally:
        del os.environ["CLOISTER_TEST"]
    assert plugin.call("opens", str(data / "file")) == "text"
    for name in (tmp_path / "other", path, Path("/etc/passwd")):
        assert isinstance(plugin.call("opens", str(name)), int)
    assert plugin.call("writes", str(given / "new")) == 7
    assert (given / "new").read_text() == "written"
    for name in (data / "new", data / "file", tmp_path / "new", folder / "program"):
        assert isinstance(plugin.call("writes", str(name)), str)
    found = plugin.call("environment")
    assert found.pop("CLOISTER_TEST") == "given"
    assert {*found} <= {"PATH", "LANG", "HOME", "LC_CTYPE"}


SCRIPTS: dict[str, tuple[str, str]] = {
    "sh": ("/bin/sh", 'while read -r line; do echo \'{"type":"result","value":"shell"}\'; done\n'),
    "jq": ("/usr/bin/env -S jq -c --unbuffered -f", '{type: "result", value: (.args | add)}\n'),
    "perl": (
        "/usr/bin/perl",
        '$| = 1; while (<STDIN>) { print qq({"type":"result","value":"perl"}\\n) }\n',
    ),
    "node": (
        "/usr/bin/env -S node --jitless",
        'require("readline").createInterface({input: process.stdin}).on("line", line =>\n'
        '  console.log(JSON.stringify({type: "result", value: JSON.parse(line).args[0] + 1})));\n',
    ),
}


@pytest.mark.parametrize(("name", "answer"), [("sh", "shell"), ("jq", 5), ("perl", "perl"), ("node", 3)])
def test_a_script_of_any_language_may_be_one(
    runtime: PluginRuntime, tmp_path: Path, name: str, answer: Any
) -> None:
    if not any(Path(folder, name).exists() for folder in ("/usr/bin", "/bin")):
        pytest.skip(f"no {name}")
    if name == "node" and Layer.EMPTY_ROOT not in machine().available:
        pytest.skip("no empty root: it finds a configuration that it may not read, and ends")
    interpreter, code = SCRIPTS[name]
    memory = "1 GiB" if name == "node" else "64 MiB"  # of which it reserves much, and uses little
    more = "limits.threads = true\nlimits.processes = 8" if name == "node" else ""
    path = write(tmp_path, f"#!{interpreter}\n{code}", "add", more=more)
    limits = Limits(memory=memory, threads=True, processes=8)
    plugin = runtime.load(path, limits=limits)
    assert plugin.call("add", 2, 3) == answer


def test_what_is_no_program_is_not_loaded(runtime: PluginRuntime, tmp_path: Path) -> None:
    path = write(tmp_path, "#!/nowhere/interpreter\n", "f")
    with pytest.raises(LaunchError, match="could not be run"):
        runtime.load(path)
    (tmp_path / "program").chmod(0o644)
    with pytest.raises(ManifestError, match="chmod"):
        runtime.load(path)
    (tmp_path / "program").unlink()
    with pytest.raises(ManifestError, match="not a file"):
        runtime.load(path)
    (tmp_path / "program").symlink_to("/bin/cat")
    with pytest.raises(ManifestError, match="symlink"):
        runtime.load(path)
    assert runtime.plugins == ()


def test_a_program_that_was_replaced_is_run_as_it_is_now(runtime: PluginRuntime, tmp_path: Path) -> None:
    code = '#!/bin/sh\nwhile read -r line; do echo \'{"type":"result","value":%d}\'; done\n'
    path = write(tmp_path, code % 1, "f")
    assert runtime.load(path).call("f") == 1
    runtime.unload("program")
    (tmp_path / "new").write_text(code % 2)
    (tmp_path / "new").chmod(0o755)
    (tmp_path / "new").rename(tmp_path / "program")
    assert runtime.load(path).call("f") == 2


def test_what_a_program_cannot_ask_for_is_not_granted(runtime: PluginRuntime, tmp_path: Path) -> None:
    more = '[capabilities]\n"sys:exec" = ["/bin/true"]\n"net:dns" = ["*"]\n"sys:time" = []'
    path = write(tmp_path, CODE, "echo", more=more)
    with pytest.raises(CapabilityRefused, match="no way to ask for net:dns, sys:exec"):
        runtime.load(path, grants={"sys:exec": ["/bin/true"], "net:dns": ["example.org"], "sys:time": []})
    assert runtime.load(path).call("echo") == [[], None]
