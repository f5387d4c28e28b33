"""A child's main loop: what every child does beside its own work."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from ..interfaces.control import CONTROL, Ping, Pong, Ready, Shutdown
from .channel import Channel
from .connection import Connection
from .descriptors import Descriptors

__all__ = ["Report", "Service", "Start"]


class Report(Protocol):
    """What lock-down says of itself (``cloister.sandbox.Report``)."""

    @property
    def layers(self) -> Sequence[str]: ...
    @property
    def missing(self) -> Sequence[str]: ...


@dataclasses.dataclass(frozen=True)
class Start:
    """What a child is given: its control channel, its work channels in the order of its kind, its options."""

    control: Channel
    channels: tuple[Channel, ...]
    options: bytes = b""
    allow_degraded: bool = False


class Service:
    """An event loop that is made before lock-down and lives until Shutdown, or until the browser is gone."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Let :meth:`run` return."""
        self._stopped.set()

    def run(self, control: Channel, report: Report, start: Callable[[], Awaitable[None]]) -> None:
        """Say Ready, await ``start()`` (which makes the work connections), serve until :meth:`stop`."""
        self.loop.run_until_complete(self._run(control, report, start))

    async def _run(self, control: Channel, report: Report, start: Callable[[], Awaitable[None]]) -> None:
        connection = Connection(
            control,
            CONTROL,
            "server",
            handlers={Ping: self._ping, Shutdown: lambda _message, _fds: self.stop()},
            on_close=lambda _error: self.stop(),
        )
        connection.send(Ready(tuple(report.layers), tuple(report.missing)))
        await start()
        await self._stopped.wait()

    async def _ping(self, message: Ping, _fds: Descriptors) -> Pong:
        return Pong(message.nonce)
