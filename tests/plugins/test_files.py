"""Files of its user's that a plugin was granted: what it may do with them, and each thing that it may not, tried from
inside by open(), by calls of the os module, and by system calls that no library makes."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest
from msgspec.structs import replace

from cloister.errors import CapabilityRefused, DiskLimit, PluginCrashed
from cloister.plugin_host.sandbox import POLICY, unusable
from cloister.plugins import disk
from cloister.plugins.limits import Limits
from cloister.plugins.mounts import check_mounts
from cloister.plugins.plugin import Plugin
from cloister.plugins.runtime import PluginRuntime
from cloister.plugins.status import Terminated
from cloister.sandbox import Files, Layer, Report
from cloister.sandbox.syscalls import native
from tests.plugins.test_runtime import until

CODE = """
import ctypes, os, pathlib, shutil, tempfile

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100

def call(number, *arguments):
    values = [ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a.encode()) for a in arguments]
    if libc.syscall(ctypes.c_long(number), *values) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

def ordinary(d):
    with open(f'{d}/text', 'w') as file: file.write('one')
    with open(f'{d}/text', 'a') as file: file.write(' two'); file.flush(); os.fsync(file.fileno())
    with open(f'{d}/text', 'r+') as file: file.write('ONE'); file.truncate(5)
    pathlib.Path(d, 'bytes').write_bytes(b'x' * 100_000)
    os.makedirs(f'{d}/a/b/c')
    shutil.copyfile(f'{d}/bytes', f'{d}/a/copied')
    shutil.move(f'{d}/a/copied', f'{d}/a/b/c/moved')
    os.replace(f'{d}/text', f'{d}/a/text')
    with tempfile.TemporaryFile(dir=d) as file: file.write(b'x')
    with tempfile.NamedTemporaryFile('w', dir=d) as file: file.write('x')
    with tempfile.TemporaryDirectory(dir=d) as folder: pathlib.Path(folder, 'file').touch()
    seen = sorted((os.path.relpath(at, d), sorted(files)) for at, _, files in os.walk(d))
    sizes = [os.stat(f'{d}/a/text').st_size, os.path.getsize(f'{d}/a/b/c/moved')]
    text = open(f'{d}/a/text').read()
    os.remove(f'{d}/bytes')
    shutil.rmtree(f'{d}/a')
    return [seen, sizes, text, sorted(os.listdir(d))]

