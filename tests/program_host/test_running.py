"""Programs are run, and ended: with what they started, and whatever they do."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from cloister.errors import HostError
from cloister.interfaces import program_host
from cloister.ipc import Channel
from cloister.plugins import program
from cloister.plugins.capabilities import Held
from cloister.plugins.limits import Limits
from tests.program_host.conftest import PYTHON, SHELL, World

FORKS = Limits(processes=16)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def children_of(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_what_a_program_reads_and_writes_are_bytes(world: World) -> None:
    data = bytes(range(256)) * 4096  # more than a pipe holds
    done = world.run("/bin/cat", given=data)
    assert done == {"returncode": 0, "stdout": data, "stderr": b""}
    done = world.run(SHELL, "-c", "echo out; echo err >&2; exit 7")
    assert done == {"returncode": 7, "stdout": b"out\n", "stderr": b"err\n"}
    assert world.run(SHELL, "-c", "kill -9 $$")["returncode"] == -signal.SIGKILL


def test_no_shell_sees_the_arguments(world: World) -> None:
    done = world.run("/bin/echo", "$HOME; `id`", "*", b"\xff")
    assert done["stdout"] == b"$HOME; `id` * \xff\n"


def test_a_program_that_does_not_read_its_input_is_no_trouble(world: World) -> None:
    assert world.run("/bin/true", given=b"x" * 1_000_000)["returncode"] == 0


@pytest.mark.parametrize("name", ["jq", "perl", "awk", "sed", "git", "grep", "sort"])
def test_a_program_of_the_system_runs(world: World, name: str) -> None:
    path = next((f"{folder}/{name}" for folder in ("/usr/bin", "/bin") if Path(folder, name).exists()), None)
    if path is None:
        pytest.skip(f"no {name}")
    arguments = {
        "jq": [".a"], "perl": ["-pe", "s/1/2/"], "awk": ["{print $1}"], "sed": ["s/1/2/"], "git": ["--version"],
        "grep": ["a"], "sort": ["-r"],
    }  # fmt: skip
    done = world.run(path, *arguments[name], given=b'{"a": 1}\n')
    assert done["returncode"] == 0, done["stderr"]
    assert done["stdout"]


def test_what_cannot_be_asked_for_is_refused(world: World) -> None:
    for arguments in (["a\0b"], ["x" * 40_000], ["x"] * 300, [3]):
        with pytest.raises(HostError):
            world.run("/bin/echo", *arguments)
    with pytest.raises(HostError):
        world.run("/bin/cat", given=3)  # type: ignore[arg-type]


def test_what_the_kernel_does_not_run_is_told(world: World, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/nowhere/interpreter\n")
    script.chmod(0o755)
    with pytest.raises(HostError, match="No such file"):
        world.run(str(script))
    script.chmod(0o644)
    with pytest.raises(HostError, match="Permission denied"):
        world.run(str(script))


@pytest.mark.usefixtures("forks")
def test_it_starts_no_process_unless_it_may(world: World) -> None:
    done = world.run(SHELL, "-c", "/bin/echo one; /bin/echo two")
    assert (done["returncode"], done["stdout"]) == (2, b"")
    assert b"fork" in done["stderr"]
    done = world.run(SHELL, "-c", "/bin/echo one | cat; /bin/echo two", limits=FORKS)
    assert (done["returncode"], done["stdout"]) == (0, b"one\ntwo\n")


@pytest.mark.usefixtures("forks")
def test_what_it_started_ends_with_it_and_leaves_nothing(world: World) -> None:
    process, pipes = world.start(SHELL, "-c", "read line", limits=FORKS)
    branch = world.branch_of(process)
    before = len(children_of(branch))
    # In the background, and orphaned at once: without being ended, each would keep the pipes for half a minute.
    code = "(sleep 30 &) ; (trap '' TERM HUP INT; sleep 30; sleep 30) & sleep 30 & echo done"
    began = time.monotonic()
    for _ in range(3):
        assert world.run(SHELL, "-c", code, limits=FORKS)["stdout"] == b"done\n"
    assert time.monotonic() - began < 20
    until(lambda: len(children_of(branch)) == before)
    for fd in pipes:
        os.close(fd)
    world.thread.run(process.end())


@pytest.mark.usefixtures("forks")
def test_a_fork_bomb_is_bounded_and_ends(world: World) -> None:
    bomb = "bomb() { bomb | bomb & }; bomb; sleep 30"
    with pytest.raises(HostError, match="Timeout"):
        world.run(SHELL, "-c", bomb, seconds=0.5, limits=FORKS)

    def works() -> bool:
        return bool(world.run(SHELL, "-c", "/bin/echo alive | cat", limits=FORKS)["stdout"] == b"alive\n")

    until(works)  # the last of it may need a moment


@pytest.mark.usefixtures("python")
def test_greed_is_bounded(world: World) -> None:
    small = Limits(memory="64 MiB", result="1 MiB", open_files=20)
    done = world.run(PYTHON, "-I", "-c", "x = b'x' * 500_000_000", limits=small)
    assert done["returncode"] == 1
    assert b"MemoryError" in done["stderr"]
    done = world.run(PYTHON, "-I", "-c", "all = [open('/dev/null') for _ in range(50)]", limits=small)
    assert b"Too many open files" in done["stderr"]
    with pytest.raises(HostError, match="ResultLimit"):
        world.run(SHELL, "-c", "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done", limits=small)
    with pytest.raises(HostError, match="CpuLimit"):
        world.run(SHELL, "-c", "while :; do :; done", limits=Limits(cpu_time=0.1))
    assert world.run("/bin/true")["returncode"] == 0


def test_one_that_never_ends_is_ended_in_time(world: World) -> None:
    for code in (
        "exec sleep 30",
        "exec >&- 2>&-; exec sleep 30",
        "trap '' TERM INT HUP; while :; do :; done",
    ):
        with pytest.raises(HostError, match="Timeout"):
            world.run(SHELL, "-c", code, seconds=0.2)
    with pytest.raises(HostError, match="nobody waits"):
        world.run(SHELL, "-c", "exec sleep 30", wanted=lambda: False)


@pytest.mark.usefixtures("forks")
def test_it_dies_with_the_process_that_forked_it(world: World) -> None:
    process, pipes = world.start(SHELL, "-c", "sleep 30; sleep 30", limits=FORKS)
    until(lambda: bool(children_of(process.pid)))
    (child,) = children_of(process.pid)
    os.kill(world.branch_of(process), signal.SIGKILL)
    until(lambda: not process.is_alive and not Path(f"/proc/{child}").exists())
    for fd in pipes:
        os.close(fd)
    until(lambda: world.run(SHELL, "-c", "/bin/echo back | cat", limits=FORKS)["stdout"] == b"back\n")


def test_one_that_ends_before_it_has_begun_harms_nobody(world: World) -> None:
    neighbour, pipes = world.start(SHELL, "-c", "read line")
    branch = world.branch_of(neighbour)

    async def forked_and_killed() -> None:
        options = msgspec.msgpack.encode(program_host.Options())
        tree = program.preload([], Held(), Limits().filled())
        zygote = await world.zygotes._kept[tree].get(5)
        here, there = Channel.pair()
        child = await zygote.fork("program_host", options, [there], keep=[here])
        await child.end()

    for _ in range(5):
        world.thread.run(forked_and_killed())
    assert neighbour.is_alive
    assert Path(f"/proc/{branch}").exists()
    for fd in pipes:
        os.close(fd)
    world.thread.run(neighbour.end())


def test_nothing_is_left_open(world: World) -> None:
    world.run("/bin/true")
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        world.run("/bin/true")
        with pytest.raises(HostError):
            world.run("/bin/echo", "x" * 40_000)
    assert sorted(os.listdir("/proc/self/fd")) == before
