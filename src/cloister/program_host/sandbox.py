"""What a foreign program may do: compute, read and write the pipes that it was handed, run what the system has."""

from __future__ import annotations

import msgspec

from cloister.interfaces.program_host import SYSTEM, Options, PreloadOptions
from cloister.sandbox import Files, Layer, Limits, Policy, Programs, in_force, landlock
from cloister.sandbox.policy import REQUIRED

__all__ = ["POLICY", "policy", "with_limits"]

_SYSTEM_FILES = ("/etc/ld.so.cache",)
_DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
"""Which keep nothing. Many a program opens the first one when it begins."""
_GIB = 1024 * 1024 * 1024
_PROCESSES = 256
"""Processes and threads of its user, of all programs with the same grants together: the kernel counts nothing narrower
without a cgroup."""


def policy(preload: PreloadOptions) -> Policy:
    """Of all that one branch forks."""
    # What a program started outlives it where only a signal to its parent tells it to end: a pid namespace ends all.
    files = Files(preload.read_paths, preload.write_paths, preload.delete_paths, preload.metadata_paths)
    starts = preload.starts_processes and Layer.PID_NAMESPACE in in_force()
    # Without Landlock's scope a program could send signals to its neighbours, who are the same user.
    is_scoped = Layer.LANDLOCK_SCOPE in landlock.layers(landlock.abi())
    return Policy(
        kind="program_host",
        groups=(
            *("stdio", "memory", "large_memory", "clock", "identity", "read_files", "program"),
            *(("write_files",) if files.write else ()),
            *(("delete_files",) if files.delete else ()),
            *(("rename_files",) if files.write and files.delete else ()),
            *(("threads",) if preload.threads else ()),
            *(("processes",) if starts else ()),
            *(("signals",) if starts and is_scoped else ()),
        ),
        read_paths=_SYSTEM_FILES,
        files=files,
        programs=Programs((*SYSTEM, *preload.programs), _DEVICES),
        denies_quietly=True,
        limits=Limits(processes=_PROCESSES if starts or preload.threads else 0),
        requires=REQUIRED - {Layer.NOT_DUMPABLE},
    )


def with_limits(policy: Policy, options: Options) -> Policy:
    """``policy`` for one program."""
    limits = msgspec.structs.replace(
        policy.limits,
        data=options.memory,
        # Libraries and files are mapped besides.
        address_space=options.memory + 8 * _GIB,
        file_size=options.file_size,
        open_files=options.open_files,
    )
    return msgspec.structs.replace(policy, limits=limits)


POLICY = policy(PreloadOptions())
