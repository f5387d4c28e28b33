"""The first step of a start by exec.

It imports nothing that is not there when Python has started: :mod:`.early` takes it before anything else is done, and
``contextlib``, ``socket``, ``signal`` and ``typing`` would take another 15 ms, our own errors one.
"""

from __future__ import annotations

import _socket
import errno
import os
import sys

from .variables import CHANNEL_VARIABLE, LIBRARIES_VARIABLE, LOG_VARIABLE, SHARED_VARIABLE

__all__ = ["Spawned", "spawn"]

_SIGNALS = (2, 13, 15, 17)
"""SIGINT, SIGPIPE, SIGTERM and SIGCHLD, as signal(7) has them for x86 and ARM."""
_PASSED = (
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "XDG_CACHE_HOME",
    "XDG_DATA_HOME",
    "XDG_CONFIG_HOME",
    "FONTCONFIG_FILE",
    "FONTCONFIG_PATH",
    "LD_LIBRARY_PATH",  # where Python itself was built against libraries elsewhere
    LOG_VARIABLE,
)
"""What a child may know of the environment while it preloads: where certificates and fonts are. The rest may
hold secrets; and what is here is gone before a foreign byte comes."""


_BEGIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "begin.py")  # noqa: PTH100, PTH118, PTH120
_INSTALLED = ("site-packages", "dist-packages")  # docs.python.org/3/library/site.html, and Debian's


class Spawned:
    """A process that begins: its pid, and two descriptors that are the holder's to close: its control channel, and the
    reading end of its standard error."""

    def __init__(self, pid: int, control: int, errors: int) -> None:
        self.pid = pid
        self.control = control
        self.errors = errors


def spawn(kind: str, shares: tuple[str, ...] = ()) -> Spawned:
    """Start what ``python -m cloister --subprocess-kind=KIND`` is, in the namespaces ``shares`` of this program.
    Raises :class:`LaunchError` or :class:`OutOfDescriptors`."""
    ours: list[int] = []
    theirs: list[int] = []
    try:
        here, there = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)  # both close-on-exec
        ours.append(here.detach())
        theirs.append(there.detach())
        # A full pipe must not stop a child, so its end does not block.
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        ours.append(reader)
        theirs.append(writer)
        theirs.append(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
        channel, errors, null = theirs
        pid = _spawn(kind, channel, errors, null, shares)
    except BaseException as error:
        for descriptor in ours:
            os.close(descriptor)
        if isinstance(error, OSError):
            raise _refusal(kind, error) from error
        raise
    finally:
        for descriptor in theirs:
            os.close(descriptor)
    control, said = ours
    return Spawned(pid, control, said)


def _spawn(kind: str, channel: int, errors: int, null: int, shares: tuple[str, ...]) -> int:
    environment = {name: os.environ[name] for name in _PASSED if name in os.environ}
    environment[CHANNEL_VARIABLE] = str(channel)
    environment[LIBRARIES_VARIABLE] = os.pathsep.join(_libraries())
    if shares:
        environment[SHARED_VARIABLE] = ",".join(shares)
    return os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", "-S", _BEGIN, f"--subprocess-kind={kind}"],
        environment,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, null, 0),
            (os.POSIX_SPAWN_DUP2, null, 1),
            (os.POSIX_SPAWN_DUP2, errors, 2),
            (os.POSIX_SPAWN_DUP2, channel, channel),  # takes its close-on-exec away
        ],
        setsid=True,  # Ctrl-C is for the browser, which ends its children in order
        setsigmask=[],
        setsigdef=_SIGNALS,
    )


def _refusal(kind: str, error: OSError) -> Exception:
    from ..errors import LaunchError, OutOfDescriptors

    if error.errno in (errno.EMFILE, errno.ENFILE):
        return OutOfDescriptors()
    return LaunchError(f"{kind} could not be started: {sys.executable}: {error.strerror}")


def _libraries() -> list[str]:
    """Where this program finds Cloister, and what was installed: not the folder that the program itself is in, nor the
    one where it was started, where a stranger may have put a file with a library's name. So none that hangs on that
    folder, nor one that would be read as two, of which the second does."""
    own = os.path.dirname(os.path.dirname(os.path.dirname(_BEGIN)))  # noqa: PTH120
    # A program may have put a Path there, which Python passes over.
    folders = [
        each for each in sys.path if isinstance(each, str) and each.startswith("/") and os.pathsep not in each
    ]
    names = [each.rstrip("/").rpartition("/")[2] for each in folders]
    first = next((number for number, name in enumerate(names) if name in _INSTALLED), len(names))
    return list(dict.fromkeys([*folders[first:], own]))
