"""``cloister portal``, from its first line to its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.cli.descendants import descendants

COMMAND = (sys.executable, "-m", "cloister", "portal")


@contextmanager
def serving(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """A running command, which is killed if the test does not end it."""
    running = subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    )
    with running:
        try:
            yield running
        finally:
            running.kill()


def first_line(running: subprocess.Popen[bytes]) -> str:
    assert running.stdout is not None
    return running.stdout.readline().decode()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def runs(pid: int) -> bool:
    """A zombie does not: after a SIGKILL of its parent it waits for the system's first process to look at it."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def gone(pids: set[int]) -> bool:
    return not any(map(runs, pids))


def with_a_client(running: subprocess.Popen[bytes], path: str) -> tuple[socket.socket, set[int]]:
    """A connection, and every process of the portal while it lasts."""
    before = descendants(running.pid)
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    client.connect(path)
    wait_until(lambda: len(descendants(running.pid)) > len(before))
    return client, descendants(running.pid)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_it_says_where_it_serves_and_cleans_up_when_it_is_ended(
    sent: signal.Signals, code: int, tmp_path: Path
) -> None:
    tmp_path.chmod(0o700)
    folder = tmp_path / "cloister" / "portal"
    with serving(XDG_RUNTIME_DIR=str(tmp_path)) as running:
        lines = [first_line(running), first_line(running)]
        assert lines == [f"{kind} at {folder / kind}\n" for kind in ("web_content", "image_decoder")]
        client, processes = with_a_client(running, str(folder / "web_content"))
        running.send_signal(sent)
        out, errors = running.communicate(timeout=30)
    assert (running.returncode, out, errors) == (code, b"", b"")
    assert list(folder.iterdir()) == []
    wait_until(lambda: gone(processes))
    with client:
        assert client.recv(100) == b""


def test_json_is_one_line_for_scripts(tmp_path: Path) -> None:
    with serving("--json", "--folder", str(tmp_path / "p"), "--max-processes", "1") as running:
        said = json.loads(first_line(running))
        assert said == {
            "pid": running.pid,
            "sockets": {kind: str(tmp_path / "p" / kind) for kind in ("web_content", "image_decoder")},
        }
        running.terminate()
        assert running.communicate(timeout=30) == (b"", b"")


def test_every_process_goes_with_one_that_is_killed_and_the_next_takes_its_place(tmp_path: Path) -> None:
    arguments = ("--json", "--folder", str(tmp_path / "p"))
    with serving(*arguments) as running:
        path = json.loads(first_line(running))["sockets"]["web_content"]
        client, processes = with_a_client(running, path)
        running.kill()
        with client:
            assert client.recv(100) == b""
        wait_until(lambda: gone(processes))
    assert Path(path).is_socket()
    with serving(*arguments) as running:
        assert json.loads(first_line(running))["sockets"]["web_content"] == path
        second, _ = with_a_client(running, path)
        second.close()
        with serving(*arguments) as too_many:
            _, errors = too_many.communicate(timeout=30)
        assert (too_many.returncode, errors.decode()) == (
            1,
            f"cloister: {tmp_path / 'p'}: another portal serves there\n",
        )
        running.terminate()
        running.wait(30)
    assert list((tmp_path / "p").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--max-processes", "0"), 2, "max_processes: 0 is not a number between 1 and 128"),
        (("--max-processes", "many"), 2, "'many'"),
        (("--folder", "/proc"), 1, "/proc cannot hold a portal: "),
    ],
)
def test_what_cannot_be_served_is_one_line_and_a_code(
    arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = subprocess.run([*COMMAND, *arguments], capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (code, b"")
    assert words in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()
