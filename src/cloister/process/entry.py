"""``python -m cloister --subprocess-kind=KIND``: the first lines of a process started by exec.

Namespaces come before imports: a new user namespace needs a single thread, and libraries start some.
"""

from __future__ import annotations

import os
import select
import signal
import sys

from .. import sandbox
from ..sandbox.kernel import syscall
from .kinds import HOST_NETWORK, MODULES
from .variables import CHANNEL_VARIABLE, SHARED_VARIABLE

__all__ = ["main"]

EXIT_USAGE = 2
_GREETING_TIMEOUT = 10.0  # seconds
_CLONE_PARENT = 0x00008000  # include/uapi/linux/sched.h


def main(kind: str) -> int:
    """Become ``kind``. Returns an exit code only where this process does not become it."""
    if kind not in MODULES:
        return _usage(f"unknown kind of process {kind!r}; there are {', '.join(MODULES)}")
    try:
        channel = int(os.environ.pop(CHANNEL_VARIABLE))
        os.fstat(channel)
    except (KeyError, ValueError, OSError):
        return _usage(f"{kind} is started by Cloister itself: {CHANNEL_VARIABLE} names no open descriptor")
    shared = {sandbox.Layer(name) for name in os.environ.pop(SHARED_VARIABLE, "").split(",") if name}
    # Python's own handler would return, and no child may return from a handler (rt_sigreturn).
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    environment = dict(os.environ)  # the launcher's short list; it is needed until everything is read
    sandbox.shed([channel])
    connects = kind in HOST_NETWORK or kind == "zygote"  # which moves its branches out of it, but for one
    if connects:
        shared.add(sandbox.Layer.NETWORK_NAMESPACE)
    isolated = sandbox.isolate(sandbox.NAMESPACES - shared)
    from .start import greet, serve

    pid = os.getpid()
    if sandbox.Layer.PID_NAMESPACE in isolated:
        greeted, greets = os.pipe()
        if pid := _sibling():
            greet(channel, pid)
            return 0
        os.close(greets)
        # Its first word comes after the greeting. The other process closes its end when it ends.
        if not select.select([greeted], [], [], _GREETING_TIMEOUT)[0]:
            return _usage(f"{kind}: the process that began it hangs")
        os.close(greeted)
        sandbox.forbid_executable_memfds()
    if pid:
        greet(channel, pid)
    os.environ.update(environment)
    return serve(MODULES[kind], channel)


def _sibling() -> int:
    """Fork into the new pid namespace, as a child of the launcher: its pid there, 0 in it.

    The first process of a pid namespace takes all others with it when it ends. With fork(2) this process would
    have to stay, an interpreter that does nothing but wait. Python's fork hooks are not run: nothing is loaded
    yet that has any, and there is one thread.
    """
    return syscall("clone", _CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)


def _usage(message: str) -> int:
    print(f"cloister: {message}", file=sys.stderr)
    return EXIT_USAGE
