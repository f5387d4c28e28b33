"""``sys:exec``: plugins run the programs that they were granted, and no others."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from cloister.errors import CapabilityRefused, PluginRaised, Timeout
from cloister.plugins.events import PluginEvent
from cloister.plugins.invocation import Invocation
from cloister.plugins.limits import Limits
from cloister.plugins.plugin import Plugin
from cloister.plugins.runtime import PluginRuntime
from cloister.sandbox import Layer, machine

CODE = """
import host

def run(program, *arguments, **given):
    done = host.run(program, *arguments, **given)
    return [done["returncode"], done["stdout"], done["stderr"]]

def denied(program):
    try: host.run(program)
    except PermissionError as error: return [type(error).__name__, str(error)]

def raw(*arguments): return host._call("run", list(arguments))
"""
ECHO, SHELL, CAT = "/bin/echo", "/bin/sh", "/bin/cat"


@pytest.fixture
def denied(runtime: PluginRuntime) -> list[PluginEvent]:
    told: list[PluginEvent] = []
    runtime.on("denied", told.append)
    return told


@pytest.fixture
def plugin(runtime: PluginRuntime) -> Plugin:
    return runtime.load_source(CODE, "runner", grants={"sys:exec": [ECHO, SHELL, CAT]})


def test_a_granted_program_is_run_with_what_it_is_given(plugin: Plugin) -> None:
    assert plugin.call("run", ECHO, "$HOME", "*", b"\xff") == [0, b"$HOME * \xff\n", b""]
    assert plugin.call("run", CAT, input=b"\0x") == [0, b"\0x", b""]
    assert plugin.call("run", CAT, input="é") == [0, "é".encode(), b""]
    assert plugin.call("run", SHELL, "-c", "echo no >&2; exit 3") == [3, b"", b"no\n"]
    assert plugin.call("run", str(Path(SHELL).resolve()), "-c", "echo real") == [0, b"real\n", b""]


def test_no_other_program_is_run(runtime: PluginRuntime, plugin: Plugin, denied: list[PluginEvent]) -> None:
    names = [
        "/bin/ls",
        "echo",
        "/bin/../bin/echo",
        "/bin//echo",
        "",
        "/bin/echo\0",
        "/proc/self/exe",
        3,
        None,
        [ECHO],
    ]
    for name in names:
        found = plugin.call("denied", name)
        assert found is not None
        assert found[0] == "Denied"
    assert [(each.name, each.plugin) for each in denied] == [("denied", "runner")] * len(names)
    runtime.unload("runner")
    poor = runtime.load_source(CODE, "poor")
    assert poor.call("denied", ECHO)[0] == "Denied"


def test_what_is_asked_for_wrongly_is_told(plugin: Plugin) -> None:
    for arguments in ([ECHO, 3], [ECHO, [3]], [ECHO, [], 3], [ECHO, [], b"", "soon"], [ECHO, [], b"", -1],
                      [ECHO, ["a\0b"]], [ECHO, ["x"] * 1000], [ECHO, ["x" * 100_000]], [ECHO, [], b"", 1, 2],
                      []):  # fmt: skip
        with pytest.raises(PluginRaised) as caught:
            plugin.call("raw", *arguments)
        assert caught.value.type_name in (
            "host.HostFunctionError",
            "cloister.plugin_host.host_module.HostFunctionError",
        )
    assert plugin.call("run", ECHO) == [0, b"\n", b""]


def test_it_ends_with_its_time_and_with_the_call(plugin: Plugin) -> None:
    with pytest.raises(PluginRaised, match="Timeout"):
        plugin.call("raw", SHELL, ["-c", "while :; do :; done"], b"", 0.2)
    invocation = Invocation("run", [SHELL, "-c", "while :; do :; done"], {})
    began = time.monotonic()
    threading.Timer(0.3, invocation.cancel).start()
    with pytest.raises(BaseException):  # noqa: B017, PT011 - concurrent.futures.CancelledError
        plugin.run(invocation)
    assert time.monotonic() - began < 10
    assert plugin.call("run", ECHO, "again") == [0, b"again\n", b""]


def test_its_limits_are_the_plugins(runtime: PluginRuntime) -> None:
    limits = Limits(result="100 KiB", memory="64 MiB", processes=8)
    plugin = runtime.load_source(CODE, "runner", grants={"sys:exec": [SHELL]}, limits=limits)
    with pytest.raises(PluginRaised, match="ResultLimit"):
        plugin.call("run", SHELL, "-c", "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done")
    if Layer.PID_NAMESPACE in machine().available:
        assert plugin.call("run", SHELL, "-c", "/bin/echo a | cat") == [0, b"a\n", b""]
    runtime.unload("runner")
    plugin = runtime.load_source(CODE, "runner", grants={"sys:exec": [SHELL]})
    assert plugin.call("run", SHELL, "-c", "/bin/echo a | cat")[0] != 0


def test_it_gets_the_files_of_the_plugin_and_no_more(runtime: PluginRuntime, tmp_path: Path) -> None:
    for name in ("granted", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    tmp_path.chmod(0o755)
    grants = {"sys:exec": [CAT], "fs:read": [str(tmp_path / "granted")]}
    plugin = runtime.load_source(CODE, "runner", grants=grants)
    assert plugin.call("run", CAT, str(tmp_path / "granted" / "file"))[:2] == [0, b"granted"]
    for path in (tmp_path / "other" / "file", Path(__file__), Path("/etc/passwd")):
        assert plugin.call("run", CAT, str(path))[:2] == [1, b""]


def test_a_program_of_ones_own_is_run(runtime: PluginRuntime, tmp_path: Path) -> None:
    tool, link = tmp_path / "tool", tmp_path / "link"
    tool.write_text('#!/bin/sh\necho "$0: $1"\n')
    tool.chmod(0o755)
    link.symlink_to(tool)
    plugin = runtime.load_source(CODE, "runner", grants={"sys:exec": [str(link)]})
    assert plugin.call("run", str(link), "x") == [0, f"{tool}: x\n".encode(), b""]
    for grants, why in (
        ([str(tmp_path)], "no program"),
        (["/nowhere"], "no program"),
        (["echo"], "absolute"),
    ):
        with pytest.raises(CapabilityRefused, match=why):
            runtime.load_source("", "other", grants={"sys:exec": grants})
    (tmp_path / "text").write_text("")
    (tmp_path / "text").chmod(0o644)
    with pytest.raises(CapabilityRefused, match="no program"):
        runtime.load_source("", "other", grants={"sys:exec": [str(tmp_path / "text")]})


def test_a_program_that_changes_all_the_time_takes_one_zygote(runtime: PluginRuntime, tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    tool.write_text("#!/bin/sh\necho first\n")
    tool.chmod(0o755)
    plugin = runtime.load_source(CODE, "runner", grants={"sys:exec": [str(tool)]})
    plugin.call("run", str(tool))
    before = len(runtime.pids)
    for n in range(3):
        os.utime(tool, (n, n))
        assert plugin.call("run", str(tool)) == [0, b"first\n", b""]
    assert len(runtime.pids) <= before
    runtime.unload("runner")
    assert len(runtime.pids) < before - 1  # its zygote goes with it


def test_what_is_both_declared_and_granted_is_run(runtime: PluginRuntime, tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(CODE)
    manifest = tmp_path / "plugin.toml"
    manifest.write_text(
        'name = "runner"\nversion = "1.0.0"\napi-version = "1.0"\nsource = "code.py"\nlanguage = "python"\n'
        f'exports = ["run", "denied"]\n[capabilities]\n"sys:exec" = ["{ECHO}", "{CAT}"]\n'
    )
    plugin = runtime.load(manifest, grants={"sys:exec": [ECHO, SHELL]})
    assert plugin.call("run", ECHO, "x") == [0, b"x\n", b""]
    for name in (CAT, SHELL):
        assert plugin.call("denied", name)[0] == "Denied"


def test_a_plugin_that_is_ended_takes_its_program_along(runtime: PluginRuntime, plugin: Plugin) -> None:
    code = (
        CODE
        + "\ndef bypass(program, *arguments): return host._call('run', [program, list(arguments), b'', None])\n"
    )
    runtime.unload("runner")
    plugin = runtime.load_source(code, "runner", grants={"sys:exec": [SHELL]}, limits=Limits(timeout=0.5))
    with pytest.raises((Timeout, PluginRaised)):
        plugin.call("bypass", SHELL, "-c", "while :; do :; done")
    deadline = time.monotonic() + 10
    while any(b"while :" in cmdline(pid) for pid in runtime.pids):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