def attempt(what, d, o, numbers):
    # d was granted, o was not; numbers are those of the system calls
    c = lambda name, *arguments: call(numbers[name], *arguments)
    attempts = {
        'read': lambda: open(f'{d}/there').read(),
        'list': lambda: os.listdir(d),
        'stat': lambda: os.stat(f'{d}/there').st_size,
        'make': lambda: open(f'{d}/new', 'x').close(),
        'overwrite': lambda: os.close(os.open(f'{d}/there', os.O_WRONLY)),
        'empty': lambda: os.close(os.open(f'{d}/there', os.O_WRONLY | os.O_TRUNC)),
        'mkdir': lambda: os.mkdir(f'{d}/folder'),
        'remove': lambda: os.remove(f'{d}/there'),
        'rmdir': lambda: os.rmdir(f'{d}/sub'),
        'rename': lambda: os.rename(f'{d}/there', f'{d}/renamed'),
        'replace': lambda: os.replace(f'{d}/there', f'{d}/other'),
        'sidestep': lambda: open(f'{d}/../outside/secret').read(),
        'by link': lambda: open(f'{d}/link/secret').read(),
        'by link to a file': lambda: open(f'{d}/secret').read(),
        'stat by link': lambda: os.stat(f'{d}/secret').st_size,
        'write by link': lambda: open(f'{d}/link/new', 'w'),
        'write over by link': lambda: open(f'{d}/secret', 'w'),
        'delete by link': lambda: os.remove(f'{d}/link/secret'),
        'absolute': lambda: open(f'{o}/secret').read(),
        'write outside': lambda: open(f'{o}/new', 'w'),
        'mkdir outside': lambda: os.mkdir(f'{o}/new'),
        'delete outside': lambda: os.remove(f'{o}/secret'),
        'delete what was granted': lambda: os.rmdir(d),
        'move out': lambda: os.rename(f'{d}/there', f'{o}/new'),
        'move in': lambda: os.rename(f'{o}/secret', f'{d}/new'),
        'symlink': lambda: os.symlink(o, f'{d}/new'),
        'hard link in': lambda: os.link(f'{o}/secret', f'{d}/new'),
        'hard link': lambda: os.link(f'{d}/there', f'{d}/new'),
        'chmod': lambda: os.chmod(f'{d}/there', 0o777),
        'truncate by name': lambda: os.truncate(f'{d}/there', 0),
        'truncate outside': lambda: os.truncate(f'{o}/secret', 0),
        'truncate and read': lambda: os.open(f'{o}/secret', os.O_RDONLY | os.O_TRUNC),
        'times': lambda: os.utime(f'{d}/there'),
        'setuid': lambda: os.open(f'{d}/new', os.O_CREAT | os.O_WRONLY, 0o4755),
        'setgid folder': lambda: os.mkdir(f'{d}/new', 0o2777),
        'without a name': lambda: os.open(d, os.O_TMPFILE | os.O_RDWR),
        'hold outside': lambda: os.open(o, os.O_PATH),
        'chdir': lambda: os.chdir(o),
        'proc': lambda: os.open('/proc/self/root', os.O_RDONLY),
        'raw openat': lambda: c('openat', AT_FDCWD, f'{o}/new', 0o101, 0o600),
        'raw openat2': lambda: c('openat2', AT_FDCWD, f'{o}/secret', ' ' * 64, 24),
        'raw creat of a setuid file': lambda: c('openat', AT_FDCWD, f'{d}/new', 0o101, 0o6777),
        'raw linkat': lambda: c('linkat', AT_FDCWD, f'{d}/there', AT_FDCWD, f'{d}/new', 0),
        'raw symlinkat': lambda: c('symlinkat', o, AT_FDCWD, f'{d}/new'),
        'raw mknodat': lambda: c('mknodat', AT_FDCWD, f'{d}/new', 0o010666, 0),
        'raw fchownat': lambda: c('fchownat', AT_FDCWD, f'{d}/there', 65534, 65534, 0),
        'raw setxattr': lambda: c('setxattr', f'{d}/there', 'user.x', 'y', 1, 0),
        'raw exchange': lambda: c('renameat2', AT_FDCWD, f'{d}/there', AT_FDCWD, f'{d}/other', 2),
        'raw fallocate': lambda: c('fallocate', os.open(f'{d}/there', os.O_WRONLY), 0, 0, 4096),
        'raw mount': lambda: c('mount', o, d, '', 4096, 0),
        'raw name_to_handle_at': lambda: c('name_to_handle_at', AT_FDCWD, d, ' ' * 128, ' ' * 8, 0),
    }
    try: attempts[what]()
    except OSError as error: return error.errno
    return 0
