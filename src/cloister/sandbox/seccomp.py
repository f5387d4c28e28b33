"""Putting a filter of system calls on this process."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from typing import Final

from . import violation
from .bpf import TRAP, Program, Rule, assemble, told
from .groups import default, rules_for
from .kernel import syscall
from .syscalls import native

__all__ = ["available", "install", "program"]

# include/uapi/linux/seccomp.h
_SET_MODE_FILTER: Final = 1
_GET_ACTION_AVAIL: Final = 2
_FILTER_FLAG_TSYNC: Final = 1


class _SockFprog(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def available() -> bool:
    """Whether this kernel has seccomp filters, and Cloister a table of this architecture's calls."""
    if native() is None:
        return False
    try:
        syscall("seccomp", _GET_ACTION_AVAIL, 0, ctypes.byref(ctypes.c_uint32(TRAP)))
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM):
            return False
        raise
    return True


@functools.cache
def program(groups: tuple[str, ...], quietly: bool = False) -> Program:
    """The filter that allows ``groups``, for this architecture; ``quietly`` as :attr:`Policy.denies_quietly` has it.

    Raises:
        ValueError: there is no table of this architecture's calls, or the filter is too long for the kernel.
    """
    architecture = native()
    if architecture is None:
        raise ValueError(f"no system call table for {os.uname().machine}")
    rules = rules_for(groups, architecture, quietly=quietly)
    if violation.logs_probes() and not quietly:  # whose handler would be gone
        rules = {name: told(rule) for name, rule in rules.items()}
        rules["rt_sigreturn"] = Rule(((),))  # its handler returns
    return assemble(architecture, rules, default=default(quietly=quietly))


def install(kind: str, groups: tuple[str, ...], quietly: bool = False) -> None:
    """Allow every thread of this process, a ``kind``, for good, only the calls of ``groups``. Needs no_new_privs.

    Raises:
        OSError: the kernel refused.
    """
    code = program(groups, quietly).code(os.getpid())
    violation.install(kind)
    filters = _SockFprog(len(code) // 8, code)
    # Returns a thread's id when that one could not be brought along.
    if thread := syscall("seccomp", _SET_MODE_FILTER, _FILTER_FLAG_TSYNC, ctypes.byref(filters)):
        raise OSError(errno.EBUSY, f"thread {thread} has a filter of its own", "seccomp")
