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
from .syscalls import Architecture

__all__ = ["GROUPS", "QUIET", "rules_for"]

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
    # write: what it has to say, on standard error. No read: what it gets comes by recvmsg and pread64.
    **_plain("write close fstat"),
    # fstat() of glibc 2.33 to 2.38. With a path it tells whether a file is there: the empty root answers that.
    "newfstatat": ((Check(3, 0x1000, mask=0x1000),),),  # AT_EMPTY_PATH
    # Mostly from the vDSO, which falls back to the call where the clock source does not allow it.
    **_plain("clock_gettime"),
    **_plain("getrandom"),  # hash tables, TLS
    **_plain("futex"),  # locks
    **_plain("restart_syscall"),  # after SIGSTOP and SIGCONT, by which a process's processor time is limited
    **_plain("exit_group"),
    # abort() and raise(): a process that fails must be able to say how, to nobody but itself. No rt_sigreturn: no
    # handler ever returns, and a forged frame for it is a whole attack (sigreturn-oriented programming).
    **_plain("getpid gettid rt_sigprocmask"),
    "rt_sigaction": _ANY_SIGNAL_BUT_SIGSYS,
    "tgkill": _one_of(0, OWN_PID),
}

_PROT_EXEC: Final = 0x4

_MEMORY: Final[Group] = {
    **_plain("munmap brk"),
    "mmap": _without(2, _PROT_EXEC),
    "mprotect": _without(2, _PROT_EXEC),  # musl's malloc opens up its tables by it
}

# realloc() without copying, and giving back what was freed: where much memory comes and goes. Without them the C
# library copies, and keeps.
_LARGE_MEMORY: Final[Group] = _plain("mremap madvise")

_FIONBIO: Final = 0x5421  # include/uapi/asm-generic/ioctls.h

_IPC: Final[Group] = {
    # Channels are socketpairs that were handed over, packets with descriptors.
    **_plain("sendmsg recvmsg poll"),
    # What is too large for a packet travels in a sealed memfd.
    **_plain("memfd_create ftruncate pread64"),
    # F_DUPFD_CLOEXEC; F_GETFL, F_ADD_SEALS, F_GET_SEALS: what a descriptor that came is, and sealing one's own.
    # Not F_SETOWN: it aims signals at others.
    "fcntl": _one_of(1, 1030, 3, 1033, 1034),
}

_EVENT_LOOP: Final[Group] = {
    **_plain("epoll_ctl epoll_wait"),
    # asyncio wakes itself with a byte in a socketpair. A destination can be named only on a datagram socket.
    **_plain("sendto recvfrom"),
    # A channel that comes is made non-blocking. Not TIOCSTI, which types into a terminal (CVE-2017-5226), and
    # nothing of any driver.
    "ioctl": _one_of(1, _FIONBIO),
}

# Clocks of every sort, and sleeping: OpenSSL asks for the time of day to judge a certificate.
_CLOCK: Final[Group] = _plain(
    "clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times getrusage"
)

# Who it is, and what it is limited to.
_IDENTITY: Final[Group] = {
    **_plain("getuid geteuid getgid getegid getresuid getresgid getgroups getppid getpgrp getpgid getsid"),
    # Nothing new (argument 2) and nobody else's.
    "prlimit64": ((Check(0, 0), Check(2, 0, mask=_POINTER)),),
    **_plain("getrlimit"),
}

_SOL_SOCKET: Final = 1
_IPPROTO_TCP: Final = 6


def _socket_options(level: int, *options: int) -> tuple[Alternative, ...]:
    return tuple((Check(1, level), Check(2, option)) for option in options)


_INHERITED_SOCKETS: Final[Group] = {
    # Connected sockets that were handed over; there is no way to make one here.
    **_plain("sendmsg recvmsg sendto recvfrom shutdown poll getsockname getpeername"),
    "getsockopt": _one_of(1, _SOL_SOCKET, _IPPROTO_TCP),
    # SO_SNDBUF, SO_RCVBUF, SO_KEEPALIVE, SO_LINGER; TCP_NODELAY, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT,
    # TCP_USER_TIMEOUT. Not the rest: much of setsockopt's code is reached by nothing else (TCP_ULP,
    # CVE-2023-0461; netfilter's tables, CVE-2021-22555).
    "setsockopt": (
        *_socket_options(_SOL_SOCKET, 7, 8, 9, 13),
        *_socket_options(_IPPROTO_TCP, 1, 4, 5, 6, 18),
    ),
    "ioctl": _one_of(1, 0x541B, _FIONBIO),  # FIONREAD
    "fcntl": _one_of(1, 3, 4),  # F_GETFL, F_SETFL: asking for non-blocking the other way
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
    "ioctl": _one_of(1, 0x541B, _FIONBIO, 0x8910),  # SIOCGIFNAME: a scope's name in a link-local address
}

# O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND and the bit of O_TMPFILE that is not O_DIRECTORY.
_OPEN_FOR_WRITING: Final = 0o1 | 0o2 | 0o100 | 0o1000 | 0o2000 | 0o20000000

_READ_FILES: Final[Group] = {
    # Which files is for Landlock and the empty root to say: a filter cannot read a path. open, stat and lstat are
    # musl's, and glibc's before 2.33.
    "openat": _without(2, _OPEN_FOR_WRITING),
    "open": _without(1, _OPEN_FOR_WRITING),
    **_plain("read lseek newfstatat stat lstat access readlink getdents64"),
    # FreeType and fontconfig ask what kind of file system a font folder is on: without it nothing is drawn.
    **_plain("statfs fstatfs"),
    # F_GETFD, F_SETFD: fopen() and opendir() of older C libraries close on exec that way.
    "fcntl": _one_of(1, 1, 2),
}

