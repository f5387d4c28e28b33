"""What it was handed, or was left: descriptors, the environment, and its share of the machine."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from pathlib import Path
from typing import Final

from cloister.interfaces.attack import Targets
from cloister.sandbox import Layer
from cloister.sandbox.kernel import libc

from .attempt import ZYGOTES, Attempt, Harm, add, attempt
from .calls import call, closing, deny

_handed: frozenset[int] = frozenset()
_channel_number = -1
_environment: tuple[int, int] = (0, 0)
_LOOP: Final = 3
"""Descriptors that an event loop makes for itself: an epoll and a socketpair."""
_KNOWN_VARIABLES: Final = frozenset({b"LANG", b"LC_ALL", b"LC_CTYPE", b"TZ"})


def prepare() -> None:
    """Before lock-down: where the strings are that this program was started with (proc_pid_stat(5), fields 50, 51)."""
    global _environment  # noqa: PLW0603 - found once, before the file is out of reach
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    _environment = (int(fields[47]), int(fields[48]))


def hand_over(channel: int, *others: int) -> None:
    """These, and the three standard ones, are what this process was given; ``channel`` is one to make attempts with."""
    global _handed, _channel_number  # noqa: PLW0603 - known when the process begins
    _handed = frozenset({0, 1, 2, channel, *others})
    _channel_number = channel


def _channel() -> int:
    return _channel_number


_NOTHING_LEFT: Final = {errno.EBADF: Layer.DESCRIPTORS}


@attempt(Harm.LEFT_DESCRIPTORS, _NOTHING_LEFT)
def find_a_descriptor_that_was_left_open(_at: Targets) -> None:
    """Looks at every number up to 4095 for what it was not handed: the user's files, other pages' channels."""
    left = []
    for number in range(4096):
        try:
            mode = os.fstat(number).st_mode
        except OSError:
            continue
        if number not in _handed:
            left.append(mode)
    harmless = all(
        stat.S_ISSOCK(mode) or not stat.S_IFMT(mode) for mode in left
    )  # anonymous inodes have no type
    if harmless and len(left) <= _LOOP:
        raise deny(errno.EBADF, "there is none")


@attempt(Harm.LEFT_DESCRIPTORS, _NOTHING_LEFT)
def read_what_the_user_types(_at: Targets) -> None:
    """Reads from standard input what waits there."""
    if call("read", 0, ctypes.create_string_buffer(1), 1) == 0:
        raise deny(errno.EBADF, "there is nothing to read")


@attempt(Harm.LEFT_DESCRIPTORS, _NOTHING_LEFT)
def write_where_the_user_reads(_at: Targets) -> None:
    """Writes to standard output, where that is a terminal or a file."""
    if stat.S_ISCHR(os.fstat(1).st_mode) and os.fstat(1).st_rdev == os.makedev(1, 3):
        raise deny(errno.EBADF, "it goes nowhere")


_BARE: Final = {errno.ENODATA: Layer.ENVIRONMENT}


@attempt(Harm.ENVIRONMENT, _BARE)
def read_the_environment(_at: Targets) -> None:
    """Reads variables as the C library has them: a token, a home folder."""
    variables = ctypes.POINTER(ctypes.c_char_p).in_dll(libc, "environ")
    names: list[bytes] = []
    while variables and variables[len(names)]:
        names.append(variables[len(names)].partition(b"=")[0])
    if set(names) <= _KNOWN_VARIABLES and {name.encode() for name in os.environ} <= _KNOWN_VARIABLES:
        raise deny(errno.ENODATA, "it is bare")


@attempt(Harm.ENVIRONMENT, _BARE)
def read_the_environment_it_was_started_with(at: Targets) -> None:
    """Looks for a secret of the doctor's where the kernel put the strings."""
    start, end = _environment
    if at.variable.encode() not in ctypes.string_at(start, end - start):
        raise deny(errno.ENODATA, "it is not there")


# ── a channel, used for something else ───────────────────────────────────────────────────────────────────────────

_ABSTRACT: Final = struct.pack("=H", 1) + b"\0cloister-doctor-own"


