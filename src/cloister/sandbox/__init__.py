"""What a process may do, decided by the kernel: Landlock, seccomp, namespaces, an empty root, limits and the rest.

A process is locked down by itself, from inside, before it reads a foreign byte::

    POLICY = Policy("thumbnailer", groups=("stdio", "memory", "ipc"))

    shed(keep=[channel.fileno()])       # first: descriptors, environment, session
    isolate(POLICY.namespaces)          # while there is a single thread
    import everything_that_is_needed    # nothing can be loaded later
    enter_empty_root(POLICY.read_paths)
    report = enter(POLICY)              # last; raises SandboxUnavailable on a kernel that cannot

Each layer stands alone, so that any one of them failing leaves the others. :func:`machine` says what this
machine offers.
"""

from .empty_root import cover, enter_empty_root
from .files import Files, Programs
from .layers import ABOUT, Layer, in_force
from .limits import Limits
from .lockdown import enter, prepare
from .machine import LayerStatus, Machine, machine
from .namespaces import forbid_executable_memfds, isolate, unshare
from .policy import NAMESPACES, REQUIRED, Policy, Report
from .shed import forget_environment, shed
from .zygote import POLICY as ZYGOTE
from .zygote import zygote_policy

__all__ = [
    "ABOUT",
    "NAMESPACES",
    "REQUIRED",
    "ZYGOTE",
    "Files",
    "Layer",
    "LayerStatus",
    "Limits",
    "Machine",
    "Policy",
    "Programs",
    "Report",
    "cover",
    "enter",
    "enter_empty_root",
    "forbid_executable_memfds",
    "forget_environment",
    "in_force",
    "isolate",
    "machine",
    "prepare",
    "shed",
    "unshare",
    "zygote_policy",
]
