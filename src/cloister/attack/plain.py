"""``python -m cloister.attack.plain FD``: the same attempts by a process of this user that nothing holds.

What it cannot do either says nothing about the sandbox. Each attempt is made in a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
from typing import Final

import msgspec

from ..errors import ChannelClosed
from ..interfaces.attack import ATTACK, ENDED, Targets, Tried, Try
from ..ipc import Channel
from ..ipc.codec import Packet, codec
from . import calls, held, memory
from .catalogue import make

__all__ = ["main"]

_DEADLINE: Final = 5.0  # seconds for one attempt


def main(number: int) -> None:
    """Answer each ``Try`` on descriptor ``number``. What comes first there are the ``Targets``."""
    work = Channel(number)
    messages = codec(ATTACK, "server")
    calls.remember_parent(os.getpid())
    held.prepare()
    memory.prepare()
    spare, _other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    held.hand_over(spare.fileno(), _other.fileno(), number)
    poll = select.poll()
    poll.register(number, select.POLLIN)
    with contextlib.suppress(ChannelClosed):
        poll.poll()
        targets = msgspec.msgpack.decode(work.receive()[0], type=Targets)
        while poll.poll():
            packet, request_id, message = messages.decode(work.receive()[0])
            if packet is Packet.REQUEST and isinstance(message, Try):
                tried = _try(message.name, targets)
                work.send(messages.encode(Packet.REPLY, request_id, tried))


def _try(name: str, targets: Targets) -> Tried:
    answers, answer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(answer, msgspec.msgpack.encode(make(name, targets, None)))
        finally:
            os._exit(0)
    os.close(answer)  # the other end closes when the process becomes another program
    said = os.read(answers, 4096) if _waited(answers) else b""
    os.close(answers)
    code = _ended(child)
    if said:
        return msgspec.msgpack.decode(said, type=Tried)
    # It became another program, which ended well; or the attempt ended it.
    return Tried(0 if code == 0 else ENDED, "", filtered=False)


def _ended(child: int) -> int:
    """How it ended, within the deadline or by being killed."""
    process = os.pidfd_open(child)
    if not _waited(process):
        os.kill(child, signal.SIGKILL)
    os.close(process)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _waited(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(_DEADLINE * 1000))


if __name__ == "__main__":
    main(int(sys.argv[1]))
