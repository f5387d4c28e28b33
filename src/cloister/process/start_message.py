"""What a process that was started by exec waits for."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import LaunchError
from ..interfaces.zygote import LAUNCH, Start
from ..ipc import Channel, Descriptors, blob
from ..ipc.codec import Packet, codec

__all__ = ["send"]


def send(control: Channel, options: bytes, channels: Sequence[Channel], allow_degraded: bool) -> None:
    """Hand over ``options`` and copies of ``channels``. Raises :class:`LaunchError` and ChannelClosed."""
    body, memfds = blob.pack(options)
    owned = Descriptors(memfds)
    fds = [channel.fileno() for channel in channels]
    message = Start(body, len(fds), allow_degraded)
    try:
        control.send(codec(LAUNCH, "client").encode(Packet.EVENT, 0, message), (*fds, *owned.borrow()))
    except BlockingIOError as error:
        raise LaunchError(f"its start options could not be sent: {error}") from error
    finally:
        owned.close()
