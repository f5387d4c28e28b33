"""``python -m cloister.attack.plain FD``: the same attempts by a process of this user that nothing holds.

What it cannot do either says nothing about the sandbox.
"""

from __future__ import annotations

import os
import select
import socket
import sys

import msgspec

from ..interfaces.attack import Targets
from ..ipc import Channel
from . import calls, held, memory
from .serve import serve_by_forking

__all__ = ["main"]


def main(number: int) -> None:
    """Make attempts as descriptor ``number`` asks for them. What comes first there are the ``Targets``."""
    work = Channel(number)
    calls.remember_parent(os.getpid())
    held.prepare()
    memory.prepare()
    channel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    held.hand_over(channel.fileno(), other.fileno(), number)
    poll = select.poll()
    poll.register(number, select.POLLIN)
    poll.poll()
    targets = msgspec.msgpack.decode(work.receive()[0], type=Targets)
    with open(targets.secret, "rb"):  # noqa: PTH123 - left open, for the attempt that looks for such
        serve_by_forking(work, targets, None)


if __name__ == "__main__":
    main(int(sys.argv[1]))
