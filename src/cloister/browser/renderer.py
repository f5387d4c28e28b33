"""One document's processes: a web_content (its own, or its site's), and the request_server and image decoders that
it asks for.

What a page may ask of the browser is the table in :meth:`Renderer._handlers`, and nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from .. import ends
from ..ends import End
from ..errors import (
    BadMessage,
    ChannelClosed,
    CircuitOpen,
    OutOfDescriptors,
    PageCrashed,
    ProcessError,
    ProcessLost,
    RequestFailed,
    printable,
)
from ..interfaces import request_server, web_content
from ..interfaces.base import FailureCode, Message
from ..interfaces.cookies import ForgetCookies
from ..interfaces.request_server import Credentials, DocumentAllowed, DocumentFrom
from ..interfaces.web_content import (
    PAGE,
    WEB_CONTENT_CONTROL,
    AddPage,
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
from ..sites import is_same_site
from .checks import is_normalised, origin_of
from .content_process import ContentProcess
from .cookies import CookieAccess
from .http_cache import CacheAccess

if TYPE_CHECKING:
    from .processes import Processes

__all__ = ["Hop", "Renderer"]

MAX_DECODERS_AT_ONCE = 4
"""Image decoders of one page that live at once: more than two cores keep busy, few enough for memory."""
MAX_REQUEST_SERVERS = 64
"""Request servers that one document may have, one after the other: it lets go of an idle one."""
DECODER_LIFETIME = 30.0
"""Seconds after which a decoder is ended, whatever it does. A photograph takes 0.2."""
_EXIT_TIMEOUT = 5.0


class Hop(NamedTuple):
    """Where a navigation has got to, after so many redirects; ``is_cross_site`` if another site's led there."""

    url: str
    redirects: int = 0
    is_cross_site: bool = False


