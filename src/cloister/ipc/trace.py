"""What passes between the browser process and its children, as one line of JSON for each message.

A :class:`Trace` belongs to one browser. A connection looks for :data:`current` once, when it is made, so whoever
makes one need not know of traces; without one, a message costs the question whether there is one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from contextvars import ContextVar
from typing import Any

import msgspec

from ..errors import InvalidArgument
from ..interfaces.base import Message
from .channel import Channel
from .codec import Packet

__all__ = ["Tap", "Trace", "current"]

log = logging.getLogger("cloister.ipc")

_FLUSH_AFTER = 0.2
"""Seconds that a line waits at the most: somebody may be looking on with ``tail -f``."""
_FLUSH_AT = 64 * 1024
"""Bytes that wait at the most."""


class Trace:
    """A file that gets a line for each message of one browser.

    It is appended to, and readable by its owner alone when it is made here. With ``payload`` the lines hold what
    the messages say too: addresses, documents, text. Without, they hold nothing that came from a page. A file
    that takes no more (a full disk, a pipe that nobody empties) ends the trace with one warning, and nothing else.

    Raises :class:`InvalidArgument` when it cannot be opened.
    """

    def __init__(self, path: str | os.PathLike[str], *, payload: bool = False) -> None:
        self._name = os.fspath(path)
        self._payload = payload
        self._waiting = bytearray()
        # O_NONBLOCK: a pipe may not hold the browser up, neither here nor later.
        flags = os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        try:
            self._fd = os.open(path, flags, 0o600)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InvalidArgument(f"trace_ipc: {self._name}: {reason}") from None

    def record(self, line: dict[str, Any], message: Message | None) -> None:
        """Write ``line``, and of ``message`` what it says if that is wanted. Call it from an event loop."""
        if self._fd < 0:
            return
        import json  # here, because the children import this module too

        if self._payload:
            line["payload"] = _payload(message)
        if not self._waiting:
            asyncio.get_running_loop().call_later(_FLUSH_AFTER, self.flush)
        # ASCII alone: what a page says must not drive the terminal of whoever reads this.
        self._waiting += json.dumps(line, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"
        if len(self._waiting) >= _FLUSH_AT:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        try:
            while self._waiting and self._fd >= 0:
                del self._waiting[: os.write(self._fd, self._waiting)]
        except OSError as error:
            log.warning("%s takes no more of the trace, which ends here: %s", self._name, error.strerror)
            self._waiting.clear()
            self.close()

    def close(self) -> None:
        """Write what waits, and no more. Closing twice is fine."""
        self.flush()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class Tap:
    """What a trace is told of one connection. It keeps when each request was sent, to say how long its reply took."""

    def __init__(self, trace: Trace, interface: str, channel: Channel) -> None:
        self._trace = trace
        self._interface = interface
        self._channel = channel
        self._asked: dict[tuple[bool, int], float] = {}

    def record(
        self,
        ours: bool,
        packet: Packet,
        request_id: int,
        message: Message | None,
        *,
        size: int,
        descriptors: int,
    ) -> None:
        """One packet of ``size`` bytes, header included; ``ours`` when this side sends it."""
        now = time.time()
        peer = self._channel.peer or self._interface
        line: dict[str, Any] = {
            "time": round(now, 6),
            "from": "browser" if ours else peer,
            "to": peer if ours else "browser",
            "interface": self._interface,
            "name": type(message).__name__ if message is not None else "Cancel",
            "type": packet.name.lower(),
        }
        if packet is not Packet.EVENT:
            line["id"] = request_id
        line["bytes"], line["descriptors"] = size, descriptors
        if packet is Packet.REQUEST:
            self._asked[ours, request_id] = time.monotonic()
        elif packet is Packet.REPLY and (asked := self._asked.pop((not ours, request_id), None)) is not None:
            line["latency"] = round(time.monotonic() - asked, 6)
        self._trace.record(line, message)


def _payload(message: Message | None) -> dict[str, Any]:
    """The fields by name; bytes in base64."""
    if message is None:
        return {}
    return {name: msgspec.to_builtins(getattr(message, name)) for name in message.__struct_fields__}


current: ContextVar[Trace | None] = ContextVar("cloister_trace", default=None)
"""The trace of the browser for which this task works. Tasks and callbacks inherit it from what began them."""
