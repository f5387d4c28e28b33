"""What name servers said, for as long as they said that it holds."""

from __future__ import annotations

import time
from collections import OrderedDict

from .message import Answer

__all__ = ["Cache"]

MAX_ENTRIES = 2048
_MAX_TTL = 3600.0  # seconds; a site that moves keeps its old address for as long as its TTL says, or this


class Cache:
    """Of each name and type the last answer, names that do not exist among them (RFC 2308); the least recently used
    goes first."""

    def __init__(self) -> None:
        self._entries: OrderedDict[tuple[str, int], tuple[float, Answer]] = OrderedDict()

    def get(self, name: str, kind: int) -> Answer | None:
        """What is known, or None."""
        known = self._entries.get((name, kind))
        if known is None:
            return None
        until, answer = known
        if time.monotonic() >= until:
            del self._entries[name, kind]
            return None
        self._entries.move_to_end((name, kind))
        return answer

    def put(self, name: str, kind: int, answer: Answer) -> None:
        """Keep ``answer`` for its TTL; not at all if that is 0."""
        self._entries.pop((name, kind), None)
        if answer.ttl > 0:
            self._entries[name, kind] = (time.monotonic() + min(answer.ttl, _MAX_TTL), answer)
            if len(self._entries) > MAX_ENTRIES:
                self._entries.popitem(last=False)
