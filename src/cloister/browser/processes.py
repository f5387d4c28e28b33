"""The browser's standing processes, which are there again when they end: the zygote and its branches, the
lookup_server, and spare image decoders."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any

import msgspec

from .. import ends
from ..errors import OutOfDescriptors, ProcessError, ProcessLost
from ..interfaces import lookup_server, request_server
from ..interfaces.base import Interface, Message
from ..interfaces.control import CONTROL
from ..interfaces.lookup_server import LOOKUP_ADMIN, AddClient, LookUp
from ..interfaces.request_server import REQUEST_CONTROL
from ..interfaces.zygote import PreloadKind
from ..ipc import Channel, Connection
from ..process import ChildProcess, Zygote
from ..process.keep import Kept
from ..process.kinds import MODULES, OF_PAGES, PAGES_ONLY
from ..process.supervisor import Supervisor
from .decoders import DecoderPool

__all__ = ["Processes"]

_START_TIMEOUT = 20.0  # seconds


class Processes:
    """Started together, closed together; each fork is looked after by ``supervisor``."""

    def __init__(
        self,
        supervisor: Supervisor,
        lookup: lookup_server.Options,
        lookup_preload: lookup_server.PreloadOptions,
        extra_roots: str,
        *,
        allow_degraded: bool,
        pages_only: bool = False,
    ) -> None:
        self._supervisor = supervisor
        self._lookup_options = msgspec.msgpack.encode(lookup)
        # Nothing where it is as usual: a zygote that began before this module was imported was told nothing either.
        options: dict[str, bytes] = dict(PAGES_ONLY) if pages_only else {}
        if extra_roots:
            wanted = request_server.PreloadOptions(extra_roots, pages_only)
            options["request_server"] = msgspec.msgpack.encode(wanted)
        if lookup_preload != lookup_server.PreloadOptions():
            options["lookup_server"] = msgspec.msgpack.encode(lookup_preload)
        self._kinds = [PreloadKind(kind, MODULES[kind], options.get(kind, b"")) for kind in OF_PAGES]
        self._allow_degraded = allow_degraded
        self._zygote = Kept("the zygote", self._start_zygote)
        self._lookup = Kept("the lookup_server", self._start_lookup)
        self._leaving: set[asyncio.Task[None]] = set()
        self.decoders: DecoderPool

    async def start(self) -> None:
        """Start them; return when the first of them runs, while the others may still load: who needs one waits for
        it, and is told what hindered it.

        Raises :class:`LaunchError`, or :class:`SandboxUnavailable` naming the layers that this kernel lacks.
        """
        zygote = await self._zygote.begin()
        try:
            await self._lookup.begin()
        except BaseException:
            await self._zygote.close()
            await zygote.close()
            raise
        self.decoders = DecoderPool(self)

    async def fork(
        self,
        kind: str,
        options: bytes = b"",
        channels: Sequence[Channel] = (),
        *,
        keep: Sequence[Channel] = (),
        interface: Interface = CONTROL,
        handlers: Mapping[type[Message], Any] | None = None,
    ) -> ChildProcess:
        """As :meth:`Zygote.fork`, by the zygote that is there, or the next one."""
        try:
            zygote = await self._zygote.get(_START_TIMEOUT)
        except BaseException:
            for channel in (*channels, *keep):
                channel.close()
            raise
        child = await zygote.fork(kind, options, channels, keep=keep, interface=interface, handlers=handlers)
        self._supervisor.adopt(child)
        return child

    async def look_up(self, host: str, *, named: bool, timeout: float) -> tuple[str, ...]:
        """The addresses of ``host``, as :class:`LookUp` says. Raises RequestFailed and :class:`ProcessLost`."""
        lookup = await self._lookup.get(_START_TIMEOUT)
        try:
            found, _ = await lookup.admin.request(LookUp(host, named), timeout=timeout)
        except ProcessError:
            raise ProcessLost("the lookup_server has ended: try again") from None
        return found.addresses

    async def fork_request_server(
        self,
        options: request_server.Options,
        handlers: Mapping[type[Message], Any],
        rules: lookup_server.PolicyRules | None = None,
    ) -> ChildProcess:
        """A request_server with a way to the lookup_server; ``handlers`` are for what it asks on its control channel.
        ``rules`` are for its connections, in place of those of all. Raises as :meth:`Zygote.fork`, and
        :class:`CircuitOpen`."""
        lookup = await self._lookup.get(_START_TIMEOUT)
        here, there = Channel.pair()
        opened = [here, there]
        try:
            lookup_client, lookup_end = Channel.pair()
            opened.append(lookup_client)
            lookup.admin.send(AddClient(rules), [lookup_end.detach()])
        except ProcessError as error:
            for channel in opened:
                channel.close()
            if isinstance(error, OutOfDescriptors):
                raise
            raise ProcessLost("the lookup_server has ended: try again") from None
        child = await self.fork(
            "request_server",
            msgspec.msgpack.encode(options),
            [there, lookup_client],
            keep=[here],
            interface=REQUEST_CONTROL,
            handlers=handlers,
        )
        if lookup.admin.closed:  # it ended meanwhile, and took along only those that it knew
            await child.end(ends.Killed("the lookup_server ended", quiet=True))
            raise ProcessLost("the lookup_server has ended: try again")
        lookup.clients.add(child)
        return child

    def standing(self) -> list[ChildProcess]:
        """Those that belong to no page."""
        zygote, lookup = self._zygote.current, self._lookup.current
        found = [] if zygote is None else [zygote.process, *zygote.branches]
        found += self.decoders.spares
        return found if lookup is None or lookup.process is None else [*found, lookup.process]

    async def close(self) -> None:
        """End the zygote first: the kernel ends all that it forked with it."""
        zygote, lookup = self._zygote.current, self._lookup.current
        await self._lookup.close()
        await self._zygote.close()
        if lookup is not None:
            lookup.admin.close()
        if zygote is not None:
            await zygote.close()
        await self.decoders.close()
        if lookup is not None:
            await lookup.end()
        await asyncio.gather(*self._leaving, return_exceptions=True)

    # ── what comes back ──────────────────────────────────────────────────────────────────────────────────────

    async def _start_zygote(self) -> Zygote:
        zygote = await Zygote.start(
            self._kinds, allow_degraded=self._allow_degraded, on_branch=self._supervisor.adopt
        )
        self._supervisor.adopt(zygote.process)
        try:
            await zygote.process.ready()  # says first what this kernel lacks
        except BaseException:
            await zygote.close()
            raise
        zygote.process.when_ended(lambda: self._on_zygote_ended(zygote))
        return zygote

    def _on_zygote_ended(self, zygote: Zygote) -> None:
        self._leave(zygote.close())
        self._zygote.ended()
        self.decoders.renew()

    async def _start_lookup(self) -> _Lookup:
        """Its channel may be used before it runs: what is sent waits there."""
        here, there = Channel.pair()
        here.peer = "lookup_server"
        forking = asyncio.ensure_future(self.fork("lookup_server", self._lookup_options, [there]))
        lookup = _Lookup(forking, here)
        forking.add_done_callback(lambda _forking: self._on_lookup_forked(lookup))
        return lookup

    def _on_lookup_forked(self, lookup: _Lookup) -> None:
        if (process := lookup.process) is not None:
            process.connections.append(lookup.admin)
            process.when_ended(lambda: self._on_lookup_ended(lookup))
            if lookup.admin.closed:  # before anybody could be told whose it was
                process.lost_channel(lookup.error)
        else:
            self._on_lookup_ended(lookup)

    def _on_lookup_ended(self, lookup: _Lookup) -> None:
        lookup.admin.close()
        for client in list(lookup.clients):
            client.kill(ends.Killed("the lookup_server ended", quiet=True))
        self._leave(lookup.end())
        if isinstance(lookup.failure, OutOfDescriptors):
            self._lookup.failed(lookup.failure)
        else:
            self._lookup.ended()

    def _leave(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)


class _Lookup:
    """One lookup_server that is there, or about to be."""

    def __init__(self, forking: asyncio.Future[ChildProcess], channel: Channel) -> None:
        self.admin = Connection(channel, LOOKUP_ADMIN, "client", on_close=self._on_closed)
        self.clients: weakref.WeakSet[ChildProcess] = weakref.WeakSet()
        self.error: Exception | None = None
        """What the channel ended with, if it was ended by what came on it."""
        self._forking = forking

    @property
    def process(self) -> ChildProcess | None:
        forking = self._forking
        done = forking.done() and not forking.cancelled() and forking.exception() is None
        return forking.result() if done else None

    @property
    def failure(self) -> BaseException | None:
        """Why it could not be forked."""
        done = self._forking.done() and not self._forking.cancelled()
        return self._forking.exception() if done else None

    async def end(self) -> None:
        (process,) = await asyncio.gather(self._forking, return_exceptions=True)
        if isinstance(process, ChildProcess):
            await process.end()

    def _on_closed(self, error: Exception | None) -> None:
        self.error = error
        if self.process is not None:
            self.process.lost_channel(error)
