"""Namespaces: a process that has no network, no other processes and no host name to look at.

:func:`isolate` puts the calling process into namespaces of its own, once, while it has a single thread. What can
be had differs by machine (sysctls, AppArmor, container profiles, root or not), and some of it shows only after
the first step was taken; so each way is tried in a forked process first, which is thrown away.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from cloister.errors import LaunchError

from . import empty_root
from .kernel import libc, syscall
from .layers import Layer, in_force, mark, mark_for_children
from .policy import NAMESPACES
from .privileges import NOBODY, effective_capabilities

__all__ = ["forbid_executable_memfds", "isolate", "unshare"]

# include/uapi/linux/sched.h, and the name in /proc/self/ns
_FLAGS: Final = {
    Layer.USER_NAMESPACE: (0x10000000, "user"),
    Layer.MOUNT_NAMESPACE: (0x00020000, "mnt"),
    Layer.UTS_NAMESPACE: (0x04000000, "uts"),
    Layer.IPC_NAMESPACE: (0x08000000, "ipc"),
    Layer.PID_NAMESPACE: (0x20000000, "pid"),
    Layer.NETWORK_NAMESPACE: (0x40000000, "net"),
}
_CAP_SYS_ADMIN: Final = 21
_DEADLINE: Final = 5.0  # seconds for a forked helper that makes a few system calls


class _Way(NamedTuple):
    """One way in: which namespaces, and the lines of uid_map and gid_map; no map, no user namespace."""

    namespaces: frozenset[Layer]
    uid_map: str
    gid_map: str
    mapped_from_outside: bool
    """Whether a process outside has to write the maps: more than one line needs privilege over the parent."""


def isolate(namespaces: Iterable[Layer] = NAMESPACES) -> frozenset[Layer]:
    """Put this process into new ``namespaces``; return those that it got. What it could not get it left alone.

    Needs a single thread (the kernel refuses a user namespace otherwise). A new pid namespace is only for
    children: the first one forked is its pid 1, and when that ends, all end. The network namespace holds a
    loopback interface that is down. The process keeps reading the files that it could read; it has the
    capabilities of its user namespace, for :func:`enter_empty_root`, until :func:`enter` drops them.

    Raises:
        LaunchError: a way that a forked process could go was closed to this one (it has threads); no process could
            be forked, or none watched, to try a way.
        ValueError: one of ``namespaces`` is not a namespace.
    """
    wanted = frozenset(namespaces)
    if strangers := wanted - NAMESPACES:
        raise ValueError(f"not a namespace: {', '.join(sorted(strangers))}")
    for way in _ways(_known_here(wanted)):
        if _works(way):
            try:
                got = _go(way)
            except OSError as error:
                raise LaunchError(f"the process could not enter its namespaces: {error}") from error
            mark(got - {Layer.PID_NAMESPACE})
            mark_for_children(got & {Layer.PID_NAMESPACE})
            return got
    return frozenset()


def unshare(namespace: Layer) -> bool:
    """Move this process, which :func:`isolate` has given the power to, into one more new ``namespace``.

    For a process that forks others, of which each is to have its own. Returns ``False``, and changes nothing, where
    the power is not there. A new mount namespace is for a process that has one: where isolate() found that mounts
    are refused, another one would be of no use.

    Raises:
        LaunchError: the process would stay in the namespace that it has, and share it with what is not to.
    """
    held = in_force()
    if not held & NAMESPACES or (namespace is Layer.MOUNT_NAMESPACE and namespace not in held):
        return False
    try:
        syscall("unshare", _FLAGS[namespace][0])
    except OSError as error:  # EPERM; ENOSPC: sysctl user.max_net_namespaces and its like
        if namespace in held:
            raise LaunchError(
                f"the process could not get a {namespace} of its own: {error.strerror}"
            ) from error
        return False
    mark({namespace})
    return True


def forbid_executable_memfds() -> None:
    """In the first process of a new pid namespace: no memfd in it can be run as a program; mapped as code it can be.
    Only for a process that was started as root; elsewhere it changes nothing. A second layer: seccomp denies execve(2).
    """
    if Layer.PID_NAMESPACE in in_force():
        # Before Linux 6.3; a /proc/sys that is read-only, or not this user's.
        with contextlib.suppress(OSError):
            Path("/proc/sys/vm/memfd_noexec").write_text("2")


def _known_here(namespaces: frozenset[Layer]) -> frozenset[Layer]:
    """Those that this kernel has. Without /proc nobody can map a user, nor learn the pid that a process of another
    pid namespace has outside."""
    if not Path("/proc/self/ns").exists():
        return namespaces - {Layer.USER_NAMESPACE, Layer.PID_NAMESPACE}
    return frozenset(n for n in namespaces if Path("/proc/self/ns", _FLAGS[n][1]).exists())


def _ways(namespaces: frozenset[Layer]) -> Iterator[_Way]:
    """Every way to try, the one that gives most first."""
    yield from _ways_into(namespaces)
    if Layer.MOUNT_NAMESPACE in namespaces:
        # Containers refuse mounts (AppArmor's profile of Docker) where they allow namespaces.
        yield from _ways_into(namespaces - {Layer.MOUNT_NAMESPACE})


def _ways_into(namespaces: frozenset[Layer]) -> Iterator[_Way]:
    with_user = namespaces | {Layer.USER_NAMESPACE}
    without_user = namespaces - {Layer.USER_NAMESPACE}
    user, group = os.geteuid(), os.getegid()
    powerful = effective_capabilities() >> _CAP_SYS_ADMIN & 1
    if user == 0 and powerful:
        # Root stays root inside for as long as it imports from root's own files, and has a nobody to become
        # that is nobody outside too.
        lines = f"0 0 1\n{NOBODY} {NOBODY} 1\n"
        yield _Way(with_user, lines, lines, mapped_from_outside=True)
        if _is_machines_root():
            yield _Way(without_user, "", "", mapped_from_outside=False)
            return  # nobody inside would be root outside
    yield _Way(with_user, f"{NOBODY} {user} 1\n", f"{NOBODY} {group} 1\n", mapped_from_outside=False)
    if powerful:
        yield _Way(without_user, "", "", mapped_from_outside=False)


def _is_machines_root() -> bool:
    """Whether user 0 here is the machine's, not that of a container in a user namespace. Yes, if nobody knows."""
    try:
        return Path("/proc/self/uid_map").read_text().split() == ["0", "0", str(2**32 - 1)]
    except OSError:
        return True


