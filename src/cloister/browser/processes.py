"""The browser's standing processes: the zygote and its branches, the lookup_server, and spare image decoders."""

from __future__ import annotations

import asyncio

import msgspec

from ..interfaces import lookup_server, request_server
from ..interfaces.lookup_server import LOOKUP_ADMIN
from ..interfaces.zygote import PreloadKind
from ..ipc import Channel, Connection
from ..process import ChildProcess, Zygote
from ..process.kinds import MODULES
from .decoders import DecoderPool

__all__ = ["Processes"]

_KINDS = ("lookup_server", "web_content", "request_server", "image_decoder")
"""In the order in which the zygote begins with them: the one that loads longest early."""


class Processes:
    """Started together, closed together."""

    def __init__(self, zygote: Zygote, lookup_process: ChildProcess) -> None:
        self.zygote = zygote
        self.lookup_process = lookup_process
        self.lookup = Connection(
            lookup_process.channel, LOOKUP_ADMIN, "client", on_close=self._on_lookup_closed
        )
        self.decoders = DecoderPool(zygote)

    @classmethod
    async def start(
        cls, lookup: lookup_server.Options, extra_roots: str, *, allow_degraded: bool
    ) -> Processes:
        """Raises :class:`LaunchError`, or :class:`SandboxUnavailable` naming the layers that this kernel lacks."""
        preload = {
            "request_server": msgspec.msgpack.encode(request_server.PreloadOptions(extra_roots=extra_roots))
        }
        kinds = [PreloadKind(kind, MODULES[kind], preload.get(kind, b"")) for kind in _KINDS]
        zygote = await Zygote.start(kinds, allow_degraded=allow_degraded)
        try:
            await zygote.process.ready()
            here, there = Channel.pair()
            options = msgspec.msgpack.encode(lookup)
            forked = zygote.fork("lookup_server", options, [there], keep=[here])
            lookup_process, _ = await asyncio.gather(forked, zygote.ready())
            return cls(zygote, lookup_process)
        except BaseException:
            await zygote.close()
            raise

    def _on_lookup_closed(self, error: Exception | None) -> None:
        if error is not None:
            self.lookup_process.punish(error)

    def standing(self) -> list[ChildProcess]:
        """Those that belong to no page."""
        return [self.zygote.process, *self.zygote.branches, self.lookup_process, *self.decoders.spares]

    async def close(self) -> None:
        """End the zygote first: the kernel ends all that it forked with it."""
        self.lookup.close()
        await self.zygote.close()
        await self.decoders.close()
        await self.lookup_process.end()
