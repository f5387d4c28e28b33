"""What was sent to a plugin, or by one to its host's program, until it is asked for."""

from __future__ import annotations

import collections
import threading
from typing import Any, Final

from ..errors import HostError, NotSendable
from ..ipc import Descriptors, values

__all__ = ["Mailbox"]

_MOST: Final = 256
_MOST_BYTES: Final = 4 * 2**20


class Mailbox:
    """For any number of threads. It has the bytes of what was sent: values would take many times as much."""

    def __init__(self, owner: str) -> None:
        """``owner`` is its name in errors."""
        self._owner = owner
        self._changed = threading.Condition()
        self._waiting: collections.deque[tuple[str | None, bytes]] = collections.deque()
        self._size = 0
        self._closed = False

    def put(self, sender: str | None, value: Any) -> None:
        """Raises :class:`HostError` when there is no room, and :class:`NotSendable`."""
        body, memfds = values.pack(value, "value")
        if memfds:
            Descriptors(memfds).close()
            raise NotSendable("value holds a large buffer, which does not wait in a mailbox")
        with self._changed:
            if self._closed or len(self._waiting) >= _MOST or self._size + len(body) > _MOST_BYTES:
                what = "is closed" if self._closed else f"is full: {_MOST} messages, {_MOST_BYTES} bytes"
                raise HostError(f"the mailbox of {self._owner} {what}")
            self._waiting.append((sender, body))
            self._size += len(body)
            self._changed.notify()

    def take(self, timeout: float) -> tuple[str | None, Any] | None:
        """The oldest, and who sent it; None if none came within ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed, timeout)
            if not self._waiting:
                return None
            sender, body = self._waiting.popleft()
            self._size -= len(body)
        return sender, values.unpack(body, Descriptors())

    def close(self) -> None:
        """Let go of all, and of who waits."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._size = 0
            self._changed.notify_all()