"""

NEEDS = {
    "read": {"read"},
    "list": {"read", "metadata"},
    "stat": {"read", "write", "delete", "metadata"},
    "make": {"write"},
    "overwrite": {"write"},
    "empty": {"write"},
    "mkdir": {"write"},
    "remove": {"delete"},
    "rmdir": {"delete"},
}
"""Attempts, and the capabilities of which each one is enough."""

NEVER = [
    "sidestep", "by link", "by link to a file", "stat by link", "write by link", "write over by link",
    "delete by link", "absolute", "write outside", "mkdir outside", "delete outside", "delete what was granted",
    "move out", "move in", "symlink", "hard link in", "hard link", "chmod", "truncate by name", "truncate outside",
    "truncate and read", "times", "setuid", "setgid folder", "without a name", "hold outside", "chdir", "proc",
    "raw openat", "raw openat2", "raw creat of a setuid file", "raw linkat", "raw symlinkat", "raw mknodat",
    "raw fchownat", "raw setxattr", "raw exchange", "raw fallocate", "raw mount", "raw name_to_handle_at",
]  # fmt: skip
"""Attempts for which no capability is enough."""

ALL = ("read", "write", "delete", "metadata")


def furnish(at: Path) -> Path:
    """A folder to grant, in ``at``, and one beside it that nobody grants."""
    at.chmod(0o755)
    given, outside = at / "given", at / "outside"
    for folder in (given, given / "sub", outside):
        folder.mkdir()
        folder.chmod(0o777)
    for file in (given / "there", given / "other", outside / "secret"):
        file.write_text(file.name)
        file.chmod(0o666)
    (given / "link").symlink_to(outside)
    (given / "secret").symlink_to(outside / "secret")
    return given


def looks(at: Path) -> dict[str, tuple[int, str]]:
    return {
        str(path.relative_to(at)): (path.lstat().st_mode, path.read_text() if path.is_file() else "")
        for path in at.rglob("*")
    }


def tries(plugin: Plugin, what: str, given: Path) -> int:
    """The errno that the attempt got, 0 for none, -1 where it ended the process."""
    architecture = native()
    assert architecture is not None
    try:
        found = plugin.call("attempt", what, str(given), str(given.parent / "outside"), architecture.numbers)
    except PluginCrashed:
        return -1
    assert isinstance(found, int)
    return found


class Granted(NamedTuple):
    """One plugin, and folders of which it was granted different things: a zygote takes a third of a second."""

    plugin: Plugin
    at: Path

    def folder(self, name: str) -> Path:
        return self.at / name / "given"


@pytest.fixture(scope="module")
def own_runtime() -> Iterator[PluginRuntime]:
    with PluginRuntime() as made:
        yield made


@pytest.fixture(scope="module")
def granted(own_runtime: PluginRuntime, tmp_path_factory: pytest.TempPathFactory) -> Granted:
    at = tmp_path_factory.mktemp("granted")
    grants = {}
    for name in ALL:
        (at / name).mkdir()
        grants[f"fs:{name}"] = [str(furnish(at / name))]
    (at / "all").mkdir()
    (at / "part").mkdir()
    everything, part = furnish(at / "all"), furnish(at / "part")
    for name in ALL:
        grants[f"fs:{name}"].append(str(everything))
    grants["fs:read"].append(str(part))
    grants["fs:write"].append(str(part / "sub"))
    return Granted(own_runtime.load_source(CODE, "granted", grants=grants), at)


def test_ordinary_code_works_with_files(granted: Granted) -> None:
    folder = granted.folder("all") / "ordinary"
    folder.mkdir()
    folder.chmod(0o777)
    seen, sizes, text, left = granted.plugin.call("ordinary", str(folder))
    assert seen == [[".", ["bytes"]], ["a", ["text"]], ["a/b", []], ["a/b/c", ["moved"]]]
    assert (sizes, text, left) == ([5, 100_000], "ONE t", [])


@pytest.mark.parametrize("capability", ALL)
def test_each_capability_is_enough_for_its_own_and_no_more(capability: str, granted: Granted) -> None:
    """The filter lets each of these calls pass, as another folder was granted more: this is Landlock's."""
    folder = granted.folder(capability)
    enough = {what for what, needed in NEEDS.items() if capability in needed}
    before = looks(folder)
    for what in [*sorted(NEEDS.keys() - enough), "rename", "replace"]:
        assert tries(granted.plugin, what, folder) in (errno.EACCES, errno.EROFS), what
    assert looks(folder) == before
    for what in NEEDS:
        if what in enough:
            assert tries(granted.plugin, what, folder) == 0, what


@pytest.mark.parametrize("what", NEVER)
def test_nothing_leads_out_and_nothing_else_is_changed(what: str, granted: Granted) -> None:
    if what == "stat by link" and Layer.EMPTY_ROOT.value in granted.plugin.report.missing:
        pytest.skip("where mounts are refused, nothing holds stat()")
    before = looks(granted.at)
    assert tries(granted.plugin, what, granted.folder("all")) != 0
    assert looks(granted.at) == before


