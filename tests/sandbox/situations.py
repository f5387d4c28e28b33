"""Puts a process into the places where Cloister has to run: each is made for real, by the kernel's own means.

What is here is called in a fresh process (``preexec_fn``, ``Sandbox.before``), and changes that process only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import cloister
from cloister.sandbox import bpf, privileges
from cloister.sandbox.empty_root import _mount
from cloister.sandbox.kernel import prctl, prctl_or_none, syscall
from cloister.sandbox.syscalls import native

Make = Callable[[], None]

SOME_USER = 4321  # of whom there is no other process, which limits count

# include/uapi/linux/sched.h, prctl.h, mount.h and fcntl.h
NEW_USER = 0x10000000
_NEW_MOUNTS = 0x00020000
_NAMESPACE_FLAGS = 0x7E020000
_SET_DUMPABLE = 4
_CAPBSET_READ = 23
_CAPBSET_DROP = 24
_SET_NO_NEW_PRIVS = 38
_SET_MDWE = 65
_READ_ONLY = 0x1
_REMOUNT = 0x20
_BIND = 0x1000
_RECURSIVE = 0x4000
_PRIVATE = 1 << 18
_OPEN_TREE_CLONE = 1
_EMPTY_PATH = 4  # MOVE_MOUNT_F_EMPTY_PATH
_AT_FDCWD = -100


def all_of(*makes: Make) -> Make:
    def make() -> None:
        for each in makes:
            each()

    return make


# Filters of system calls


def filtered(rules: Mapping[str, bpf.Rule]) -> Make:
    """Under a seccomp filter that has ``rules``, and allows the rest."""

    def make() -> None:
        architecture = native()
        assert architecture is not None
        code = bpf.assemble(architecture, rules, default=bpf.ALLOW).code(os.getpid())

        class SockFprog(ctypes.Structure):
            _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

        prctl(_SET_NO_NEW_PRIVS, 1)
        syscall("seccomp", 1, 0, ctypes.byref(SockFprog(len(code) // 8, code)))

    return make


def kernel_without(calls: str, number: int, *unless: bpf.Check) -> Make:
    """On a kernel where ``calls`` fail with ``number``: a filter that says so."""
    rule = bpf.Rule((unless,) if unless else (), bpf.deny(number))
    return filtered(dict.fromkeys(calls.split(), rule))


def _not_exactly(argument: int, value: int) -> tuple[bpf.Alternative, ...]:
    """Alternatives that hold for every value of a byte but one."""
    return tuple((bpf.Check(argument, ~value & 1 << bit, mask=1 << bit),) for bit in range(8))


without_mdwe = filtered({"prctl": bpf.Rule(_not_exactly(0, _SET_MDWE), bpf.deny(errno.EINVAL))})
without_noexec_memfds = kernel_without("memfd_create", errno.EINVAL, bpf.Check(1, 0, mask=8))
_no_user_namespace = kernel_without("unshare", errno.EPERM, bpf.Check(0, 0, mask=NEW_USER))
_no_power_in_user_namespaces = all_of(
    kernel_without("unshare", errno.EPERM, bpf.Check(0, 0, mask=_NAMESPACE_FLAGS & ~NEW_USER)),
    kernel_without("mount umount2 pivot_root mount_setattr sethostname setdomainname setns", errno.EPERM),
)

# What Docker's default profile allows nobody without CAP_SYS_ADMIN and its like
# (https://github.com/moby/profiles/blob/main/seccomp/default.json)
_DOCKERS_FILTER = all_of(
    kernel_without("clone", errno.EPERM, bpf.Check(0, 0, mask=_NAMESPACE_FLAGS)),
    kernel_without("clone3", errno.ENOSYS),
    kernel_without(
        "acct add_key bpf delete_module fanotify_init finit_module fsconfig fsmount fsopen fspick init_module "
        "io_uring_enter io_uring_register io_uring_setup kcmp kexec_file_load kexec_load keyctl mbind mount "
        "mount_setattr move_mount open_by_handle_at open_tree perf_event_open pidfd_getfd pivot_root process_madvise "
        "quotactl reboot request_key set_mempolicy setdomainname sethostname setns swapoff swapon syslog umount2 "
        "unshare userfaultfd",
        errno.EPERM,
    ),
)
# What Podman's refuses them (https://github.com/containers/common/blob/main/pkg/seccomp/seccomp.json)
_PODMANS_FILTER = kernel_without(
    "acct bpf fanotify_init init_module kcmp kexec_load mbind open_by_handle_at perf_event_open process_madvise "
    "process_vm_readv ptrace quotactl set_mempolicy setdomainname sethostname setns swapon userfaultfd",
    errno.EPERM,
)
# CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE NET_RAW SYS_CHROOT MKNOD AUDIT_WRITE
# SETFCAP: what Docker leaves root with
_DOCKERS_CAPABILITIES = (0, 1, 3, 4, 5, 6, 7, 8, 10, 13, 18, 27, 29, 31)


# Users and their powers


def some_user() -> None:
    """Some user of the machine, who can read what Python is made of."""
    if os.geteuid() != 0:
        return
    everybody_reads_python()
    os.setgroups([])
    os.setresgid(*[SOME_USER] * 3)
    os.setresuid(*[SOME_USER] * 3)
    prctl(_SET_DUMPABLE, 1)  # as after a login: its /proc entries are its own


def keeping_capabilities(*capabilities: int) -> Make:
    def make() -> None:
        capability = 0
        while prctl_or_none(_CAPBSET_READ, capability) is not None:
            if capability not in capabilities:
                prctl_or_none(_CAPBSET_DROP, capability)
            capability += 1
        kept = sum(1 << capability for capability in capabilities) & privileges.effective_capabilities()
        header = privileges._Header(privileges._CAPABILITY_VERSION_3, 0)
        data = (privileges._Data * 2)()
        for word in range(2):
            data[word].effective = data[word].permitted = kept >> 32 * word & 0xFFFFFFFF
        syscall("capset", ctypes.byref(header), ctypes.byref(data))

    return make


def user_namespace(mapping: str = "0 0 65536\n") -> Make:
    """In a user namespace of its own, with the users of ``mapping``: as root needs somebody outside to write it."""

    def make() -> None:
        me = os.getpid()
        waiting, go = os.pipe()
        helper = os.fork()
        if helper == 0:
            status = 1
            try:
                os.close(go)
                os.read(waiting, 1)
                for name in ("gid_map", "uid_map"):
                    Path(f"/proc/{me}/{name}").write_text(mapping)
                status = 0
            finally:
                os._exit(status)
        os.close(waiting)
        syscall("unshare", NEW_USER)
        os.close(go)
        assert os.waitpid(helper, 0)[1] == 0

    return make


def root_of_a_container() -> None:
    """Root of a container that has 65536 users of its own, who are nobody outside."""
    everybody_reads_python()
    user_namespace("0 100000 65536\n")()
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def root_by_itself() -> None:
    """A user who is root in a namespace with nobody else in it: ``unshare -r``, rootless containers without subuids."""
    some_user()
    user, group = os.getuid(), os.getgid()
    syscall("unshare", NEW_USER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1\n")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1\n")


def sysctl(name: str, value: str) -> Make:
    def make() -> None:
        Path("/proc/sys", name.replace(".", "/")).write_text(value)

    return make


def limit(kind: int, value: int) -> Make:
    return lambda: resource.setrlimit(kind, (value, value))


def no_new_privileges() -> None:
    prctl(_SET_NO_NEW_PRIVS, 1)


# File trees


def own_mounts() -> None:
    syscall("unshare", _NEW_MOUNTS)
    _mount(None, "/", None, _RECURSIVE | _PRIVATE)


def read_only(path: str) -> Make:
    def make() -> None:
        own_mounts()
        _mount(path, path, None, _BIND | _RECURSIVE)
        _mount(None, path, None, _BIND | _REMOUNT | _READ_ONLY)

    return make


def no_proc() -> None:
    own_mounts()
    _mount("tmpfs", "/proc", "tmpfs", _READ_ONLY)


def hidden_processes() -> None:
    own_mounts()
    _mount("proc", "/proc", "proc", 0, b"hidepid=2")


def everybody_reads_python() -> None:
    """Python, its libraries and Cloister may be in a home that is closed to other users; in mounts of its own, they
    are not."""
    for path in {sys.base_prefix, sys.prefix, str(Path(cloister.__file__).parents[2])}:
        real = Path(path).resolve()
        closed = [folder for folder in real.parents if not folder.stat().st_mode & 0o001]
        if not closed:
            continue
        own_mounts()
        tree = syscall("open_tree", _AT_FDCWD, os.fsencode(real), _OPEN_TREE_CLONE | os.O_CLOEXEC)
        _mount("tmpfs", str(closed[-1]), "tmpfs", 0, b"mode=0755")
        real.mkdir(parents=True)
        syscall("move_mount", tree, b"", _AT_FDCWD, os.fsencode(real), _EMPTY_PATH)
        os.close(tree)


def switch(name: str, value: str) -> Make:
    """On a kernel that has the sysctl ``kernel.NAME``; what it does, something else has to do."""

    def make() -> None:
        own_mounts()
        _mount("tmpfs", "/proc/sys/kernel", "tmpfs", 0, b"mode=0755")
        Path("/proc/sys/kernel", name).write_text(value)

    return make


user_of_debian_10 = all_of(switch("unprivileged_userns_clone", "0"), some_user, _no_user_namespace)
"""Nobody but root can make a user namespace."""
user_of_ubuntu_24_04 = all_of(
    switch("apparmor_restrict_unprivileged_userns", "1"), some_user, _no_power_in_user_namespaces
)
"""A user namespace can be made, and AppArmor takes the capabilities in it."""
root_in_docker = all_of(read_only("/proc/sys"), keeping_capabilities(*_DOCKERS_CAPABILITIES), _DOCKERS_FILTER)
root_in_podman = all_of(root_of_a_container, keeping_capabilities(*_DOCKERS_CAPABILITIES), _PODMANS_FILTER)
user_in_docker = all_of(some_user, _DOCKERS_FILTER)
restricted_pod = all_of(
    everybody_reads_python,
    read_only("/"),
    read_only("/proc/sys"),
    keeping_capabilities(6, 7),  # to become a user with
    some_user,
    no_new_privileges,
    _DOCKERS_FILTER,
)
"""What Kubernetes asks for by the Pod Security Standard "restricted", and a root that is read-only."""