class Renderer:
    """The processes behind one document. A navigation gets new ones, or joins those of its site."""

    content: ContentProcess
    page: Connection

    def __init__(self, processes: Processes, network: request_server.Options, max_decoders: int) -> None:
        self.on_progress: Callable[[int, int], None] = lambda _done, _total: None
        self.on_gone: Callable[[], None] = lambda: None
        self.on_ended: Callable[[], None] = lambda: None
        self.credentials_of: Callable[[str], Credentials | None] = lambda _url: None
        self.expects_document = False
        """Whether a document is to be fetched now: only then, and only once, does a request_server get leave to."""
        self.base_url = ""
        """What the program says is the URL of a document that is not fetched."""
        self.cache = CacheAccess()
        """The responses that are kept for the document's site."""
        self.begins_at = Hop("")
        """Where the navigation is when these processes begin."""
        self.led_to: Hop | None = None
        """Where a redirect led that these processes may not follow: it is of another site than theirs."""
        self._document_urls: list[str] = []
        self.cookies = CookieAccess(self._forget_cookies)
        self._processes = processes
        self._network = network
        self._site: str | None = None
        self._request_server: ChildProcess | None = None
        self._next_request_server: asyncio.Task[ChildProcess] | None = None
        self._request_servers_left = MAX_REQUEST_SERVERS
        self._watched: dict[asyncio.Task[None], ChildProcess] = {}
        self._decoders_left = max_decoders
        self.decoding: set[ChildProcess] = set()
        """The image decoders that are at work for this document."""
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
        renderer = cls(processes, network, options.max_images)
        here, there = Channel.pair()
        if will_fetch:
            renderer._fork_request_server_ahead()
        try:
            child = await processes.fork(
                "web_content",
                msgspec.msgpack.encode(options),
                [there],
                keep=[here],
                interface=WEB_CONTENT_CONTROL,
            )
        except BaseException:
            if renderer._next_request_server is not None:
                await _end_forked(renderer._next_request_server)
            raise
        renderer._enter(ContentProcess(child), here)
        return renderer

    @classmethod
    def join(
        cls,
        content: ContentProcess,
        processes: Processes,
        options: web_content.Options,
        network: request_server.Options,
    ) -> Renderer:
        """Put one more document of its origin into ``content``: with a channel, a request_server and limits of its own.

        Raises :class:`ChannelClosed` or :class:`BadMessage` when that process is ending.
        """
        here, there = Channel.pair()
        try:
            content.process.control.send(AddPage(options), [there.detach()])
        except BaseException:
            here.close()
            raise
        renderer = cls(processes, network, options.max_images)
        renderer._enter(content, here)
        renderer._fork_request_server_ahead()
        return renderer

    def _enter(self, content: ContentProcess, page: Channel) -> None:
        self.content = content
        content.enter(self)
        page.peer = content.process.channel.peer
        self.page = Connection(page, PAGE, "client", self._handlers(), on_close=self._on_page_closed)
        content.process.connections.append(self.page)

    @property
    def web_content(self) -> ChildProcess:
        return self.content.process

    @property
    def document_url(self) -> str | None:
        """Where the document came from, at the end of its redirects: what the request_server said, not the page."""
        return self._document_urls[-1] if self._document_urls else None

    def _forget_cookies(self) -> None:
        if self._request_server is not None:
            with contextlib.suppress(ChannelClosed, BadMessage):  # it is ending
                self._request_server.control.send(ForgetCookies())

    def settle(self) -> None:
        """The document is there, and from where the browser was told: the page needs no other."""
        self.expects_document = False
        self.content.settle()

    def _fork_request_server(self) -> Coroutine[None, None, ChildProcess]:
        """With the page that it works for: a page says what it likes. What was not fetched from a URL does not get at
        what that URL's own pages can."""
        fetched = self.document_url
        document = fetched if fetched is not None else self.base_url
        options = msgspec.structs.replace(
            self._network, document=document, is_opaque=fetched is None, cache=self.cache.use
        )
        handlers: dict[type[Message], Handler] = {
            DocumentFrom: self._document_from,
            **self.cookies.handlers,
            **self.cache.handlers(),
        }
        return self._processes.fork_request_server(options, handlers)

    def _fork_request_server_ahead(self) -> None:
        self._next_request_server = asyncio.ensure_future(self._fork_request_server())

    async def _document_from(self, message: DocumentFrom, _fds: Descriptors) -> DocumentAllowed:
        """What a request_server asks on its control channel, where no page can speak."""
        if not is_normalised(message.url):
            raise BadMessage("a request_server named a URL that is none that it fetches")
        if not self.expects_document or message.redirects != len(self._document_urls):
            raise RequestFailed(
                FailureCode.TOO_MANY_REQUESTS, "a page has one document, and asked for another"
            )
        redirects = self.begins_at.redirects + message.redirects
        if redirects > self._network.max_redirects:
            raise RequestFailed(
                FailureCode.TOO_MANY_REDIRECTS,
                f"the page was redirected {redirects - 1} times; that is the limit",
            )
        leaves = bool(self._document_urls) and not is_same_site(self._document_urls[0], message.url)
        if leaves or not self.content.admit(message.url):
            self.expects_document = False
            self.led_to = Hop(message.url, redirects, self.begins_at.is_cross_site or leaves)
            raise RequestFailed(FailureCode.OTHER_SITE, "the processes of this page are of another site")
        self._document_urls.append(message.url)
        # Whoever else had it redirected may have taken the request_server over.
        is_first = len(set(map(origin_of, self._document_urls))) == 1
        return DocumentAllowed(
            credentials=self.credentials_of(message.url) if is_first else None,
            cache=self.cache.begin(origin_of(message.url)),
            has_cookies=self.cookies.begin(message.url),
            is_cross_site=self.begins_at.is_cross_site,
        )

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
        forking = self._next_request_server or asyncio.ensure_future(self._fork_request_server())
        self._next_request_server = None
        try:
            child = await self._still_good(forking)
        except ProcessError as error:
            raise _no_process(error) from None
        if self._request_server is not None:
            self._request_server.kill()
        self._request_server = child
        child.site = self._site
        self._watch(child, self._until_ended(child))
        return RequestServerReady(), [child.channel.detach()]

    async def _still_good(self, forking: asyncio.Future[ChildProcess]) -> ChildProcess:
        """What was forked ahead, or another one if something has ended it since, or is about to."""
        try:
            child = await forking
        except ProcessLost:
            return await self._fork_request_server()
        if child.is_alive and not child.is_doomed:
            return child
        await child.end()
        return await self._fork_request_server()

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
        self._watch(decoder, self._until_decoded(decoder))
        return ImageDecoderReady(), [decoder.channel.detach()]

    def _watch(self, child: ChildProcess, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._watched[task] = child
        task.add_done_callback(lambda task: self._watched.pop(task, None))

    async def _until_decoded(self, decoder: ChildProcess) -> None:
        """Give a decoder its time, and end it in any case."""
        why = UNWANTED
        self.decoding.add(decoder)
        try:
            await decoder.wait(DECODER_LIFETIME)
        except TimeoutError:
            why = ends.Killed(f"one image took more than {DECODER_LIFETIME:g} s")
        finally:
            self._slots.release()
            self.decoding.discard(decoder)
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
            return BadMessage(f"{printable(url, 200)}: the page's process {ending}")
        return PageCrashed(url, ending)

    def when_ended(self, callback: Callable[[], None]) -> None:
        """Have ``callback()`` called when the page's process has ended, unless this document has left it."""
        self.on_ended = callback
        if self.web_content.has_ended:
            asyncio.get_running_loop().call_soon(callback)

    def work_for(self, site: str | None) -> None:
        """Say whose document this is: for those who look on, and for reports."""
        self._site = self.web_content.site = site

    @property
    def processes(self) -> list[ChildProcess]:
        """Those that are there for the document, not for one of its images."""
        return [self.web_content, *([self._request_server] if self._request_server else [])]

    def kill(self, why: End = UNWANTED) -> None:
        """Stop every process of this document now; :meth:`close` sees them gone. ``why`` is for the page's own, which
        goes on if other pages of its site are in it."""
        self.cookies.close()
        self.page.close()
        self.content.leave(self, why)
        if self._request_server is not None:
            self._request_server.kill()

    async def close(self) -> None:
        """End every process of this document. What a page's process still has to say is not wanted."""
        self.kill()
        watched = dict(self._watched)
        for task in watched:
            task.cancel()
        try:
            if self._next_request_server is not None:
                await _end_forked(self._next_request_server)
            await asyncio.gather(self.content.end(), *watched, return_exceptions=True)
            # A task that was cancelled before its first step has ended nothing.
            await asyncio.gather(*(child.end() for child in watched.values()))
        finally:
            self.on_gone()


def _no_process(error: ProcessError) -> RequestFailed:
    codes = {CircuitOpen: FailureCode.CIRCUIT_OPEN, OutOfDescriptors: FailureCode.OUT_OF_DESCRIPTORS}
    return RequestFailed(codes.get(type(error), FailureCode.NO_PROCESS), str(error))


async def _end_forked(forking: asyncio.Task[ChildProcess]) -> None:
    """End a process that nobody has asked for yet. One that is still on its way is not waited for: the zygote may
    be what hangs."""
    forking.cancel()
    (child,) = await asyncio.gather(forking, return_exceptions=True)
    if isinstance(child, ChildProcess):
        await child.end()
