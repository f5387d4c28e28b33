"""The process that forks the others: held itself, and able to let each of them hold itself tighter."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from cloister import sandbox
from cloister.sandbox import Policy, zygote_policy
from cloister.sandbox.kernel import syscall
from tests.sandbox.locked import BASIC, Sandbox

CHILDREN = (
    BASIC,
    Policy("reader", ("stdio", "memory", "ipc", "read_files"), read_paths=("/usr/share/fonts",)),
    Policy("talker", ("stdio", "memory", "ipc", "event_loop", "inherited_sockets")),
)
ZYGOTE = zygote_policy(CHILDREN)


def forked(policy: Policy, attempt: str) -> list[object]:
    """In a zygote: fork, lock the child down by ``policy``, let it try; its report's gaps, and how it ended."""
    answers, answer = socket.socketpair()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            sandbox.shed([answer.fileno()])
            report = sandbox.enter(policy)
            os.write(answer.fileno(), ",".join(report.missing).encode() + b".")
            if attempt == "fork":
                os.fork()
            elif attempt == "abort":
                os.abort()
            elif attempt == "unshare":
                syscall("unshare", 0x10000000)
            status = 0
        finally:
            os._exit(status)
    answer.close()
    missing = answers.recv(1000).decode()
    answers.close()
    return [missing, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])]


@pytest.mark.parametrize("policy", CHILDREN, ids=lambda policy: policy.kind)
@pytest.mark.parametrize(
    ("attempt", "status"),
    [("", 0), ("fork", -signal.SIGSYS), ("abort", -signal.SIGABRT), ("unshare", -signal.SIGSYS)],
)
def test_what_it_forks_locks_itself_down_completely(
    policy: Policy, attempt: str, status: int, this_machine: sandbox.Machine
) -> None:
    def prepare() -> None:
        for each in CHILDREN:
            sandbox.prepare(each)

    outcome = Sandbox(ZYGOTE, switch_off=prepare).run(lambda: forked(policy, attempt))
    missing = ",".join(this_machine.expects(policy).missing)
    assert outcome.value == [f"{missing}.", status]


def test_it_makes_no_socket_starts_no_program_and_maps_no_code() -> None:
    assert not ZYGOTE.allows("execve")
    assert not ZYGOTE.allows("socket")
    assert not ZYGOTE.allows("connect")
    assert not ZYGOTE.allows("unshare")
    assert Sandbox(ZYGOTE).run(lambda: os.execv("/bin/true", ["true"])).status == -signal.SIGSYS


def test_it_reads_what_any_of_its_children_may_read() -> None:
    assert ZYGOTE.read_paths == ("/usr/share/fonts",)
