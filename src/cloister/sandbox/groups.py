"""What system calls are for: groups by purpose, in the manner of OpenBSD's pledge(2).

A process's policy is a list of these. They are made from what a purpose needs (glibc from 2.28, musl, CPython
from 3.11, the libraries that run in the children), not from a trace of one machine, where another C library
would make other calls. Names that an architecture lacks (``stat`` on aarch64) cost nothing there.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from typing import Final

from .bpf import OWN_PID, TRAP, Alternative, Check, Rule, deny

__all__ = ["GROUPS", "rules_for"]

Group = Mapping[str, tuple[Alternative, ...]]

_ALWAYS: Final[tuple[Alternative, ...]] = ((),)
_POINTER: Final = 2**64 - 1


def _plain(names: str) -> dict[str, tuple[Alternative, ...]]:
    return dict.fromkeys(names.split(), _ALWAYS)


def _one_of(argument: int, *values: int) -> tuple[Alternative, ...]:
    return tuple((Check(argument, value),) for value in values)


def _without(argument: int, bits: int) -> tuple[Alternative, ...]:
    return ((Check(argument, 0, mask=bits),),)


# A trap must stay fatal, so SIGSYS (31) keeps the action it has: some bit of the low five must be clear, which
# also refuses 63, a real-time signal that nobody uses.
_ANY_SIGNAL_BUT_SIGSYS: Final[tuple[Alternative, ...]] = tuple(
    (Check(0, 0, mask=1 << bit),) for bit in range(5)
)

_STDIO: Final[Group] = {
    # Descriptors that it already has.
    **_plain("read write readv writev pread64 pwrite64 preadv pwritev lseek close fstat"),
    # fstat() of glibc 2.33 to 2.38. With a path it tells whether a file is there: the empty root answers that.
    "newfstatat": ((Check(3, 0x1000, mask=0x1000),),),  # AT_EMPTY_PATH
    # FIONREAD, FIONBIO, FIONCLEX, FIOCLEX (include/uapi/asm-generic/ioctls.h). Not TIOCSTI, which types
    # into a terminal (CVE-2017-5226), and nothing of any driver.
    "ioctl": _one_of(1, 0x541B, 0x5421, 0x5450, 0x5451),
    # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC. Not F_SETOWN: it aims signals at others.
    "fcntl": _one_of(1, 0, 1, 2, 3, 4, 1030),
    # Time, mostly from the vDSO, which falls back to these where the clock source does not allow it.
    **_plain("clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times getrusage"),
    **_plain("getrandom restart_syscall sched_yield exit exit_group"),
    # Locks; robust lists belong to threads.
    **_plain("futex"),
    # Who am I: libraries ask before they trust the environment.
    **_plain(
        "getpid gettid getppid getuid geteuid getgid getegid getresuid getresgid getpgrp getpgid getsid"
    ),
    **_plain("rt_sigprocmask rt_sigreturn sigaltstack rt_sigpending rt_sigtimedwait"),
    "rt_sigaction": _ANY_SIGNAL_BUT_SIGSYS,
    # abort() and raise(): a process that fails must be able to say how, to nobody but itself.
    "tgkill": _one_of(0, OWN_PID),
    "kill": _one_of(0, OWN_PID),
    "tkill": _one_of(0, OWN_PID),  # musl's raise(); the first thread's id is the process's
    # Reading its own limits (pthread_getattr_np, os.sysconf): nothing new (argument 2) and nobody else's.
    "prlimit64": ((Check(0, 0), Check(2, 0, mask=_POINTER)),),
    **_plain("getrlimit"),
    "prctl": _one_of(0, 15, 16),  # PR_SET_NAME, PR_GET_NAME
}

_PROT_EXEC: Final = 0x4

_MEMORY: Final[Group] = {
    **_plain("munmap mremap brk madvise msync"),
    "mmap": _without(2, _PROT_EXEC),
    "mprotect": _without(2, _PROT_EXEC),
}

_IPC: Final[Group] = {
    # Channels are socketpairs that were handed over. A destination could be named only on a datagram socket.
    **_plain("sendmsg recvmsg sendto recvfrom shutdown poll ppoll"),
    # What kind of descriptor has come: level SOL_SOCKET only.
    "getsockopt": _one_of(1, 1),
    **_plain("getsockname getpeername"),
    # What is too large for a packet travels in a sealed memfd.
    **_plain("memfd_create ftruncate"),
    "fcntl": _one_of(1, 1033, 1034),  # F_ADD_SEALS, F_GET_SEALS
}

_EVENT_LOOP: Final[Group] = _plain("epoll_ctl epoll_wait epoll_pwait epoll_pwait2 select pselect6")

_SOL_SOCKET: Final = 1
_IPPROTO_TCP: Final = 6


def _socket_options(level: int, *options: int) -> tuple[Alternative, ...]:
    return tuple((Check(1, level), Check(2, option)) for option in options)


_INHERITED_SOCKETS: Final[Group] = {
    # Connected sockets that were handed over; there is no way to make one here.
    **_plain("sendmsg recvmsg sendto recvfrom shutdown poll ppoll getsockname getpeername"),
    "getsockopt": _one_of(1, _SOL_SOCKET, _IPPROTO_TCP),
    # SO_SNDBUF, SO_RCVBUF, SO_KEEPALIVE, SO_LINGER; TCP_NODELAY, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT,
    # TCP_USER_TIMEOUT. Not the rest: much of setsockopt's code is reached by nothing else (TCP_ULP,
    # CVE-2023-0461; netfilter's tables, CVE-2021-22555).
    "setsockopt": (
        *_socket_options(_SOL_SOCKET, 7, 8, 9, 13),
        *_socket_options(_IPPROTO_TCP, 1, 4, 5, 6, 18),
    ),
}

_SOCK_TYPE_MASK: Final = 0xF  # SOCK_CLOEXEC and SOCK_NONBLOCK are above it

_SOCKETS: Final[Group] = {
    **_INHERITED_SOCKETS,
    # AF_INET and AF_INET6; SOCK_STREAM with IPPROTO_TCP or 0, SOCK_DGRAM with IPPROTO_UDP or 0. Never raw,
    # packet or netlink.
    "socket": tuple(
        (Check(0, family), Check(1, kind, mask=_SOCK_TYPE_MASK), Check(2, protocol))
        for family in (2, 10)
        for kind, protocol in ((1, 0), (1, 6), (2, 0), (2, 17))
    ),
    # sendmmsg: glibc's resolver asks for A and AAAA at once.
    **_plain("connect sendmmsg recvmmsg"),
    "setsockopt": (
        *_INHERITED_SOCKETS["setsockopt"],
        *_socket_options(0, 11),  # IPPROTO_IP: IP_RECVERR, which resolvers set to hear of refused queries
        *_socket_options(41, 25, 26),  # IPPROTO_IPV6: IPV6_RECVERR, IPV6_V6ONLY
    ),
    "ioctl": _one_of(1, 0x8910),  # SIOCGIFNAME: a scope's name in a link-local address
}

# O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND and the bit of O_TMPFILE that is not O_DIRECTORY.
_OPEN_FOR_WRITING: Final = 0o1 | 0o2 | 0o100 | 0o1000 | 0o2000 | 0o20000000

_READ_FILES: Final[Group] = {
    # Which files is for Landlock and the empty root to say: a filter cannot read a path.
    "openat": _without(2, _OPEN_FOR_WRITING),
    "open": _without(1, _OPEN_FOR_WRITING),
    **_plain("stat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat getdents64"),
    # FreeType and fontconfig ask what kind of file system a font folder is on.
    **_plain("statfs fstatfs fadvise64 getcwd"),
}

# CLONE_VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS, PARENT_SETTID, CHILD_CLEARTID: pthread_create() of
# glibc; musl adds CLONE_DETACHED, which does nothing.
_NEW_THREAD: Final = 0x003D0F00

_THREADS: Final[Group] = {
    "clone": ((Check(0, _NEW_THREAD, mask=_POINTER),), (Check(0, _NEW_THREAD | 0x00400000, mask=_POINTER),)),
    **_plain("set_robust_list get_robust_list rseq set_tid_address sched_getparam sched_getscheduler"),
}

# CLONE_CHILD_CLEARTID, CLONE_CHILD_SETTID and SIGCHLD: fork() of glibc; musl passes SIGCHLD alone. No
# namespace flag, no shared memory.
_FORK: Final[Group] = {
    "clone": ((Check(0, 0x01200011, mask=_POINTER),), (Check(0, 17, mask=_POINTER),)),
    **_plain("fork set_robust_list rseq set_tid_address"),
    # Reap, and end, what was forked.
    **_plain("wait4 waitid pidfd_open pidfd_send_signal"),
}

# A filter holds for what is forked too, so this is what a forked child does until its own filter is on.
_LOCKDOWN: Final[Group] = {
    # shed()
    **_plain("close_range dup2 dup3 umask setsid chdir"),
    # Its event loop, made before lock-down: an epoll and a socketpair(AF_UNIX) to wake it.
    **_plain("epoll_create1"),
    "socketpair": _one_of(0, 1),
    # PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_GET_SECUREBITS,
    # PR_SET_SECUREBITS, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_SET_MDWE
    "prctl": _one_of(0, 1, 4, 23, 24, 27, 28, 38, 47, 65),
    **_plain("capget capset setresuid setresgid setgroups getgroups"),
    "prlimit64": ((Check(0, 0),),),
    **_plain("landlock_create_ruleset landlock_add_rule landlock_restrict_self seccomp"),
    # Installing the handler of SIGSYS, and abort() in a child whose pid this filter cannot know. Landlock's
    # scope (Linux 6.12) and the pid namespace keep such a signal inside.
    **_plain("rt_sigaction tgkill tkill kill"),
}

GROUPS: Final[Mapping[str, Group]] = {
    "stdio": _STDIO,
    "memory": _MEMORY,
    "ipc": _IPC,
    "event_loop": _EVENT_LOOP,
    "inherited_sockets": _INHERITED_SOCKETS,
    "sockets": _SOCKETS,
    "read_files": _READ_FILES,
    "threads": _THREADS,
    "fork": _FORK,
    "lockdown": _LOCKDOWN,
}

# What libraries try and do without. Everything else that no group allows traps: it is a bug or an attack.
_DENIED_QUIETLY: Final[Mapping[int, str]] = {
    errno.EPERM: (
        # Looking for files: configuration, locales, plugins, /dev/urandom, time zones.
        "open openat stat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat "
        "getdents64 getcwd statfs fstatfs fadvise64 flock chdir "
        # fontconfig writing its cache
        "mkdir mkdirat rename renameat renameat2 unlink unlinkat rmdir link linkat symlink symlinkat "
        "chmod fchmod fchmodat utime utimes utimensat truncate "
        # Terminals (isatty), locks, netlink (getaddrinfo), nscd.
        "ioctl fcntl socket setsockopt getsockopt "
        # How many processors, how much memory, which system: each has a fallback.
        "sched_getaffinity sched_setaffinity sched_getparam sched_getscheduler sysinfo uname getpriority "
        "prctl prlimit64 setrlimit mlock mlock2 munlock mbind get_mempolicy set_mempolicy getcpu "
        # Just-in-time compilers (PCRE2, libffi) fall back when they get no executable memory.
        "mmap mprotect"
    ),
    # Newer ways of doing what there is an older way for: the C library falls back.
    errno.ENOSYS: (
        "clone3 openat2 rseq set_robust_list pkey_mprotect pkey_alloc pkey_free membarrier "
        "io_uring_setup copy_file_range futex_waitv map_shadow_stack cachestat fchmodat2"
    ),
}
_QUIET: Final[Mapping[str, int]] = {
    name: deny(number) for number, names in _DENIED_QUIETLY.items() for name in names.split()
}


def rules_for(groups: Iterable[str]) -> dict[str, Rule]:
    """The rules that allow what any of ``groups`` needs, by name of call.

    Raises:
        KeyError: no group has that name.
    """
    alternatives: dict[str, tuple[Alternative, ...]] = {}
    for group in groups:
        for name, more in GROUPS[group].items():
            alternatives[name] = (*alternatives.get(name, ()), *more)
    return {
        name: Rule(tuple(dict.fromkeys(alternatives.get(name, ()))), _QUIET.get(name, TRAP))
        for name in sorted({*alternatives, *_QUIET})
    }