@attempt(Harm.HELD_DESCRIPTORS)
def listen_on_a_channel(_at: Targets) -> None:
    """Gives a channel a name, for others to find."""
    with closing(os.dup(_channel())) as channel:
        call("bind", channel, _ABSTRACT, len(_ABSTRACT))


@attempt(
    Harm.HELD_DESCRIPTORS,
    {
        errno.EPERM: Layer.LANDLOCK_SCOPE,
        errno.ECONNREFUSED: Layer.NETWORK_NAMESPACE,
        errno.EISCONN: Layer.DESCRIPTORS,  # it holds none that is not connected already
    },
)
def connect_a_channel_elsewhere(at: Targets) -> None:
    """Connects a channel to another service."""
    name = struct.pack("=H", 1) + at.abstract + b".packets"
    call("connect", _channel(), name, len(name))


@attempt(Harm.HELD_DESCRIPTORS)
def accept_on_a_channel(_at: Targets) -> None:
    """Has a channel wait for strangers."""
    call("listen", _channel(), 1)


@attempt(Harm.HELD_DESCRIPTORS, {errno.EPERM: Layer.CAPABILITIES, errno.ESRCH: Layer.PID_NAMESPACE})
def aim_signals_by_a_channel(at: Targets) -> None:
    """Has the kernel signal another process when something comes (F_SETOWN)."""
    call("fcntl", _channel(), 8, at.victim)


@attempt(Harm.HELD_DESCRIPTORS)
def choose_the_signal_of_a_channel(_at: Targets) -> None:
    """Chooses which signal that is (F_SETSIG)."""
    call("fcntl", _channel(), 10, 9)


@attempt(Harm.HELD_DESCRIPTORS)
def put_a_filter_on_a_channel(_at: Targets) -> None:
    """Has the kernel run a program of its own on each packet (SO_ATTACH_FILTER)."""
    code = (ctypes.c_uint64 * 1)(0x06 | 0xFFFF << 32)
    call("setsockopt", _channel(), 1, 26, (ctypes.c_uint64 * 2)(1, ctypes.addressof(code)), 16)


@attempt(Harm.HELD_DESCRIPTORS)
def have_a_larger_buffer(_at: Targets) -> None:
    """Takes more of the kernel's memory for a channel than the limit (SO_RCVBUFFORCE)."""
    call("setsockopt", _channel(), 1, 33, (ctypes.c_int32 * 1)(1 << 20), 4)


@attempt(Harm.HELD_DESCRIPTORS)
def mark_the_packets_of_a_channel(_at: Targets) -> None:
    """Marks what it sends for the routes of somebody else (SO_MARK)."""
    call("setsockopt", _channel(), 1, 36, (ctypes.c_int32 * 1)(1), 4)


@attempt(Harm.HELD_DESCRIPTORS, {errno.EPERM: Layer.CAPABILITIES, errno.EINVAL: Layer.USER_NAMESPACE})
def lie_about_who_it_is(at: Targets) -> None:
    """Sends a packet as process 1 of user 0 (SCM_CREDENTIALS)."""
    credentials = struct.pack("=QiiIII4x", 28, 1, 2, 1, 0, 0)  # struct cmsghdr, then struct ucred
    control = ctypes.create_string_buffer(credentials, len(credentials))
    byte = ctypes.create_string_buffer(1)
    vector = (ctypes.c_uint64 * 2)(ctypes.addressof(byte), 1)
    header = (ctypes.c_uint64 * 7)(
        0, 0, ctypes.addressof(vector), 1, ctypes.addressof(control), len(credentials), 0
    )
    call("sendmsg", _channel(), header, 0x4040)  # without SIGPIPE, without waiting


@attempt(Harm.HELD_DESCRIPTORS)
def ask_a_channel_about_the_network(_at: Targets) -> None:
    """Lists the interfaces of the machine by a socket that it holds (SIOCGIFCONF)."""
    call("ioctl", _channel(), 0x8912, ctypes.create_string_buffer(64))


@attempt(Harm.HELD_DESCRIPTORS)
def grow_the_pipe_of_its_last_words(_at: Targets) -> None:
    """Has its standard error hold more than it was given (F_SETPIPE_SZ)."""
    call("fcntl", 2, 1031, 1 << 20)