def test_what_it_makes_is_its_users_and_nobody_elses(granted: Granted) -> None:
    assert tries(granted.plugin, "make", granted.folder("all")) == 0
    made = (granted.folder("all") / "new").stat()
    assert made.st_mode & 0o7777 == 0o600
    assert made.st_uid == (os.getuid() or 65534)
    (granted.folder("all") / "new").unlink()


def test_a_folder_in_a_folder_may_be_more(granted: Granted) -> None:
    """To read it all, and write a part of it."""
    folder = granted.folder("part")
    (folder / "sub" / "there").touch()
    (folder / "sub" / "there").chmod(0o666)
    for what in ("read", "make", "mkdir"):
        assert tries(granted.plugin, what, folder / "sub") == 0
        assert (tries(granted.plugin, what, folder) == 0) == (what == "read")


# ── how much ─────────────────────────────────────────────────────────────────────────────────────────────────────

GREED = """
import os

def fine(): return 1
def write(d, size):
    with open(f'{d}/large', 'wb') as file: file.write(bytes(size))
def many(d):
    number = 0
    while True:
        number += 1
        open(f'{d}/file-{number}', 'x').close()
def stretch(d):
    with open(f'{d}/sparse', 'wb') as file: file.truncate(8 * 2**20)
def map_it(d):
    import mmap
    with open(f'{d}/mapped', 'wb+') as file:
        file.truncate(8 * 2**20)
        with mmap.mmap(file.fileno(), 0) as mapped:
            mapped[:] = bytes(len(mapped))
            while True: pass
def hide(d):
    os.mkdir(f'{d}/hidden')
    at = os.open(f'{d}/hidden', os.O_RDONLY)
    for _ in range(30):
        os.mkdir('d' * 200, dir_fd=at)
        at, before = os.open('d' * 200, os.O_RDONLY, dir_fd=at), at
        os.close(before)
    os.write(os.open('large', os.O_CREAT | os.O_WRONLY, dir_fd=at), bytes(8 * 2**20))
def lock(d):
    os.mkdir(f'{d}/locked', 0o300)
"""


@pytest.fixture
def greedy(granted: Granted, own_runtime: PluginRuntime) -> Iterator[Plugin]:
    limits = Limits(disk="4 MiB", file_size="16 MiB", timeout=20)
    spec = dataclasses.replace(
        granted.plugin.spec, name="greedy", code=GREED.encode(), limits=limits.within(Limits().filled())
    )
    plugin = own_runtime.plugin(spec)
    yield plugin
    leaving = plugin.close()
    if leaving is not None:
        leaving.result(10)


@pytest.mark.parametrize("what", ["write", "many", "stretch", "map_it", "hide", "lock"])
def test_what_one_call_writes_is_bounded_and_the_next_call_works(
    what: str, greedy: Plugin, granted: Granted
) -> None:
    if what == "lock" and os.geteuid() == 0:
        pytest.skip("there is no folder that root may not look into")
    folder = granted.folder("all") / f"greedy-{what}"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "there").write_bytes(bytes(6 << 20))  # what was there before does not count
    greedy.call("write", str(folder), 3 << 20)
    greedy.call("write", str(folder), 3 << 20)
    with pytest.raises(DiskLimit):
        greedy.call(what, str(folder), *([8 << 20] if what == "write" else []))
    if what in ("hide", "lock"):
        with pytest.raises(DiskLimit, match="cannot be counted"):
            greedy.call("fine")
        if what == "lock":
            (folder / "locked").chmod(0o700)
    until(lambda: greedy.status != Terminated("it is being ended"))
    shutil.rmtree(folder)
    assert greedy.call("fine") == 1


def test_more_files_than_can_be_counted_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        (tmp_path / f"{number}").touch()
    (tmp_path / "link").symlink_to("/")
    assert disk.taken("plugin", [str(tmp_path), str(tmp_path / "nowhere")]) == 7 * 4096
    monkeypatch.setattr(disk, "_MOST_ENTRIES", 5)
    with pytest.raises(DiskLimit, match="more than 5 files"):
        disk.taken("plugin", [str(tmp_path)])


