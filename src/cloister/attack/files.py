"""Files, and the files that are doors: /proc, /sys and /dev."""

from __future__ import annotations

import ctypes
import errno
import itertools
import struct
import time
from typing import Final

from cloister.interfaces.attack import Targets
from cloister.sandbox import Layer

from .attempt import Attempt, Harm, add, attempt
from .calls import call, closing

AT_FDCWD: Final = -100
# include/uapi/asm-generic/fcntl.h; these are the same on x86-64 and aarch64
O_RDONLY: Final = 0
O_WRONLY: Final = 1
O_RDWR: Final = 2
O_CREAT: Final = 0o100
O_PATH: Final = 0o10000000
_O_TMPFILE: Final = 0o20200000  # with O_DIRECTORY

TREE: Final = {
    errno.ENOENT: Layer.EMPTY_ROOT,
    errno.EROFS: Layer.EMPTY_ROOT,
    errno.EACCES: Layer.LANDLOCK,
    errno.EXDEV: Layer.LANDLOCK,  # landlock.h: a link or a move into another folder, where REFER is not allowed
}
"""What a path's errno tells: nothing of that name is in the tree, or Landlock does not allow it."""

_serial = itertools.count()


def path(*parts: str) -> bytes:
    return "/".join(parts).encode() + b"\0"


def _fresh(at: Targets) -> bytes:
    """A name that nobody has used."""
    return path(at.folder, f"{time.monotonic_ns()}-{next(_serial)}")


def _open(name: bytes, flags: int) -> None:
    with closing(call("openat", AT_FDCWD, name, flags, 0o600)):
        pass


@attempt(Harm.FILES, TREE)
def open_a_file(at: Targets) -> None:
    """Opens a file that every user may read."""
    _open(path(at.secret), O_RDONLY)


@attempt(Harm.FILES, TREE)
def open_a_file_by_the_old_call(at: Targets) -> None:
    """The same by open(2), which a filter for openat(2) forgets."""
    with closing(call("open", path(at.secret), O_RDONLY, 0)):
        pass


@attempt(Harm.FILES, TREE)
def open_a_file_by_the_new_call(at: Targets) -> None:
    """The same by openat2(2), whose flags are in memory, where a filter cannot see them."""
    how = (ctypes.c_uint64 * 3)(O_RDWR, 0, 0)
    with closing(call("openat2", AT_FDCWD, path(at.folder, "one"), how, ctypes.sizeof(how))):
        pass


@attempt(Harm.FILES, TREE)
def hold_a_file_without_opening_it(at: Targets) -> None:
    """Takes an O_PATH descriptor, which Landlock does not judge."""
    _open(path(at.secret), O_PATH)


@attempt(Harm.FILES, TREE)
def climb_out_of_the_font_folder(at: Targets) -> None:
    """Opens a file by way of a folder that a page may read, and its parents."""
    _open(path("/usr/share/fonts/../../..", at.secret.lstrip("/")), O_RDONLY)


@attempt(Harm.FILES, TREE)
def write_into_the_font_folder(_at: Targets) -> None:
    """Makes a file, without a name, in a folder that a page may read."""
    _open(b"/usr/share/fonts\0", O_WRONLY | _O_TMPFILE)


@attempt(Harm.FILES, TREE)
def make_a_file(at: Targets) -> None:
    """Makes a file in a folder that every user may write."""
    _open(_fresh(at), O_CREAT | O_WRONLY)


@attempt(Harm.FILES, TREE)
def overwrite_a_file(at: Targets) -> None:
    """Opens another's file for writing."""
    _open(path(at.folder, "one"), O_WRONLY)


@attempt(Harm.FILES, TREE)
def make_a_file_without_a_name(at: Targets) -> None:
    """Makes a file by O_TMPFILE, to be linked later."""
    _open(path(at.folder), O_WRONLY | _O_TMPFILE)


