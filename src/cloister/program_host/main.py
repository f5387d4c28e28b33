"""The program_host's entry: channels[0] says which program; this process locks itself down, and becomes it."""

from __future__ import annotations

import os
import select
import signal
from typing import Final, NoReturn

import msgspec

from cloister.errors import BadMessage, ChannelClosed
from cloister.interfaces.control import CONTROL, Ready
from cloister.interfaces.program_host import PROGRAM, NotStarted, Options, PreloadOptions, Run
from cloister.ipc import Channel
from cloister.ipc.codec import Packet, codec
from cloister.ipc.start import Start
from cloister.sandbox import enter
from cloister.sandbox.kernel import syscall

from .sandbox import POLICY as _DEFAULT
from .sandbox import policy, with_limits

__all__ = ["POLICY", "main", "preload"]

POLICY = _DEFAULT
"""Once preloaded, that of what this branch forks."""

_CLOSE_RANGE_CLOEXEC: Final = 4  # include/uapi/linux/close_range.h, Linux 5.11
_LAST_DESCRIPTOR: Final = 2**32 - 1
_RUN_TIMEOUT: Final = 30.0
"""Seconds. The host sends Run as soon as it has forked this process."""


def preload(options: bytes) -> None:
    """``options`` are none, or the msgpack of PreloadOptions."""
    global POLICY  # noqa: PLW0603 - a branch is of one kind for good
    POLICY = policy(msgspec.msgpack.decode(options, type=PreloadOptions) if options else PreloadOptions())
    codec(PROGRAM, "server")
    codec(CONTROL, "server")
    msgspec.msgpack.Decoder(Options)


def main(start: Start) -> None:
    """Be told of the program by the host, lock down, and become it. Nothing of the program is read before."""
    options = msgspec.msgpack.decode(start.options, type=Options)
    run, pipes = _told(start.channels[0])
    os.setsid()  # its processes are one group, which ends as one
    # What is ignored stays so in the program, and Python ignores these.
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)
    syscall("close_range", 3, _LAST_DESCRIPTOR, _CLOSE_RANGE_CLOEXEC)
    report = enter(with_limits(POLICY, options), allow_degraded=start.allow_degraded)
    # write(2), as the program may do no more with a channel either.
    ready = Ready(tuple(report.layers), tuple(report.missing))
    os.write(start.control.fileno(), codec(CONTROL, "server").encode(Packet.EVENT, 0, ready))
    try:
        _become(run, pipes)
    except OSError as error:
        why = NotStarted(f"{run.path}: {os.strerror(error.errno or 0)}"[:500])
        os.write(start.channels[0].fileno(), codec(PROGRAM, "server").encode(Packet.EVENT, 0, why))


def _told(work: Channel) -> tuple[Run, list[int]]:
    poll = select.poll()
    poll.register(work.fileno(), select.POLLIN)
    if not poll.poll(_RUN_TIMEOUT * 1000):
        raise ChannelClosed("the host sent no Run")
    data, fds = work.receive()
    _, _, message = codec(PROGRAM, "server").decode(data)
    if not isinstance(message, Run):
        raise BadMessage("the host began with something else than Run")
    fds.check(message.expected_descriptors())
    return message, fds.release()


def _become(run: Run, pipes: list[int]) -> NoReturn:
    for number, pipe in enumerate(pipes):
        os.dup2(pipe, number)  # all of them are above 2
    os.execve(run.path, [os.fsencode(run.name), *run.arguments], dict(run.environment))  # noqa: S606 - its purpose
