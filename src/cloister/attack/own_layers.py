"""Undoing what holds it: its filter, its limits, its user, and the bits that prctl(2) sets."""

from __future__ import annotations

import ctypes
import errno
import signal
from collections.abc import Mapping
from typing import Final

from cloister.interfaces.attack import Targets
from cloister.sandbox import Layer
from cloister.sandbox.kernel import libc

from .attempt import ZYGOTES, Attempt, Harm, add, attempt
from .calls import call, closing, deny


def _bit(
    name: str,
    sentence: str,
    option: int,
    *arguments: int,
    layers: Mapping[int, Layer] | None = None,
    harm: Harm = Harm.OWN_LAYERS,
) -> None:
    def run(_at: Targets) -> None:
        call("prctl", option, *arguments, *[0] * (4 - len(arguments)))

    add(Attempt(name, harm, sentence, run, layers or {}))


# include/uapi/linux/prctl.h
_bit(
    "be readable again",
    "Lets processes of its user read and trace it (PR_SET_DUMPABLE).",
    4,
    1,
    harm=Harm.CORE_DUMPS,
)
_bit("outlive its parent", "Is not killed when its parent ends (PR_SET_PDEATHSIG).", 1, 0)
_bit("die by a signal of its choice", "Hears of its parent's end, and goes on.", 1, 10)
_bit(
    "gain privileges by a program",
    "Takes no_new_privs back.",
    38,
    0,
    layers={errno.EINVAL: Layer.NO_NEW_PRIVILEGES},
)
_bit(
    "allow code to be written",
    "Takes W xor X back (PR_SET_MDWE).",
    65,
    0,
    layers={errno.EPERM: Layer.NO_EXECUTABLE_MEMORY},
)
_bit(
    "move its own memory map", "Changes where its code and stack are said to be (PR_SET_MM).", 35, 1, 0x10000
)
_bit("choose who traces it", "Lets any process trace it (PR_SET_PTRACER).", 0x59616D61, -1)
_bit("be given orphans", "Becomes the parent of what loses its parent (PR_SET_CHILD_SUBREAPER).", 36, 1)
_bit("keep capabilities", "Keeps capabilities when the user changes (PR_SET_KEEPCAPS).", 8, 1)
_bit("unlock its secure bits", "Gives root its powers back (PR_SET_SECUREBITS).", 28, 0)
_bit("raise an ambient capability", "Has a capability for what it starts (PR_CAP_AMBIENT).", 47, 2, 21)
_bit("trap its clock", "Has reading the time-stamp counter fail (PR_SET_TSC).", 26, 1)
_bit("speculate", "Takes back what stops speculative reads (PR_SET_SPECULATION_CTRL).", 53, 0, 2)
_bit("share a core", "Makes itself a group of processes that share a core (PR_SCHED_CORE).", 62, 1, 0, 0)
_bit(
    "set strict seccomp",
    "Puts the oldest filter in place of its own.",
    22,
    3,
    layers={errno.EINVAL: Layer.SECCOMP},
)
_bit("flush for a disk", "Has memory that others wait for (PR_SET_IO_FLUSHER).", 57, 1)


_SET_MODE_FILTER: Final = 1  # include/uapi/linux/seccomp.h
_FLAG_TSYNC: Final = 1
_FLAG_NEW_LISTENER: Final = 8


def _add_a_filter(flags: int) -> int:
    """One that allows everything."""
    libc.prctl(38, 1, 0, 0, 0)  # no_new_privs, for who has not got it
    allow = (ctypes.c_uint16 * 4)(0x06, 0, 0, 0x7FFF)  # return SECCOMP_RET_ALLOW
    program = (ctypes.c_uint64 * 2)(1, ctypes.addressof(allow))
    return call("seccomp", _SET_MODE_FILTER, flags, program)


@attempt(Harm.OWN_LAYERS, allowed=ZYGOTES)
def add_a_filter(_at: Targets) -> None:
    """Adds a filter of its own, which can only deny more, and is kernel that nobody needs any more."""
    _add_a_filter(_FLAG_TSYNC)


