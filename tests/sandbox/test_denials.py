"""What a locked-down process tries, and which layers stand in its way, one of them switched off at a time."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from cloister import sandbox
from cloister.sandbox import Layer, Limits, landlock, privileges, seccomp
from cloister.sandbox.kernel import syscall
from tests.sandbox.locked import Sandbox, open_folder


class Outside(NamedTuple):
    """What there is to reach for, outside."""

    secret: Path
    victim: int
    port: int
    abstract: bytes


@pytest.fixture(scope="module")
def outside() -> Iterator[Outside]:
    name = b"\0cloister-test-%d" % os.getpid()
    with (
        open_folder() as folder,
        subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE) as victim,
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        secret = folder / "secret"
        secret.write_text("secret")
        secret.chmod(0o644)
        abstract.bind(name)
        abstract.listen()
        yield Outside(secret, victim.pid, listener.getsockname()[1], name)
        assert victim.poll() is None, "a sandboxed process ended a process outside"
        victim.kill()


def open_a_file(outside: Outside) -> None:
    os.close(os.open(outside.secret, os.O_RDONLY))


def write_a_file(outside: Outside) -> None:
    os.close(os.open(outside.secret.parent / "new", os.O_CREAT | os.O_WRONLY))


def list_a_folder(outside: Outside) -> None:
    list(outside.secret.parent.iterdir())


def read_proc_of_another(outside: Outside) -> None:
    os.close(os.open(f"/proc/{outside.victim}/environ", os.O_RDONLY))


def connect(outside: Outside) -> None:
    with socket.socket() as client:
        client.connect(("127.0.0.1", outside.port))


def take_a_port(_: Outside) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))


def reach_an_abstract_socket(outside: Outside) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(outside.abstract)


def fork(_: Outside) -> None:
    if os.fork() == 0:
        os._exit(0)
    os.wait()


def execute(_: Outside) -> None:
    os.execv("/bin/true", ["true"])


def signal_another_process(outside: Outside) -> None:
    os.kill(outside.victim, signal.SIGCONT)


def trace_another_process(outside: Outside) -> None:
    syscall("ptrace", 0x4206, outside.victim, 0, 0)  # PTRACE_SEIZE


def write_code_and_run_it(_: Outside) -> None:
    page = mmap.mmap(
        -1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE
    )
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    syscall("mprotect", address, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC)


def map_writable_code(_: Outside) -> None:
    mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, 7)


def make_a_namespace(_: Outside) -> None:
    syscall("unshare", 0x10000000 | 0x00020000)


def mount(_: Outside) -> None:
    syscall("mount", b"tmpfs", b"/", b"tmpfs", 0, None)


def raise_a_limit(_: Outside) -> None:
    lifted = (ctypes.c_uint64 * 2)(1 << 32, 1 << 32)
    syscall("prlimit64", 0, resource.RLIMIT_NPROC, ctypes.byref(lifted), None)


ATTEMPTS: dict[Callable[[Outside], None], set[Layer]] = {
    open_a_file: {Layer.SECCOMP, Layer.LANDLOCK, Layer.EMPTY_ROOT},
    write_a_file: {Layer.SECCOMP, Layer.LANDLOCK, Layer.EMPTY_ROOT},
    list_a_folder: {Layer.SECCOMP, Layer.LANDLOCK, Layer.EMPTY_ROOT},
    read_proc_of_another: {Layer.SECCOMP, Layer.LANDLOCK, Layer.EMPTY_ROOT},
    connect: {Layer.SECCOMP, Layer.LANDLOCK_NETWORK, Layer.NETWORK_NAMESPACE},
    take_a_port: {Layer.SECCOMP, Layer.LANDLOCK_NETWORK},
    reach_an_abstract_socket: {Layer.SECCOMP, Layer.LANDLOCK_SCOPE, Layer.NETWORK_NAMESPACE},
    fork: {Layer.SECCOMP, Layer.LIMITS},
    execute: {Layer.SECCOMP, Layer.LANDLOCK, Layer.EMPTY_ROOT},
    signal_another_process: {Layer.SECCOMP, Layer.LANDLOCK_SCOPE, Layer.PID_NAMESPACE},
    trace_another_process: {Layer.SECCOMP, Layer.LANDLOCK, Layer.PID_NAMESPACE},
    write_code_and_run_it: {Layer.SECCOMP, Layer.NO_EXECUTABLE_MEMORY},
    map_writable_code: {Layer.SECCOMP, Layer.NO_EXECUTABLE_MEMORY},
    make_a_namespace: {Layer.SECCOMP, Layer.USER_NAMESPACE},
    mount: {Layer.SECCOMP, Layer.CAPABILITIES},
    raise_a_limit: {Layer.SECCOMP, Layer.CAPABILITIES},
}
"""Each attempt, and the layers any one of which denies it."""

NAMESPACES_AND_ROOT = {*sandbox.NAMESPACES, Layer.EMPTY_ROOT}
LANDLOCK = {Layer.LANDLOCK, Layer.LANDLOCK_NETWORK, Layer.LANDLOCK_SCOPE}


def without_seccomp() -> None:
    seccomp.available = lambda: False


def without_landlock() -> None:
    landlock.abi = lambda: 0


def without_both() -> None:
    without_seccomp()
    without_landlock()


def without_limits() -> None:
    Limits.apply = lambda self: None  # type: ignore[method-assign]


def without_mdwe() -> None:
    privileges.refuse_executable_memory = lambda: False


def nothing() -> None:
    pass


SWITCHES: dict[str, tuple[Callable[[], None], set[Layer]]] = {
    "with every layer": (nothing, set()),
    "without seccomp": (without_seccomp, {Layer.SECCOMP}),
    "without Landlock": (without_landlock, LANDLOCK),
    "without limits": (without_limits, {Layer.LIMITS}),
    "without W xor X by the kernel": (without_mdwe, {Layer.NO_EXECUTABLE_MEMORY}),
    "without namespaces": (nothing, NAMESPACES_AND_ROOT),
    "without seccomp and namespaces": (without_seccomp, {Layer.SECCOMP, *NAMESPACES_AND_ROOT}),
    "without seccomp and Landlock": (without_both, {Layer.SECCOMP, *LANDLOCK}),
}


CASES = [
    (attempt, switch)
    for attempt, layers in ATTEMPTS.items()
    for switch, (_, off) in SWITCHES.items()
    if layers - off and (not off or off & layers)
]


@pytest.mark.parametrize("as_nobody", [False, True] if os.geteuid() == 0 else [False])
@pytest.mark.parametrize(("attempt", "switch"), CASES, ids=[f"{a.__name__} {s}" for a, s in CASES])
def test_a_locked_down_process_is_denied(
    attempt: Callable[[Outside], None],
    switch: str,
    as_nobody: bool,
    outside: Outside,
    this_machine: sandbox.Machine,
) -> None:
    switch_off, off = SWITCHES[switch]
    if not (ATTEMPTS[attempt] - off) & this_machine.available:
        pytest.skip("this machine lacks every other layer that would deny it")
    box = Sandbox(
        isolated=Layer.EMPTY_ROOT not in off,
        as_nobody=as_nobody,
        switch_off=switch_off,
        allow_degraded=bool(off),
    )
    outcome = box.run(lambda: attempt(outside))
    assert outcome.denied, f"{attempt.__name__} was done: {outcome}"


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.__name__)
def test_the_attempt_itself_is_sound_where_nothing_stands_in_its_way(
    attempt: Callable[[Outside], None], outside: Outside, this_machine: sandbox.Machine
) -> None:
    """A test of the tests: a denial must not come from an attempt that could never work."""
    needs: dict[Callable[[Outside], None], int] = {
        mount: 21,
        raise_a_limit: 24,
    }  # CAP_SYS_ADMIN, CAP_SYS_RESOURCE
    needed = needs.get(attempt)
    if needed is not None and not privileges.effective_capabilities() >> needed & 1:
        pytest.skip("this user may not do it anyway")
    if attempt is make_a_namespace and Layer.USER_NAMESPACE not in this_machine.available:
        pytest.skip("this machine allows this user no namespaces")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            if attempt is mount:
                make_a_namespace(outside)
            attempt(outside)
            status = 0
        except OSError as error:
            os.write(2, str(error).encode())
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    (outside.secret.parent / "new").unlink(missing_ok=True)


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
