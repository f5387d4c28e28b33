"""Cgroups are made where this process may, hold what they are told, and are gone afterwards.

The tests that limit something need a cgroup in which this process may make others, with the controller in question;
those that look for one read a tree of files, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.errors import ProcessError
from cloister.process.cgroup_delegation import Nest, new_name, remove
from cloister.process.cgroup_mounts import UNIFIED, Mount, Place, own_places, parse_memberships, parse_mounts
from cloister.process.cgroups import Cgroup, CgroupParent, _weights, parse_counts

MIB = 1 << 20


def state() -> dict[Path, tuple[set[str], str]]:
    """Which cgroups of this process's making are in its own cgroups, and in those above; what is enabled there."""
    places = [place.folder for place in own_places().values()]
    seen = {*places, *(folder.parent for folder in places if (folder.parent / "cgroup.procs").exists())}
    found = {}
    for folder in seen:
        switch = folder / "cgroup.subtree_control"
        enabled = switch.read_text() if switch.exists() else ""
        found[folder] = {path.name for path in folder.glob(f"cloister-*-{os.getpid()}-*")}, enabled
    return found


@pytest.fixture
def parent() -> Iterator[CgroupParent]:
    """A real one; afterwards everything is as it was."""
    membership, before = Path("/proc/self/cgroup").read_text(), state()
    found = CgroupParent.find()
    if found is None:
        pytest.skip("no cgroup in which this process may make others")
    yield found
    found.close()
    assert Path("/proc/self/cgroup").read_text() == membership
    assert state() == before


def needs(parent: CgroupParent, controller: str) -> None:
    if controller not in parent.controllers:
        pytest.skip(f"no cgroup controller for {controller} that this process may use")


