"""What a child starts with, and all there is to one that answers a single request. Without an event loop."""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from ..errors import BadMessage, ChannelClosed, RequestFailed
from ..interfaces.base import Failure, Interface, Message, Reply
from ..interfaces.control import CONTROL, Ping, Pong, Ready, Shutdown
from .channel import Channel
from .codec import Codec, Packet, codec, failure_code
from .descriptors import Descriptors

__all__ = ["Report", "Start", "answer_one"]

_RETRY_AFTER = 10  # milliseconds


class Report(Protocol):
    """What lock-down says of itself (``cloister.sandbox.Report``)."""

    @property
    def layers(self) -> Sequence[str]: ...
    @property
    def missing(self) -> Sequence[str]: ...


class Start(msgspec.Struct, frozen=True):
    """What a child is given: its control channel, its work channels in the order of its kind, its options."""

    control: Channel
    channels: tuple[Channel, ...]
    options: bytes = b""
    allow_degraded: bool = False


def answer_one(
    start: Start,
    report: Report,
    interface: Interface,
    handle: Callable[[Message, Descriptors], tuple[Reply, list[int]]],
) -> None:
    """Say Ready, answer the first request on the first work channel, return. Or return when asked to end, or when
    nobody can ask any more.

    For a process that is made for one request: an event loop would double what it costs. ``handle`` may raise
    :class:`RequestFailed`; the descriptors that it returns are given away.
    """
    control, work = start.control, start.channels[0]
    told = codec(CONTROL, "server")
    _send(control, told.encode(Packet.EVENT, 0, Ready(tuple(report.layers), tuple(report.missing))))
    poll = select.poll()
    poll.register(control.fileno(), select.POLLIN)
    poll.register(work.fileno(), select.POLLIN)
    try:
        while True:
            for fd, _ in poll.poll():
                if fd == work.fileno():
                    if _answered(work, codec(interface, "server"), handle):
                        return
                    continue
                _, request_id, message = told.decode(control.receive()[0])
                if isinstance(message, Shutdown):
                    return
                if isinstance(message, Ping):
                    _send(control, told.encode(Packet.REPLY, request_id, Pong(message.nonce)))
    except (ChannelClosed, BadMessage):  # who breaks the protocol is not answered
        return


def _answered(
    work: Channel, codec: Codec, handle: Callable[[Message, Descriptors], tuple[Reply, list[int]]]
) -> bool:
    data, fds = work.receive()
    packet, request_id, message = codec.decode(data)
    if packet is not Packet.REQUEST or message is None:
        return False  # a cancellation: the asker is about to close the channel
    fds.check(message.expected_descriptors())
    give: list[int] = []
    try:
        reply, give = handle(message, fds)
    except RequestFailed as error:
        reply = Failure(failure_code(error.code), error.detail[:500])
    _send(work, codec.encode(Packet.REPLY, request_id, reply), give)
    return True


def _send(channel: Channel, data: bytes, fds: Sequence[int] = ()) -> None:
    """Until there is room for it. Who waits for an answer has a deadline, and ends who does not give one.

    What a user who is not root has in flight, all processes together, may not be more than the sender's RLIMIT_NOFILE
    (unix(7), ETOOMANYREFS), and that of a process for one request is low.
    """
    while True:
        try:
            channel.send(data, list(fds))
            return
        except BlockingIOError:
            select.poll().poll(_RETRY_AFTER)
