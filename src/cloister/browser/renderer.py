"""One document's processes: a web_content, and the request_server and image decoders that it asks for.

What a page may ask of the browser is the table in :meth:`Renderer._handlers`, and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING

import msgspec

from .. import ends
from ..ends import End
from ..errors import BadMessage, CircuitOpen, PageCrashed, ProcessError, RequestFailed
from ..interfaces import request_server, web_content
from ..interfaces.base import FailureCode, Message
from ..interfaces.web_content import (
    PAGE,
    ImageDecoderReady,
    NewImageDecoder,
    NewRequestServer,
    Progress,
    RequestServerReady,
)
from ..ipc import Channel, Connection, Descriptors
from ..ipc.connection import Handler
from ..process import ChildProcess
from ..process.handle import UNWANTED

if TYPE_CHECKING:
    from .processes import Processes

__all__ = ["Renderer"]

MAX_DECODERS_AT_ONCE = 4
"""Image decoders of one page that live at once: more than two cores keep busy, few enough for memory."""
MAX_REQUEST_SERVERS = 64
"""Request servers that one document may have, one after the other: it lets go of an idle one."""
DECODER_LIFETIME = 30.0
"""Seconds after which a decoder is ended, whatever it does. A photograph takes 0.2."""
_EXIT_TIMEOUT = 5.0


class Renderer:
    """The processes behind one document. A navigation gets new ones."""

    def __init__(
        self, processes: Processes, web_content: ChildProcess, network: request_server.Options
    ) -> None:
        self.on_progress: Callable[[int, int], None] = lambda _done, _total: None
        self.on_gone: Callable[[], None] = lambda: None
        self.web_content = web_content
        self.page = Connection(
            web_content.channel, PAGE, "client", self._handlers(), on_close=self._on_page_closed
        )
        web_content.connections.append(self.page)
        self._processes = processes
        self._network = network
        self._site: str | None = None
        self._request_server: ChildProcess | None = None
        self._next_request_server: asyncio.Task[ChildProcess] | None = None
        self._request_servers_left = MAX_REQUEST_SERVERS
        self._watched: set[asyncio.Task[None]] = set()
        self._decoders_left = 0
        self._slots = asyncio.Semaphore(MAX_DECODERS_AT_ONCE)

    @classmethod
    async def start(
        cls,
        processes: Processes,
        options: web_content.Options,
        network: request_server.Options,
        *,
        will_fetch: bool,
    ) -> Renderer:
        """Fork a web_content, and beside it the request_server that it is about to ask for if it ``will_fetch``.

        Raises :class:`ProcessError`.
        """
        here, there = Channel.pair()
        ahead = asyncio.ensure_future(processes.fork_request_server(network)) if will_fetch else None
        try:
            child = await processes.fork("web_content", msgspec.msgpack.encode(options), [there], keep=[here])
        except BaseException:
            if ahead is not None:
                await _end_forked(ahead)
            raise
        renderer = cls(processes, child, network)
        renderer._next_request_server = ahead
        renderer._decoders_left = options.max_images
        return renderer

    def _handlers(self) -> dict[type[Message], Handler]:
        """Everything that a page may ask of the browser."""
        return {
            NewImageDecoder: self._new_image_decoder,
            NewRequestServer: self._new_request_server,
            Progress: lambda message, _fds: self.on_progress(message.done, message.total),
        }

    async def _new_request_server(
        self, _message: NewRequestServer, _fds: Descriptors
    ) -> tuple[RequestServerReady, list[int]]:
        if self._request_servers_left <= 0:
            raise RequestFailed(FailureCode.TOO_MANY_REQUESTS, "the page has used up its request servers")
        self._request_servers_left -= 1
        forking = self._next_request_server or asyncio.ensure_future(
            self._processes.fork_request_server(self._network)
        )
        self._next_request_server = None
        try:
            child = await forking
            if not child.is_alive:  # it was forked ahead, and something ended it
                await child.end()
                child = await self._processes.fork_request_server(self._network)
        except ProcessError as error:
            raise _no_process(error) from None
        if self._request_server is not None:
            self._request_server.kill()
        self._request_server = child
        child.site = self._site
        self._watch(self._until_ended(child))
        return RequestServerReady(), [child.channel.detach()]

    async def _new_image_decoder(
        self, _message: NewImageDecoder, _fds: Descriptors
    ) -> tuple[ImageDecoderReady, list[int]]:
        if self._decoders_left <= 0:
            raise RequestFailed(FailureCode.TOO_MANY_REQUESTS, "the page has used up its image decoders")
        self._decoders_left -= 1
        await self._slots.acquire()
        try:
            decoder = await self._processes.decoders.take()
        except BaseException as error:
            self._slots.release()
            if isinstance(error, ProcessError):
                raise _no_process(error) from None
            raise
        decoder.site = self._site
        self._watch(self._until_decoded(decoder))
        return ImageDecoderReady(), [decoder.channel.detach()]

    def _watch(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._watched.add(task)
        task.add_done_callback(self._watched.discard)

    async def _until_decoded(self, decoder: ChildProcess) -> None:
        """Give a decoder its time, and end it in any case."""
        why = UNWANTED
        try:
            await decoder.wait(DECODER_LIFETIME)
        except TimeoutError:
            why = ends.Killed(f"one image took more than {DECODER_LIFETIME:g} s")
        finally:
            self._slots.release()
            await asyncio.shield(decoder.end(why))

    async def _until_ended(self, child: ChildProcess) -> None:
        try:
            await child.wait()
        finally:
            await asyncio.shield(child.end())

    def _on_page_closed(self, error: Exception | None) -> None:
        self.web_content.lost_channel(error)

    async def explain(self, url: str) -> Exception:
        """Why the page's channel closed: what to raise to whoever waits on it."""
        try:
            await self.web_content.wait(_EXIT_TIMEOUT)
        except TimeoutError:
            pass
        ending = self.web_content.ending
        if isinstance(ending, ends.BadMessage):
            return BadMessage(f"{url}: the page's process {ending}")
        return PageCrashed(url, ending)

    def work_for(self, site: str | None) -> None:
        """Say whose document this is: for those who look on, and for reports."""
        self._site = self.web_content.site = site

    @property
    def processes(self) -> list[ChildProcess]:
        """Those that are there for the document, not for one of its images."""
        return [self.web_content, *([self._request_server] if self._request_server else [])]

    def kill(self, why: End = UNWANTED) -> None:
        """Stop every process of this document now; :meth:`close` sees them gone. ``why`` is for the page's own."""
        self.page.close()
        self.web_content.kill(why)
        if self._request_server is not None:
            self._request_server.kill()

    async def close(self) -> None:
        """End every process of this document. What a page's process still has to say is not wanted."""
        self.kill()
        for task in self._watched:
            task.cancel()
        if self._next_request_server is not None:
            await _end_forked(self._next_request_server)
        await asyncio.gather(self.web_content.end(), *self._watched, return_exceptions=True)
        self.on_gone()


def _no_process(error: ProcessError) -> RequestFailed:
    code = FailureCode.CIRCUIT_OPEN if isinstance(error, CircuitOpen) else FailureCode.NO_PROCESS
    return RequestFailed(code, str(error))


async def _end_forked(forking: asyncio.Task[ChildProcess]) -> None:
    """End a process that nobody has asked for yet. One that is still on its way is not waited for: the zygote may
    be what hangs."""
    forking.cancel()
    (child,) = await asyncio.gather(forking, return_exceptions=True)
    if isinstance(child, ChildProcess):
        await child.end()
