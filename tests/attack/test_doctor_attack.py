"""``cloister doctor --attack`` as a command: its exit code, another user, and an end by Ctrl-C."""

from __future__ import annotations

import argparse
import errno
import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloister.cli import attack, shows
from cloister.cli.targets import targets
from cloister.sandbox import Layer
from cloister.sandbox.kernel import syscall
from tests.attack.other_user import become_nobody
from tests.sandbox.situations import kernel_without

COMMAND = [sys.executable, "-m", "cloister", "doctor", "--attack"]


def attacked(before: Callable[[], None]) -> tuple[int, dict[str, Any]]:
    """The exit code and the report of the command in a process that has done ``before``."""
    done = subprocess.run(
        [*COMMAND, "--json"],
        capture_output=True,
        timeout=55,
        check=False,
        preexec_fn=before,
        cwd="/",
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
    )
    assert done.stdout, done.stderr.decode()
    return done.returncode, json.loads(done.stdout)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_nothing_gets_through_for_another_user_either() -> None:
    code, found = attacked(become_nobody)
    assert (code, found["through"]) == (0, [])
    assert found["denied"] > 1500
    mounting = next(each for each in found["attempts"] if each["name"] == "mount")
    assert not mounting["control"], "it is still root"


def test_without_namespaces_a_page_and_a_plugin_learn_which_files_there_are_and_no_more() -> None:
    """The empty root is what hides that; fonts, and the standard library, are what they ask for."""
    code, found = attacked(kernel_without("unshare", errno.EPERM))
    kinds = {each["kind"] for each in found["through"]}
    assert {each["attempt"] for each in found["through"]} == {"ask whether a file is there"}
    assert kinds == {"web_content", "zygote of web_content", "plugin_host", "zygote of plugin_host"}
    assert code == 3


def test_two_at_once_do_not_take_each_others_key() -> None:
    script = "from cloister.cli.targets import targets\nwith targets() as at: print(at.key)"
    with targets() as first:
        second = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=30, check=True)
        if not first.key:
            pytest.skip("this machine has no keys")
        assert int(second.stdout) not in (0, first.key)
        syscall("keyctl", 6, first.key, None, 0, 0)  # KEYCTL_DESCRIBE: it is still there


def test_where_keys_are_refused_none_is_left_behind() -> None:
    """As in a container: what could not be taken back must not be made."""
    script = "from cloister.cli.targets import targets\nwith targets() as at: print(at.key)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        timeout=30,
        check=True,
        preexec_fn=kernel_without("keyctl", errno.EPERM),
    )
    assert done.stdout == b"0\n"


def test_what_gets_through_is_named_and_ends_with_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weak = functools.partial(
        attack.survey, without=frozenset({Layer.SECCOMP}), attempts=["make a Unix socket", "open a file"]
    )
    monkeypatch.setattr(attack, "survey", weak)
    arguments = argparse.Namespace(attack=True, json=False, policy=None)
    assert shows.doctor(arguments) == 3
    shown = capsys.readouterr().out
    assert "web_content could make a Unix socket" in shown
    assert "could open a file" not in shown
    assert "11 got through" in shown


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    before = everything_shared()
    process = subprocess.Popen(
        COMMAND,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    with process:
        deadline = time.monotonic() + 20
        while everything_shared() == before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert list(tmp_path.iterdir()), "its targets are there"
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 130, said.decode()
    assert not list(tmp_path.iterdir())
    assert everything_shared() == before


def test_ctrl_c_while_a_round_starts_is_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_thread: threading.Thread) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        attack.survey()


def everything_shared() -> list[str]:
    """What the kernel has under a number or a name, of System V and in its keyrings."""
    found = []
    for name in ("sysvipc/shm", "sysvipc/msg", "sysvipc/sem", "keys"):
        try:
            lines = Path("/proc", name).read_text().splitlines()
        except OSError:
            continue
        found += lines if name != "keys" else [line for line in lines if _is_ours(line)]
    return found


def _is_ours(key: str) -> bool:
    """A line of proc_keys(5). One whose flags say that it is invalid is gone as soon as the kernel gets to it."""
    return "cloister-doctor" in key and "i" not in key.split()[1]
