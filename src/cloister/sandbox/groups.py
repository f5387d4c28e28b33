"""What system calls are for: groups by purpose, in the manner of OpenBSD's pledge(2).

A process's policy is a list of these. They are made from what a purpose needs (glibc from 2.28, musl, CPython
from 3.11, the libraries that run in the children), not from a trace of one machine, where another C library
would make other calls. Names that an architecture lacks (``stat`` on aarch64) cost nothing there.

Each call is there for a reason that a person can read (``cloister doctor --policy KIND`` prints them).
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from .bpf import OWN_PID, TRAP, Alternative, Check, Rule, deny
from .syscalls import Architecture

__all__ = ["GROUPS", "QUIET", "Grant", "default", "on", "rules_for"]

_ALWAYS: Final[tuple[Alternative, ...]] = ((),)
_POINTER: Final = 2**64 - 1


class Grant(msgspec.Struct, frozen=True):
    """System calls that are there for one reason."""

    why: str
    calls: Mapping[str, tuple[Alternative, ...]]


Group = tuple[Grant, ...]


def _any(names: str, why: str) -> Grant:
    """With any arguments."""
    return Grant(why, dict.fromkeys(names.split(), _ALWAYS))


def _some(name: str, alternatives: tuple[Alternative, ...], why: str) -> Grant:
    """With the arguments that ``why`` tells of, and no others."""
    return Grant(why, {name: alternatives})


def _one_of(argument: int, *values: int) -> tuple[Alternative, ...]:
    return tuple((Check(argument, value),) for value in values)


def _without(argument: int, bits: int) -> tuple[Alternative, ...]:
    return ((Check(argument, 0, mask=bits),),)


# A trap must stay fatal, so SIGSYS (31) keeps the action it has: some bit of the low five must be clear, which
# also refuses 63, a real-time signal that nobody uses.
_ANY_SIGNAL_BUT_SIGSYS: Final[tuple[Alternative, ...]] = tuple(
    (Check(0, 0, mask=1 << bit),) for bit in range(5)
)
_AT_EMPTY_PATH: Final = 0x1000

# TCP Fast Open connects while it sends, where no rule about connect(2) is asked (tcp_sendmsg_fastopen() in
# net/ipv4/tcp.c): also on a socket that listened, once it was shut down.
_MSG_FASTOPEN: Final = 0x20000000
_SENDMSG: Final = _without(2, _MSG_FASTOPEN)
_SENDTO: Final = _without(3, _MSG_FASTOPEN)

_STDIO: Final[Group] = (
    # No read: what it gets comes by recvmsg and pread64.
    _any("write", "say on standard error what went wrong"),
    _any("close fstat", "let go of what it holds, and look at it"),
    _some(
        "newfstatat",
        ((Check(3, _AT_EMPTY_PATH, mask=_AT_EMPTY_PATH),),),
        "fstat() of glibc 2.33 to 2.38: a descriptor; a path comes to nothing in an empty root",
    ),
    _any("clock_gettime", "the time, where the vDSO cannot tell it"),
    _any("getrandom", "hash tables, TLS"),
    _any("futex", "locks between threads, Python's own among them"),
    _any("restart_syscall", "wait on after SIGSTOP and SIGCONT, by which processor time is limited"),
    _any("exit_group", "end"),
    # No rt_sigreturn: no handler ever returns, and a forged frame for it is a whole attack (sigreturn-oriented
    # programming, Bosman and Bos, IEEE S&P 2014).
    _any("getpid gettid rt_sigprocmask", "abort() and raise(): say how it failed"),
    _some("tgkill", _one_of(0, OWN_PID), "the same: a signal to nobody but itself"),
    _some("rt_sigaction", _ANY_SIGNAL_BUT_SIGSYS, "the same; never for SIGSYS, so that a trap stays fatal"),
)

_PROT_EXEC: Final = 0x4

_MEMORY: Final[Group] = (
    _any("munmap brk", "get and give back memory"),
    _some("mmap", _without(2, _PROT_EXEC), "the same, and map what is shared; never executable"),
    _some("mprotect", _without(2, _PROT_EXEC), "musl's malloc opens its tables by it; never executable"),
)

_LARGE_MEMORY: Final[Group] = (
    _any("mremap madvise", "realloc() without a copy, and giving back what was freed"),
)

_FIONREAD: Final = 0x541B  # include/uapi/asm-generic/ioctls.h
_FIONBIO: Final = 0x5421

_IPC: Final[Group] = (
    _any("recvmsg poll", "its channels: packets with descriptors on socketpairs that it was handed"),
    _some("sendmsg", _SENDMSG, "the same"),
    _any("memfd_create ftruncate pread64", "what is too large for a packet travels in a sealed memfd"),
    # F_GETFL, F_ADD_SEALS, F_GET_SEALS, F_DUPFD_CLOEXEC. Not F_SETOWN: it aims signals at others.
    _some("fcntl", _one_of(1, 3, 1033, 1034, 1030), "what a descriptor that came is, and seals on its own"),
)

_EVENT_LOOP: Final[Group] = (
    _any("epoll_ctl epoll_wait", "wait for many channels"),
    # A destination can be named only on a datagram socket.
    _any("recvfrom", "asyncio wakes itself with a byte in a socketpair"),
    _some("sendto", _SENDTO, "the same"),
    # Not TIOCSTI, which types into a terminal (CVE-2017-5226), and nothing of any driver.
    _some("ioctl", _one_of(1, _FIONBIO), "make a channel that comes non-blocking"),
)

_CLOCK: Final[Group] = (
    _any("gettimeofday time clock_getres", "the time of day: OpenSSL judges certificates by it"),
    _any("clock_nanosleep nanosleep", "sleep"),
    _any("times getrusage", "how much processor time it used"),
)

_IDENTITY: Final[Group] = (
    _any("getuid geteuid getgid getegid getresuid getresgid getgroups", "who it is"),
    _any("getppid getpgrp getpgid getsid", "the same, among processes"),
    _any("getrlimit", "what it is limited to"),
    _some("prlimit64", ((Check(0, 0), Check(2, 0, mask=_POINTER)),), "the same; nothing new, nobody else's"),
)

_SOL_SOCKET: Final = 1
_IPPROTO_TCP: Final = 6


def _socket_options(level: int, *options: int) -> tuple[Alternative, ...]:
    return tuple((Check(1, level), Check(2, option)) for option in options)


_INHERITED_SOCKETS: Final[Group] = (
    _any("recvmsg recvfrom shutdown poll", "sockets that it was handed, already connected"),
    _some("sendmsg", _SENDMSG, "the same; never to connect them"),
    _some("sendto", _SENDTO, "the same; never to connect them"),
    _any("getsockname getpeername", "what is at their two ends"),
    _some("getsockopt", _one_of(1, _SOL_SOCKET, _IPPROTO_TCP), "their errors and their buffers"),
    # SO_SNDBUF, SO_RCVBUF, SO_KEEPALIVE; TCP_NODELAY, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_USER_TIMEOUT.
    # Not SO_LINGER: it makes close(2) wait, for 18 hours, whoever closes the socket last, and that is whoever it
    # was sent to. Not the rest: much of setsockopt's code is reached by nothing else (TCP_ULP, CVE-2023-0461;
    # netfilter's tables, CVE-2021-22555).
    _some(
        "setsockopt",
        (*_socket_options(_SOL_SOCKET, 7, 8, 9), *_socket_options(_IPPROTO_TCP, 1, 4, 5, 6, 18)),
        "buffers, keep-alive, Nagle; no other option",
    ),
    _some("ioctl", _one_of(1, _FIONREAD, _FIONBIO), "make them non-blocking"),
    _some("fcntl", _one_of(1, 3, 4), "the same, the other way (F_GETFL, F_SETFL)"),
)

_LISTENERS: Final[Group] = (
    _any(
        "accept4 recvfrom shutdown poll", "take connections on sockets that it was handed, and read from them"
    ),
    _some("sendto", _SENDTO, "write to them; never to connect one"),
    _some("ioctl", _one_of(1, _FIONBIO), "wait for them with a timeout"),
)

_SOCK_TYPE_MASK: Final = 0xF  # SOCK_CLOEXEC and SOCK_NONBLOCK are above it

_SOCKETS: Final[Group] = (
    *_INHERITED_SOCKETS,
    # AF_INET and AF_INET6; SOCK_STREAM with IPPROTO_TCP or 0, SOCK_DGRAM with IPPROTO_UDP or 0.
    _some(
        "socket",
        tuple(
            (Check(0, family), Check(1, kind, mask=_SOCK_TYPE_MASK), Check(2, protocol))
            for family in (2, 10)
            for kind, protocol in ((1, 0), (1, 6), (2, 0), (2, 17))
        ),
        "make TCP and UDP sockets, over IPv4 and IPv6; never raw, packet, netlink or Unix ones",
    ),
    _any("connect", "connect them"),
    _some("ioctl", _one_of(1, 0x8910), "the name of a scope in a link-local address (SIOCGIFNAME)"),
)

# O_WRONLY, O_RDWR, O_CREAT, O_TRUNC, O_APPEND, the bit of O_TMPFILE that is not O_DIRECTORY, and O_PATH, by which
# Landlock lets any file be held.
_NOT_FOR_READING: Final = 0o1 | 0o2 | 0o100 | 0o1000 | 0o2000 | 0o20000000 | 0o10000000

_READ_FILES: Final[Group] = (
    # Which files is for Landlock and the empty root to say: a filter cannot read a path.
    _some("openat", _without(2, _NOT_FOR_READING), "open for reading the files that are listed below"),
    _some("open", _without(1, _NOT_FOR_READING), "the same, by musl"),
    _any("read lseek", "read them"),
    _any(
        "newfstatat stat lstat access readlink getdents64",
        "look for them (stat and lstat: glibc before 2.33)",
    ),
    _any("statfs fstatfs", "FreeType and fontconfig ask which file system it is, and draw nothing without"),
    _some("fcntl", _one_of(1, 1, 2), "close on exec, the older way (F_GETFD, F_SETFD)"),
)

# Of what can be asked for besides: no O_TMPFILE (a file without a name), O_PATH, O_ASYNC. To write and
# O_RDONLY | O_TRUNC both change a file, and Landlock before Linux 6.2 knows nothing of the second.
_ACCESS_MODE: Final = 0o3
_NOT_FOR_WRITING: Final = 0o20000000 | 0o10000000 | 0o20000
# A setuid file in a folder of the user's would run as the user, for whoever runs it.
_SPECIAL_MODES: Final = 0o7000


def _writing(flags: int, mode: int) -> tuple[Alternative, ...]:
    """``open`` to write (1), or to read and write (2); the arguments are counted from 0."""
    wanted = _ACCESS_MODE | _NOT_FOR_WRITING
    return tuple((Check(flags, how, mask=wanted), Check(mode, 0, mask=_SPECIAL_MODES)) for how in (1, 2))


# What Landlock has no right for is in none of these: chmod, chown, utimensat, setxattr and truncate by name would reach
# what the user may change anywhere, where there is no file tree of its own. Nor are links, and files that are none.
_WRITE_FILES: Final[Group] = (
    _some("openat", _writing(2, 3), "make files and write them, where it was granted"),
    _some("open", _writing(1, 2), "the same, by musl"),
    _any("ftruncate lseek writev pwrite64 fsync fdatasync", "write them, and wait until they are written"),
    _some("ioctl", _one_of(1, 0x5451), "close on exec (FIOCLEX), which Python's tempfile asks for"),
    _some("mkdirat", ((Check(2, 0, mask=_SPECIAL_MODES),),), "make folders"),
    _some("mkdir", ((Check(1, 0, mask=_SPECIAL_MODES),),), "the same"),
)

_AT_REMOVEDIR: Final = 0x200

_DELETE_FILES: Final[Group] = (
    _any("unlink rmdir", "delete files and folders, where it was granted"),
    _some("unlinkat", _one_of(2, 0, _AT_REMOVEDIR), "the same"),
)

_RENAME_NOREPLACE: Final = 1

_RENAME_FILES: Final[Group] = (
    _any("rename renameat", "rename what it may both write and delete"),
    _some("renameat2", _one_of(4, 0, _RENAME_NOREPLACE), "the same; no exchange, no whiteout"),
)

# CLONE_VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS, PARENT_SETTID, CHILD_CLEARTID: pthread_create() of
# glibc; musl adds CLONE_DETACHED, which does nothing.
_NEW_THREAD: Final = 0x003D0F00

_THREADS: Final[Group] = (
    _some(
        "clone",
        (
            (Check(0, _NEW_THREAD, mask=_POINTER),),
            (Check(0, _NEW_THREAD | 0x00400000, mask=_POINTER),),
        ),
        "start a thread; never a process or a namespace",
    ),
    _any("exit set_robust_list get_robust_list rseq set_tid_address", "a thread's beginning and end"),
    _any("sched_getparam sched_getscheduler sched_yield", "ask how it is scheduled, let others go first"),
    _any("madvise", "give back a thread's stack"),
)

_FORK: Final[Group] = (
    # CLONE_CHILD_CLEARTID, CLONE_CHILD_SETTID and SIGCHLD: fork() of glibc; musl passes SIGCHLD alone.
    _some(
        "clone",
        ((Check(0, 0x01200011, mask=_POINTER),), (Check(0, 17, mask=_POINTER),)),
        "fork; no shared memory, no namespace",
    ),
    _any("fork set_robust_list rseq set_tid_address", "the same, on other C libraries"),
    _any("wait4 waitid pidfd_open pidfd_send_signal", "reap, and end, what it forked"),
)

# mmap's flags; MAP_ANONYMOUS has no file.
_PROT_WRITE: Final = 0x2
_MAP_ANONYMOUS: Final = 0x20
_FIOCLEX: Final = 0x5451
_FIONCLEX: Final = 0x5450

_PROGRAM: Final[Group] = (
    # What the dynamic loaders of glibc and musl do, and programs that read, compute and write.
    _any("execve", "become the program; it may become another one that its file tree has"),
    _some(
        "mmap",
        ((Check(2, 0, mask=_PROT_WRITE), Check(3, 0, mask=_MAP_ANONYMOUS)),),
        "load its libraries: executable memory is a file's, and not writable",
    ),
    _any("msync mincore", "look after what it mapped"),
    _some("arch_prctl", _one_of(0, 0x1002, 0x1003), "thread-local storage (ARCH_SET_FS, ARCH_GET_FS)"),
    _any("set_tid_address set_robust_list get_robust_list rseq exit", "a thread's beginning and end"),
    _any(
        "read write readv writev pread64 pwrite64 preadv pwritev lseek",
        "its pipes, and files that it may read",
    ),
    _any("dup dup2 dup3 pipe pipe2 sendfile", "the same: a shell's redirections"),
    _some("fcntl", _one_of(1, 0, 1, 2, 3, 4, 1030, 1032), "the same: copies, flags and sizes of descriptors"),
    _some("ioctl", _one_of(1, _FIONREAD, _FIONBIO, _FIOCLEX, _FIONCLEX), "the same, the other way"),
    _any(
        "poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait",
        "wait for them",
    ),
    _any(
        "eventfd eventfd2 timerfd_create timerfd_settime timerfd_gettime",
        "the same: event loops wake themselves",
    ),
    # Which, Landlock says. To open for reading and truncate is not among these: it knows that from Linux 6.2 on only.
    _some("openat", _writing(2, 3), "open /dev/null for writing, and what was granted"),
    _some("open", _writing(1, 2), "the same, by musl"),
    _any("newfstatat stat lstat fstat access faccessat readlink readlinkat getdents64", "look for files"),
    _any("statfs fstatfs getcwd chdir fchdir umask fadvise64", "the same; most of it finds nothing"),
    # Handlers return here, so a forged frame is a way to go on for whoever has taken the program over; it is his to
    # begin with.
    _any("rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack rt_sigpending rt_sigsuspend pause", "signals"),
    _some("kill", ((Check(0, OWN_PID),), (Check(0, 0),)), "signal itself, or what it started"),
    _some("tgkill", _one_of(0, OWN_PID), "abort() and raise()"),
    _any(
        "alarm getitimer setitimer sched_getaffinity sched_yield getcpu sysinfo uname",
        "what every kernel tells",
    ),
    _any("getpriority", "the same"),
    # PR_GET_NAME, PR_SET_NAME
    _some("prctl", _one_of(0, 15, 16), "its own name"),
)

# CLONE_VM, CLONE_VFORK and SIGCHLD: posix_spawn() of glibc; musl's too.
_SPAWN: Final = 0x4111

_PROCESSES: Final[Group] = (
    *_FORK[:1],
    _some(
        "clone", ((Check(0, _SPAWN, mask=_POINTER),),), "the same for a program that follows; no namespace"
    ),
    # No setsid, no setpgid: what it starts stays in its group, and ends with it.
    _any("fork vfork wait4 waitid", "the same, on other C libraries, and hear of its end"),
)

_SIGNALS: Final[Group] = (
    # For a process that Landlock's scope (Linux 6.12) keeps from every other one.
    _any("kill tgkill tkill", "end what it started"),
)

# A filter holds for what is forked too, so this is what a forked child does until its own filter is on.
_LOCKDOWN: Final[Group] = (
    _any("close_range dup2 dup3 umask setsid getsid chdir", "let go of what was inherited"),
    _some("fcntl", _one_of(1, 1, 2), "the same (F_GETFD, F_SETFD)"),
    _some("ioctl", _one_of(1, _FIONBIO), "take its channels over"),
    _any("epoll_create1", "make its event loop, while that can be made"),
    _some("socketpair", _one_of(0, 1), "the same: what wakes it"),
    # PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_CAPBSET_READ, PR_CAPBSET_DROP, PR_GET_SECUREBITS,
    # PR_SET_SECUREBITS, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_SET_MDWE; SIGKILL for the first, 0 for the second:
    # the others cannot be taken back, these two could be.
    _some(
        "prctl",
        (
            (Check(0, 1), Check(1, 9, mask=_POINTER)),
            (Check(0, 4), Check(1, 0, mask=_POINTER)),
            *_one_of(0, 23, 24, 27, 28, 38, 47, 65),
        ),
        "give up: the options that do, and only that way",
    ),
    _any("capget capset getresuid setresuid setresgid setgroups getgroups", "give up powers, become nobody"),
    _some("prlimit64", ((Check(0, 0),),), "lower its own limits"),
    _any("landlock_create_ruleset landlock_add_rule landlock_restrict_self", "lock itself down"),
    # SECCOMP_SET_MODE_FILTER for all threads, SECCOMP_GET_ACTION_AVAIL. Never with a listener, which could keep the
    # calls of what is forked.
    _some("seccomp", ((Check(0, 1), Check(1, 1, mask=_POINTER)), (Check(0, 2),)), "the same: a filter"),
    # abort() in a child whose pid this filter cannot know. Landlock's scope (Linux 6.12) and the pid namespace
    # keep such a signal inside.
    _any("rt_sigaction tgkill tkill kill", "install the handler of SIGSYS; fail in a forked child"),
)

GROUPS: Final[Mapping[str, Group]] = {
    "stdio": _STDIO,
    "memory": _MEMORY,
    "large_memory": _LARGE_MEMORY,
    "ipc": _IPC,
    "event_loop": _EVENT_LOOP,
    "clock": _CLOCK,
    "identity": _IDENTITY,
    "inherited_sockets": _INHERITED_SOCKETS,
    "listeners": _LISTENERS,
    "sockets": _SOCKETS,
    "read_files": _READ_FILES,
    "write_files": _WRITE_FILES,
    "delete_files": _DELETE_FILES,
    "rename_files": _RENAME_FILES,
    "threads": _THREADS,
    "fork": _FORK,
    "program": _PROGRAM,
    "processes": _PROCESSES,
    "signals": _SIGNALS,
    "lockdown": _LOCKDOWN,
}
"""By name."""

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
        # Python's shutil copies a file by it, or by reading and writing.
        "sendfile "
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


def on(architecture: Architecture, calls: Iterable[str]) -> list[str]:
    """``calls`` by the names that they have on ``architecture``; those that it lacks are left out."""
    names = (call if call in architecture.numbers else _INSTEAD.get(call, call) for call in calls)
    return [name for name in names if name in architecture.numbers]


def default(*, quietly: bool) -> int:
    """The action for what no group allows and no library is known to try."""
    return deny(errno.ENOSYS) if quietly else TRAP


def rules_for(groups: Iterable[str], architecture: Architecture, *, quietly: bool = False) -> dict[str, Rule]:
    """The rules that allow what any of ``groups`` needs on ``architecture``, by name of call. ``quietly``: a call that
    is allowed with other arguments fails with EPERM, where it would end the process.

    Raises:
        KeyError: no group has that name.
    """
    refused = deny(errno.EPERM) if quietly else TRAP
    alternatives: dict[str, tuple[Alternative, ...]] = {}
    for group in groups:
        for grant in GROUPS[group]:
            for call, more in grant.calls.items():
                for name in on(architecture, [call]):
                    alternatives[name] = (*alternatives.get(name, ()), *more)
    return {
        name: Rule(tuple(dict.fromkeys(alternatives.get(name, ()))), QUIET.get(name, refused))
        for name in sorted({*alternatives, *QUIET})
        if name in architecture.numbers
    }
