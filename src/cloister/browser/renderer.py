"""One page load's processes: a web_content, its request_server, and the image decoders that it asked for.

What a page may ask of the browser is the table in :meth:`Renderer._handlers`, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from ..errors import BadMessage, ChannelClosed, PageCrashed, ProcessError, RequestFailed
from ..interfaces import request_server, web_content
from ..interfaces.base import FailureCode, Message
from ..interfaces.lookup_server import AddClient
from ..interfaces.web_content import PAGE, ImageDecoderReady, NewImageDecoder, Progress
from ..ipc import Channel, Connection, Descriptors
from ..ipc.connection import Handler
from ..process import ChildProcess, ExitStatus

if TYPE_CHECKING:
    from .processes import Processes

__all__ = ["Renderer"]

MAX_DECODERS_AT_ONCE = 4
"""Image decoders of one page that live at once: more than two cores keep busy, few enough for memory."""
DECODER_LIFETIME = 30.0
"""Seconds after which a decoder is ended, whatever it does. A photograph takes 0.2."""
_EXIT_TIMEOUT = 5.0


class Renderer:
    """The processes behind one document. A navigation gets new ones."""

    def __init__(self, processes: Processes, max_decoders: int) -> None:
        self.on_progress: Callable[[int, int], None] = lambda _done, _total: None
        self._processes = processes
        self._decoders: set[asyncio.Task[None]] = set()
        self._decoders_left = max_decoders
        self._slots = asyncio.Semaphore(MAX_DECODERS_AT_ONCE)
        self.web_content: ChildProcess
        self.request_server: ChildProcess
        self.page: Connection

    @classmethod
    async def start(
        cls, processes: Processes, options: web_content.Options, network: request_server.Options
    ) -> Renderer:
        """Fork both processes and connect them. Raises :class:`ProcessError`."""
        renderer = cls(processes, options.max_images)
        page_here, page_there = Channel.pair()
        fetch_client, fetch_server = Channel.pair()
        lookup_client, lookup_server = Channel.pair()
        processes.lookup.send(AddClient(), [lookup_server.detach()])
        forks = await asyncio.gather(
            processes.zygote.fork(
                "request_server", msgspec.msgpack.encode(network), [fetch_server, lookup_client]
            ),
            processes.zygote.fork(
                "web_content", msgspec.msgpack.encode(options), [page_there, fetch_client], keep=[page_here]
            ),
            return_exceptions=True,
        )
        children = [fork for fork in forks if isinstance(fork, ChildProcess)]
        for fork in forks:
            if isinstance(fork, BaseException):
                await asyncio.gather(*(child.end() for child in children))
                raise fork
        renderer.request_server, renderer.web_content = children
        renderer.page = Connection(page_here, PAGE, "client", renderer._handlers(), renderer._on_page_closed)
        return renderer

    def _handlers(self) -> dict[type[Message], Handler]:
        """Everything that a page may ask of the browser."""
        return {
            NewImageDecoder: self._new_image_decoder,
            Progress: lambda message, _fds: self.on_progress(message.done, message.total),
        }

    async def _new_image_decoder(
        self, _message: NewImageDecoder, _fds: Descriptors
    ) -> tuple[ImageDecoderReady, list[int]]:
        if self._decoders_left <= 0:
            raise RequestFailed(FailureCode.TOO_MANY_REQUESTS, "the page has used up its image decoders")
        self._decoders_left -= 1
        await self._slots.acquire()
        try:
            decoder = await self._processes.take_decoder()
        except BaseException as error:
            self._slots.release()
            if isinstance(error, ProcessError):
                raise RequestFailed(FailureCode.NO_PROCESS, str(error)) from None
            raise
        task = asyncio.create_task(self._watch(decoder))
        self._decoders.add(task)
        task.add_done_callback(self._decoders.discard)
        return ImageDecoderReady(), [decoder.channel.detach()]

    async def _watch(self, decoder: ChildProcess) -> None:
        """Give a decoder its time, and end it in any case."""
        try:
            await decoder.wait(DECODER_LIFETIME)
        except TimeoutError:
            pass
        finally:
            self._slots.release()
            await asyncio.shield(decoder.end())

    def _on_page_closed(self, error: Exception | None) -> None:
        if error is not None:
            self.web_content.punish(error)
        else:
            self.web_content.kill()  # without its channel it can answer nothing any more

    async def explain(self, url: str) -> Exception:
        """Why the page's channel closed: what to raise to whoever waits on it."""
        try:
            status = await self.web_content.wait(_EXIT_TIMEOUT)
        except TimeoutError:
            status = ExitStatus()
        fault = self.web_content.fault
        if isinstance(fault, BadMessage):
            return BadMessage(f"{url}: the page's process broke the protocol and was ended: {fault}")
        return PageCrashed(url, signal=status.signal, exit_code=status.code)

    @property
    def is_alive(self) -> bool:
        return self.web_content.is_alive

    async def close(self) -> None:
        """End every process of this load. What a page's process still has to say is not wanted."""
        self.page.close()
        for task in list(self._decoders):
            task.cancel()
        with contextlib.suppress(ChannelClosed):
            await asyncio.gather(self.web_content.end(), self.request_server.end())
        await asyncio.gather(*self._decoders, return_exceptions=True)