@attempt(Harm.OWN_LAYERS)
def have_its_calls_judged_by_another(_at: Targets) -> None:
    """Adds a filter that asks a process, which can make calls of others wait or fail."""
    with closing(_add_a_filter(_FLAG_NEW_LISTENER)):
        pass


class _Action(ctypes.Structure):
    """The kernel's struct sigaction on x86-64 and aarch64, with a restorer."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("flags", ctypes.c_ulong),
        ("restorer", ctypes.c_void_p),
        ("mask", ctypes.c_uint64),
    )


@attempt(Harm.OWN_LAYERS, allowed=ZYGOTES)
def survive_a_violation(_at: Targets) -> None:
    """Ignores SIGSYS, so that a forbidden call fails and does not end it."""
    call("rt_sigaction", int(signal.SIGSYS), _Action(1, 0, None, 0), None, 8)  # SIG_IGN


@attempt(Harm.OWN_LAYERS)
def have_every_capability(_at: Targets) -> None:
    """Sets all capabilities."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    call("capset", header, (ctypes.c_uint32 * 6)(*[2**32 - 1] * 6))


@attempt(Harm.OWN_LAYERS, {errno.EINVAL: Layer.USER_NAMESPACE})
def become_root(_at: Targets) -> None:
    """Becomes user 0."""
    call("setresuid", 0, 0, 0)


@attempt(Harm.OWN_LAYERS, {errno.EINVAL: Layer.USER_NAMESPACE})
def join_the_group_of_root(_at: Targets) -> None:
    """Becomes group 0."""
    call("setresgid", 0, 0, 0)


@attempt(Harm.OWN_LAYERS)
def join_more_groups(_at: Targets) -> None:
    """Joins group 0 beside its own."""
    call("setgroups", 1, (ctypes.c_uint32 * 1)(0))


def _limit(name: str, kind: int, sentence: str, harm: Harm) -> None:
    def run(_at: Targets) -> None:
        limit = (ctypes.c_uint64 * 2)()
        call("prlimit64", 0, kind, None, limit)
        soft, hard = limit
        if hard == 2**64 - 1:
            if soft == hard:
                raise deny(errno.ENOSYS, "there is no limit here to be raised")
            hard = soft
        call("prlimit64", 0, kind, (ctypes.c_uint64 * 2)(hard + 1, hard + 1), None)

    add(Attempt(name, harm, sentence, run))


# include/uapi/asm-generic/resource.h
_limit("raise the limit of processes", 6, "Raises RLIMIT_NPROC, to fork.", Harm.OWN_LAYERS)
_limit("raise the limit of descriptors", 7, "Raises RLIMIT_NOFILE.", Harm.OWN_LAYERS)
_limit("raise the limit of memory", 9, "Raises RLIMIT_AS.", Harm.OWN_LAYERS)
_limit("leave a core dump", 4, "Raises RLIMIT_CORE, to have its memory written to a disk.", Harm.CORE_DUMPS)


@attempt(Harm.OWN_LAYERS)
def run_before_everybody(_at: Targets) -> None:
    """Takes a higher priority than others (nice -20)."""
    call("setpriority", 0, 0, -20)


@attempt(Harm.OWN_LAYERS)
def run_without_a_break(_at: Targets) -> None:
    """Runs in real time, so that nothing else does (SCHED_FIFO)."""
    call("sched_setscheduler", 0, 1, (ctypes.c_int32 * 1)(1))


@attempt(Harm.OWN_LAYERS)
def read_from_the_disk_before_everybody(_at: Targets) -> None:
    """Takes real-time priority for the disk."""
    call("ioprio_set", 1, 0, 1 << 13)


@attempt(Harm.OWN_LAYERS, {errno.E2BIG: Layer.LANDLOCK}, ZYGOTES)
def make_a_ruleset(_at: Targets) -> None:
    """Makes a ruleset of Landlock: it can only take more away, and is kernel that nobody needs any more."""
    with closing(call("landlock_create_ruleset", (ctypes.c_uint64 * 1)(4), 8, 0)):
        pass
