"""``cloister doctor --attack`` as a command: its exit code, another user, and an end by Ctrl-C."""

from __future__ import annotations

import argparse
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cloister.cli import attack, shows
from cloister.sandbox import Layer
from tests.attack.other_user import become_nobody

COMMAND = [sys.executable, "-m", "cloister", "doctor", "--attack"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_nothing_gets_through_for_another_user_either(tmp_path_factory: pytest.TempPathFactory) -> None:
    done = subprocess.run(
        [*COMMAND, "--json"],
        capture_output=True,
        timeout=50,
        check=False,
        preexec_fn=become_nobody,
        cwd="/",
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
    )
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout)
    assert found["through"] == []
    assert found["denied"] > 1500
    mounting = next(each for each in found["attempts"] if each["name"] == "mount")
    assert not mounting["control"], "it is still root"


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
    assert "9 got through" in shown


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
