"""One page: what the browser may ask of it."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable

import plutoprint

from ..errors import BadMessage, RequestFailed
from ..interfaces.base import FailureCode
from ..interfaces.fetch import Destination, Fetch
from ..interfaces.web_content import (
    PAGE,
    GetLinks,
    GetText,
    Links,
    Load,
    Loaded,
    LoadFile,
    Options,
    Paint,
    Painted,
    Pdf,
    PrintToPdf,
    Progress,
    SetContent,
    TextResult,
)
from ..ipc import Channel, Connection, Descriptors, memory
from ..ipc import blob as blobs
from ..sandbox.kernel import libc
from . import document as documents
from . import loader, pdf, text
from .document import Source
from .paint import paint
from .requests import Requests
from .urls import referrer_policy_of

__all__ = ["Page"]

_DOCUMENT_TIMEOUT = 600.0  # seconds; how long a page may take is the browser's to say, who cancels
_REST_AFTER = 2.0  # seconds without work
_TRIM_AFTER = 0.1  # seconds after a page is gone, when what it was doing has been cancelled
_PROGRESS_INTERVAL = 0.016  # seconds: nobody sees more than sixty a second


class Page:
    """The page process's end of the page channel. Made on the running event loop. ``on_gone`` hears when that channel
    is closed, or broke the protocol: the process may have other pages."""

    def __init__(
        self, page: Channel, options: Options, on_gone: Callable[[Page], None] = lambda _page: None
    ) -> None:
        self._options = options
        self._on_gone = on_gone
        self._shown: loader.Shown | None = None
        self._loading = asyncio.Lock()
        self._told = 0.0
        self._page = Connection(
            page,
            PAGE,
            "server",
            handlers={
                Load: self._load,
                SetContent: self._set_content,
                LoadFile: self._load_file,
                Paint: self._paint,
                PrintToPdf: self._print,
                GetText: self._get_text,
                GetLinks: self._get_links,
            },
            on_close=lambda _error: self._gone(),
        )
        self._requests = Requests(self._page)
        self._rest: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """End every connection."""
        self._page.close()
        self._requests.rest()
        if self._rest is not None:
            self._rest.cancel()

    def _gone(self) -> None:
        self.close()
        self._on_gone(self)
        asyncio.get_running_loop().call_later(_TRIM_AFTER, _give_back_memory)

    # ── loading ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _load(self, message: Load, _fds: Descriptors) -> Loaded:
        fetched, fds = await self._requests.request(
            Fetch(message.url, Destination.DOCUMENT), timeout=_DOCUMENT_TIMEOUT
        )
        _admit(fetched.body.size)
        try:
            body = blobs.unpack(fetched.body, fds, documents.MAX_BYTES)
        except BadMessage:  # the request_server's, not the browser's
            self._requests.rest()
            raise RequestFailed(FailureCode.NO_PROCESS, "its request_server broke the protocol") from None
        source = Source(body, fetched.content_type, fetched.url, referrer_policy_of(fetched.headers))
        return await self._show(source, fetched.status, fetched.headers)

    async def _set_content(self, message: SetContent, fds: Descriptors) -> Loaded:
        _admit(message.body.size)
        body = blobs.unpack(message.body, fds, documents.MAX_BYTES)
        return await self._show(Source(body, message.content_type, message.base_url))

    async def _load_file(self, message: LoadFile, fds: Descriptors) -> Loaded:
        with os.fdopen(fds.take(), "rb") as file:
            _admit(os.fstat(file.fileno()).st_size)
            body = file.read(documents.MAX_BYTES)
        return await self._show(Source(body, documents.guess_type(message.name), "about:blank"))

    async def _show(
        self, source: Source, status: int = 0, headers: tuple[tuple[str, str], ...] = ()
    ) -> Loaded:
        async with self._loading:
            self._shown = None  # the memory of the page before goes first
            shown = await loader.show(source, self._page, self._requests, self._options, self._report)
            self._shown = shown
        self._rest_soon()
        return Loaded(
            url=source.url,
            status=status,
            title=shown.title,
            headers=headers,
            document_width=shown.width,
            document_height=shown.height,
            missing=shown.resources.missing,
        )

    def _report(self, done: int, total: int) -> None:
        now = asyncio.get_running_loop().time()
        if done == total or now - self._told >= _PROGRESS_INTERVAL:
            self._told = now
            self._page.send(Progress(done, total))

    # ── what is asked of a page that is shown ────────────────────────────────────────────────────────────────

    async def _paint(self, message: Paint, fds: Descriptors) -> Painted:
        shown = self._require()
        fd = fds.take()
        try:
            book = await shown.lay_out_again(self._options)
            with memory.map_bitmap(fd, message.width * message.height * 3) as target:
                paint(book, message, target)
        except plutoprint.Error as error:
            raise RequestFailed(
                FailureCode.LAYOUT_FAILED, f"the page could not be painted: {error}"
            ) from error
        finally:
            os.close(fd)
        shown.resources.forget_bitmaps()
        self._rest_soon()
        return Painted()

    async def _print(self, message: PrintToPdf, _fds: Descriptors) -> tuple[Pdf, list[int]]:
        shown = self._require()
        await shown.resources.decode_again()
        try:
            data, pages = pdf.write(shown.html, shown.engine_base, shown.title, message, shown.resources)
        except plutoprint.Error as error:
            raise RequestFailed(FailureCode.LAYOUT_FAILED, f"the PDF could not be made: {error}") from error
        shown.resources.forget_bitmaps()
        self._rest_soon()
        body, extra = blobs.pack(data)
        return Pdf(body, pages), extra

    async def _get_text(self, message: GetText, _fds: Descriptors) -> tuple[TextResult, list[int]]:
        shown = self._require()
        body, extra = blobs.pack(text.text(shown.source, message.format, shown.base_url))
        return TextResult(body), extra

    async def _get_links(self, _message: GetLinks, _fds: Descriptors) -> tuple[Links, list[int]]:
        shown = self._require()
        body, extra = blobs.pack(text.links(shown.source.parse(), shown.base_url))
        return Links(body), extra

    def _rest_soon(self) -> None:
        if self._rest is not None:
            self._rest.cancel()
        self._rest = asyncio.get_running_loop().call_later(_REST_AFTER, self._rest_now)

    def _rest_now(self) -> None:
        """Nobody has asked for anything in a while: keep the document and what it fetched, and nothing else."""
        if self._loading.locked():
            self._rest_soon()
            return
        self._requests.rest()
        if self._shown is not None:
            self._shown.book = None
        _give_back_memory()

    def _require(self) -> loader.Shown:
        if self._shown is None:
            raise RequestFailed(FailureCode.NOT_LOADED, "no page is loaded: load one first")
        return self._shown


def _give_back_memory() -> None:
    gc.collect()
    if hasattr(libc, "malloc_trim"):  # glibc's, and nobody else's
        libc.malloc_trim(0)


def _admit(size: int) -> None:
    if size > documents.MAX_BYTES:
        raise RequestFailed(
            FailureCode.TOO_LARGE,
            f"the document has {size} bytes; a page may have {documents.MAX_BYTES} at most",
        )
