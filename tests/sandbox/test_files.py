"""What of the file tree is left, by Landlock alone, by the empty root alone, and by both."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from msgspec.structs import replace as replace_struct

from cloister import sandbox
from cloister.sandbox import Layer, Policy, landlock, seccomp
from cloister.sandbox.paths import mount_points, targets
from tests.sandbox import situations
from tests.sandbox.locked import Sandbox

USERS = [False, True] if os.geteuid() == 0 else [False]


@pytest.fixture
def fonts(open_folder: Path) -> Path:
    """A folder with links out of it, as Debian's fonts have them, and a file beside it that is none of them."""
    folder = open_folder / "fonts"
    elsewhere = open_folder / "elsewhere"
    (folder / "sub").mkdir(parents=True)
    elsewhere.mkdir()
    (folder / "sub" / "real").write_text("real")
    (elsewhere / "linked").write_text("linked")
    (elsewhere / "other").write_text("other")
    (open_folder / "config").write_text("config")
    (open_folder / "private").write_text("private")
    (folder / "sub" / "file").symlink_to("../../config")
    (folder / "folder").symlink_to(elsewhere)
    (folder / "inside").symlink_to("sub/real")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "everything").symlink_to(open_folder)
    return folder


READABLE = ("sub/real", "sub/file", "folder/linked", "inside")


def reading(fonts: Path, *names: str) -> Callable[[], list[str]]:
    return lambda: [(fonts / name).read_text() for name in names]


def box(fonts: Path, *, isolated: bool, as_nobody: bool, switch_off: Callable[[], None]) -> Sandbox:
    policy = Policy("tested", ("stdio", "memory", "ipc", "read_files"), read_paths=(str(fonts), "/nowhere"))
    return Sandbox(policy, isolated=isolated, as_nobody=as_nobody, switch_off=switch_off, allow_degraded=True)


def nothing() -> None:
    pass


def without_landlock() -> None:
    landlock.abi = lambda: 0


WAYS = {
    "both": (True, nothing),
    "Landlock alone": (False, nothing),
    "the empty root alone": (True, without_landlock),
}


@pytest.mark.parametrize("as_nobody", USERS)
@pytest.mark.parametrize("way", WAYS)
def test_what_is_listed_is_readable_and_what_its_links_lead_to(
    way: str, as_nobody: bool, fonts: Path, this_machine: sandbox.Machine
) -> None:
    isolated, switch_off = WAYS[way]
    if isolated and Layer.EMPTY_ROOT not in this_machine.available:
        pytest.skip("this machine allows this user no mounts")
    sandboxed = box(fonts, isolated=isolated, as_nobody=as_nobody, switch_off=switch_off)
    assert sandboxed.run(reading(fonts, *READABLE)).value == ["real", "config", "linked", "real"]
    assert sandboxed.run(reading(fonts, "../private")).denied
    assert sandboxed.run(reading(fonts, "everything/private")).denied
    assert sandboxed.run(lambda: os.listdir(fonts.parent) if way == "Landlock alone" else None).denied == (
        way == "Landlock alone"
    )


@pytest.mark.parametrize("way", WAYS)
def test_what_is_listed_cannot_be_written(way: str, fonts: Path, this_machine: sandbox.Machine) -> None:
    isolated, switch_off = WAYS[way]
    if isolated and Layer.EMPTY_ROOT not in this_machine.available:
        pytest.skip("this machine allows this user no mounts")

    def switch() -> None:
        switch_off()
        seccomp.available = lambda: False

    sandboxed = box(fonts, isolated=isolated, as_nobody=False, switch_off=switch)
    (fonts / "sub" / "real").chmod(0o666)
    outcome = sandboxed.run(lambda: (fonts / "sub" / "real").write_text("changed"))
    assert outcome.errno in (errno.EACCES, errno.EROFS)
    assert sandboxed.run(lambda: (fonts / "new").write_text("new")).errno in (errno.EACCES, errno.EROFS)
    assert (fonts / "sub" / "real").read_text() == "real"


def test_the_root_holds_nothing_else(fonts: Path, this_machine: sandbox.Machine) -> None:
    if Layer.EMPTY_ROOT not in this_machine.available:
        pytest.skip("this machine allows this user no mounts")
    sandboxed = box(fonts, isolated=True, as_nobody=False, switch_off=without_landlock)
    assert sandboxed.run(lambda: os.listdir("/")).value == [fonts.parts[1]]
    assert set(sandboxed.run(lambda: os.listdir(fonts.parent)).value) == {"fonts", "config", "elsewhere"}


