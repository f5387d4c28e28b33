"""What a plugin's process may do: compute, answer on its channel, read the standard library and what was granted."""

from __future__ import annotations

import os

import msgspec

from cloister.interfaces.plugin_host import Options, PreloadOptions
from cloister.sandbox import NAMESPACES, Files, Layer, Limits, Policy, Report

from . import library

__all__ = ["POLICY", "policy", "unusable", "with_limits"]

_GIB = 1024 * 1024 * 1024
_THREADS = 1024
"""Processes and threads of its user, all plugins' together: the kernel counts nothing narrower without a cgroup."""


def policy(preload: PreloadOptions, read_paths: tuple[str, ...] = ()) -> Policy:
    """Of all that one branch forks; ``read_paths`` come on top of the standard library. What was granted is in
    ``preload``."""
    files = Files(preload.read_paths, preload.write_paths, preload.delete_paths, preload.metadata_paths)
    return Policy(
        kind="plugin_host",
        groups=(
            *("stdio", "memory", "large_memory", "ipc", "clock", "read_files"),
            *(("threads",) if preload.threads else ()),
            *(("write_files",) if files.write else ()),
            *(("delete_files",) if files.delete else ()),
            *(("rename_files",) if files.write and files.delete else ()),
            *(("listeners",) if preload.listens else ()),
        ),
        read_paths=(*library.paths(), *read_paths),
        files=files,
        keep=preload.keep,
        namespaces=NAMESPACES - {Layer(name) for name in preload.shares},
        limits=Limits(processes=_THREADS if preload.threads else 0),
    )


def with_limits(policy: Policy, options: Options, used: tuple[int, int]) -> Policy:
    """``policy`` for one plugin. ``used`` are the bytes of data, and of addresses, that every process begins with."""
    data, addresses = used
    limits = msgspec.structs.replace(
        policy.limits,
        data=data + options.memory,
        # Buffers in shared memory are mapped besides: they are the host's, or memfds of at most file_size.
        address_space=addresses + options.memory + 8 * _GIB,
        file_size=options.file_size,
        open_files=options.open_files,
    )
    return msgspec.structs.replace(policy, limits=limits)


def unusable(policy: Policy, report: Report) -> str:
    """What it was granted and cannot use, in words, as the process itself finds once it is locked down; or nothing."""
    files = policy.files
    held = Layer.LANDLOCK.value not in report.missing
    if (files.write or files.delete) and not held:
        return "without Landlock nothing holds a plugin to the folders in which it may write or delete"
    for path in files.delete:
        if os.path.isfile(path):  # noqa: PTH113
            return f"fs:delete: {path} is a file, and what may delete it is a right on its folder"
    wanted = (
        ("fs:read", files.read, os.R_OK),
        ("fs:write", files.write, os.W_OK),
        ("fs:delete", files.delete, os.W_OK),
        ("fs:metadata", files.metadata, os.R_OK),
    )
    for capability, paths, mode in wanted:
        for path in paths:
            # access(2) asks for a user without capabilities.
            if problem := _problem(path, os.F_OK if policy.keep else mode, capability):
                return f"{capability}: {path} {problem}"
    return ""


def _problem(path: str, mode: int, capability: str) -> str:
    if not os.path.lexists(path):
        return "is not there, has a symlink in it, or is where the plugin's user may not pass"
    if mode and os.path.isdir(path):  # noqa: PTH112
        mode |= os.X_OK
    elif capability == "fs:metadata":
        mode = os.F_OK
    if os.access(path, mode):
        return ""
    return (
        "cannot be used by the user that the plugin runs as: nobody, where the program is root. Let that user have it "
        "(chown, chmod or setfacl), or grant another path"
    )


POLICY = policy(PreloadOptions())
