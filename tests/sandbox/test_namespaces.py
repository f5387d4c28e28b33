"""What a process sees of the machine from inside its namespaces."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from cloister import Browser, sandbox
from cloister.errors import LaunchError
from cloister.sandbox import NAMESPACES, Layer
from cloister.sandbox.kernel import syscall
from tests.sandbox.locked import Sandbox

USERS = [False, True] if os.geteuid() == 0 else [False]


@pytest.fixture(autouse=True)
def needs_namespaces(this_machine: sandbox.Machine) -> None:
    if not this_machine.available >= NAMESPACES:
        pytest.skip("this machine allows this user no namespaces")


def before_locking_down(work: Callable[[], object], *, as_nobody: bool = False) -> object:
    """What ``work`` returns in a process that is isolated, and not yet held by anything else."""
    seen: list[object] = []
    box = Sandbox(as_nobody=as_nobody, switch_off=lambda: seen.append(work()))
    value: list[object] = box.run(lambda: seen).value
    return value[0]


@pytest.mark.parametrize("as_nobody", USERS)
def test_there_is_no_network_interface_but_a_loopback_that_is_down(as_nobody: bool) -> None:
    def look() -> list[object]:
        names = [name for _, name in socket.if_nameindex()]
        with socket.socket() as client:
            return [names, client.connect_ex(("127.0.0.1", 9)) != 111]  # ECONNREFUSED: somebody answered

    assert before_locking_down(look, as_nobody=as_nobody) == [["lo"], True]


@pytest.mark.parametrize("as_nobody", USERS)
def test_the_machine_has_no_name(as_nobody: bool) -> None:
    assert before_locking_down(socket.gethostname, as_nobody=as_nobody) == "localhost"


@pytest.mark.parametrize("as_nobody", USERS)
def test_processes_are_counted_from_one(as_nobody: bool) -> None:
    assert before_locking_down(lambda: [os.getppid(), os.getpid()], as_nobody=as_nobody) == [1, 2]


def run_in_child(work: Callable[[], object]) -> str:
    answers, answer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(answer, str(work()).encode())
        finally:
            os._exit(0)
    os.close(answer)
    with os.fdopen(answers) as said:
        text = said.read()
    os.waitpid(child, 0)
    return text


def test_files_of_its_user_stay_readable_for_its_imports(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "mine").chmod(0o600)

    def work() -> str:
        sandbox.isolate()
        return (tmp_path / "mine").read_text()

    assert run_in_child(work) == "mine"


def test_only_the_namespaces_asked_for_are_new() -> None:
    names = {"net": Layer.NETWORK_NAMESPACE, "uts": Layer.UTS_NAMESPACE, "ipc": Layer.IPC_NAMESPACE}
    before = {name: Path("/proc/self/ns", name).readlink() for name in names}

    def work() -> list[str]:
        sandbox.isolate({Layer.UTS_NAMESPACE, Layer.IPC_NAMESPACE})
        return [name for name in names if Path("/proc/self/ns", name).readlink() != before[name]]

    assert run_in_child(work) == "['uts', 'ipc']"


def test_the_pid_namespace_counts_for_what_is_forked_and_not_for_the_process_itself() -> None:
    def work() -> list[bool]:
        sandbox.isolate()
        mine = Layer.PID_NAMESPACE in sandbox.in_force()
        return [mine, run_in_child(lambda: Layer.PID_NAMESPACE in sandbox.in_force()) == "True"]

    assert run_in_child(work) == "[False, True]"


def test_a_process_with_threads_is_told_that_it_cannot_be_isolated() -> None:
    def work() -> str:
        done = threading.Event()
        thread = threading.Thread(target=done.wait)
        thread.start()
        try:
            sandbox.isolate()
        except LaunchError as error:
            return str(error)
        finally:
            done.set()
            thread.join()
        return "isolated"

    assert "Invalid argument: 'unshare'" in run_in_child(work)


def test_what_is_no_namespace_is_refused() -> None:
    with pytest.raises(ValueError, match="not a namespace: seccomp"):
        sandbox.isolate({Layer.SECCOMP})


def test_without_a_mount_namespace_the_root_stays() -> None:
    assert run_in_child(lambda: sandbox.enter_empty_root(["/usr"])) == "False"


def test_trying_leaves_no_process_behind() -> None:
    def work() -> str:
        sandbox.isolate()
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return "none"
        return "some"

    assert run_in_child(work) == "none"


EXECUTABLE = 0x0010  # MFD_EXEC of include/uapi/linux/memfd.h
NOEXEC = Path("/proc/sys/vm/memfd_noexec")


def can_make_a_program_in_memory() -> bool:
    try:
        os.close(os.memfd_create("program", EXECUTABLE))
    except PermissionError:
        return False
    return True


@pytest.mark.skipif(not NOEXEC.exists(), reason="sysctl vm.memfd_noexec needs Linux 6.3")
def test_a_memfd_in_the_new_pid_namespace_is_never_a_program_where_root_started_it() -> None:
    def first_process() -> bool:
        sandbox.forbid_executable_memfds()
        return can_make_a_program_in_memory()

    def work() -> str:
        sandbox.isolate()
        return run_in_child(first_process)

    before = NOEXEC.read_text()
    assert run_in_child(work) == str(os.geteuid() != 0)
    assert NOEXEC.read_text() == before


@pytest.mark.skipif(not NOEXEC.exists(), reason="sysctl vm.memfd_noexec needs Linux 6.3")
def test_memfds_outside_stay_as_they_are() -> None:
    before = NOEXEC.read_text()

    def work() -> bool:
        sandbox.forbid_executable_memfds()
        return can_make_a_program_in_memory()

    assert run_in_child(work) == "True"
    assert NOEXEC.read_text() == before


@pytest.mark.skipif(not NOEXEC.exists(), reason="sysctl vm.memfd_noexec needs Linux 6.3")
@pytest.mark.skipif(os.geteuid() != 0, reason="only root has it, and may look into another pid namespace")
def test_no_memfd_of_a_browsers_processes_is_ever_a_program() -> None:
    with Browser() as browser:
        some = browser.processes()[0].pid

        def join() -> str:
            with Path(f"/proc/{some}/ns/pid").open() as namespace:
                syscall("setns", namespace.fileno(), 0)
            return run_in_child(can_make_a_program_in_memory)

        assert run_in_child(join) == "False"