@attempt(Harm.FILES, TREE)
def list_a_folder(at: Targets) -> None:
    """Reads the names in a folder."""
    with closing(call("openat", AT_FDCWD, path(at.folder), 0o200000)) as folder:
        entries = ctypes.create_string_buffer(4096)
        call("getdents64", folder, entries, len(entries))


@attempt(Harm.FILES, TREE)
def ask_whether_a_file_is_there(at: Targets) -> None:
    """Learns size and owner of a file, which Landlock does not hide."""
    found = ctypes.create_string_buffer(256)
    call("newfstatat", AT_FDCWD, path(at.secret), found, 0)


@attempt(Harm.FILES, TREE)
def ask_by_statx(at: Targets) -> None:
    """The same by statx(2)."""
    call("statx", AT_FDCWD, path(at.secret), 0, 0x7FF, ctypes.create_string_buffer(256))


@attempt(Harm.FILES, TREE)
def make_a_folder(at: Targets) -> None:
    """Makes a folder."""
    call("mkdirat", AT_FDCWD, _fresh(at), 0o700)


@attempt(Harm.FILES, TREE)
def make_a_symlink(at: Targets) -> None:
    """Lays a symlink, for somebody else to follow."""
    call("symlinkat", path(at.secret), AT_FDCWD, _fresh(at))


@attempt(Harm.FILES, TREE)
def make_a_hard_link(at: Targets) -> None:
    """Links a file under another name."""
    call("linkat", AT_FDCWD, path(at.folder, "one"), AT_FDCWD, _fresh(at), 0)


@attempt(Harm.FILES, TREE)
def exchange_two_files(at: Targets) -> None:
    """Puts one file in the place of another."""
    call("renameat2", AT_FDCWD, path(at.folder, "one"), AT_FDCWD, path(at.folder, "other"), 2)


@attempt(Harm.FILES, {**TREE, errno.ENOTEMPTY: Layer.CAPABILITIES})
def delete_a_file(at: Targets) -> None:
    """Deletes a file that it made, or would have made."""
    made = _fresh(at)
    with closing(call("openat", AT_FDCWD, made, O_CREAT | O_WRONLY, 0o600)):
        call("unlinkat", AT_FDCWD, made, 0)


@attempt(Harm.FILES, TREE)
def change_who_may_read_a_file(at: Targets) -> None:
    """Changes the mode of a file of its own user."""
    call("fchmodat", AT_FDCWD, path(at.folder, "one"), 0o666)


@attempt(Harm.FILES, TREE)
def truncate_a_file(at: Targets) -> None:
    """Cuts a file to the length that it has."""
    call("truncate", path(at.folder, "one"), 0)


@attempt(Harm.FILES, TREE)
def make_a_device(at: Targets) -> None:
    """Makes a node of /dev/mem's number in a folder of its own."""
    call("mknodat", AT_FDCWD, _fresh(at), 0o020600, 0x101)


@attempt(Harm.FILES)
def open_a_file_by_its_handle(_at: Targets) -> None:
    """Opens the root of the file system by a guessed handle, past every folder ("shocker", 2014)."""
    handle = ctypes.create_string_buffer(struct.pack("IiQ", 8, 1, 2))  # 8 bytes, of type 1: inode 2
    with closing(call("open_by_handle_at", AT_FDCWD, handle, O_RDONLY)):
        pass


@attempt(Harm.FILES, TREE)
def watch_a_folder(at: Targets) -> None:
    """Is told whenever somebody touches a folder."""
    with closing(call("inotify_init1", 0)) as watch:
        call("inotify_add_watch", watch, path(at.folder), 0xFFF)


@attempt(Harm.FILES)
def watch_every_file(_at: Targets) -> None:
    """Is told of every file that is opened on a mount, by fanotify."""
    with closing(call("fanotify_init", 0, 0)):
        pass


def _opening(name: str, where: str, flags: int, sentence: str) -> None:
    """An attempt that opens a file of the system's own. Opening it does nothing yet, whoever may."""

    def run(_at: Targets) -> None:
        _open(path(where), flags)

    add(Attempt(name, Harm.PROC, sentence, run, TREE))


