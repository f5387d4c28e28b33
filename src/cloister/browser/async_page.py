"""A page: one tab, whose document lives in processes of its own."""

from __future__ import annotations

import asyncio
import builtins
import os
import stat
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import msgspec

from ..errors import (
    AddressRefused,
    BadMessage,
    ChannelClosed,
    CloisterError,
    InvalidArgument,
    NavigationError,
    PageClosed,
    PageCrashed,
    RequestFailed,
    TimeoutError,
    printable,
)
from ..interfaces import web_content
from ..interfaces.base import FailureCode, Reply, Request
from ..interfaces.web_content import (
    GetLinks,
    GetText,
    Load,
    Loaded,
    LoadFile,
    Paint,
    SetContent,
    TextFormat,
)
from ..ipc import Descriptors, blob, memory
from .paper import print_request
from .png import PngWriter
from .renderer import Renderer
from .values import Link, Margin, ProcessInfo, Response, Viewport

if TYPE_CHECKING:
    from .async_browser import AsyncBrowser

__all__ = ["DEFAULT_TIMEOUT", "AsyncPage"]

DEFAULT_TIMEOUT = 30_000.0
"""Milliseconds, as Playwright's."""
MAX_SCREENSHOT_PIXELS = 2**28
"""268 megapixels: a page 1280 wide and 209,000 high. What a page says of its height is its own claim."""
_BAND_PIXELS = 2**20  # 4 MiB of BGRA in each bitmap
_BANDS_AT_ONCE = 3  # one is painted while two are compressed
_SLICE = 256 * 1024  # bytes of pixels that are encoded at once
_MAX_TEXT = 64 * 2**20
_MAX_LINKS = 16 * 2**20
_MAX_PDF = 512 * 2**20
_MAX_FILE = 64 * 2**20

R = TypeVar("R", bound=Reply)
_LINKS = msgspec.msgpack.Decoder(web_content.LinkList)


