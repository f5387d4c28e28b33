"""Every kind of process, locked down by its own policy, tries from inside what it must not do.

Each attempt is denied with every layer up, and denied once more without seccomp, which stops nearly all of them:
so at least two layers stand before each.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import Callable

import msgspec
import pytest

from cloister import sandbox
from cloister.image_decoder.sandbox import POLICY as IMAGE_DECODER
from cloister.lookup_server.sandbox import POLICY as LOOKUP_SERVER
from cloister.request_server.sandbox import POLICY as REQUEST_SERVER
from cloister.sandbox import Layer, Policy, seccomp
from cloister.web_content.sandbox import POLICY as WEB_CONTENT
from tests.sandbox import test_denials as denials
from tests.sandbox.locked import Sandbox
from tests.sandbox.test_denials import ATTEMPTS, Outside

outside = denials.outside
KINDS = [IMAGE_DECODER, LOOKUP_SERVER, REQUEST_SERVER, WEB_CONTENT]
BRANCHES = [
    msgspec.structs.replace(sandbox.zygote_policy(kinds), kind=f"zygote of {name}")
    for name, kinds in [("none", []), *((policy.kind, [policy]) for policy in KINDS)]
]
POLICIES = [*KINDS, *BRANCHES]
ALLOWED = {
    ("lookup_server", denials.connect),
    # What is forked can do no more than what forks it.
    ("zygote of lookup_server", denials.connect),
    *((branch.kind, denials.fork) for branch in BRANCHES),
}
"""What a kind is there for."""

CASES = [
    (policy, attempt) for policy in POLICIES for attempt in ATTEMPTS if (policy.kind, attempt) not in ALLOWED
]


@pytest.fixture(scope="module")
def this_machine() -> sandbox.Machine:
    return sandbox.machine()


def without_seccomp() -> None:
    seccomp.available = lambda: False


@pytest.mark.parametrize(
    ("policy", "attempt"), CASES, ids=[f"{policy.kind} {attempt.__name__}" for policy, attempt in CASES]
)
def test_it_is_denied_by_two_layers(
    policy: Policy, attempt: Callable[[Outside], None], outside: Outside, this_machine: sandbox.Machine
) -> None:
    outcome = Sandbox(policy=policy).run(lambda: attempt(outside))
    assert outcome.denied, f"{policy.kind} could {attempt.__name__}: {outcome}"
    behind = (ATTEMPTS[attempt] - {Layer.SECCOMP}) & policy.wants & this_machine.available
    if not behind:
        pytest.skip("this machine has one layer for it")
    bare = Sandbox(policy=policy, switch_off=without_seccomp, allow_degraded=True)
    outcome = bare.run(lambda: attempt(outside))
    assert outcome.denied, f"{policy.kind} could {attempt.__name__} without seccomp: {outcome}"


@pytest.mark.parametrize("policy", KINDS, ids=lambda policy: policy.kind)
def test_no_child_may_open_a_file_for_writing_even_where_it_may_read(policy: Policy) -> None:
    folders = policy.read_paths or ("/usr/share/fonts",)

    def write_into_one() -> None:
        for folder in folders:
            with contextlib.suppress(OSError):
                os.close(os.open(f"{folder}/x", os.O_CREAT | os.O_WRONLY))
                return
        raise PermissionError(errno.EPERM, "none can be written")

    assert Sandbox(policy=policy).run(write_into_one).denied


def test_the_lookup_server_connects_and_nobody_else_does(outside: Outside) -> None:
    can = [
        policy.kind
        for policy in KINDS
        if not Sandbox(policy=policy).run(lambda: denials.connect(outside)).denied
    ]
    assert can == ["lookup_server"]


def test_a_forbidden_call_ends_the_process_and_names_its_kind() -> None:
    from cloister.sandbox.kernel import syscall

    for policy in KINDS:
        outcome = Sandbox(policy=policy).run(lambda: syscall("ptrace", 0, 0, 0, 0))
        assert outcome.status == -signal.SIGSYS
        assert f"kind={policy.kind} syscall=ptrace" in outcome.stderr