_opening("write its own memory", "/proc/self/mem", O_RDWR, "Opens its memory as a file, past W xor X.")
_opening("read its own memory map", "/proc/self/maps", O_RDONLY, "Learns where everything is in memory.")
_opening(
    "overwrite its own program",
    "/proc/self/exe",
    O_WRONLY,
    "Opens the interpreter for writing (CVE-2019-5736).",
)
_opening(
    "reopen a descriptor for writing", "/proc/self/fd/0", O_RDWR, "Opens what it holds with other rights."
)
_opening(
    "leave by the root of the first process", "/proc/1/root/etc", O_PATH, "Takes the tree of another process."
)
_opening("open a namespace of the first process", "/proc/1/ns/mnt", O_RDONLY, "Takes the door to its mounts.")
_opening(
    "choose what is run at a crash",
    "/proc/sys/kernel/core_pattern",
    O_WRONLY,
    "Opens core_pattern: a program for root to run.",
)
_opening(
    "choose what is run at an event",
    "/sys/kernel/uevent_helper",
    O_WRONLY,
    "Opens uevent_helper: a program for root to run.",
)
_opening(
    "choose what is run to load a module",
    "/proc/sys/kernel/modprobe",
    O_WRONLY,
    "Opens the path of modprobe.",
)
_opening(
    "choose what runs a kind of file", "/proc/sys/fs/binfmt_misc/register", O_WRONLY, "Opens binfmt_misc."
)
_opening(
    "choose what is run when a cgroup empties",
    "/sys/fs/cgroup/memory/release_agent",
    O_WRONLY,
    "Opens release_agent of cgroups 1 (CVE-2022-0492).",
)
_opening(
    "leave its cgroup",
    "/sys/fs/cgroup/cgroup.procs",
    O_WRONLY,
    "Opens the list of the root cgroup's processes.",
)
_opening("press the magic key", "/proc/sysrq-trigger", O_WRONLY, "Opens the key that restarts the machine.")
_opening("read the kernel's symbols", "/proc/kallsyms", O_RDONLY, "Learns where the kernel's functions are.")
_opening("read the kernel's memory", "/proc/kcore", O_RDONLY, "Opens the kernel's memory as a file.")
_opening("list everybody's keys", "/proc/keys", O_RDONLY, "Learns which keys there are.")
_opening("read how the machine was started", "/proc/cmdline", O_RDONLY, "Reads the kernel's command line.")
_opening("read the machine's memory", "/dev/mem", O_RDONLY, "Opens physical memory.")
_opening("make a virtual machine", "/dev/kvm", O_RDWR, "Opens the hypervisor.")
_opening("mount in user space", "/dev/fuse", O_RDWR, "Opens FUSE, which stops whoever touches a file.")
_opening("talk to the terminal", "/dev/tty", O_RDWR, "Opens the controlling terminal.")
_opening("make a terminal", "/dev/ptmx", O_RDWR, "Opens the maker of terminals.")
_opening("share memory by name", "/dev/shm", O_PATH, "Takes the folder of shared memory.")  # noqa: S108 - that very one
_opening("read the users' passwords", "/etc/shadow", O_RDONLY, "Opens the hashes of passwords.")
_opening("read the users' names", "/etc/passwd", O_RDONLY, "Opens the list of users.")


def _of_victim(name: str, file: str, flags: int, sentence: str) -> None:
    def run(at: Targets) -> None:
        _open(path("/proc", str(at.victim), file), flags)

    add(Attempt(name, Harm.PROC, sentence, run, TREE))


_of_victim(
    "read the environment of another", "environ", O_RDONLY, "Opens the environment of a process of its user."
)
_of_victim("open the memory of another", "mem", O_RDWR, "Opens the memory of a process of its user.")
_of_victim("take what another has open", "fd/0", O_RDONLY, "Opens a descriptor of a process of its user.")
