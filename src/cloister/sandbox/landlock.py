"""Landlock: what files, ports, sockets of this machine and signals a process reaches, by the kernel's own objects.

Rules bind to inodes, not to names. So a rule on a folder does not cover what a symlink in it points to
(Debian's font folders hold such symlinks): :func:`~cloister.sandbox.paths.targets` finds those.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterable
from typing import Final

from .files import Files, Programs
from .kernel import syscall
from .layers import Layer
from .paths import targets

__all__ = ["abi", "descriptors", "forget", "layers", "prepare", "restrict", "why_none"]

# include/uapi/linux/landlock.h
_CREATE_RULESET_VERSION: Final = 1
_RULE_PATH_BENEATH: Final = 1
_EXECUTE: Final = 1 << 0
_WRITE_FILE: Final = 1 << 1
_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_REMOVE_DIR: Final = 1 << 4
_REMOVE_FILE: Final = 1 << 5
_MAKE_DIR: Final = 1 << 7
_MAKE_REG: Final = 1 << 8
_REFER: Final = 1 << 13
_TRUNCATE: Final = 1 << 14
_BIND_TCP: Final = 1 << 0
_CONNECT_TCP: Final = 1 << 1
_BIND_UDP: Final = 1 << 2
_CONNECT_SEND_UDP: Final = 1 << 3
_SCOPE_ABSTRACT_UNIX_SOCKET: Final = 1 << 0
_SCOPE_SIGNAL: Final = 1 << 1
_LOG_SAME_EXEC_OFF: Final = 1 << 0
_TSYNC: Final = 1 << 3

# How many of the file-system rights each version knows, counted from the first: 13 with Linux 5.13, then
# REFER (5.19), TRUNCATE (6.2), IOCTL_DEV (6.10) and RESOLVE_UNIX (7.1): connecting to a socket that has a path.
_FILE_RIGHTS: Final = ((9, 17), (5, 16), (3, 15), (2, 14), (1, 13))
_NETWORK_SINCE: Final = 4  # Linux 6.7
_SCOPE_SINCE: Final = 6  # Linux 6.12
_LOG_SINCE: Final = 7  # Linux 6.15
_TSYNC_SINCE: Final = 8  # Linux 7.0
_UDP_SINCE: Final = 10  # Linux 7.2


_READ: Final = _READ_FILE | _READ_DIR
# To move a file to another folder takes REFER on both, and the right to delete it where it was, and what it replaces.
_WRITE: Final = _WRITE_FILE | _TRUNCATE | _MAKE_DIR | _MAKE_REG | _REFER
_DELETE: Final = _REMOVE_FILE | _REMOVE_DIR
_OF_A_FILE: Final = _EXECUTE | _READ_FILE | _WRITE_FILE | _TRUNCATE
"""The rights that a rule on a file can give; the others are a folder's."""

