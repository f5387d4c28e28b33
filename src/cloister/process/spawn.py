"""The first step of a start by exec. It imports next to nothing, so that a command can take it before the rest of
itself is imported: the zygote loads its libraries meanwhile."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from typing import Final, NamedTuple

from ..errors import LaunchError, OutOfDescriptors, descriptors_left
from .variables import CHANNEL_VARIABLE, LOG_VARIABLE, SHARED_VARIABLE

__all__ = ["Spawned", "abandon", "spawn", "spawn_ahead", "take"]

_END_TIMEOUT = 2.0  # seconds

_PASSED: Final = (
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


class Spawned(NamedTuple):
    """A process that begins. Both descriptors are the holder's to close."""

    pid: int
    control: int
    errors: int
    """The reading end of its standard error."""


_ahead: dict[str, Spawned] = {}


def spawn_ahead(kind: str) -> None:
    """Start a ``kind`` that :func:`take` will hand out; one that nobody takes ends with this program. What hinders
    it will hinder :func:`take`, where it is known what for."""
    if kind not in _ahead:
        with contextlib.suppress(LaunchError, OutOfDescriptors):
            _ahead[kind] = spawn(kind)


def abandon() -> None:
    """End what was started ahead and never taken. For a program that ends and has no other children: it waits for
    every child, as it cannot know the one that made itself a pid namespace."""
    while _ahead:
        _, spawned = _ahead.popitem()
        os.close(spawned.control)  # whatever it has become ends when it finds nobody there
        os.close(spawned.errors)
        os.kill(spawned.pid, signal.SIGKILL)
        deadline = time.monotonic() + _END_TIMEOUT
        with contextlib.suppress(ChildProcessError):
            while time.monotonic() < deadline:
                if os.waitpid(-1, os.WNOHANG) == (0, 0):
                    time.sleep(0.005)


def take(kind: str) -> Spawned:
    """The ``kind`` that was started ahead, or a new one. Raises :class:`LaunchError`."""
    return _ahead.pop(kind, None) or spawn(kind)


def spawn(kind: str, shares: tuple[str, ...] = ()) -> Spawned:
    """Start ``python -m cloister --subprocess-kind=KIND``, which stays in the namespaces ``shares`` of this program.
    Raises :class:`LaunchError` or :class:`OutOfDescriptors`."""
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        with descriptors_left():
            here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.enter_context(here)
            theirs.enter_context(there)
            # A full pipe must not stop a child, so its end does not block.
            reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            ours.callback(os.close, reader)
            theirs.callback(os.close, writer)
            null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            theirs.callback(os.close, null)
        pid = _spawn(kind, there.fileno(), writer, null, shares)
        ours.pop_all()
        return Spawned(pid, here.detach(), reader)


def _spawn(kind: str, channel: int, errors: int, null: int, shares: tuple[str, ...]) -> int:
    environment = {name: os.environ[name] for name in _PASSED if name in os.environ}
    environment[CHANNEL_VARIABLE] = str(channel)
    if shares:
        environment[SHARED_VARIABLE] = ",".join(shares)
    try:
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-m", "cloister", f"--subprocess-kind={kind}"],
            environment,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, null, 0),
                (os.POSIX_SPAWN_DUP2, null, 1),
                (os.POSIX_SPAWN_DUP2, errors, 2),
                (os.POSIX_SPAWN_DUP2, channel, channel),  # takes its close-on-exec away
            ],
            setsid=True,  # Ctrl-C is for the browser, which ends its children in order
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD],
        )
    except OSError as error:
        raise LaunchError(f"{kind} could not be started: {sys.executable}: {error.strerror}") from error
