"""What a fresh child lets go of before anything else: what its parent had open, and who its parent was."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from . import landlock, privileges
from .kernel import libc, syscall
from .layers import Layer, in_force, mark

__all__ = ["forget_environment", "shed"]

# Nothing here tells anything about the user but the language and the time zone, which dates are written in.
_KEPT_VARIABLES: Final = ("LANG", "LC_ALL", "LC_CTYPE", "TZ")
_LAST_DESCRIPTOR: Final = 2**32 - 1  # close_range(2): the whole table
# Of 1000; a program's own is 0 as a rule. What is lost with a child comes back (proc_pid_oom_score_adj(5)).
_FIRST_TO_GO: Final = 300

_has_none = False
"""Whether there is no environment, but for what was put into ``os.environ`` since."""


def shed(keep: Iterable[int]) -> None:
    """Let go of everything inherited but the descriptors ``keep``: call it first in every fresh child.

    Standard input reads nothing and standard output goes nowhere; standard error stays what it was, so that a
    crash can be told. Every other descriptor is closed. The environment is emptied but for the language and the
    time zone. The process is in a session without a terminal and without a key, in the root folder, with umask 077;
    when memory runs out, the kernel ends it before the program that started it.

    The strings of the environment that the process was *started* with stay in its memory: what starts a process
    with a new program should pass a bare environment.

    Raises:
        OSError: a descriptor in ``keep`` is not open, or /dev/null cannot be opened.
    """
    kept = sorted({number for number in {*keep, *landlock.descriptors()} if number > 2})
    for number in kept:
        os.fstat(number)
    _silence()
    _close_all_but(kept)
    mark({Layer.DESCRIPTORS})
    _empty_environment()
    mark({Layer.ENVIRONMENT})
    os.umask(0o077)
    os.chdir("/")
    # Forked from one that did this, it is in a session without a terminal already; and not being its leader, it
    # could not get one either.
    if Layer.OWN_SESSION not in in_force():
        if os.getsid(0) != os.getpid():
            os.setsid()
        mark({Layer.OWN_SESSION})
        if privileges.leave_session_keyring():
            mark({Layer.OWN_KEYRING})
        _be_first_to_go()


def _silence() -> None:
    """A child forked in an empty root has no /dev/null to open, and inherits what its parent did here."""
    for number in (0, 1):
        if not _is_null(number):
            null = os.open("/dev/null", os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)


def _is_null(number: int) -> bool:
    try:
        status = os.fstat(number)
    except OSError:
        return False
    # Documentation/admin-guide/devices.txt: character device 1, 3
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == os.makedev(1, 3)


def _close_all_but(kept: list[int]) -> None:
    first = 3
    for number in [*kept, _LAST_DESCRIPTOR + 1]:
        if number > first:
            _close_range(first, number - 1)
        first = number + 1


def _close_range(first: int, last: int) -> None:
    try:
        syscall("close_range", first, last, 0)
    except OSError as error:
        if error.errno != errno.ENOSYS:  # Linux 5.9
            raise
        os.closerange(first, min(last + 1, os.sysconf("SC_OPEN_MAX")))


def _be_first_to_go() -> None:
    score = Path("/proc/self/oom_score_adj")
    try:
        if int(score.read_text()) < _FIRST_TO_GO:
            score.write_text(str(_FIRST_TO_GO))
    except OSError:
        # No /proc, or a read-only one. It is a preference, not a wall.
        return


def forget_environment() -> None:
    """Leave nothing of the environment, once all that needs it is loaded. What is forked later has none to shed."""
    global _has_none  # noqa: PLW0603 - for the life of the process
    os.environ.clear()
    libc.clearenv()  # Python unsets what it read when it started, and a library may have set more since
    _has_none = True


def _empty_environment() -> None:
    if _has_none and not os.environ:
        return
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    forget_environment()
    os.environ.update(kept)