_RESOLVE_NO_SYMLINKS: Final = 0x04  # include/uapi/linux/openat2.h, Linux 5.6
_AT_FDCWD: Final = -100


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _RulesetAttr(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneathAttr(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def abi() -> int:
    """The version of Landlock that this kernel has; 0 when it has none or it is switched off at boot."""
    return max(_version_or_error(), 0)


def why_none() -> str:
    """What keeps a kernel of :func:`abi` 0 from having Landlock, and what to do; empty when it has it."""
    return _WHY_NONE.get(-_version_or_error(), "")


_WHY_NONE: Final = {
    errno.ENOSYS: "it is not built in (CONFIG_SECURITY_LANDLOCK), or a container's seccomp profile hides it",
    errno.EOPNOTSUPP: "it is switched off at boot: put `landlock` into the kernel's parameter `lsm=`",
    errno.EPERM: "a container's seccomp profile refuses it: Docker from 23.0 on allows it",
}


def _version_or_error() -> int:
    try:
        return syscall("landlock_create_ruleset", None, 0, _CREATE_RULESET_VERSION)
    except OSError as error:
        if error.errno in _WHY_NONE:
            return -error.errno
        raise


def layers(version: int) -> frozenset[Layer]:
    """The layers that Landlock of ``version`` puts up."""
    since = {Layer.LANDLOCK: 1, Layer.LANDLOCK_NETWORK: _NETWORK_SINCE, Layer.LANDLOCK_SCOPE: _SCOPE_SINCE}
    return frozenset(layer for layer, first in since.items() if version >= first)


# Rulesets made ahead of time: walking the folders for symlinks takes longer than a child's whole start.
_rulesets: dict[tuple[tuple[str, ...], Files, Programs, bool], int] = {}
_NO_FILES: Final = Files()
_NO_PROGRAMS: Final = Programs()


def prepare(
    version: int,
    read_paths: tuple[str, ...],
    files: Files = _NO_FILES,
    programs: Programs = _NO_PROGRAMS,
    *,
    connects: bool,
) -> None:
    """Make the ruleset that :func:`restrict` will use for the same arguments, here or after a fork.

    Raises:
        OSError: the kernel refused the ruleset. A path that is not there is skipped.
    """
    asked = (read_paths, files, programs, connects)
    if asked not in _rulesets:
        _rulesets[asked] = _ruleset(version, targets(read_paths), files, programs, connects)


def descriptors() -> frozenset[int]:
    """The descriptors that prepared rulesets take."""
    return frozenset(_rulesets.values())


def forget() -> None:
    """Close the prepared rulesets."""
    while _rulesets:
        os.close(_rulesets.popitem()[1])


def restrict(
    version: int,
    read_paths: tuple[str, ...],
    files: Files = _NO_FILES,
    programs: Programs = _NO_PROGRAMS,
    *,
    connects: bool,
) -> None:
    """Hold this thread (from version 8 on, every thread) and all that it starts, for good: it may read ``read_paths``
    and what symlinks in them lead to, do with ``files`` what those say, read and run ``programs``, and with
    ``connects`` connect TCP sockets and use UDP. Needs no_new_privs.

    Before version 3 truncating is not held, nor is looking at a file's size and times in any: the callers' filter and
    file tree are there for that. Before version 2 nothing moves from one folder to another.

    Raises:
        OSError: the kernel refused (E2BIG: 16 rulesets hold it already).
    """
    prepare(version, read_paths, files, programs, connects=connects)
    flags = 0
    if version >= _LOG_SINCE:
        # A page could fill the machine's audit log with what it is denied.
        flags |= _LOG_SAME_EXEC_OFF
    if version >= _TSYNC_SINCE:
        flags |= _TSYNC
    syscall("landlock_restrict_self", _rulesets[read_paths, files, programs, connects], flags)


def _ruleset(
    version: int, read_paths: Iterable[str], files: Files, programs: Programs, connects: bool
) -> int:
    rights = next(count for since, count in _FILE_RIGHTS if version >= since)
    attributes = _RulesetAttr(handled_access_fs=(1 << rights) - 1)
    size = 8
    if version >= _NETWORK_SINCE:
        attributes.handled_access_net = _BIND_TCP if connects else _BIND_TCP | _CONNECT_TCP
        size = 16
    if version >= _UDP_SINCE and not connects:  # to send takes a port of its own, which is binding one
        attributes.handled_access_net |= _BIND_UDP | _CONNECT_SEND_UDP
    if version >= _SCOPE_SINCE:
        attributes.scoped = _SCOPE_ABSTRACT_UNIX_SOCKET | _SCOPE_SIGNAL
        size = 24
    ruleset = syscall("landlock_create_ruleset", ctypes.byref(attributes), size, 0)
    try:
        for path in read_paths:
            _allow(ruleset, path, _READ, resolve=0)
        for paths, granted in (
            (programs.paths, _READ | _EXECUTE),
            (programs.devices, _READ_FILE | _WRITE_FILE),
        ):
            for path in paths:
                _allow(ruleset, path, granted, resolve=0)
        for paths, granted in (
            (files.read, _READ),
            (files.write, _WRITE),
            (files.delete, _DELETE),
            (files.metadata, _READ_DIR),
        ):
            for path in paths:
                known = granted & attributes.handled_access_fs
                _allow(ruleset, path, known, resolve=_RESOLVE_NO_SYMLINKS)
    except OSError:
        os.close(ruleset)
        raise
    return ruleset


def _allow(ruleset: int, path: str, rights: int, *, resolve: int) -> None:
    """Below ``path``; one that is not there, or not without a symlink where ``resolve`` says so, is skipped."""
    how = _OpenHow(os.O_PATH | os.O_CLOEXEC, 0, resolve)
    try:
        if resolve:
            name = os.fsencode(path)
            descriptor = syscall("openat2", _AT_FDCWD, name, ctypes.byref(how), ctypes.sizeof(how))
        else:
            descriptor = os.open(path, how.flags)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP):
            return
        raise
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _OF_A_FILE
        if rights:
            rule = _PathBeneathAttr(rights, descriptor)
            syscall("landlock_add_rule", ruleset, _RULE_PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(descriptor)
