"""What a process was granted of its user's files: by Landlock alone, by its file tree alone, and by both."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cloister import sandbox
from cloister.sandbox import Files, Layer, Policy, landlock, seccomp, zygote_policy
from tests.sandbox.locked import Sandbox


@pytest.fixture
def tree(open_folder: Path) -> Path:
    """Folders named for what is granted of them, and one of which nothing is."""
    for name in ("read", "write", "delete", "metadata", "none"):
        folder = open_folder / name
        (folder / "empty").mkdir(parents=True)
        (folder / "file").write_text(name)
        (folder / "link").symlink_to(open_folder / "none")
        for path in (folder, folder / "empty", folder / "file"):
            path.chmod(0o777)
    return open_folder


def policy(tree: Path) -> Policy:
    files = Files(*((str(tree / name),) for name in ("read", "write", "delete", "metadata")))
    return Policy("tested", ("stdio",), files=files)


def without_landlock() -> None:
    landlock.abi = lambda: 0


def first_landlock() -> None:
    landlock.abi = lambda: 1


WAYS: dict[str, tuple[bool, Callable[[], None]]] = {
    "both": (True, lambda: None),
    "Landlock alone": (False, lambda: None),
    "its first version alone": (False, first_landlock),
    "the file tree alone": (True, without_landlock),
}

ATTEMPTS: dict[str, Callable[[Path], object]] = {
    "read": lambda folder: (folder / "file").read_text(),
    "list": os.listdir,
    "write": lambda folder: (folder / "file").write_text("new"),
    "make": lambda folder: (folder / "made").touch(),
    "mkdir": lambda folder: (folder / "made as well").mkdir(),
    "delete": lambda folder: (folder / "file").unlink(),
    "rmdir": lambda folder: (folder / "empty").rmdir(),
    "follow": lambda folder: (folder / "link" / "file").read_text(),
    "symlink": lambda folder: (folder / "new link").symlink_to("/"),
}

BY_LANDLOCK = {
    "read": {"read", "list"},
    "write": {"write", "make", "mkdir"},
    "delete": {"delete", "rmdir"},
    "metadata": {"list"},
    "none": set[str](),
}
BY_THE_TREE = {name: {"read", "list"} for name in BY_LANDLOCK} | {
    name: ATTEMPTS.keys() - {"follow"} for name in ("write", "delete")
}
"""A tree can be written to or not; what else may be done there is for Landlock and the filter."""
BY_THE_TREE["none"] = set()


@pytest.mark.parametrize("as_nobody", [False, True] if os.geteuid() == 0 else [False])
@pytest.mark.parametrize("way", WAYS)
def test_each_layer_holds_what_was_not_granted(
    way: str, as_nobody: bool, tree: Path, this_machine: sandbox.Machine
) -> None:
    isolated, switch = WAYS[way]
    if isolated and Layer.EMPTY_ROOT not in this_machine.available:
        pytest.skip("this machine allows this user no mounts")

    def switch_off() -> None:
        switch()
        seccomp.available = lambda: False

    def attempt() -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for name in BY_LANDLOCK:
            found[name] = {}
            for what, tried in ATTEMPTS.items():
                try:
                    tried(tree / name)
                    found[name][what] = 0
                except OSError as error:
                    found[name][what] = error.errno or -1
        return found

    box = Sandbox(
        policy(tree), isolated=isolated, as_nobody=as_nobody, switch_off=switch_off, allow_degraded=True
    )
    found = box.run(attempt).value
    expected = BY_THE_TREE if way == "the file tree alone" else BY_LANDLOCK
    assert {
        name: {w for w, number in tried.items() if number == 0} for name, tried in found.items()
    } == expected
    refused = {number for tried in found.values() for number in tried.values()} - {0}
    assert refused <= {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.EXDEV}
    assert (tree / "none" / "file").read_text() == "none"


@pytest.mark.parametrize("way", WAYS)
def test_what_has_become_a_symlink_gives_nothing(way: str, tree: Path, this_machine: sandbox.Machine) -> None:
    """Between the grant and the start of a process: its path leads elsewhere by now."""
    isolated, switch_off = WAYS[way]
    if isolated and Layer.EMPTY_ROOT not in this_machine.available:
        pytest.skip("this machine allows this user no mounts")
    granted = policy(tree)
    (tree / "read").rename(tree / "moved")
    (tree / "read").symlink_to(tree / "none")
    box = Sandbox(
        Policy("tested", ("stdio", "memory", "read_files"), files=granted.files),
        isolated=isolated,
        switch_off=switch_off,
        allow_degraded=True,
    )
    assert box.run((tree / "read" / "file").read_text).denied


def test_what_is_inside_another_is_apart_from_it_only_where_it_differs(tree: Path) -> None:
    for name in ("write/in", "write/in/deeper", "read/in", "read/in/deeper"):
        (tree / name).mkdir()
    write, read = str(tree / "write"), str(tree / "read")
    files = Files(
        read=(read, f"{write}/in", f"{read}/in/deeper"),
        write=(write, f"{read}/in"),
        delete=(f"{write}/in/deeper",),
    )
    assert files.places() == {read: False, f"{read}/in": True, write: True}
    assert Files(read=("/", "/proc")).places() == {"/": False, "/proc": False}


def test_a_file_moves_between_folders_of_which_more_was_granted(
    tree: Path, this_machine: sandbox.Machine
) -> None:
    if Layer.EMPTY_ROOT not in this_machine.available:
        pytest.skip("this machine allows this user no mounts")
    (tree / "write" / "in").mkdir()
    (tree / "write" / "in").chmod(0o777)
    files = Files(write=(str(tree / "write"),), delete=(str(tree / "write" / "in"),))
    groups = ("stdio", "memory", "read_files", "write_files", "delete_files", "rename_files")
    box = Sandbox(Policy("tested", groups, files=files))

    def attempt() -> list[bool]:
        (tree / "write" / "in" / "made").write_text("x")
        (tree / "write" / "in" / "made").rename(tree / "write" / "moved")
        try:
            (tree / "write" / "moved").rename(tree / "write" / "in" / "back")
        except PermissionError:
            return [True]
        return [False]

    assert box.run(attempt).value == [True]
    assert (tree / "write" / "moved").exists()


def test_a_zygote_may_do_with_files_what_any_of_its_children_may(tree: Path) -> None:
    one, other = Policy("one", (), files=Files(read=("/a",), write=("/b",))), policy(tree)
    both = zygote_policy([one, other]).files
    assert both == Files(
        ("/a", str(tree / "read")),
        ("/b", str(tree / "write")),
        (str(tree / "delete"),),
        (str(tree / "metadata"),),
    )


def test_a_path_must_be_absolute() -> None:
    with pytest.raises(ValueError, match="not an absolute path: here"):
        Files(delete=("here",))
