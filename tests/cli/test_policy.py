"""``cloister doctor --policy KIND``."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from cloister.process.kinds import MODULES
from cloister.sandbox.groups import GROUPS
from cloister.sandbox.syscalls import native

MOST = {"image_decoder": 25, "web_content": 45, "request_server": 50, "lookup_server": 70, "plugin_host": 50}
"""System calls that each kind may make at the most."""
FOREIGN = "program_host"
"""It becomes a program that is not ours, and makes what such programs make."""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cloister", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize("kind", MODULES)
def test_it_says_in_words_what_a_kind_may_do(kind: str) -> None:
    done = run("doctor", "--policy", kind)
    assert done.returncode == 0, done.stderr
    words = " ".join(done.stdout.split())
    assert words.startswith(f"{kind} may make ")
    assert "never executable" in words
    assert ("any other ends the process" in words) == (kind != FOREIGN)
    assert ("any other fails too" in words) == (kind == FOREIGN)
    assert ("running as programs" in words) == (kind == FOREIGN)
    assert ("fork; no shared memory, no namespace" in words) == (kind == "zygote")
    assert ("connects TCP sockets" in words) == (kind == "lookup_server")
    assert ("/usr/share/fonts" in words) == (kind == "web_content")


def test_a_program_gets_nothing_that_reaches_further_than_its_own_process() -> None:
    found = json.loads(run("doctor", "--policy", FOREIGN, "--json").stdout)
    assert len(found["calls"]) < found["calls_of_the_kernel"] / 3
    unwanted = (
        "socket socketpair connect bind sendmsg recvmsg ptrace process_vm_readv process_vm_writev mount umount2 "
        "pivot_root chroot setns unshare clone clone3 fork vfork keyctl add_key request_key bpf perf_event_open "
        "io_uring_setup userfaultfd memfd_create execveat setsid setpgid seccomp personality chmod unlink rename "
        "mkdir truncate setxattr open_by_handle_at name_to_handle_at pidfd_open pidfd_getfd pidfd_send_signal tkill"
    )
    assert not set(found["calls"]) & set(unwanted.split())
    assert {"kill", "tgkill", "mmap", "mprotect", "ioctl", "prctl"} <= set(found["calls_by_arguments"])


@pytest.mark.parametrize("kind", MOST)
def test_few_calls_remain_and_each_is_there_for_a_reason(kind: str) -> None:
    found = json.loads(run("doctor", "--policy", kind, "--json").stdout)
    assert len(found["calls"]) <= MOST[kind]
    assert len(found["calls"]) < found["calls_of_the_kernel"] / 7
    reasons = {
        call: reason["why"]
        for purpose in found["purposes"]
        for reason in purpose["reasons"]
        for call in reason["calls"]
    }
    assert set(found["calls"]) == set(reasons)
    assert all(reasons.values())
    assert set(found["calls_by_arguments"]) >= {"mmap", "mprotect", "fcntl", "tgkill", "rt_sigaction"}
    assert {"mmap", "ioctl", "clone3"} <= set(found["fail_quietly"])
    architecture = native()
    assert architecture is not None
    assert found["architecture"] == architecture.name


def test_every_reason_is_a_sentence_for_a_person() -> None:
    for name, group in GROUPS.items():
        for grant in group:
            assert len(grant.why) > 2, f"{name}: {list(grant.calls)}"
            assert grant.calls


def test_a_kind_that_there_is_not_is_refused_by_name() -> None:
    done = run("doctor", "--policy", "everything")
    assert done.returncode == 2
    assert "image_decoder" in done.stderr