@attempt(Harm.HELD_DESCRIPTORS)
def lock_what_it_holds(_at: Targets) -> None:
    """Locks a file that others share with it (flock)."""
    call("flock", 0, 6)  # LOCK_EX | LOCK_NB


# ── its share of the machine ─────────────────────────────────────────────────────────────────────────────────────

_LIMITED: Final = {
    errno.ENOMEM: Layer.LIMITS,
    errno.EMFILE: Layer.LIMITS,
    errno.EAGAIN: Layer.LIMITS,
    errno.EFBIG: Layer.LIMITS,
}


@attempt(Harm.EXHAUSTION, _LIMITED, ZYGOTES)
def take_all_addresses(_at: Targets) -> None:
    """Maps 64 GiB."""
    size = 64 << 30
    call("munmap", call("mmap", 0, size, 0, 0x4022, -1, 0), size)  # private, anonymous, not reserved


@attempt(Harm.EXHAUSTION, _LIMITED, ZYGOTES)
def take_all_memory(_at: Targets) -> None:
    """Maps 6 GiB that it may write."""
    size = 6 << 30
    call("munmap", call("mmap", 0, size, 3, 0x4022, -1, 0), size)


@attempt(Harm.EXHAUSTION, {errno.EINVAL: Layer.LIMITS})
def take_all_descriptors(_at: Targets) -> None:
    """Makes descriptor number 4096, or a higher one."""
    with closing(call("fcntl", 0, 0, 4096)):  # F_DUPFD: EINVAL beyond the limit
        pass


@attempt(Harm.EXHAUSTION, _LIMITED, ZYGOTES)
def make_a_huge_memfd(_at: Targets) -> None:
    """Makes a file in memory of 8 GiB."""
    with closing(call("memfd_create", b"huge\0", 1)) as file:
        call("ftruncate", file, 8 << 30)


@attempt(Harm.EXHAUSTION, {errno.ENOMEM: Layer.LIMITS, errno.EPERM: Layer.LIMITS})
def keep_memory_from_being_swapped(_at: Targets) -> None:
    """Locks a page in memory."""
    page = ctypes.create_string_buffer(8192)
    call("mlock", page, len(page))


@attempt(Harm.EXHAUSTION, {errno.EMFILE: Layer.LIMITS, errno.EAGAIN: Layer.LIMITS})
def make_a_queue(_at: Targets) -> None:
    """Makes a POSIX message queue in the kernel's memory."""
    with closing(call("mq_open", b"cloister-doctor-own\0", 0o102, 0o600, None)) as queue:
        call("mq_unlink", b"cloister-doctor-own\0")
        del queue


def _making(name: str, system_call: str, arguments: tuple[int, ...], sentence: str) -> None:
    """One of something of which there is no limit but the number of descriptors, or none at all."""

    def run(_at: Targets) -> None:
        pair = (ctypes.c_int32 * 2)(-1, -1)
        with closing(call(system_call, *(pair if a == _PAIR else a for a in arguments))):
            for descriptor in pair:
                if descriptor >= 0:
                    os.close(descriptor)

    add(Attempt(name, Harm.EXHAUSTION, sentence, run))


_PAIR: Final = -99
_making("make a pipe", "pipe2", (_PAIR, 0), "Makes a pipe, which holds up to a mebibyte.")
_making("make a counter", "eventfd2", (0, 0), "Makes an eventfd.")
_making("make a timer", "timerfd_create", (1, 0), "Makes a timer that the kernel keeps.")


@attempt(Harm.EXHAUSTION, _LIMITED)
def make_a_timer_that_signals(_at: Targets) -> None:
    """Makes a POSIX timer, of which there is no limit but that of queued signals."""
    timer = ctypes.c_int32(0)
    call("timer_create", 1, None, timer)
    call("timer_delete", timer.value)


@attempt(Harm.EXHAUSTION, _LIMITED)
def reserve_room_for_a_file(_at: Targets) -> None:
    """Takes memory for a memfd before it is written (fallocate)."""
    with closing(call("memfd_create", b"reserved\0", 0)) as file:
        call("fallocate", file, 0, 0, 1 << 20)
