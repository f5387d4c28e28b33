"""Happy Eyeballs, version 2 (RFC 8305): both look-ups at once, and a connection as soon as one can be made."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode

from .addresses import Address
from .resolver import Unknown
from .sockets import connect_tcp, said

__all__ = ["connect"]

_RESOLUTION_DELAY = 0.05  # seconds that IPv6 addresses may come after the others (section 3)
_ATTEMPT_DELAY = 0.25  # seconds before the next address is tried beside the last (section 5)

_CODES = {
    errno.ECONNREFUSED: FailureCode.CONNECTION_REFUSED,
    errno.ECONNRESET: FailureCode.CONNECTION_RESET,
    errno.ETIMEDOUT: FailureCode.TIMED_OUT,
}
# Of several failures, the first of those that say most about the server itself is told.
_TELLING: tuple[str, ...] = (
    FailureCode.CONNECTION_REFUSED,
    FailureCode.CONNECTION_RESET,
    FailureCode.TIMED_OUT,
    FailureCode.UNREACHABLE,
    FailureCode.ADDRESS_REFUSED,
    FailureCode.DNS_FAILED,
    FailureCode.UNKNOWN_HOST,
)

LookUp = Callable[[int], Coroutine[Any, Any, tuple[Address, ...]]]
Judge = Callable[[Address], str | None]


async def connect(host: str, port: int, look_up: LookUp, judge: Judge) -> tuple[socket.socket, Address]:
    """The first connection that stands. ``look_up(version)`` gives the addresses of IP version 4 or 6, ``judge`` says
    why one of them may not be connected to; it is asked right before that very address is connected to.

    Raises RequestFailed. There is no deadline but the canceller's.
    """
    race = _Race(host, port, judge)
    try:
        return await race.run({asyncio.create_task(look_up(version)): version for version in (6, 4)})
    finally:
        race.end()


class _Race:
    def __init__(self, host: str, port: int, judge: Judge) -> None:
        self._host = host
        self._port = port
        self._judge = judge
        self._loop = asyncio.get_running_loop()
        self._look_ups: dict[asyncio.Task[tuple[Address, ...]], int] = {}
        self._attempts: dict[asyncio.Task[socket.socket], Address] = {}
        self._untried: dict[int, deque[Address]] = {6: deque(), 4: deque()}
        self._family = 6  # of the next attempt, where there is a choice
        self._not_before = 0.0
        self._failures: list[RequestFailed] = []

    async def run(
        self, look_ups: dict[asyncio.Task[tuple[Address, ...]], int]
    ) -> tuple[socket.socket, Address]:
        self._look_ups = look_ups
        while True:
            pending = (*self._look_ups, *self._attempts)
            if any(self._untried.values()):
                wait = self._not_before - self._loop.time()
                if wait <= 0 or not pending:
                    self._start_next()
                    continue
            elif pending:
                wait = None
            else:
                break
            done, _ = await asyncio.wait(pending, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in self._look_ups if task in done]:
                self._looked_up(task)
            for attempt in [task for task in self._attempts if task in done]:
                address = self._attempts.pop(attempt)
                try:
                    return attempt.result(), address
                except RequestFailed as failure:
                    self._failures.append(failure)
                    self._not_before = 0.0
        if not self._failures:
            raise RequestFailed(
                FailureCode.UNKNOWN_HOST, f"unknown host {self._host}: the name has no address"
            )
        raise min(self._failures, key=lambda failure: _TELLING.index(failure.code))

    def end(self) -> None:
        """Close what came second. An attempt that is being made closes itself when it is cancelled."""
        for look_up in self._look_ups:
            look_up.cancel()
        for attempt in self._attempts:
            if not attempt.done():
                attempt.cancel()
            elif not attempt.cancelled() and attempt.exception() is None:
                attempt.result().close()

    def _looked_up(self, task: asyncio.Task[tuple[Address, ...]]) -> None:
        version = self._look_ups.pop(task)
        try:
            addresses = task.result()
        except RequestFailed as failure:
            self._failures.append(failure)
            if isinstance(failure, Unknown):  # of either version: the name does not exist
                for other in [other for other in self._look_ups if not other.done()]:
                    other.cancel()
                    del self._look_ups[other]
            return
        finally:
            if version == 6 and not self._attempts:
                self._not_before = 0.0
        self._untried[version].extend(addresses)
        if version == 4 and self._look_ups and not self._attempts:
            self._not_before = self._loop.time() + _RESOLUTION_DELAY

    def _start_next(self) -> None:
        version = self._family if self._untried[self._family] else 10 - self._family
        address = self._untried[version].popleft()
        self._family = (
            10 - version
        )  # by turns, so that a family without a route costs one attempt (section 4)
        if (refused := self._judge(address)) is not None:
            self._failures.append(RequestFailed(FailureCode.ADDRESS_REFUSED, refused))
            return
        self._attempts[asyncio.create_task(_attempt(address, self._port))] = address
        self._not_before = self._loop.time() + _ATTEMPT_DELAY


async def _attempt(address: Address, port: int) -> socket.socket:
    try:
        return await connect_tcp(address, port)
    except OSError as error:
        code = _CODES.get(error.errno or 0, FailureCode.UNREACHABLE)
        raise RequestFailed(code, f"{address} port {port}: {said(error)}") from None
