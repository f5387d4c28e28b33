"""A page: a tab, and what its document gives."""

from __future__ import annotations

import os

import msgspec

from ..ends import End
from ..errors import (
    BadMessage,
    CloisterError,
    printable,
)
from ..interfaces import web_content
from ..interfaces.web_content import GetLinks, GetText, SetContent, TextFormat
from ..ipc import blob
from ..ipc.codec import decoded
from . import picture
from .checks import deadline_of, left, write
from .crash_page import crash_page
from .paper import print_request
from .picture import MAX_SCREENSHOT_PIXELS
from .tab import DEFAULT_TIMEOUT, Tab
from .values import Link, Margin

__all__ = ["AsyncPage"]

_MAX_TEXT = 64 * 2**20
_MAX_LINKS = 16 * 2**20
_MAX_PDF = 512 * 2**20

_LINKS: msgspec.msgpack.Decoder[tuple[web_content.Link, ...]] = msgspec.msgpack.Decoder(web_content.LinkList)


class AsyncPage(Tab):
    """One page of a browser, made by :meth:`AsyncBrowser.new_page` or :meth:`AsyncBrowserContext.new_page`.

    Every navigation gets new processes, so nothing that one document did can reach the next; where memory is short,
    it may join the process of another page that shows the same origin, and no other ever. Every method may raise
    :class:`PageCrashed`, :class:`PageClosed` and :class:`TimeoutError`; ``timeout`` is in milliseconds, and
    a page that is still busy when it has passed is stopped. Calls on one page run one after the other.
    """

    async def screenshot(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        full_page: bool = False,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> bytes:
        """A PNG of the viewport, or of the whole document; written to ``path`` too, when that is given.

        This process encodes it from plain pixels, so it is a well-formed PNG whatever the page does.
        """
        deadline = deadline_of(timeout)
        async with self._turn():
            if self._crash is not None and self._crash_told:
                png = await self._picture_of_crash(self._crash, deadline, timeout)
            else:
                png = await self._picture(full_page, deadline, timeout)
        write(path, png)
        return png

    async def _picture(self, full_page: bool, deadline: float, timeout: float) -> bytes:
        loaded = await self._document(deadline, timeout)
        width, height = self._viewport["width"], self._viewport["height"]
        if full_page:
            width = min(max(width, loaded.document_width), 16_384)
            height = max(height, loaded.document_height)
        if width * height > MAX_SCREENSHOT_PIXELS:
            raise CloisterError(
                f"{printable(self._url, 200)}: the document is {width}x{height} pixels; a screenshot holds "
                f"{MAX_SCREENSHOT_PIXELS // 10**6} megapixels: use full_page=False"
            )
        return await picture.take(
            width, height, lambda band, fd: self._ask(band, [fd], deadline=deadline, timeout=timeout)
        )

    async def _picture_of_crash(self, crash: End, deadline: float, timeout: float) -> bytes:
        renderer = await self._new_renderer(deadline, timeout, will_fetch=False)
        try:
            body, fds = blob.pack(crash_page(self._url, crash))
            await renderer.page.request(SetContent(body), fds, timeout=left(deadline))
            size = self._viewport["width"], self._viewport["height"]
            return await picture.take(
                *size, lambda band, fd: renderer.page.request(band, [fd], timeout=left(deadline))
            )
        finally:
            self._browser.see_off(renderer)

    async def pdf(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        format: str = "A4",
        landscape: bool = False,
        width: float | str | None = None,
        height: float | str | None = None,
        margin: Margin | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> bytes:
        """The document as PDF, laid out for print; written to ``path`` too, when that is given.

        ``format`` is a paper's name; ``width`` and ``height`` go before it. Lengths are CSS pixels as numbers, or
        strings with a unit. Margins are 0.4 in unless given. The PDF is written by the page's own process: treat
        it as you would any PDF from that site.
        """
        deadline = deadline_of(timeout)
        request = print_request(format, landscape, width, height, margin)
        async with self._turn():
            await self._document(deadline, timeout)
            reply, fds = await self._ask(request, deadline=deadline, timeout=timeout)
            data = self._unpack(reply.body, fds, _MAX_PDF)
        write(path, data)
        return data

    async def text(self, *, timeout: float = DEFAULT_TIMEOUT) -> str:
        """The visible text of the whole document."""
        return await self._text(TextFormat.TEXT, timeout)

    async def markdown(self, *, timeout: float = DEFAULT_TIMEOUT) -> str:
        """The main content as Markdown: without navigation, side columns and footers, where those can be told."""
        return await self._text(TextFormat.MARKDOWN, timeout)

    async def content(self, *, timeout: float = DEFAULT_TIMEOUT) -> str:
        """The document as HTML, as it was understood."""
        return await self._text(TextFormat.HTML, timeout)

    async def _text(self, format: TextFormat, timeout: float) -> str:
        deadline = deadline_of(timeout)
        async with self._turn():
            await self._document(deadline, timeout)
            reply, fds = await self._ask(GetText(format), deadline=deadline, timeout=timeout)
            return self._unpack(reply.body, fds, _MAX_TEXT).decode("utf-8", "replace")

    async def links(self, *, timeout: float = DEFAULT_TIMEOUT) -> list[Link]:
        """The links of the document in its order, each once, resolved to absolute URLs; at most 10,000."""
        deadline = deadline_of(timeout)
        async with self._turn():
            await self._document(deadline, timeout)
            reply, fds = await self._ask(GetLinks(), deadline=deadline, timeout=timeout)
            data = self._unpack(reply.body, fds, _MAX_LINKS)
            try:
                found = decoded(_LINKS, data, "the list of links")
            except BadMessage as error:
                raise self._punish(error) from None
        return [Link(link.url, link.text) for link in found]

    async def title(self) -> str:
        """The document's title, or an empty string."""
        self._check_open()
        if self._loaded is None:
            raise self._not_loaded()
        return self._loaded.title
