"""What a plugin's process may do: compute, answer on its channel, read the standard library and what was granted."""

from __future__ import annotations

import msgspec

from cloister.interfaces.plugin_host import Options, PreloadOptions
from cloister.sandbox import Limits, Policy

from . import library

__all__ = ["POLICY", "policy", "with_limits"]

_GIB = 1024 * 1024 * 1024
_THREADS = 1024
"""Processes and threads of its user, all plugins' together: the kernel counts nothing narrower without a cgroup."""


def policy(preload: PreloadOptions, read_paths: tuple[str, ...] = ()) -> Policy:
    """Of all that one branch forks; ``read_paths`` come on top of the standard library and of those in ``preload``."""
    return Policy(
        kind="plugin_host",
        groups=(
            *("stdio", "memory", "large_memory", "ipc", "clock", "read_files"),
            *(("threads",) if preload.threads else ()),
        ),
        read_paths=(*library.paths(), *preload.read_paths, *read_paths),
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


POLICY = policy(PreloadOptions())
