"""Making one attempt after the other, as the doctor asks for them."""

from __future__ import annotations

import select

from cloister.errors import ChannelClosed
from cloister.interfaces.attack import ATTACK, Targets, Try
from cloister.ipc import Channel
from cloister.ipc.codec import Packet, codec
from cloister.sandbox import Policy

from .catalogue import make

__all__ = ["serve"]


def serve(work: Channel, targets: Targets, policy: Policy | None) -> None:
    """Until the doctor closes ``work``; ``policy`` is whose filter holds this process."""
    messages = codec(ATTACK, "server")
    poll = select.poll()
    poll.register(work.fileno(), select.POLLIN)
    try:
        while poll.poll():
            packet, request_id, message = messages.decode(work.receive()[0])
            if packet is Packet.REQUEST and isinstance(message, Try):
                work.send(messages.encode(Packet.REPLY, request_id, make(message.name, targets, policy)))
    except ChannelClosed:
        return