def _works(way: _Way) -> bool:
    def attempt() -> None:
        _go(way)
        if Layer.MOUNT_NAMESPACE in way.namespaces:
            empty_root.build({})
        if way.mapped_from_outside:
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)

    return _reap(_fork(attempt)) == 0


def _go(way: _Way) -> frozenset[Layer]:
    """Enter the namespaces of ``way``; those that are of use."""
    flags = 0
    for namespace in way.namespaces:
        flags |= _FLAGS[namespace][0]
    if way.mapped_from_outside:
        _unshare_mapped_from_outside(flags, way)
    else:
        syscall("unshare", flags)
        if way.uid_map:
            # user_namespaces(7): without privilege outside, groups must be locked before gid_map is written.
            _write_map("self", "setgroups", "deny")
            _write_map("self", "gid_map", way.gid_map)
            _write_map("self", "uid_map", way.uid_map)
    if way.uid_map:
        _forbid_nesting()
    if Layer.UTS_NAMESPACE in way.namespaces:
        try:
            socket.sethostname("localhost")
        except (
            PermissionError
        ):  # Podman's seccomp profile; the new namespace has a copy of the machine's name
            return way.namespaces - {Layer.UTS_NAMESPACE}
        libc.setdomainname(b"(none)", 6)  # the kernel's own default
    return way.namespaces


def _unshare_mapped_from_outside(flags: int, way: _Way) -> None:
    me = os.getpid()
    read_end, write_end = os.pipe()

    def write_maps() -> None:
        os.close(write_end)
        if os.read(read_end, 1):  # nothing: the other side failed and is gone
            _write_map(str(me), "gid_map", way.gid_map)
            _write_map(str(me), "uid_map", way.uid_map)

    helper = _fork(write_maps)
    os.close(read_end)
    try:
        syscall("unshare", flags)
        os.write(write_end, b"x")
    finally:
        os.close(write_end)
        status = _reap(helper)
    if status != 0:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM), f"/proc/{me}/uid_map")


def _forbid_nesting() -> None:
    """No user namespace inside this one: whoever makes one has every capability in it, and with them the part of
    the kernel where most local exploits of the last decade lie. A second layer: seccomp denies unshare(2) too.
    """
    try:
        Path("/proc/sys/user/max_user_namespaces").write_text("0")  # Linux 4.9; holds for this namespace only
    except OSError:
        # An older kernel, or a /proc/sys that a container made read-only.
        return


def _write_map(process: str, name: str, lines: str) -> None:
    with open(f"/proc/{process}/{name}", "wb", buffering=0) as file:  # noqa: PTH123 - one write(2), as it must be
        file.write(lines.encode())


def _fork(work: Callable[[], None]) -> int:
    """A child that does ``work`` and ends at once: 0 when it could, 1 when the kernel refused."""
    try:
        child = os.fork()
    except OSError as error:  # EAGAIN: RLIMIT_NPROC, or the cgroup's pids.max
        raise LaunchError(
            f"no process can be forked (see `ulimit -u` and pids.max): {error.strerror}"
        ) from error
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    except OSError:
        pass
    finally:
        os._exit(status)


def _reap(child: int) -> int:
    """Wait for ``child``, not for ever: its exit code, or minus the signal that ended it."""
    try:
        descriptor = os.pidfd_open(child)
    except OSError as error:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        # Whoever supervises processes needs it too.
        raise LaunchError(
            f"pidfd_open() is refused, which Linux has from 5.3 on: {error.strerror}"
        ) from error
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        if not poller.poll(_DEADLINE * 1000):
            os.kill(child, signal.SIGKILL)
    finally:
        os.close(descriptor)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