class Child:
    """A Python that waits for a word before it runs ``program``."""

    def __init__(self, program: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"input()\n{program}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.pid = self.process.pid

    def begin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@contextlib.contextmanager
def a_child(program: str, group: Cgroup) -> Iterator[Child]:
    """In ``group``, and begun; the group is closed when it has ended."""
    child = Child(program)
    try:
        group.add(child.pid)
        child.begin()
        yield child
    finally:
        with child.process:
            child.process.kill()
        asyncio.run(group.close())


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# ── limits, by the kernel ────────────────────────────────────────────────────────────────────────────────────────


def test_a_process_over_its_memory_is_killed_and_counted(parent: CgroupParent) -> None:
    needs(parent, "memory")
    group = parent.child(memory_max=32 * MIB)
    with a_child(f"eaten = b'x' * {64 * MIB}; print('ate it')", group) as child:
        assert child.process.wait(20) == -9
        until(lambda: group.oom_kills() == 1)


def test_what_a_process_takes_is_counted(parent: CgroupParent) -> None:
    needs(parent, "memory")
    group = parent.child(memory_max=64 * MIB)
    program = f"eaten = b'x' * {16 * MIB}; print('ate it', flush=True); input()"
    with a_child(program, group) as child:
        assert child.says() == "ate it"
        bytes_used = group.memory_bytes()
        assert bytes_used is not None
        assert 16 * MIB <= bytes_used < 64 * MIB
        assert group.oom_kills() == 0


def test_without_the_memory_controller_nothing_is_said_of_memory(tmp_path: Path) -> None:
    group = Cgroup({"cpu": tmp_path}, is_v2=True)
    assert group.memory_bytes() is None
    assert group.oom_kills() is None


def test_a_process_that_may_not_have_another_cannot_fork(parent: CgroupParent) -> None:
    needs(parent, "pids")
    program = textwrap.dedent(
        """
        import os
        try: pid = os.fork()
        except BlockingIOError: print("refused", flush=True)
        else: print("forked", flush=True) if pid else os._exit(0)
        input()
        """
    )
    for most, answer in ((1, "refused"), (2, "forked")):
        with a_child(program, parent.child(pids_max=most)) as child:
            assert child.says() == answer


def test_a_busy_process_is_held_back(parent: CgroupParent) -> None:
    needs(parent, "cpu")
    group = parent.child(cpu_percent=10)
    with a_child("while True: pass", group):
        stat = group._folders["cpu"] / "cpu.stat"
        until(lambda: parse_counts(stat.read_text())["nr_throttled"] >= 2)


def test_a_limit_that_cannot_be_held_is_refused(tmp_path: Path) -> None:
    parent = CgroupParent({"pids": tmp_path}, None)
    with pytest.raises(ProcessError, match="cannot limit memory and cpu"):
        parent.child(memory_max=MIB, cpu_percent=50, pids_max=3)
    assert list(tmp_path.iterdir()) == []


def test_a_limit_that_the_kernel_refuses_leaves_no_cgroup(parent: CgroupParent) -> None:
    needs(parent, "pids")
    with pytest.raises(ProcessError, match="could not be made"):
        parent.child(pids_max=-5)


def test_a_process_that_has_ended_cannot_be_added(parent: CgroupParent) -> None:
    group = parent.child()
    with subprocess.Popen(["true"]) as process:
        pass
    with pytest.raises(ProcessLookupError):
        group.add(process.pid)
    asyncio.run(group.close())


# ── what is left ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_cgroup_is_removed_as_soon_as_it_is_empty(parent: CgroupParent) -> None:
    group, child = parent.child(), Child("input()")
    group.add(child.pid)

    async def go() -> None:
        closing = asyncio.ensure_future(group.close())
        await asyncio.sleep(0.05)
        assert not closing.done()
        child.process.kill()
        await closing

    with child.process:
        asyncio.run(go())
        assert not any(folder.exists() for folder in group._folders.values())
        asyncio.run(group.close())  # closing twice is fine


def test_a_cgroup_that_stays_in_use_is_left_with_a_warning(
    parent: CgroupParent, caplog: pytest.LogCaptureFixture
) -> None:
    group = parent.child()
    with a_child("input()", group):
        asyncio.run(group.close(timeout=0.02))
        assert "still had processes after 0.02 s" in caplog.text
        assert all(folder.exists() for folder in group._folders.values())


def test_what_a_killed_program_left_is_removed_by_the_next(parent: CgroupParent) -> None:
    with subprocess.Popen(["true"]) as process:
        pass
    prefix, namespace, pid, number = new_name().split("-")
    assert pid == str(os.getpid())
    left = f"{prefix}-{namespace}-{process.pid}-{number}"
    used = f"{prefix}-{namespace}-{os.getppid()}-{number}"
    elsewhere = f"{prefix}-1{namespace}-{process.pid}-{number}"  # nobody here knows whether that pid lives
    another = f"{prefix}-{process.pid}"
    for folder in set(parent._folders.values()):
        for name in (left, used, elsewhere, another):
            (folder / name).mkdir()
    try:
        assert CgroupParent.find() is not None
        for folder in set(parent._folders.values()):
            assert not (folder / left).exists()
            assert all((folder / name).exists() for name in (used, elsewhere, another))
    finally:
        for folder in set(parent._folders.values()):
            for name in (left, used, elsewhere, another):
                remove(folder / name)


def test_a_second_parent_of_one_process_does_not_disturb_the_first(parent: CgroupParent) -> None:
    needs(parent, "pids")
    group = parent.child(pids_max=7)
    second = CgroupParent.find()
    assert second is not None
    assert second.controllers == parent.controllers
    second.close()
    assert (group._folders["pids"] / "pids.max").read_text() == "7\n"
    asyncio.run(group.close())


# ── where: trees of files ────────────────────────────────────────────────────────────────────────────────────────


def tree(root: Path, memberships: str, *mounts: str) -> Path:
    """A /proc that says so, with a folder for each mount point."""
    proc = root / "proc" / "self"
    proc.mkdir(parents=True)
    (proc / "cgroup").write_text(textwrap.dedent(memberships).lstrip())
    lines = [f"{number} 1 0:{number} {mount}" for number, mount in enumerate(mounts, 20)]
    (proc / "mountinfo").write_text("\n".join(lines) + "\n")
    return root


def cgroup(folder: Path, *, processes: str = "", controllers: str = "cpu io memory pids") -> Path:
    folder.mkdir(parents=True)
    for name, text in {
        "cgroup.type": "domain",
        "cgroup.procs": processes,
        "cgroup.controllers": controllers,
        "cgroup.subtree_control": "",
    }.items():
        (folder / name).write_text(text)
    return folder


V2 = "/ /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"


def test_the_own_cgroup_of_version_2_is_found_below_its_mount(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/user.slice/a b.scope", V2)
    folder = cgroup(root / "sys/fs/cgroup/user.slice/a b.scope")
    assert own_places(root) == {UNIFIED: Place(folder, is_top=False)}


def test_a_container_sees_its_own_cgroup_as_the_top(tmp_path: Path) -> None:
    root = tree(
        tmp_path,
        """
        2:cpu,cpuacct:/docker/17
        1:memory:/docker/17
        0::/
        """,
        "/docker/17 /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct",
        "/docker/17 /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory",
        "/ /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw",
    )
    for name in ("cpu,cpuacct", "memory", "unified"):
        (root / "sys/fs/cgroup" / name).mkdir(parents=True)
    assert own_places(root) == {
        "cpu": Place(root / "sys/fs/cgroup/cpu,cpuacct", is_top=True),
        "cpuacct": Place(root / "sys/fs/cgroup/cpu,cpuacct", is_top=True),
        "memory": Place(root / "sys/fs/cgroup/memory", is_top=True),
        UNIFIED: Place(root / "sys/fs/cgroup/unified", is_top=True),
    }


@pytest.mark.parametrize(
    ("path", "mount"),
    [
        ("/../..", V2),  # outside of the cgroup namespace
        ("/a/../b", V2),
        ("/b", V2.replace("/ /sys", "/a /sys", 1)),  # another container's is mounted
        ("/b", "/ /sys/fs/cgroup rw - tmpfs tmpfs rw"),
        ("/not there", V2),
    ],
)
def test_a_cgroup_that_cannot_be_seen_is_not_found(tmp_path: Path, path: str, mount: str) -> None:
    root = tree(tmp_path, f"0::{path}", mount)
    cgroup(root / "sys/fs/cgroup/b")
    assert own_places(root) == {}
    assert CgroupParent.find(root) is None


def test_a_machine_without_cgroups_has_none(tmp_path: Path) -> None:
    assert CgroupParent.find(tmp_path) is None


def test_a_cgroup_with_processes_of_others_is_left_alone(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/", V2)
    folder = cgroup(root / "sys/fs/cgroup", processes=f"{os.getpid()}\n{os.getppid()}\n")
    before = {entry.name: entry.read_text() for entry in folder.iterdir()}
    assert CgroupParent.find(root) is None
    assert {entry.name: entry.read_text() for entry in folder.iterdir()} == before


def test_a_process_outside_of_the_pid_namespace_is_another(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/", V2)
    cgroup(root / "sys/fs/cgroup", processes="0\n")
    assert CgroupParent.find(root) is None


def test_without_a_controller_there_is_nothing_to_limit(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/", V2)
    folder = cgroup(root / "sys/fs/cgroup", controllers="hugetlb")
    assert CgroupParent.find(root) is None
    assert not any(entry.is_dir() for entry in folder.iterdir())


def test_what_may_not_be_written_is_not_used(tmp_path: Path) -> None:
    """Root may write everything, and so uses only what was delegated to it, or has nobody above it."""
    root = tree(tmp_path, "1:pids:/a", "/ /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids")
    folder = cgroup(root / "sys/fs/cgroup/pids/a")
    if os.geteuid() != 0:
        folder.chmod(0o555)
    assert CgroupParent.find(root) is None
    if os.geteuid() != 0:
        folder.chmod(0o755)
        assert CgroupParent.find(root) is not None


@pytest.mark.skipif(os.geteuid() != 0, reason="for root, being able to write is no delegation")
def test_root_uses_what_is_marked_as_delegated(tmp_path: Path) -> None:
    root = tree(tmp_path, "1:pids:/a", "/ /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids")
    folder = cgroup(root / "sys/fs/cgroup/pids/a")
    try:
        os.setxattr(folder, "trusted.delegate", b"1")
    except OSError:
        pytest.skip("this file system has no trusted attributes")
    parent = CgroupParent.find(root)
    assert parent is not None
    assert parent.controllers == {"pids"}


def test_limits_of_version_1_go_to_the_files_of_each_hierarchy(tmp_path: Path) -> None:
    for name in ("memory", "cpu", "pids"):
        (tmp_path / name).mkdir()
    parent = CgroupParent({name: tmp_path / name for name in ("memory", "cpu", "pids")}, None)
    parent.child(memory_max=MIB, cpu_percent=50, pids_max=3).add(17)
    files = {
        (path.relative_to(tmp_path).parts[0], path.name): path.read_text() for path in tmp_path.rglob("*.*")
    }
    assert files == {
        ("memory", "memory.limit_in_bytes"): str(MIB),
        ("memory", "cgroup.procs"): "17",
        ("cpu", "cpu.cfs_period_us"): "100000",
        ("cpu", "cpu.cfs_quota_us"): "50000",
        ("cpu", "cgroup.procs"): "17",
        ("pids", "pids.max"): "3",
        ("pids", "cgroup.procs"): "17",
    }


def test_weights_go_to_the_files_of_each_version(tmp_path: Path) -> None:
    parent = CgroupParent({"cpu": tmp_path}, None)
    parent.child(cpu_weight=50)
    assert [(path.name, path.read_text()) for path in tmp_path.rglob("*.*")] == [("cpu.shares", "512")]
    with pytest.raises(ProcessError, match="cannot limit io"):
        parent.child(io_weight=50)
    parent = CgroupParent(
        dict.fromkeys(("cpu", "io"), tmp_path / "2"), Nest(tmp_path, tmp_path, is_moved=False)
    )
    (tmp_path / "2").mkdir()
    parent.child(
        cpu_weight=50, io_weight=50
    )  # a kernel without a scheduler that knows weights has no file for them
    assert [(path.name, path.read_text()) for path in (tmp_path / "2").rglob("*.*")] == [("cpu.weight", "50")]
    written = [(file, value, needed) for _, file, value, needed in _weights(20, 3000, is_v2=True)]
    assert written == [
        ("cpu.weight", 20, True),
        ("io.weight", "default 3000", False),
        ("io.bfq.weight", "default 1000", False),
    ]


def test_controllers_besides_the_usual_are_enabled_for_who_asks(tmp_path: Path) -> None:
    root = tree(tmp_path, "0::/", V2)
    folder = cgroup(root / "sys/fs/cgroup", controllers="cpu io")
    (folder / "cgroup.type").unlink(missing_ok=True)
    for also in ((), ("io",)):
        switch = folder / "cgroup.subtree_control"
        switch.write_text("")
        CgroupParent.find(root, also=also)
        assert ("io" in switch.read_text()) == bool(also)


def test_no_two_cgroups_have_one_name() -> None:
    names = {new_name() for _ in range(100)}
    assert len(names) == 100
    assert all(name.startswith("cloister-") and f"-{os.getpid()}-" in name for name in names)


# ── what the kernel writes ───────────────────────────────────────────────────────────────────────────────────────

paths = st.text(st.characters(exclude_characters="\n\0", exclude_categories=["Cs"])).map(
    lambda name: f"/{name}"
)


@given(st.dictionaries(st.sampled_from(["memory", "cpu", "pids", "name=systemd", ""]), paths))
def test_each_controller_has_its_path(memberships: dict[str, str]) -> None:
    text = "".join(f"{number}:{name}:{path}\n" for number, (name, path) in enumerate(memberships.items()))
    assert parse_memberships(text) == memberships


@given(paths, paths)
def test_mount_points_are_read_whatever_is_in_their_names(root: str, point: str) -> None:
    escaped = ["".join(f"\\{ord(c):03o}" if c in " \t\n\\" else c for c in path) for path in (root, point)]
    line = f"35 31 0:32 {escaped[0]} {escaped[1]} rw,relatime shared:1 - cgroup cgroup rw,memory\n"
    assert parse_mounts(line) == [Mount(root, point, frozenset({"rw", "memory"}))]


@given(st.text() | st.text("0123:,/ -cgroup2\n\\", max_size=300))
def test_any_text_is_read_without_an_error(text: str) -> None:
    assert all(path.startswith("/") for path in parse_memberships(text).values())
    assert all(isinstance(mount, Mount) for mount in parse_mounts(text))
    assert all(value >= 0 for value in parse_counts(text).values())


@given(st.dictionaries(st.text("abc_", min_size=1), st.integers(0, 2**64 - 1), max_size=5))
def test_counts_are_read(counts: dict[str, int]) -> None:
    assert parse_counts("".join(f"{name} {value}\n" for name, value in counts.items())) == counts
