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

_KINDS = ("web_content", "request_server", "lookup_server", "image_decoder")
"""In the order in which a page needs them."""


class Processes:
    """Started together, closed together."""

    def __init__(self, zygote: Zygote, lookup: lookup_server.Options) -> None:
        self.zygote = zygote
        self.decoders = DecoderPool(zygote)
        here, there = Channel.pair()
        # Its channel may be used before it runs: what is sent waits there.
        self.lookup = Connection(here, LOOKUP_ADMIN, "client", on_close=self._on_lookup_closed)
        self._lookup_process = asyncio.ensure_future(
            zygote.fork("lookup_server", msgspec.msgpack.encode(lookup), [there])
        )

    @classmethod
    async def start(
        cls, lookup: lookup_server.Options, extra_roots: str, *, allow_degraded: bool
    ) -> Processes:
        """Start them; return when a page can begin, while others may still load: who needs one waits for it.

        Raises :class:`LaunchError`, or :class:`SandboxUnavailable` naming the layers that this kernel lacks.
        """
        preload = {
            "request_server": msgspec.msgpack.encode(request_server.PreloadOptions(extra_roots=extra_roots))
        }
        kinds = [PreloadKind(kind, MODULES[kind], preload.get(kind, b"")) for kind in _KINDS]
        zygote = await Zygote.start(kinds, allow_degraded=allow_degraded)
        try:
            await zygote.process.ready()  # says first what this kernel lacks
            await zygote.branch_ready("web_content")
        except BaseException:
            await zygote.close()
            raise
        return cls(zygote, lookup)

    def _on_lookup_closed(self, error: Exception | None) -> None:
        if error is not None and (process := _result(self._lookup_process)) is not None:
            process.punish(error)

    def standing(self) -> list[ChildProcess]:
        """Those that belong to no page."""
        found = [self.zygote.process, *self.zygote.branches, *self.decoders.spares]
        process = _result(self._lookup_process)
        return found if process is None else [*found, process]

    async def close(self) -> None:
        """End the zygote first: the kernel ends all that it forked with it."""
        self.lookup.close()
        await self.zygote.close()
        await self.decoders.close()
        (process,) = await asyncio.gather(self._lookup_process, return_exceptions=True)
        if isinstance(process, ChildProcess):
            await process.end()


def _result(forking: asyncio.Future[ChildProcess]) -> ChildProcess | None:
    if not forking.done() or forking.cancelled() or forking.exception() is not None:
        return None
    return forking.result()
