"""The kernel itself: mounts, namespaces, modules, the clock, and the parts of it that exploits begin in.

Each call has arguments that are looked at after the permission and are wrong, or change nothing: who may do it has
done nothing.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Any, Final

from cloister.interfaces.attack import Targets
from cloister.sandbox import Layer

from .attempt import Attempt, Harm, add, attempt
from .calls import call, closing
from .files import AT_FDCWD

_NOT_NESTED: Final = {
    errno.ENOSPC: Layer.USER_NAMESPACE,  # its limit of nested ones is 0 (user_namespaces(7))
    errno.EPERM: Layer.CAPABILITIES,
    errno.EAGAIN: Layer.LIMITS,
}


def _calling(harm: Harm, name: str, sentence: str, system_call: str, *arguments: Any) -> None:
    """An attempt that is a single call. Who is let do it gets an error about the arguments, or nothing new."""

    def run(_at: Targets) -> None:
        call(system_call, *arguments)

    add(Attempt(name, harm, sentence, run))


def _opening(harm: Harm, name: str, sentence: str, system_call: str, *arguments: Any) -> None:
    """The same for a call that gives a descriptor."""

    def run(_at: Targets) -> None:
        with closing(call(system_call, *arguments)):
            pass

    add(Attempt(name, harm, sentence, run))


# MS_SHARED and MS_PRIVATE at once; MNT_EXPIRE and MNT_DETACH at once: neither can be.
_calling(Harm.MOUNT, "mount", "Changes what is mounted.", "mount", b"none\0", b"/\0", None, 0x140000, None)
_calling(Harm.MOUNT, "unmount", "Takes a mount away, and shows what it hid.", "umount2", b"/\0", 0x6)
_calling(
    Harm.MOUNT, "change the root", "Puts another root in place (pivot_root).", "pivot_root", b"/\0", b"/\0"
)
_opening(
    Harm.MOUNT,
    "make a file system",
    "Begins a mount by the new calls (CVE-2022-0185).",
    "fsopen",
    b"tmpfs\0",
    0xFE,
)
_opening(
    Harm.MOUNT,
    "clone a tree",
    "Takes a copy of a tree of mounts (open_tree).",
    "open_tree",
    AT_FDCWD,
    b"/\0",
    1,
)
_opening(Harm.MOUNT, "pick a mount", "Takes a mount to change it (fspick).", "fspick", AT_FDCWD, b"/\0", 0)
_calling(
    Harm.MOUNT,
    "move a mount",
    "Puts a mount in another place (move_mount).",
    "move_mount",
    -1,
    b"\0",
    -1,
    b"\0",
    0,
)
_calling(
    Harm.MOUNT,
    "make a mount writable",
    "Takes the read-only from a mount (mount_setattr).",
    "mount_setattr",
    AT_FDCWD,
    b"/\0",
    0,
    (ctypes.c_uint64 * 4)(0, 1, 0, 0),
    32,
)
_calling(
    Harm.MOUNT,
    "change its root folder",
    "Makes a folder its root, and leaves by what it holds (chroot).",
    "chroot",
    b"/\0",
)


def _namespace(name: str, flags: int, sentence: str) -> None:
    def run(_at: Targets) -> None:
        call("unshare", flags)

    add(Attempt(name, Harm.NAMESPACES, sentence, run, _NOT_NESTED))


_namespace("make a user namespace", 0x10000000, "Has every capability in a namespace of its own.")
_namespace("make a mount namespace", 0x00020000, "Makes mounts of its own.")
_namespace(
    "make a network namespace", 0x40000000, "Has a network of its own, with its own firewall to break."
)
_namespace("make a pid namespace", 0x20000000, "Hides what it forks.")
_namespace("make a cgroup namespace", 0x02000000, "Sees other cgroups.")
_namespace("make a time namespace", 0x00000080, "Has another clock.")


@attempt(Harm.NAMESPACES, _NOT_NESTED)
def fork_into_a_user_namespace(_at: Targets) -> None:
    """Forks into a namespace where it has every capability."""
    child = call("clone", 0x10000000 | 17, 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


@attempt(Harm.NAMESPACES, _NOT_NESTED)
def fork_into_a_user_namespace_by_the_new_call(_at: Targets) -> None:
    """The same by clone3(2), whose flags no filter sees."""
    arguments = (ctypes.c_uint64 * 8)(0x10000000, 0, 0, 0, 17)
    child = call("clone3", arguments, ctypes.sizeof(arguments))
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


@attempt(Harm.NAMESPACES, {errno.EPERM: Layer.CAPABILITIES, errno.ESRCH: Layer.PID_NAMESPACE})
def enter_the_namespaces_of_another(at: Targets) -> None:
    """Joins the network of another process."""
    with closing(call("pidfd_open", at.victim, 0)) as process:
        call("setns", process, 0x40000000)


_calling(
    Harm.MODULES, "load a module", "Puts code into the kernel.", "init_module", b"no module\0", 10, b"\0"
)
_calling(
    Harm.MODULES, "load a module from a file", "The same from a descriptor.", "finit_module", 0, b"\0", 0
)
_calling(
    Harm.MODULES,
    "unload a module",
    "Takes code out of the kernel.",
    "delete_module",
    b"cloister_none\0",
    0o4000,
)
_calling(
    Harm.MODULES, "replace the kernel", "Loads another kernel to start.", "kexec_load", 0, 0, None, 0xFFFF
)
_calling(
    Harm.MODULES,
    "replace the kernel from a file",
    "The same from a descriptor.",
    "kexec_file_load",
    -1,
    -1,
    0,
    None,
    0xFFFF,
)

_PERF: Final = {errno.EACCES: Layer.CAPABILITIES}


@attempt(Harm.BPF)
def make_a_bpf_map(_at: Targets) -> None:
    """Makes a map for programs that run in the kernel."""
    attributes = ctypes.create_string_buffer(128)
    (ctypes.c_uint32 * 4).from_buffer(attributes)[:] = [2, 4, 4, 1]  # an array of one entry
    with closing(call("bpf", 0, attributes, len(attributes))):
        pass


@attempt(Harm.BPF)
def load_a_bpf_program(_at: Targets) -> None:
    """Loads a program into the kernel: `return 0`, as a socket filter (CVE-2021-3490 began so)."""
    code = (ctypes.c_uint64 * 2)(0xB7, 0x95)  # r0 = 0; exit
    licence = ctypes.create_string_buffer(b"MIT")
    attributes = ctypes.create_string_buffer(128)
    (ctypes.c_uint32 * 2).from_buffer(attributes)[:] = [1, 2]
    (ctypes.c_uint64 * 2).from_buffer(attributes, 8)[:] = [ctypes.addressof(code), ctypes.addressof(licence)]
    with closing(call("bpf", 5, attributes, len(attributes))):
        pass


@attempt(Harm.PERF, _PERF)
def watch_its_own_performance(_at: Targets) -> None:
    """Counts its own instructions: a clock for side channels, and a large part of the kernel."""
    _perf(0, user_only=True)


@attempt(Harm.PERF, _PERF)
def watch_the_whole_machine(_at: Targets) -> None:
    """Counts what every process on a processor does."""
    _perf(-1, user_only=False)


def _perf(process: int, *, user_only: bool) -> None:
    attributes = ctypes.create_string_buffer(112)
    (ctypes.c_uint32 * 2).from_buffer(attributes)[:] = [1, 112]  # PERF_TYPE_SOFTWARE, size
    if user_only:
        ctypes.c_uint64.from_buffer(attributes, 40).value = 0b1100000  # exclude_kernel, exclude_hv
    processor = -1 if process == 0 else 0
    with closing(call("perf_event_open", attributes, process, processor, -1, 0)):
        pass


_opening(
    Harm.USERFAULTFD,
    "stop the kernel at a page",
    "Has the kernel wait for it whenever a page is touched.",
    "userfaultfd",
    0,
)
_opening(Harm.USERFAULTFD, "stop itself at a page", "The same for its own faults only.", "userfaultfd", 1)

_calling(Harm.MACHINE, "restart the machine", "Restarts it, or stops it.", "reboot", 0, 0, 0, None)
_calling(
    Harm.MACHINE,
    "read the kernel's log",
    "Reads what the kernel says, addresses and all.",
    "syslog",
    3,
    ctypes.create_string_buffer(16),
    16,
)
_calling(Harm.MACHINE, "set the clock", "Sets the time.", "settimeofday", None, None)
_calling(
    Harm.MACHINE,
    "bend the clock",
    "Changes how fast time goes.",
    "adjtimex",
    ctypes.create_string_buffer(b"\0\x40", 256),
)
_calling(Harm.MACHINE, "name the machine", "Changes the host's name.", "sethostname", b"x\0", 4096)
_calling(
    Harm.MACHINE, "name the machine's domain", "Changes the domain's name.", "setdomainname", b"x\0", 4096
)
_calling(
    Harm.MACHINE,
    "read the machine's name",
    "Learns the name and the kernel's version.",
    "uname",
    ctypes.create_string_buffer(390),
)
_calling(Harm.MACHINE, "swap to a file", "Has memory written to a file.", "swapon", b"/cloister-none\0", 0)
_calling(Harm.MACHINE, "stop swapping", "Has all that is swapped come back.", "swapoff", b"/cloister-none\0")
_calling(
    Harm.MACHINE, "account for processes", "Has each process's end written down.", "acct", b"/cloister-none\0"
)
_calling(
    Harm.MACHINE,
    "change quotas",
    "Changes how much a user may store.",
    "quotactl",
    0x80000700 - (1 << 32),
    None,
    0,
    None,
)
_calling(Harm.MACHINE, "reach the ports", "Speaks to devices by their ports (iopl).", "iopl", 3)
_calling(Harm.MACHINE, "reach one port", "The same for one port (ioperm).", "ioperm", 0x80, 1, 1)
_calling(
    Harm.MACHINE,
    "ask for a cookie",
    "Finds files by their cookies (lookup_dcookie).",
    "lookup_dcookie",
    0,
    None,
    0,
)
_calling(
    Harm.MACHINE,
    "list every mount",
    "Learns what is mounted (listmount).",
    "listmount",
    (ctypes.c_uint64 * 4)(24, 2**64 - 1, 0, 0),
    ctypes.create_string_buffer(80),
    10,
    0,
)
_calling(
    Harm.MACHINE,
    "change its security module's label",
    "Changes what the security module knows of it.",
    "lsm_set_self_attr",
    100,
    ctypes.create_string_buffer(64),
    32,
    0,
)
