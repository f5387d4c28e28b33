"""A child's main loop: what every child does beside its own work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from ..interfaces.base import Interface, Message
from ..interfaces.control import CONTROL, Ping, Pong, Ready, Shutdown
from .channel import Channel
from .connection import Connection, Handler
from .descriptors import Descriptors
from .start import Report, Start

__all__ = ["Report", "Service", "Start"]


class Service:
    """An event loop that is made before lock-down and lives until Shutdown, or until the browser is gone.

    ``interface`` is the kind's control interface, ``handlers`` are for what the browser says in it beside CONTROL.
    ``control`` is that connection, once :meth:`run` awaits ``start()``.
    """

    control: Connection

    def __init__(
        self, interface: Interface = CONTROL, handlers: Mapping[type[Message], Handler] | None = None
    ) -> None:
        self._interface = interface
        self._handlers = dict(handlers or {})
        self.loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Let :meth:`run` return."""
        self._stopped.set()

    def run(self, control: Channel, report: Report, start: Callable[[], Awaitable[None]]) -> None:
        """Say Ready, await ``start()`` (which makes the work connections), serve until :meth:`stop`."""
        self.loop.run_until_complete(self._run(control, report, start))

    async def _run(self, control: Channel, report: Report, start: Callable[[], Awaitable[None]]) -> None:
        self.control = Connection(
            control,
            self._interface,
            "server",
            handlers={
                Ping: self._ping,
                Shutdown: lambda _message, _fds: self.stop(),
                **self._handlers,
            },
            on_close=lambda _error: self.stop(),
        )
        self.control.send(Ready(tuple(report.layers), tuple(report.missing)))
        await start()
        await self._stopped.wait()

    def _ping(self, message: Ping, _fds: Descriptors) -> Pong:
        return Pong(message.nonce)
