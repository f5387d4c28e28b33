"""Resource limits (setrlimit(2)): a second fence behind seccomp, and the only one against greed."""

from __future__ import annotations

import resource
from typing import Final

import msgspec

__all__ = ["Limits"]

_MIB: Final = 1024 * 1024


class Limits(msgspec.Struct, frozen=True):
    """Hard limits of one process; ``None`` leaves a limit as it is. None is ever raised.

    A child forked with every library in memory maps about 250 MiB before it does anything, few of them resident.
    """

    address_space: int | None = 4096 * _MIB
    """Bytes mapped, libraries and shared bitmaps included (RLIMIT_AS)."""
    data: int | None = 2048 * _MIB
    """Bytes of heap and private anonymous memory (RLIMIT_DATA; these since Linux 4.7)."""
    stack: int | None = 8 * _MIB
    """Bytes of the main thread's stack (RLIMIT_STACK). Endless recursion ends here, also where the user has
    lifted the limit."""
    file_size: int | None = 1024 * _MIB
    """Bytes of one file; of one memfd, that is, as there is nowhere to make a file (RLIMIT_FSIZE)."""
    open_files: int | None = 256
    """Descriptors (RLIMIT_NOFILE)."""
    processes: int | None = 0
    """Processes and threads of its user: 0 fails every fork and every thread with EAGAIN (RLIMIT_NPROC)."""
    cpu_seconds: int | None = None
    """Seconds of processor time; then SIGKILL (RLIMIT_CPU)."""
    core: int | None = 1
    """Bytes of a core dump: it would write what the page knew to the disk (RLIMIT_CORE). 1, not 0: the kernel does not
    look at the limit where `core_pattern` is a pipe (systemd-coredump, apport), except that 1 means none there too
    (do_coredump, fs/coredump.c, since Linux 2.6.32)."""
    locked_memory: int | None = 0
    """Bytes kept from being swapped (RLIMIT_MEMLOCK)."""
    message_queues: int | None = 0
    """Bytes in POSIX message queues (RLIMIT_MSGQUEUE)."""
    pending_signals: int | None = 0
    """Signals of its user that wait with their data (RLIMIT_SIGPENDING): 0 leaves the usual ones, and no timers."""
    realtime_priority: int | None = 0
    """Highest priority of real-time scheduling (RLIMIT_RTPRIO): desktops give their users some, for sound."""
    nice: int | None = 0
    """20 minus the lowest nice value that it may take (RLIMIT_NICE)."""

    def apply(self) -> None:
        """Set them in this process. A limit that is already lower stays.

        Raises:
            OSError: the kernel refused one.
        """
        for kind, value in (
            (resource.RLIMIT_AS, self.address_space),
            (resource.RLIMIT_DATA, self.data),
            (resource.RLIMIT_STACK, self.stack),
            (resource.RLIMIT_FSIZE, self.file_size),
            (resource.RLIMIT_NOFILE, self.open_files),
            (resource.RLIMIT_NPROC, self.processes),
            (resource.RLIMIT_CPU, self.cpu_seconds),
            (resource.RLIMIT_CORE, self.core),
            (resource.RLIMIT_MEMLOCK, self.locked_memory),
            (resource.RLIMIT_MSGQUEUE, self.message_queues),
            (resource.RLIMIT_SIGPENDING, self.pending_signals),
            (resource.RLIMIT_RTPRIO, self.realtime_priority),
            (resource.RLIMIT_NICE, self.nice),
        ):
            if value is not None:
                _lower(kind, value)


def _lower(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    allowed = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (allowed, allowed))
