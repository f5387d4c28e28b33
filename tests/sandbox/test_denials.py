"""What a locked-down process may still do to itself, and how it is told no: softly, where libraries ask.

What it must not do is tried in tests/attack, from inside each kind of process.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from tests.sandbox.locked import Sandbox


def test_abort_ends_a_process_by_sigabrt_as_elsewhere() -> None:
    outcome = Sandbox().run(os.abort)
    assert outcome.status == -signal.SIGABRT


def test_a_process_may_signal_itself_only() -> None:
    assert Sandbox().run(lambda: signal.raise_signal(signal.SIGTERM)).status == -signal.SIGTERM
    assert Sandbox().run(lambda: os.kill(0, signal.SIGTERM)).status == -signal.SIGSYS
    assert Sandbox().run(lambda: os.kill(1, 0)).status == -signal.SIGSYS


def test_what_libraries_try_and_do_without_fails_softly() -> None:
    def attempt() -> list[str]:
        probes: dict[str, Callable[[], object]] = {
            "stat": Path("/etc").stat,
            "readlink": Path("/etc/localtime").readlink,
            "affinity": lambda: os.sched_getaffinity(0),
            "uname": os.uname,
            "statvfs": lambda: os.statvfs("/"),
            "socket": socket.socket,
            "terminal": lambda: fcntl.ioctl(2, 0x5401, bytes(64)),
        }
        denied = []
        for name, probe in probes.items():
            try:
                probe()
            except OSError:
                denied.append(name)
        return denied

    outcome = Sandbox().run(attempt)
    assert outcome.value == ["stat", "readlink", "affinity", "uname", "statvfs", "socket", "terminal"]


def test_nothing_can_be_typed_into_a_terminal() -> None:
    controller, terminal = os.openpty()
    try:
        box = Sandbox(keep=[terminal])
        assert box.run(lambda: fcntl.ioctl(terminal, 0x5412, b"x") and None).denied  # TIOCSTI
    finally:
        os.close(controller)
        os.close(terminal)