def test_without_a_grant_the_filter_already_says_no(runtime: PluginRuntime, tmp_path: Path) -> None:
    plugin = runtime.load_source(CODE, "none")
    folder = furnish(tmp_path)
    before = looks(tmp_path)
    for what in ("make", "mkdir", "remove", "rmdir", "rename"):
        assert tries(plugin, what, folder) == errno.EPERM
    assert looks(tmp_path) == before


# ── what cannot be granted ───────────────────────────────────────────────────────────────────────────────────────


def test_what_the_plugins_user_may_not_use_is_refused_and_says_what_to_do(
    own_runtime: PluginRuntime, tmp_path: Path
) -> None:
    given = furnish(tmp_path)
    given.chmod(0o555)
    with pytest.raises(CapabilityRefused, match=r"fs:write: .*chown, chmod or setfacl"):
        own_runtime.load_source(CODE, "useless", grants={"fs:write": [str(given)]})
    assert "useless" not in [plugin.name for plugin in own_runtime.plugins]


def test_what_is_no_folder_to_delete_from_or_is_not_there_is_refused(tmp_path: Path) -> None:
    given = furnish(tmp_path)
    nothing_missing = Report((), ())
    for files, why in (
        (Files(delete=(str(given / "there"),)), "is a file"),
        (Files(metadata=(str(given / "nowhere"),)), "is not there"),
        (Files(read=(str(given / "link" / "secret" / "x"),)), "is not there"),
    ):
        assert why in unusable(replace(POLICY, files=files), nothing_missing)
    writes = replace(POLICY, files=Files(write=(str(given),)))
    assert unusable(writes, nothing_missing) == ""
    assert "without Landlock" in unusable(writes, Report((), (Layer.LANDLOCK.value,)))


def test_a_path_that_is_none_is_refused(own_runtime: PluginRuntime, tmp_path: Path) -> None:
    for name in ("x\0y", "x" * 5000, "\udc80"):
        with pytest.raises(CapabilityRefused, match="no path that can be granted"):
            own_runtime.load_source(CODE, "odd", grants={"fs:read": [f"{tmp_path}/{name}"]})
    with pytest.raises(CapabilityRefused, match="257 paths; 256 at most"):
        own_runtime.load_source(CODE, "many", grants={"fs:read": [f"{tmp_path}/{n}" for n in range(257)]})


@pytest.mark.parametrize("path", ["/proc", "/proc/sys/kernel", "/dev"])
def test_the_way_into_another_file_system_is_refused(own_runtime: PluginRuntime, path: str) -> None:
    with pytest.raises(CapabilityRefused, match="/proc, which|another file system is mounted inside /dev"):
        own_runtime.load_source(CODE, "mounted", grants={"fs:read": [path]})


def test_a_mount_inside_is_granted_by_its_own_name(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(
        "22 1 8:1 / / rw - ext4 /dev/a rw\n"
        "23 22 0:5 / /proc rw - proc proc rw\n"
        "24 22 8:2 / /srv/a\\040b/c rw shared:1 - ext4 /dev/b rw\n"
        "25 22 0:5 / /srv/hidden rw - proc proc rw\n"
    )
    outer, inner = PurePosixPath("/srv/a b"), PurePosixPath("/srv/a b/c")
    check_mounts("fs:read", [inner], table)
    check_mounts("fs:read", [outer, inner], table)
    check_mounts("fs:read", [PurePosixPath("/srv/a")], table)
    for paths in ([outer], [PurePosixPath("/srv")], [PurePosixPath("/srv/hidden/1")]):
        with pytest.raises(CapabilityRefused):
            check_mounts("fs:read", paths, table)
    with pytest.raises(CapabilityRefused, match="cannot be seen"):
        check_mounts("fs:read", [inner], tmp_path / "none")
