"""The browser's standing processes: the zygote, the lookup_server, and a spare image decoder."""

from __future__ import annotations

import asyncio

import msgspec

from ..errors import BrowserClosed, CloisterError
from ..interfaces import image_decoder, lookup_server, request_server
from ..interfaces.lookup_server import LOOKUP_ADMIN
from ..interfaces.zygote import PreloadKind
from ..ipc import Channel, Connection
from ..process import ChildProcess, Zygote
from ..process.kinds import MODULES

__all__ = ["Processes"]

_KINDS = ("lookup_server", "request_server", "web_content", "image_decoder")


class Processes:
    """Started together, closed together."""

    def __init__(self, zygote: Zygote, lookup_process: ChildProcess) -> None:
        self.zygote = zygote
        self.lookup_process = lookup_process
        self.lookup = Connection(
            lookup_process.channel, LOOKUP_ADMIN, "client", on_close=self._on_lookup_closed
        )
        self._closed = False
        self._spare: asyncio.Task[ChildProcess] | None = None
        self._fork_spare()

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

    async def take_decoder(self) -> ChildProcess:
        """A fresh image_decoder, forked ahead where possible; the next one is forked meanwhile."""
        spare, self._spare = self._spare, None
        self._fork_spare()
        if spare is not None:
            try:
                decoder = await spare
                if decoder.is_alive:
                    return decoder
                await decoder.end()
            except CloisterError:
                pass  # the fork below meets the same trouble, and raises it to whoever asked
        return await self._fork_decoder()

    def _fork_spare(self) -> None:
        if not self._closed:
            self._spare = asyncio.create_task(self._fork_decoder())
            self._spare.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _fork_decoder(self) -> ChildProcess:
        if self._closed:
            raise BrowserClosed("the browser is closed")
        here, there = Channel.pair()
        options = msgspec.msgpack.encode(image_decoder.Options())
        return await self.zygote.fork("image_decoder", options, [there], keep=[here])

    def _on_lookup_closed(self, error: Exception | None) -> None:
        if error is not None:
            self.lookup_process.punish(error)

    def standing(self) -> list[ChildProcess]:
        """Those that belong to no page."""
        children = [self.zygote.process, *self.zygote.branches, self.lookup_process]
        spare = self._spare
        if spare is not None and spare.done() and not spare.cancelled() and spare.exception() is None:
            children.append(spare.result())
        return children

    async def close(self) -> None:
        self._closed = True
        spare, self._spare = self._spare, None
        if spare is not None:
            (result,) = await asyncio.gather(spare, return_exceptions=True)
            if isinstance(result, ChildProcess):
                await result.end()
        self.lookup.close()
        await self.zygote.close()
        await self.lookup_process.end()
