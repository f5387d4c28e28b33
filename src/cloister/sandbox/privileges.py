"""Giving up whatever sets this process apart from the least of users."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
from collections.abc import Iterable
from typing import Final

from .kernel import prctl, prctl_or_none, syscall

__all__ = [
    "CAPABILITIES",
    "NOBODY",
    "capability_bits",
    "close_ways_back",
    "die_with_parent",
    "drop_capabilities",
    "drop_user",
    "effective_capabilities",
    "filtered",
    "leave_session_keyring",
    "refuse_executable_memory",
    "refuse_to_be_read",
]

NOBODY: Final = 65534  # the kernel's overflow uid and gid; "nobody" and "nogroup" or "nobody" by name

# include/uapi/linux/prctl.h, capability.h and securebits.h
_SET_PDEATHSIG: Final = 1
_SET_DUMPABLE: Final = 4
_GET_SECCOMP: Final = 21
_FILTER_MODE: Final = 2  # include/uapi/linux/seccomp.h
_CAPBSET_READ: Final = 23
_CAPBSET_DROP: Final = 24
_SET_SECUREBITS: Final = 28
_CAP_AMBIENT: Final = 47
_CAP_AMBIENT_CLEAR_ALL: Final = 4
_SET_MDWE: Final = 65  # Linux 6.3
_MDWE_REFUSE_EXEC_GAIN: Final = 1
_CAPABILITY_VERSION_3: Final = 0x20080522
_JOIN_SESSION_KEYRING: Final = 1  # include/uapi/linux/keyctl.h
_CAP_SETGID: Final = 6
_CAP_SETUID: Final = 7
_CAP_SETPCAP: Final = 8
# NOROOT and NO_CAP_AMBIENT_RAISE on, NO_SETUID_FIXUP and KEEP_CAPS off, all of them locked so.
_SECUREBITS: Final = 0b11_10_10_11
_KEEP_CAPS: Final = 1 << 4

_CAPABILITIES: Final = """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
    NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT
    SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE
    AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ
    PERFMON BPF CHECKPOINT_RESTORE
"""
CAPABILITIES: Final = tuple(f"CAP_{name}" for name in _CAPABILITIES.split())
"""As the kernel numbers them (include/uapi/linux/capability.h; the last three since Linux 5.8 and 5.9)."""


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def effective_capabilities() -> int:
    """The capabilities of this thread, one bit each, as the kernel numbers them."""
    header, data = _Header(_CAPABILITY_VERSION_3, 0), (_Data * 2)()
    syscall("capget", ctypes.byref(header), ctypes.byref(data))
    return int(data[0].effective) | int(data[1].effective) << 32


def capability_bits(names: Iterable[str]) -> int:
    """As :func:`effective_capabilities` has them. Raises ValueError for a name that is none."""
    return sum(1 << CAPABILITIES.index(name) for name in set(names))


def filtered() -> bool:
    """Whether a seccomp filter holds this process."""
    return prctl_or_none(_GET_SECCOMP) == _FILTER_MODE


def close_ways_back(*, keep: int = 0) -> None:
    """Make capabilities unobtainable: empty the bounding and ambient sets, and take root's powers from root. With
    ``keep`` the permitted ones survive :func:`drop_user`.

    Must come while there are capabilities: without CAP_SETPCAP nothing is changed, and no_new_privs alone
    closes the way back. The sets that hold now are :func:`drop_capabilities`'s.
    """
    prctl_or_none(_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL)
    if not effective_capabilities() >> _CAP_SETPCAP & 1:
        return  # as in each child that is forked from what did this
    capability = 0
    while (present := prctl_or_none(_CAPBSET_READ, capability)) is not None:
        if present:
            prctl_or_none(_CAPBSET_DROP, capability)
        capability += 1
    prctl_or_none(_SET_SECUREBITS, _SECUREBITS | _KEEP_CAPS if keep else _SECUREBITS)


def drop_user() -> bool:
    """Become nobody, in no group, if this process may; whether it is not root now.

    Must come before the capabilities go: it needs CAP_SETGID and CAP_SETUID.
    """
    capabilities = effective_capabilities()
    try:
        if capabilities >> _CAP_SETGID & 1:
            _leave_groups()
            os.setresgid(NOBODY, NOBODY, NOBODY)
        if capabilities >> _CAP_SETUID & 1:
            os.setresuid(NOBODY, NOBODY, NOBODY)
    except OSError as error:
        if error.errno not in (
            errno.EINVAL,
            errno.EPERM,
        ):  # EINVAL: NOBODY has no place in this user namespace
            raise
    return 0 not in os.getresuid()


def _leave_groups() -> None:
    try:
        os.setgroups([])
    except PermissionError:
        # In a user namespace made without privilege nobody may leave a group (user_namespaces(7), CVE-2014-8989).
        # What groups may read, Landlock denies.
        pass


def drop_capabilities(*, keep: int = 0) -> int:
    """Empty the effective, permitted and inheritable sets, but for what is permitted of ``keep``. What is left.

    Raises:
        OSError: the kernel refused.
    """
    header, data = _Header(_CAPABILITY_VERSION_3, 0), (_Data * 2)()
    if keep:
        syscall("capget", ctypes.byref(header), ctypes.byref(data))
        for half, bits in zip(data, (keep & 0xFFFFFFFF, keep >> 32), strict=True):
            half.effective = half.permitted = half.permitted & bits
            half.inheritable = 0
    syscall("capset", ctypes.byref(header), ctypes.byref(data))
    return effective_capabilities()


def leave_session_keyring() -> bool:
    """Be in a session keyring of its own that nobody else has and that is empty, with all that it forks: it possesses
    no key of its user's session (keyrings(7)). Whether the kernel, and the container around it, allow that.
    """
    try:
        syscall("keyctl", _JOIN_SESSION_KEYRING, None)
    except OSError:
        # ENOSYS: not built in. EPERM: a container, as keys know nothing of it. EDQUOT: its user has as many keys as
        # it may.
        return False
    return True


def die_with_parent() -> None:
    """SIGKILL to this process when the *thread* that forked it ends.

    The kernel clears this on any change of credentials, so it comes after them. If the parent is gone already,
    nothing is sent: then the process learns it from its channel, which is closed.
    """
    prctl(_SET_PDEATHSIG, signal.SIGKILL)


def refuse_to_be_read() -> None:
    """No process of the same user may attach to this one, read its memory or its /proc entries.

    A change of credentials resets it (to fs.suid_dumpable), so it comes after them.
    """
    prctl(_SET_DUMPABLE, 0)


def refuse_executable_memory() -> bool:
    """No memory that could ever be written becomes executable, and none is both. Whether the kernel has that."""
    return prctl_or_none(_SET_MDWE, _MDWE_REFUSE_EXEC_GAIN) is not None
