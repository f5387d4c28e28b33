"""What ``enter`` puts up, what it reports, and when it refuses."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from cloister import sandbox
from cloister.errors import SandboxUnavailable
from cloister.sandbox import NAMESPACES, Layer, Limits, Policy, bpf, privileges, seccomp
from cloister.sandbox.kernel import libc, prctl
from tests.sandbox.locked import BASIC, Outcome, Sandbox
from tests.sandbox.situations import kernel_without

USERS = [False, True] if os.geteuid() == 0 else [False]
_SYS_MIB = 1024 * 1024


@pytest.mark.parametrize("as_nobody", USERS)
def test_the_report_names_the_layers_that_this_machine_offers(
    as_nobody: bool, this_machine: sandbox.Machine
) -> None:
    outcome = Sandbox(as_nobody=as_nobody).run(lambda: None)
    expected = this_machine.expects(BASIC)
    assert tuple(outcome.layers) == expected.layers
    assert tuple(outcome.missing) == expected.missing


@pytest.mark.parametrize("as_nobody", USERS)
def test_without_namespaces_every_required_layer_still_holds(as_nobody: bool) -> None:
    outcome = Sandbox(isolated=False, as_nobody=as_nobody).run(lambda: None)
    assert outcome.status == 0
    assert set(outcome.layers) >= sandbox.REQUIRED
    assert set(outcome.missing) == {*NAMESPACES, Layer.EMPTY_ROOT}


@pytest.mark.parametrize("as_nobody", USERS)
@pytest.mark.parametrize("isolated", [True, False])
def test_the_process_is_nobody_in_no_group_without_capabilities(isolated: bool, as_nobody: bool) -> None:
    allowed = replace(BASIC, groups=(*BASIC.groups, "lockdown"))

    def attempt() -> object:
        return [os.getresuid(), os.getresgid(), os.getgroups(), privileges.effective_capabilities()]

    def join_a_group() -> None:
        if os.geteuid() == 0:
            os.setgroups([4])

    outcome = Sandbox(allowed, isolated=isolated, as_nobody=as_nobody, before=join_a_group).run(attempt)
    if os.geteuid() == 0 or Layer.USER_NAMESPACE in outcome.layers:
        nobody = [privileges.NOBODY] * 3
        assert outcome.value[:2] == [nobody, nobody]
    if os.geteuid() == 0 and not as_nobody:
        assert outcome.value[2] == []
    assert outcome.value[3] == 0


def test_no_capability_can_come_back() -> None:
    def attempt() -> list[int]:
        return [prctl(23, capability) for capability in range(38)]  # PR_CAPBSET_READ

    allowed = replace(BASIC, groups=(*BASIC.groups, "lockdown"))
    outcome = Sandbox(allowed).run(attempt)
    if os.geteuid() == 0 or Layer.USER_NAMESPACE in outcome.layers:
        assert not any(outcome.value)


def test_nobody_may_read_its_memory_and_no_program_it_starts_gains_powers() -> None:
    def attempt() -> list[int]:
        return [prctl(3), prctl(39)]  # PR_GET_DUMPABLE, PR_GET_NO_NEW_PRIVS

    # Not isolated and nobody before: a change of user would do the same by itself.
    box = Sandbox(isolated=False, as_nobody=True, switch_off=without_seccomp, allow_degraded=True)
    assert box.run(attempt).value == [0, 1]


def without_seccomp() -> None:
    seccomp.available = lambda: False


def test_a_kernel_without_landlock_is_refused_and_the_message_says_since_when_there_is_one() -> None:
    outcome = Sandbox(before=kernel_without("landlock_create_ruleset", errno.ENOSYS)).run(lambda: None)
    assert outcome.refused is not None
    assert set(outcome.refused) == {"landlock"}
    assert "5.13" in outcome.refused["landlock"]


def test_a_kernel_without_seccomp_is_refused_and_the_message_says_since_when_there_is_one() -> None:
    outcome = Sandbox(before=kernel_without("seccomp", errno.ENOSYS)).run(lambda: None)
    assert outcome.refused is not None
    assert set(outcome.refused) == {"seccomp"}
    assert "3.17" in outcome.refused["seccomp"]


def test_degraded_goes_on_without_landlock_and_names_it() -> None:
    box = Sandbox(before=kernel_without("landlock_create_ruleset", errno.ENOSYS), allow_degraded=True)
    outcome = box.run(lambda: "ran")
    assert outcome.value == "ran"
    assert {"landlock", "landlock_network", "landlock_scope"} <= set(outcome.missing)
    assert "seccomp" in outcome.layers


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES, errno.ENOSPC])
def test_where_namespaces_are_refused_the_process_runs_without_them_and_says_so(number: int) -> None:
    outcome = Sandbox(before=kernel_without("unshare", number)).run(os.getuid)
    assert outcome.refused is None
    assert set(outcome.missing) - {Layer.EMPTY_ROOT} == NAMESPACES
    assert os.geteuid() != 0 or outcome.value == privileges.NOBODY


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make the others without a user namespace")
def test_where_only_user_namespaces_are_refused_root_gets_the_others_and_still_becomes_nobody() -> None:
    no_user_namespace = bpf.Check(0, 0, mask=0x10000000)  # CLONE_NEWUSER
    outcome = Sandbox(before=kernel_without("unshare", errno.EPERM, no_user_namespace)).run(os.getuid)
    assert list(outcome.missing) == ["user_namespace"]
    assert outcome.value == privileges.NOBODY


def test_where_mounts_are_refused_the_process_gets_the_other_namespaces() -> None:
    allowed = replace(BASIC, groups=(*BASIC.groups, "identity"))
    outcome = Sandbox(allowed, before=kernel_without("mount", errno.EPERM)).run(os.getuid)
    assert outcome.refused is None
    assert set(outcome.missing) == {Layer.MOUNT_NAMESPACE}
    assert outcome.value == privileges.NOBODY


def test_a_kernel_without_w_xor_x_is_not_refused() -> None:
    """Linux 6.3 is young, and seccomp denies the same."""
    outcome = Sandbox(switch_off=lambda: setattr(privileges, "refuse_executable_memory", lambda: False)).run(
        lambda: "ran"
    )
    assert outcome.value == "ran"
    assert outcome.missing.count("no_executable_memory") == 1


def test_a_process_that_kept_what_it_inherited_is_refused() -> None:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            sandbox.enter(BASIC)
        except SandboxUnavailable as refusal:
            status = 0 if set(refusal.missing) == {"descriptors", "environment"} else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_process_dies_with_the_one_that_forked_it() -> None:
    """The sandboxed process waits for ever; the one that forked it ends."""
    alive, held_by_child = os.pipe()
    middle = os.fork()
    if middle == 0:
        ready, told = os.pipe()
        if os.fork() == 0:
            sandbox.shed([held_by_child, told])
            sandbox.enter(BASIC)
            os.write(told, b"x")
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
            signal.sigtimedwait({signal.SIGUSR1}, 60)
            os._exit(0)
        os.read(ready, 1)
        os._exit(0)
    os.close(held_by_child)
    os.waitpid(middle, 0)
    assert os.read(alive, 1) == b""  # every holder of the other end is gone
    os.close(alive)


def test_threads_need_their_group_and_a_limit_that_leaves_room() -> None:
    import threading

    def attempt() -> list[str]:
        said: list[str] = []
        thread = threading.Thread(target=lambda: said.append("from a thread"))
        thread.start()
        thread.join()
        return said

    allowed = Policy("tested", (*BASIC.groups, "threads"), limits=Limits(processes=64))
    if os.geteuid() == 0:
        assert Sandbox(allowed).run(attempt).value == ["from a thread"]
    assert Sandbox().run(attempt).status == -signal.SIGSYS


def run_limited(limits: Limits, attempt: Callable[[], object]) -> Outcome:
    return Sandbox(replace(BASIC, limits=limits)).run(attempt)


def test_memory_beyond_the_limit_cannot_be_had() -> None:
    def attempt() -> str:
        try:
            bytearray(256 * _SYS_MIB)
        except MemoryError:
            return "refused"
        return "had"

    assert run_limited(Limits(), attempt).value == "had"
    assert run_limited(Limits(data=128 * _SYS_MIB), attempt).value == "refused"


def test_a_memfd_beyond_the_limit_cannot_be_had() -> None:
    def attempt() -> None:
        os.ftruncate(os.memfd_create("large"), 2 * _SYS_MIB)

    assert run_limited(Limits(), attempt).errno is None
    assert run_limited(Limits(file_size=_SYS_MIB), attempt).errno == errno.EFBIG


def test_descriptors_beyond_the_limit_cannot_be_had() -> None:
    def attempt() -> None:
        for _ in range(32):
            os.dup(2)

    assert run_limited(Limits(), attempt).errno is None
    assert run_limited(Limits(open_files=16), attempt).errno == errno.EMFILE


def queue_a_signal() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGRTMIN})
    if libc.sigqueue(os.getpid(), int(signal.SIGRTMIN), None) != 0:
        raise OSError(ctypes.get_errno(), "sigqueue")


PRIVILEGES: dict[str, tuple[int, int, Callable[[], None]]] = {
    "pending_signals": (resource.RLIMIT_SIGPENDING, 100, queue_a_signal),
    "realtime_priority": (
        resource.RLIMIT_RTPRIO,
        50,
        lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
    ),
    "nice": (resource.RLIMIT_NICE, 30, lambda: os.setpriority(os.PRIO_PROCESS, 0, -5)),
}
"""Limits that let a user do more than others, and what they let do."""


@pytest.mark.parametrize("name", PRIVILEGES)
def test_what_a_limit_lets_its_user_do_the_process_may_not(name: str) -> None:
    kind, value, attempt = PRIVILEGES[name]
    hard = resource.getrlimit(kind)[1]
    if 0 <= hard < value and not privileges.effective_capabilities() >> 24 & 1:
        pytest.skip("this user may do little itself, and without CAP_SYS_RESOURCE nobody can let it do more")

    def privilege() -> None:
        resource.setrlimit(kind, (value, value))
        without_seccomp()

    def with_limits(limits: Limits) -> Sandbox:
        policy = replace(BASIC, limits=limits)
        return Sandbox(policy, isolated=False, switch_off=privilege, allow_degraded=True)

    assert with_limits(Limits()).run(attempt).errno in (errno.EPERM, errno.EACCES, errno.EAGAIN)
    assert with_limits(Limits(**{name: None})).run(attempt).errno is None


def test_processor_time_beyond_the_limit_ends_the_process() -> None:
    def attempt() -> None:
        while True:
            pass

    assert run_limited(Limits(cpu_seconds=1), attempt).status == -signal.SIGKILL


def test_a_limit_is_never_raised() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    outcome = run_limited(Limits(open_files=before * 2), lambda: resource.getrlimit(resource.RLIMIT_NOFILE))
    assert outcome.value == [before, before]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"groups": ("stdio", "everything")}, "no such group: everything"),
        ({"read_paths": ("fonts",)}, "not an absolute path: fonts"),
        ({"keep": ("CAP_ALL",)}, "no such capability: CAP_ALL"),
        ({"namespaces": frozenset({Layer.SECCOMP})}, "not a namespace: seccomp"),
    ],
)
def test_a_policy_that_means_nothing_is_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Policy(**{"kind": "tested", "groups": (), **fields})  # type: ignore[arg-type]


def test_a_policy_tells_which_calls_it_allows() -> None:
    assert BASIC.allows("pread64")
    assert not BASIC.allows("socket")
    assert not BASIC.allows("ptrace")
    assert Policy("lookup", ("sockets",)).allows("socket")


def test_a_policy_tells_what_becomes_of_a_call() -> None:
    assert BASIC.denial("pread64", 0, 0, 0) is None
    assert BASIC.denial("mmap", 0, 4096, 4) == errno.EPERM
    assert BASIC.denial("mmap", 0, 4096, 3) is None
    assert BASIC.denial("clone3") == errno.ENOSYS
    assert BASIC.denial("ptrace", 16, 1) == 0
    assert BASIC.denial("tgkill", os.getpid(), 1, 2) is None
    assert BASIC.denial("tgkill", 1, 1, 2) == 0


def test_a_process_that_shares_the_network_does_not_miss_its_namespace() -> None:
    policy = replace(BASIC, namespaces=NAMESPACES - {Layer.NETWORK_NAMESPACE})
    outcome = Sandbox(policy).run(lambda: None)
    assert "network_namespace" not in (*outcome.layers, *outcome.missing)
    assert Path("/proc/self/ns/net").exists()


def test_a_capability_is_kept_in_a_user_namespace_and_nowhere_else(this_machine: sandbox.Machine) -> None:
    policy = replace(BASIC, keep=("CAP_NET_RAW",), groups=("stdio", "memory", "lockdown"))
    outside = Sandbox(policy, isolated=False, allow_degraded=True).run(lambda: None)
    assert list(outside.refused or ()) == ["user_namespace"]
    if Layer.USER_NAMESPACE in this_machine.available:
        inside = Sandbox(policy).run(privileges.effective_capabilities)
        assert inside.value == 1 << 13
        assert Layer.CAPABILITIES in inside.layers