# CLONE_VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS, PARENT_SETTID, CHILD_CLEARTID: pthread_create() of
# glibc; musl adds CLONE_DETACHED, which does nothing.
_NEW_THREAD: Final = 0x003D0F00

_THREADS: Final[Group] = {
    "clone": ((Check(0, _NEW_THREAD, mask=_POINTER),), (Check(0, _NEW_THREAD | 0x00400000, mask=_POINTER),)),
    **_plain("exit set_robust_list get_robust_list rseq set_tid_address sched_getparam sched_getscheduler"),
    **_plain("madvise sched_yield"),
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
    **_plain("close_range dup2 dup3 umask setsid getsid chdir"),
    # Its channels, and its event loop, made before lock-down: an epoll and a socketpair(AF_UNIX) to wake it.
    "ioctl": _one_of(1, _FIONBIO),
    "fcntl": _one_of(1, 1, 2),
    **_plain("epoll_create1"),
    "socketpair": _one_of(0, 1),
    # PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_GET_SECUREBITS,
    # PR_SET_SECUREBITS, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_SET_MDWE
    "prctl": _one_of(0, 1, 4, 23, 24, 27, 28, 38, 47, 65),
    **_plain("capget capset getresuid setresuid setresgid setgroups getgroups"),
    # Its own limits only (argument 0).
    "prlimit64": ((Check(0, 0),),),
    **_plain("landlock_create_ruleset landlock_add_rule landlock_restrict_self seccomp"),
    # Installing the handler of SIGSYS, and abort() in a child whose pid this filter cannot know. Landlock's
    # scope (Linux 6.12) and the pid namespace keep such a signal inside.
    **_plain("rt_sigaction tgkill tkill kill"),
}

GROUPS: Final[Mapping[str, Group]] = {
    "stdio": _STDIO,
    "memory": _MEMORY,
    "large_memory": _LARGE_MEMORY,
    "ipc": _IPC,
    "event_loop": _EVENT_LOOP,
    "clock": _CLOCK,
    "identity": _IDENTITY,
    "inherited_sockets": _INHERITED_SOCKETS,
    "sockets": _SOCKETS,
    "read_files": _READ_FILES,
    "threads": _THREADS,
    "fork": _FORK,
    "lockdown": _LOCKDOWN,
}

# What libraries try and do without, so that a library which does so on another machine is not ended there. Everything
# else that no group allows traps: it is a bug or an attack.
_DENIED_QUIETLY: Final[Mapping[int, str]] = {
    errno.EPERM: (
        # Looking for files: configuration, locales, plugins, /dev/urandom, time zones.
        "open openat stat lstat newfstatat access faccessat readlink readlinkat read readv preadv lseek "
        "getdents64 getcwd statfs fstatfs fadvise64 flock chdir "
        # fontconfig writing its cache
        "mkdir mkdirat rename renameat renameat2 unlink unlinkat rmdir link linkat symlink symlinkat "
        "chmod fchmod fchmodat utime utimes utimensat truncate pwrite64 pwritev writev "
        # Terminals (isatty), locks, netlink (getaddrinfo), nscd.
        "ioctl fcntl socket getsockopt setsockopt getsockname getpeername "
        # How many processors, how much memory, which system, which user: each has a fallback.
        "sched_getaffinity sched_setaffinity sched_getparam sched_getscheduler sysinfo uname getpriority "
        "prctl getrlimit prlimit64 setrlimit mlock mlock2 munlock mbind get_mempolicy set_mempolicy getcpu "
        # musl's raise(): what it wanted to say of its end, it says by crashing.
        "tkill "
        "getuid geteuid getgid getegid getresuid getresgid getgroups getppid getpgrp getpgid getsid "
        # Waiting a moment, and measuring it.
        "sched_yield nanosleep clock_nanosleep clock_getres gettimeofday time times getrusage "
        # Memory in another shape: malloc has other ways.
        "mremap madvise msync mincore "
        # Just-in-time compilers (PCRE2, libffi) fall back when they get no executable memory.
        "mmap mprotect"
    ),
    # Newer ways of doing what there is an older way for: the C library falls back.
    errno.ENOSYS: (
        "clone3 openat2 statx faccessat2 rseq set_robust_list pkey_mprotect pkey_alloc pkey_free membarrier "
        "epoll_pwait2 io_uring_setup copy_file_range futex_waitv map_shadow_stack cachestat fchmodat2"
    ),
}
QUIET: Final[Mapping[str, int]] = {
    name: deny(number) for number, names in _DENIED_QUIETLY.items() for name in names.split()
}


# What C libraries call on an architecture whose kernel never had the older call (poll() is ppoll there). Only for
# calls without checks: their arguments stand elsewhere.
_INSTEAD: Final[Mapping[str, str]] = {
    "access": "faccessat",
    "dup2": "dup3",
    "epoll_wait": "epoll_pwait",
    "poll": "ppoll",
    "readlink": "readlinkat",
}


def rules_for(groups: Iterable[str], architecture: Architecture) -> dict[str, Rule]:
    """The rules that allow what any of ``groups`` needs on ``architecture``, by name of call.

    Raises:
        KeyError: no group has that name.
    """
    alternatives: dict[str, tuple[Alternative, ...]] = {}
    for group in groups:
        for older, more in GROUPS[group].items():
            name = older if older in architecture.numbers else _INSTEAD.get(older, older)
            alternatives[name] = (*alternatives.get(name, ()), *more)
    return {
        name: Rule(tuple(dict.fromkeys(alternatives.get(name, ()))), QUIET.get(name, TRAP))
        for name in sorted({*alternatives, *QUIET})
        if name in architecture.numbers
    }