class AsyncPage:
    """One page of a browser, made by :meth:`AsyncBrowser.new_page`.

    Every navigation gets new processes, so nothing that one document did can reach the next. Every method may
    raise :class:`PageCrashed`, :class:`PageClosed` and :class:`TimeoutError`; ``timeout`` is in milliseconds, and
    a page that is still busy when it has passed is stopped. Calls on one page run one after the other.
    """

    def __init__(self, browser: AsyncBrowser, viewport: Viewport) -> None:
        self._browser = browser
        self._viewport = viewport
        self._renderer: Renderer | None = None
        self._loaded: Loaded | None = None
        self._again: Callable[[float], Awaitable[Response]] | None = None
        self._url = "about:blank"
        self._failure: str | None = None
        self._closed = False
        self._lock = asyncio.Lock()
        self._listeners: dict[str, list[Callable[..., object]]] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {printable(self._url, 100)!r}{' closed' if self._closed else ''}>"

    @property
    def url(self) -> str:
        """Where the page is: after redirects, or what was asked for when it failed."""
        return self._url

    @property
    def viewport_size(self) -> Viewport:
        return self._viewport

    @property
    def processes(self) -> list[ProcessInfo]:
        """The live processes of this page."""
        renderer = self._renderer
        if renderer is None:
            return []
        return [info for child in renderer.processes if (info := child_info(child, self._url)) is not None]

    def is_closed(self) -> bool:
        return self._closed

    def on(self, event: Literal["crash", "progress"], handler: Callable[..., object]) -> None:
        """Call ``handler`` at each event: ``crash`` with this page, ``progress`` with the number of subresources
        that are there and of those found so far."""
        if event not in ("crash", "progress"):
            raise InvalidArgument(f"a page has the events 'crash' and 'progress', not {event!r}")
        self._listeners.setdefault(event, []).append(handler)

    # ── navigation ───────────────────────────────────────────────────────────────────────────────────────────

    async def goto(self, url: str, *, timeout: float = DEFAULT_TIMEOUT) -> Response:
        """Load ``url`` (http or https). A response of any status is shown, as a browser would.

        Raises :class:`AddressRefused` when the network policy refuses the address (of any redirect, too),
        :class:`NavigationError` with a ``code`` for every other reason.
        """
        checked = _checked_url(url)
        return await self._navigate(checked, lambda: (Load(checked), []), timeout, will_fetch=True)

    async def set_content(
        self, html: str | bytes, *, base_url: str | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> Response:
        """Show ``html``. Relative links and images are resolved against ``base_url``; bytes say their own charset."""
        base = _checked_url(base_url) if base_url is not None else "about:blank"
        data, content_type = (
            (html.encode("utf-8", "replace"), "text/html; charset=utf-8")
            if isinstance(html, str)
            else (html, "text/html")
        )

        def message() -> tuple[SetContent, list[int]]:
            body, fds = blob.pack(data)
            return SetContent(body, base, content_type), fds

        return await self._navigate(base, message, timeout)

    async def open_file(self, path: str | os.PathLike[str], *, timeout: float = DEFAULT_TIMEOUT) -> Response:
        """Show a local file: HTML, text, an image. The page gets its bytes; it cannot reach its neighbours."""
        name = Path(path).name

        def message() -> tuple[LoadFile, list[int]]:
            return LoadFile(name[:255]), [open_regular(path)]

        return await self._navigate("about:blank", message, timeout)

    async def reload(self, *, timeout: float = DEFAULT_TIMEOUT) -> Response:
        """Do the last navigation again, in new processes: also after a crash."""
        if self._again is None:
            raise NavigationError("about:blank", FailureCode.NOT_LOADED, "there is nothing to reload yet")
        return await self._again(timeout)

    async def _navigate(
        self,
        url: str,
        message: Callable[[], tuple[Request[Loaded], list[int]]],
        timeout: float,
        *,
        will_fetch: bool = False,
    ) -> Response:
        deadline = _deadline(timeout)
        async with self._lock:
            self._check_open()
            self._again = lambda again: self._navigate(url, message, again, will_fetch=will_fetch)
            self._drop()
            self._url, self._loaded, self._failure = url, None, None
            try:
                renderer = await self._start(deadline, timeout, will_fetch)
                renderer.on_progress = lambda done, total: self._emit("progress", done, total)
                request, fds = message()
                loaded, _ = await self._ask(request, fds, deadline=deadline, timeout=timeout)
            except CloisterError as error:
                self._failure = str(error)
                if not isinstance(error, PageCrashed):
                    self._drop()
                raise
            except BaseException:
                self._drop()
                raise
            self._loaded, self._url = loaded, loaded.url
            if will_fetch:
                self._browser.loaded()
            return Response(loaded.url, loaded.status, dict(loaded.headers))

    async def _start(self, deadline: float, timeout: float, will_fetch: bool) -> Renderer:
        options = web_content.Options(width=self._viewport["width"], height=self._viewport["height"])
        try:
            async with asyncio.timeout(_left(deadline)):
                renderer = await self._browser.start_renderer(options, will_fetch=will_fetch)
        except builtins.TimeoutError:
            raise TimeoutError(f"{printable(self._url, 200)}: no process within {timeout:g} ms") from None
        self._renderer = renderer
        if self._closed:  # meanwhile
            self._drop()
            self._check_open()
        renderer.web_content.when_ended(lambda: self._on_ended(renderer))
        return renderer

    # ── what a loaded page gives ─────────────────────────────────────────────────────────────────────────────

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
        deadline = _deadline(timeout)
        async with self._lock:
            loaded = self._document()
            width, height = self._viewport["width"], self._viewport["height"]
            if full_page:
                width = min(max(width, loaded.document_width), 16_384)
                height = max(height, loaded.document_height)
            if width * height > MAX_SCREENSHOT_PIXELS:
                raise CloisterError(
                    f"{printable(self._url, 200)}: the document is {width}x{height} pixels; a screenshot holds "
                    f"{MAX_SCREENSHOT_PIXELS // 10**6} megapixels: use full_page=False"
                )
            png = await self._paint(width, height, deadline, timeout)
        _write(path, png)
        return png

    async def _paint(self, width: int, height: int, deadline: float, timeout: float) -> bytes:
        """Band by band; while one is encoded in a thread, the page paints the next."""
        rows = _rows_of_a_band(width, height)
        writer = PngWriter(width, height)
        encoding: set[asyncio.Future[None]] = set()
        try:
            for y in range(0, height, rows):
                band = min(rows, height - y)
                bitmap = await self._band(Paint(0, y, width, band), deadline, timeout)
                work = asyncio.to_thread(_encode, writer, bitmap, y, width * 4, band)
                encoding.add(asyncio.ensure_future(work))
                if len(encoding) >= _BANDS_AT_ONCE:
                    done, encoding = await asyncio.wait(encoding, return_when=asyncio.FIRST_COMPLETED)
                    for each in done:
                        each.result()
            await asyncio.gather(*encoding)
            return writer.finish()
        finally:
            if encoding:
                await asyncio.wait(encoding)

    async def _band(self, paint: Paint, deadline: float, timeout: float) -> Descriptors:
        fd = memory.create_bitmap(paint.width * paint.height * 4)
        bitmap = Descriptors([fd])
        await self._ask(paint, [os.dup(fd)], deadline=deadline, timeout=timeout)
        return bitmap

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
        deadline = _deadline(timeout)
        request = print_request(format, landscape, width, height, margin)
        async with self._lock:
            self._document()
            reply, fds = await self._ask(request, deadline=deadline, timeout=timeout)
            data = self._unpack(reply.body, fds, _MAX_PDF)
        _write(path, data)
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
        async with self._lock:
            self._document()
            reply, fds = await self._ask(GetText(format), deadline=_deadline(timeout), timeout=timeout)
            return self._unpack(reply.body, fds, _MAX_TEXT).decode("utf-8", "replace")

    async def links(self, *, timeout: float = DEFAULT_TIMEOUT) -> list[Link]:
        """The links of the document in its order, each once, resolved to absolute URLs; at most 10,000."""
        async with self._lock:
            self._document()
            reply, fds = await self._ask(GetLinks(), deadline=_deadline(timeout), timeout=timeout)
            data = self._unpack(reply.body, fds, _MAX_LINKS)
        try:
            return [Link(link.url, link.text) for link in _LINKS.decode(data)]
        except msgspec.DecodeError as error:
            raise self._punish(BadMessage(f"the links of the page do not decode: {error}")) from None

    async def title(self) -> str:
        """The document's title, or an empty string."""
        return self._document().title

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────

    async def close(self) -> None:
        """End the page's processes. What waits on it raises :class:`PageClosed`. Closing twice is fine.

        They are killed when this returns; the kernel clears their memory away meanwhile, and
        :meth:`AsyncBrowser.close` waits for that.
        """
        if self._closed:
            return
        self._closed = True
        self._browser.forget(self)
        self._drop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _drop(self) -> None:
        renderer, self._renderer = self._renderer, None
        if renderer is not None:
            renderer.kill()
            self._browser.see_off(renderer)

    # ── asking the page's process ────────────────────────────────────────────────────────────────────────────

    def _check_open(self) -> None:
        if self._closed:
            raise PageClosed(f"{printable(self._url, 200)}: the page is closed")

    def _document(self) -> Loaded:
        self._check_open()
        if self._loaded is not None:
            return self._loaded
        detail = self._failure or "nothing is loaded yet: call goto(), set_content() or open_file() first"
        raise NavigationError(self._url, FailureCode.NOT_LOADED, detail)

    async def _ask(
        self, request: Request[R], fds: Sequence[int] = (), *, deadline: float, timeout: float
    ) -> tuple[R, Descriptors]:
        owned = Descriptors(fds)
        renderer = self._renderer
        if renderer is None:
            self._check_open()
            raise PageCrashed(self._url)
        try:
            return await renderer.page.request(request, owned.release(), timeout=_left(deadline))
        except RequestFailed as error:
            raise _navigation_error(self._url, error) from None
        except TimeoutError:
            self._drop()
            self._loaded, self._failure = None, f"it was stopped after {timeout:g} ms"
            raise TimeoutError(
                f"{printable(self._url, 200)}: not done within {timeout:g} ms; the page was stopped"
            ) from None
        except (ChannelClosed, BadMessage):
            self._check_open()
            raise await renderer.explain(self._url) from None

    def _unpack(self, body: Any, fds: Descriptors, limit: int) -> bytes:
        try:
            return blob.unpack(body, fds, limit)
        except BadMessage as error:
            raise self._punish(error) from None

    def _punish(self, error: BadMessage) -> BadMessage:
        if self._renderer is not None:
            self._renderer.web_content.punish(error)
        return error

    def _on_ended(self, renderer: Renderer) -> None:
        if renderer is self._renderer and not self._closed:
            self._emit("crash", self)

    def _emit(self, event: str, *arguments: object) -> None:
        for listener in self._listeners.get(event, ()):
            listener(*arguments)


def _rows_of_a_band(width: int, height: int) -> int:
    """A picture of one viewport is cut in four, to be painted and compressed at the same time."""
    return min(max(1, _BAND_PIXELS // width), -(-height // 4), 16_384)


def _encode(writer: PngWriter, bitmap: Descriptors, row: int, stride: int, rows: int) -> None:
    """In a thread: the rows of a bitmap, a few at a time, so that no copy of all of it is ever made."""
    fd = bitmap.take()
    try:
        with memory.map_bitmap(fd, stride * rows) as pixels:
            step = stride * max(1, _SLICE // stride)
            writer.encode(row, (pixels[start : start + step] for start in range(0, stride * rows, step)))
    finally:
        os.close(fd)


def child_info(child: Any, page_url: str | None) -> ProcessInfo | None:
    """What a live, locked-down child says of itself; None before, and after its end."""
    report = child.report
    if report is None or not child.is_alive:
        return None
    return ProcessInfo(child.kind, child.pid, page_url, tuple(report.layers), tuple(report.missing))


def open_regular(path: str | os.PathLike[str]) -> int:
    """Open a file for a child to read. A pipe or a device could block, or never end."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise InvalidArgument(f"{os.fspath(path)}: {error.strerror}") from None
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode) or info.st_size > _MAX_FILE:
        os.close(fd)
        what = f"more than {_MAX_FILE >> 20} MiB" if stat.S_ISREG(info.st_mode) else "not a regular file"
        raise InvalidArgument(f"{os.fspath(path)}: {what}")
    return fd


def _navigation_error(url: str, error: RequestFailed) -> CloisterError:
    # The request_server names what it was asked for; so does the exception.
    detail = error.detail.removeprefix(f"{printable(url, 400)}: ")
    if error.code == FailureCode.ADDRESS_REFUSED:
        return AddressRefused(url, error.code, detail)
    if error.code == FailureCode.TIMED_OUT:
        return TimeoutError(f"{printable(url, 200)}: {detail or 'timed out'}")
    return NavigationError(url, error.code, detail)


def _checked_url(url: str) -> str:
    """``url`` as it may enter: a bounded string with a scheme, without control characters.

    The request_server parses it; this process does not.
    """
    if not isinstance(url, str):
        raise InvalidArgument(f"a URL is a str, not {type(url).__name__}")
    url = url.strip()
    scheme, colon, _ = url.partition(":")
    if (
        not colon
        or not scheme.isascii()
        or not scheme.replace("+", "").replace("-", "").replace(".", "").isalnum()
    ):
        raise NavigationError(
            url, FailureCode.BAD_URL, "not an absolute URL: it begins with http:// or https://"
        )
    if len(url) > 8192:
        raise NavigationError(url, FailureCode.BAD_URL, f"{len(url)} characters; a URL has 8192 at the most")
    if not url.isprintable():
        raise NavigationError(url, FailureCode.BAD_URL, "it has control characters or line breaks")
    return url


def _deadline(timeout: float) -> float:
    if timeout <= 0:
        raise InvalidArgument(
            f"timeout is {timeout:g} ms; nothing waits for ever here: give a positive number"
        )
    return time.monotonic() + timeout / 1000


def _left(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())


def _write(path: str | os.PathLike[str] | None, data: bytes) -> None:
    if path is not None:
        Path(path).write_bytes(data)
