"""A process that answers one request."""

from __future__ import annotations

import errno
import os
import select
import threading
from collections.abc import Sequence

import pytest

from cloister.interfaces.base import Message
from cloister.interfaces.control import CONTROL, Ready
from cloister.interfaces.image_decoder import IMAGES, Decoded, DecodeFile
from cloister.ipc import Channel, Descriptors, memory
from cloister.ipc.codec import Packet, codec
from cloister.ipc.start import Start, answer_one


class Nothing:
    layers: Sequence[str] = ()
    missing: Sequence[str] = ()


def receive(channel: Channel) -> tuple[bytes, Descriptors]:
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    assert poll.poll(10_000)
    return channel.receive()


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ETOOMANYREFS, errno.ENOBUFS])
def test_each_packet_is_tried_again_while_there_is_no_room_for_it(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """What a user has in flight elsewhere counts, and the limit of a process for one image is low."""
    control, its_control = Channel.pair()
    work, its_work = Channel.pair()
    pixels = memory.sealed(bytes(4))
    refused: list[Channel] = []
    send = Channel.send

    def sending(channel: Channel, data: bytes, fds: list[int] | tuple[int, ...] = ()) -> None:
        if channel in {its_control, its_work} and refused.count(channel) < 2:
            refused.append(channel)
            raise BlockingIOError(number, "no room")
        send(channel, data, fds)

    def answer(_message: Message, fds: Descriptors) -> tuple[Decoded, list[int]]:
        fds.close()
        return Decoded(1, 1, "PNG"), [pixels]

    monkeypatch.setattr(Channel, "send", sending)
    thread = threading.Thread(
        target=answer_one, args=(Start(its_control, (its_work,)), Nothing(), IMAGES, answer)
    )
    thread.start()
    with open(__file__, "rb") as file:
        work.send(codec(IMAGES, "client").encode(Packet.REQUEST, 1, DecodeFile()), [file.fileno()])
    try:
        assert isinstance(codec(CONTROL, "client").decode(receive(control)[0])[2], Ready)
        data, fds = receive(work)
        assert codec(IMAGES, "client").decode(data) == (Packet.REPLY, 1, Decoded(1, 1, "PNG"))
        assert len(fds) == 1
        fds.close()
    finally:
        thread.join(10)
        os.close(pixels)
        for channel in (control, its_control, work, its_work):
            channel.close()
    assert not thread.is_alive()
    assert sorted(map(id, refused)) == sorted([id(its_control)] * 2 + [id(its_work)] * 2)
