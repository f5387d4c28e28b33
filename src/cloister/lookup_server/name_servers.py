"""The name servers together: whom to ask, how often, and what is known already."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from .cache import Cache
from .message import Answer, NoAnswer, Question

__all__ = ["NameServer", "NameServers"]


class NameServer(Protocol):
    async def ask(self, question: Question) -> Answer:
        """Raises NoAnswer with what came instead of one."""


class NameServers:
    """Asks ``servers`` in turn, ``attempts`` times over, until one has answered, for ``lifetime`` seconds.

    A question that is being asked is not asked again: who wants to know the same waits for the same answer. It is
    given up when nobody waits for it any more.
    """

    def __init__(
        self, servers: Sequence[NameServer], *, attempts: int, rotate: bool, lifetime: float
    ) -> None:
        self._servers = list(servers)
        self._attempts = attempts
        self._rotate = rotate
        self._lifetime = lifetime
        self._cache = Cache()
        self._asking: dict[tuple[str, int], _Asking] = {}

    def __bool__(self) -> bool:
        return bool(self._servers)

    async def ask(self, name: str, kind: int) -> Answer:
        """What is known of ``name``. Raises NoAnswer with what each server did."""
        if (known := self._cache.get(name, kind)) is not None:
            return known
        asking = self._asking.get((name, kind))
        if asking is None:
            asking = self._asking[name, kind] = _Asking(asyncio.create_task(self._ask(name, kind)))
        asking.waiting += 1
        try:
            return await asyncio.shield(asking.task)
        finally:
            asking.waiting -= 1
            if not asking.waiting:
                asking.task.cancel()
            if (asking.task.done() or not asking.waiting) and self._asking.get((name, kind)) is asking:
                del self._asking[name, kind]

    async def _ask(self, name: str, kind: int) -> Answer:
        told: dict[str, str] = {}
        servers = self._servers
        if self._rotate:
            self._servers = [*servers[1:], *servers[:1]]
        try:
            async with asyncio.timeout(self._lifetime):
                for _ in range(self._attempts):
                    for server in servers:
                        try:
                            answer = await server.ask(Question(name, kind))
                        except NoAnswer as error:
                            told[str(server)] = str(error)
                        else:
                            self._cache.put(name, kind, answer)
                            return answer
        except TimeoutError:
            for server in servers:
                told.setdefault(str(server), f"no answer within {self._lifetime:g} s")
        raise NoAnswer("; ".join(f"{server}: {why}" for server, why in told.items()))


class _Asking:
    def __init__(self, task: asyncio.Task[Answer]) -> None:
        self.task = task
        self.waiting = 0