@pytest.mark.parametrize("as_nobody", USERS)
def test_where_mounts_are_refused_the_root_is_a_folder_that_holds_nothing_and_never_will(
    as_nobody: bool, fonts: Path, this_machine: sandbox.Machine
) -> None:
    if Layer.EMPTY_ROOT not in this_machine.available:
        pytest.skip("this machine allows this user no root of its own")

    def switch_off() -> None:
        without_landlock()
        seccomp.available = lambda: False

    def attempt() -> list[object]:
        said: list[object] = [os.listdir("/"), os.listdir("/..")]
        for way_out in (lambda: os.stat(fonts), lambda: os.mkdir("/new"), lambda: os.chroot("/")):
            try:
                said.append(way_out())
            except OSError as error:
                said.append(error.errno)
        return said

    without_mounts = situations.kernel_without("mount", errno.EPERM)
    box = Sandbox(as_nobody=as_nobody, before=without_mounts, switch_off=switch_off, allow_degraded=True)
    outcome = box.run(attempt)
    assert Layer.EMPTY_ROOT in outcome.layers
    refused = outcome.value[3:]
    assert outcome.value[:3] == [[], [], errno.ENOENT]
    assert set(refused) <= {errno.ENOENT, errno.EACCES, errno.EPERM}
    # One that is to read something keeps the root it has, and says so.
    with_fonts = replace(box, policy=replace_struct(box.policy, read_paths=(str(fonts),)))
    assert Layer.EMPTY_ROOT in with_fonts.run(lambda: None).missing
    assert not [name for name in os.listdir("/tmp") if re.fullmatch("cloister-[0-9a-f]{16}", name)]


def test_a_prepared_ruleset_outlives_a_fork_and_shed(fonts: Path) -> None:
    """As in a zygote: the folders are walked once, and cannot be found again in the child."""
    sandboxed = box(fonts, isolated=False, as_nobody=False, switch_off=nothing)

    def before() -> None:
        sandbox.prepare(sandboxed.policy)
        os.rename(fonts / "folder", fonts / "moved")

    prepared = Sandbox(sandboxed.policy, isolated=False, before=before)
    assert prepared.run(reading(fonts, "moved/linked")).value == ["linked"]


def test_no_ruleset_stays_open_in_a_child(fonts: Path) -> None:
    policy = box(fonts, isolated=False, as_nobody=False, switch_off=nothing).policy
    others = [Policy("other", ("stdio",), read_paths=(path,)) for path in ("/bin", "/nowhere")]

    def before() -> None:
        for each in (policy, *others):
            sandbox.prepare(each)

    def open_descriptors() -> list[int]:
        found = []
        for number in range(3, 64):
            try:
                os.fstat(number)
            except OSError:
                continue
            found.append(number)
        return found

    outcome = Sandbox(policy, isolated=False, before=before).run(open_descriptors)
    assert len(outcome.value) == 1  # the pipe that it answers on


def test_links_that_lead_above_what_was_asked_for_are_left_out(fonts: Path) -> None:
    assert str(fonts.parent) not in targets([str(fonts)])
    assert set(targets([str(fonts)])) == {
        str(fonts),
        str(fonts.parent / "elsewhere"),
        str(fonts.parent / "config"),
    }


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    (one / "to").symlink_to(two)
    (two / "to").symlink_to(one)
    itself = one / "itself"
    itself.symlink_to("itself")
    assert set(targets([str(one)])) == {str(one), str(two)}
    itself.unlink()  # pytest's own cleaning up fails at it


def test_a_maze_of_links_ends(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "same").symlink_to(".")
    (folder / "deeper").symlink_to("../same/folder")
    assert set(targets([str(folder)])) == {str(folder)}


def test_a_path_that_is_a_link_stands_where_it_was_written(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    (real / "file").write_text("")
    link.symlink_to(real)
    assert mount_points([str(link)]) == {str(link): str(real)}


def test_a_path_inside_another_needs_no_place_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert mount_points([str(tmp_path / "a" / "b"), str(tmp_path / "a")]) == {
        str(tmp_path / "a"): str(tmp_path / "a")
    }
