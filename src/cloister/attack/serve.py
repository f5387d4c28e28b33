"""Making one attempt after the other, as the doctor asks for them."""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from typing import Final

from cloister.errors import ChannelClosed
from cloister.interfaces.attack import ATTACK, Targets, Tried, Try
from cloister.ipc import Channel
from cloister.ipc.codec import Packet, codec
from cloister.sandbox import Policy

from .catalogue import make

__all__ = ["serve", "serve_by_forking"]

_DEADLINE: Final = 5.0  # seconds for one attempt in a process of its own
_ANSWERED: Final = 33  # its exit code; a program that it became would end with 0
_FAILED: Final = 70


def serve(work: Channel, targets: Targets, policy: Policy | None) -> None:
    """Until the doctor closes ``work``, or an attempt ends this process. ``policy`` is whose filter holds it."""
    _serve(work, lambda name, answer: answer(make(name, targets, policy)))


def serve_by_forking(work: Channel, targets: Targets, policy: Policy | None) -> None:
    """The same for a process that may fork: each attempt ends no process but its own."""

    def attempt(name: str, answer: Callable[[Tried], None]) -> None:
        child = os.fork()
        if child == 0:
            code = _FAILED
            try:
                answer(make(name, targets, policy))
                code = _ANSWERED
            finally:
                os._exit(code)
        code = _end_of(child)
        if code != _ANSWERED:
            answer(Tried(0, "", filtered=False, signal=max(0, -code)))

    _serve(work, attempt)


def _serve(work: Channel, attempt: Callable[[str, Callable[[Tried], None]], None]) -> None:
    messages = codec(ATTACK, "server")
    poll = select.poll()
    poll.register(work.fileno(), select.POLLIN)
    try:
        while poll.poll():
            packet, request_id, message = messages.decode(work.receive()[0])
            if packet is Packet.REQUEST and isinstance(message, Try):

                def answer(tried: Tried, to: int = request_id) -> None:
                    work.send(messages.encode(Packet.REPLY, to, tried))

                attempt(message.name, answer)
    except ChannelClosed:
        return


def _end_of(child: int) -> int:
    """Its exit code, or minus the signal that ended it: SIGKILL at the deadline."""
    process = os.pidfd_open(child)
    poll = select.poll()
    poll.register(process, select.POLLIN)
    if not poll.poll(_DEADLINE * 1000):
        signal.pidfd_send_signal(process, signal.SIGKILL)
    os.close(process)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
