"""What a forbidden call leaves behind: one report, and a process that ended by SIGSYS."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cloister.sandbox.kernel import libc, syscall
from cloister.sandbox.syscalls import native
from tests.sandbox.locked import Sandbox

NO_GIL_CALLS = ctypes.PyDLL(None, use_errno=True)

FORBIDDEN: dict[str, tuple[Any, ...]] = {
    "bpf": (0, None, 0),
    "io_uring_enter": (0, 0, 0, 0, None, 0),
    "keyctl": (0, 0, 0, 0, 0),
    "kexec_load": (0, 0, None, 0),
    "memfd_secret": (0,),
    "open_by_handle_at": (0, None, 0),
    "perf_event_open": (None, 0, -1, -1, 0),
    "personality": (0x0400000,),
    "pidfd_getfd": (0, 0, 0),
    "pidfd_open": (1, 0),
    "process_vm_readv": (1, None, 0, None, 0, 0),
    "ptrace": (0, 0, 0, 0),
    "setns": (0, 0),
    "setuid": (0,),
    "unshare": (0x10000000,),
    "userfaultfd": (0,),
    "vmsplice": (0, None, 0, 0),
}


@pytest.mark.parametrize("call", FORBIDDEN)
def test_a_call_that_no_group_has_ends_the_process_and_is_named(call: str) -> None:
    outcome = Sandbox().run(lambda: syscall(call, *FORBIDDEN[call]))
    assert outcome.status == -signal.SIGSYS
    assert outcome.stderr.startswith(f"cloister: sandbox violation: kind=tested syscall={call} args=")
    assert outcome.stderr.count("sandbox violation") == 1


def test_the_report_of_a_violation_shows_the_arguments() -> None:
    outcome = Sandbox().run(lambda: syscall("setns", 0x11, 0x22))
    assert "syscall=setns args=0x11,0x22," in outcome.stderr


@pytest.mark.parametrize("library", [libc, NO_GIL_CALLS], ids=["without the GIL", "with the GIL"])
def test_a_violation_is_reported_whether_or_not_the_interpreter_was_running(library: ctypes.CDLL) -> None:
    architecture = native()
    assert architecture is not None
    outcome = Sandbox().run(lambda: library.syscall(ctypes.c_long(architecture.numbers["setns"]), 0, 0))
    assert outcome.status == -signal.SIGSYS
    assert "syscall=setns" in outcome.stderr


def test_a_process_cannot_outlive_a_violation_by_handling_the_signal() -> None:
    outcome = Sandbox().run(lambda: signal.signal(signal.SIGSYS, signal.SIG_IGN) and None)
    assert outcome.status == -signal.SIGSYS
    assert "syscall=rt_sigaction args=0x1f," in outcome.stderr


def test_a_process_cannot_outlive_a_violation_by_blocking_the_signal() -> None:
    def attempt() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGSYS})
        syscall("setns", 0, 0)

    assert Sandbox().run(attempt).status == -signal.SIGSYS


def forbidden_deep_inside() -> None:
    syscall("setns", 0, 0)


def test_the_report_shows_pythons_stack() -> None:
    outcome = Sandbox().run(forbidden_deep_inside)
    report, _, stack = outcome.stderr.partition("\n")
    assert report.startswith("cloister: sandbox violation")
    assert stack.startswith("Stack (most recent call first):")
    assert f'File "{__file__}", line' in stack
    assert "in forbidden_deep_inside" in stack


PROBES = """
import errno, json, os, signal, sys
sys.path.insert(0, {root!r})
from cloister import sandbox
from cloister.sandbox.kernel import syscall
from tests.sandbox.locked import Sandbox

def attempt():
    said = []
    for call, *arguments in (("openat", -100, 0, 0), ("clone3", 0, 0), ("mmap", 0, 4096, 4, 0x22, -1, 0)):
        try:
            syscall(call, *arguments)
        except OSError as error:
            said.append(errno.errorcode[error.errno])
    return said

def violate():
    attempt()
    syscall("setns", 1, 2)

def handle():
    signal.signal(signal.SIGSYS, signal.SIG_IGN)

print(json.dumps([[o.status, o.value, o.stderr] for o in (Sandbox().run(f) for f in (attempt, violate, handle))]))
"""


def run_probes(**environment: str) -> list[tuple[int, Any, str]]:
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", PROBES.format(root=root)],
        env={**os.environ, **environment},
        capture_output=True,
        check=True,
        timeout=30,
    )
    return [(status, value, said) for status, value, said in json.loads(done.stdout)]


DENIED = ["EPERM", "ENOSYS", "EPERM"]


def test_quiet_denials_are_quiet() -> None:
    (status, value, said), *_ = run_probes()
    assert (status, value, said) == (0, DENIED, "")


def test_with_the_log_each_quiet_denial_is_told_and_fails_as_it_does_without() -> None:
    (status, value, said), *_ = run_probes(CLOISTER_SANDBOX_LOG="1")
    assert (status, value) == (0, DENIED)
    told = [line.partition(" args=") for line in said.splitlines()]
    assert [line for line, _, _ in told] == [
        f"cloister: sandbox denial ({os.strerror(number)}): kind=tested syscall={call}"
        for number, call in ((errno.EPERM, "openat"), (errno.ENOSYS, "clone3"), (errno.EPERM, "mmap"))
    ]
    assert told[2][2].startswith("0x0,0x1000,0x4,0x22,")


def test_with_the_log_a_violation_still_ends_the_process_and_its_signal_stays_what_it_is() -> None:
    _, violated, handled = run_probes(CLOISTER_SANDBOX_LOG="1")
    assert violated[0] == handled[0] == -signal.SIGSYS
    assert "sandbox violation: kind=tested syscall=setns args=0x1,0x2," in violated[2]
    assert "sandbox violation: kind=tested syscall=rt_sigaction args=0x1f," in handled[2]
