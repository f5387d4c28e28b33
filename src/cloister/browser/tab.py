"""A tab: where a page is and how it gets there, and the processes that its document lives in."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, get_args

from ..ends import End, Exited, Killed, OutOfMemory
from ..errors import (
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
    Load,
    Loaded,
    LoadFile,
    SetContent,
)
from ..ipc import Descriptors, blob
from ..process import ChildProcess
from ..process.handle import UNWANTED
from ..process.supervisor import HealthEvent
from .checks import (
    checked_url,
    deadline_of,
    descriptors_left,
    left,
    navigation_error,
    open_regular,
    origin_of,
    site_of,
)
from .content_process import ContentProcess
from .history import Entry, History
from .renderer import Hop, Renderer
from .values import ProcessInfo, Response, Viewport

if TYPE_CHECKING:
    from .async_browser import AsyncBrowser
    from .context import AsyncBrowserContext

__all__ = ["DEFAULT_TIMEOUT", "PageEvent", "Tab", "child_info"]

DEFAULT_TIMEOUT = 30_000.0
"""Milliseconds, as Playwright's."""

PageEvent = Literal["crash", "progress", "unresponsive", "responsive"]
R = TypeVar("R", bound=Reply)


class Tab:
    """A page but for what it gives: :class:`AsyncPage`. Calls on one run one after the other."""

    def __init__(self, browser: AsyncBrowser, context: AsyncBrowserContext, viewport: Viewport) -> None:
        self._browser = browser
        self._context = context
        self._viewport = viewport
        self._renderer: Renderer | None = None
        self._loaded: Loaded | None = None
        self._history = History()
        self._crash: End | None = None
        self._crash_told = False
        self._discarded = False
        self.is_loading = False
        self.gone: ChildProcess | None = None
        """For the browser: the process that this page had, when it has crashed or was discarded."""
        self.used_at = time.monotonic()
        self._url = "about:blank"
        self._led_to: str | None = None
        """Where another site's redirect led, while that is loaded."""
        self._failure: str | None = None
        self._closed = False
        self._lock = asyncio.Lock()
        self._listeners: dict[str, list[Callable[..., object]]] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {printable(self._url, 100)!r}{' closed' if self._closed else ''}>"

    @property
    def url(self) -> str:
        """Where the page is: after redirects, or what was asked for when it failed. What a page's own process says
        of it does not count."""
        return self._url

    @property
    def context(self) -> AsyncBrowserContext:
        """Whose cookies it has."""
        return self._context

    @property
    def viewport_size(self) -> Viewport:
        return self._viewport

    @property
    def children(self) -> list[ChildProcess]:
        """For the browser: the handles of :attr:`processes`, the page's own first, and its image decoders."""
        return [*self._renderer.processes, *self._renderer.decoding] if self._renderer else []

    @property
    def processes(self) -> list[ProcessInfo]:
        """The live processes of this page."""
        standing = self._renderer.processes if self._renderer else []
        return [info for child in standing if (info := child_info(child, self._url)) is not None]

    @property
    def content_process(self) -> ContentProcess | None:
        """For the browser: the process that shows this page, which others of its site may share."""
        return None if self._renderer is None else self._renderer.content

    def is_closed(self) -> bool:
        return self._closed

    @property
    def is_discarded(self) -> bool:
        """Whether its processes were ended because memory was needed. It has its URL, its title and its history, and
        is loaded again when it is next asked for anything."""
        return self._discarded

    def discard(self) -> bool:
        """End the processes of this page, unless it is at work; whether that was done. For a program that knows
        which pages it will not need soon: the browser does it by itself when memory is short."""
        if self._closed or self._lock.locked() or self._renderer is None or self._loaded is None:
            return False
        self._discarded, self.gone = True, self._renderer.web_content
        self._drop(Killed("memory was needed", quiet=True))
        return True

    def on(self, event: PageEvent, handler: Callable[..., object]) -> None:
        """Call ``handler`` at each event: ``crash`` with this page; ``progress`` with the number of subresources that
        are there and of those found so far; ``unresponsive`` and ``responsive`` with a :class:`HealthEvent`, whose
        ``kill()`` ends the process: without that, the deadline of whoever waits for the page does."""
        if event not in get_args(PageEvent):
            raise InvalidArgument(f"a page has the events {', '.join(get_args(PageEvent))}, not {event!r}")
        self._listeners.setdefault(event, []).append(handler)

    # ── navigation ───────────────────────────────────────────────────────────────────────────────────────────

    async def goto(self, url: str, *, timeout: float = DEFAULT_TIMEOUT) -> Response:
        """Load ``url`` (http or https). A response of any status is shown, as a browser would.

        Raises :class:`AddressRefused` when the network policy refuses the address (of any redirect, too),
        :class:`NavigationError` with a ``code`` for every other reason.
        """
        checked = checked_url(url)
        return await self._visit(_entry_at(checked), timeout)

    async def set_content(
        self, html: str | bytes, *, base_url: str | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> Response:
        """Show ``html``. Relative links and images are resolved against ``base_url``; bytes say their own charset."""
        base = checked_url(base_url) if base_url is not None else "about:blank"
        data, content_type = (
            (html.encode("utf-8", "replace"), "text/html; charset=utf-8")
            if isinstance(html, str)
            else (html, "text/html")
        )

        def message() -> tuple[SetContent, list[int]]:
            body, fds = blob.pack(data)
            return SetContent(body, base, content_type), fds

        return await self._visit(Entry(base, message, False), timeout)

    async def open_file(self, path: str | os.PathLike[str], *, timeout: float = DEFAULT_TIMEOUT) -> Response:
        """Show a local file: HTML, text, an image. The page gets its bytes; it cannot reach its neighbours."""
        name = Path(path).name

        def message() -> tuple[LoadFile, list[int]]:
            return LoadFile(name[:255]), [open_regular(path)]

        return await self._visit(Entry("about:blank", message, False), timeout)

    async def reload(self, *, timeout: float = DEFAULT_TIMEOUT) -> Response:
        """Do the last navigation again, in new processes: also after a crash. Servers are asked whether they have
        anything newer than what is kept, whatever they said of how long it is good for."""
        entry = self._history.current
        if entry is None:
            raise NavigationError("about:blank", FailureCode.NOT_LOADED, "there is nothing to reload yet")
        return await self._navigate(entry, timeout, is_reload=True)

    async def go_back(self, *, timeout: float = DEFAULT_TIMEOUT) -> Response | None:
        """Load what was there before; None where this is the first. At most 50 navigations are kept."""
        entry = self._history.step(-1)
        return None if entry is None else await self._navigate(entry, timeout)

    async def go_forward(self, *, timeout: float = DEFAULT_TIMEOUT) -> Response | None:
        """Undo a :meth:`go_back`; None where there was none."""
        entry = self._history.step(1)
        return None if entry is None else await self._navigate(entry, timeout)

    async def _visit(self, entry: Entry, timeout: float) -> Response:
        self._check_open()
        self._history.push(entry)
        return await self._navigate(entry, timeout)

    async def _navigate(self, entry: Entry, timeout: float, *, is_reload: bool = False) -> Response:
        deadline = deadline_of(timeout)
        async with self._turn():
            loaded = await self._load(entry, deadline, timeout, is_reload=is_reload)
            return Response(loaded.url, loaded.status, dict(loaded.headers))

    async def _load(
        self, entry: Entry, deadline: float, timeout: float, *, is_reload: bool = False
    ) -> Loaded:
        self._check_open()
        self._drop()
        self._url, self._loaded, self._failure, self._crash = entry.url, None, None, None
        self._discarded, self.gone = False, None
        self.is_loading = True
        try:
            loaded = await self._follow(entry, deadline, timeout, is_reload=is_reload)
        except CloisterError as error:
            self._failure = str(error)
            self._drop()
            raise
        except BaseException:
            self._drop()
            raise
        finally:
            self.is_loading, self._led_to = False, None
        self._loaded, self._url = loaded, loaded.url
        if entry.will_fetch:
            self._browser.loaded()
        return loaded

    async def _follow(self, entry: Entry, deadline: float, timeout: float, *, is_reload: bool) -> Loaded:
        """Load ``entry``. Where a redirect leaves a site, so do we: what follows is done by processes that have read
        nothing of it."""
        if not entry.will_fetch:
            return await self._show(entry, Hop(entry.url), deadline, timeout, None, is_reload=is_reload)
        hop, origin = Hop(entry.url), origin_of(entry.url)
        while True:
            try:
                return await self._show(entry, hop, deadline, timeout, origin, is_reload=is_reload)
            except _LedElsewhereError as error:
                hop, origin = error.hop, None
                self._drop()
                entry = _entry_at(hop.url)
                self._led_to = hop.url

    async def _show(
        self, entry: Entry, hop: Hop, deadline: float, timeout: float, origin: str | None, *, is_reload: bool
    ) -> Loaded:
        """Load ``entry``, which is at ``hop`` of a navigation, in processes of its own, or joined to others of
        ``origin``."""
        renderer = await self._start(deadline, timeout, entry.will_fetch, origin)
        renderer.work_for(site_of(entry.url))
        renderer.on_progress = lambda done, total: self._emit("progress", done, total)
        renderer.expects_document = entry.will_fetch
        renderer.cache.open(self._context.http_cache, is_reload=is_reload)
        renderer.base_url = "" if entry.will_fetch else entry.url
        renderer.begins_at = hop
        request, fds = entry.message()
        try:
            loaded, _ = await self._ask(request, fds, deadline=deadline, timeout=timeout)
        except NavigationError:
            if renderer.led_to is not None:
                raise _LedElsewhereError(renderer.led_to) from None
            raise
        where = renderer.document_url if entry.will_fetch else entry.url
        if loaded.url != where:
            raise self._punish(
                BadMessage(f"the page says that it is at {printable(loaded.url, 200)}, and is not")
            )
        renderer.settle()
        return loaded

    async def _start(self, deadline: float, timeout: float, will_fetch: bool, origin: str | None) -> Renderer:
        renderer = await self._new_renderer(deadline, timeout, will_fetch, origin)
        self._renderer = renderer
        if self._closed:  # meanwhile
            self._drop()
            self._check_open()
        renderer.when_ended(lambda: self._on_ended(renderer))
        return renderer

    async def _new_renderer(
        self, deadline: float, timeout: float, will_fetch: bool, origin: str | None = None
    ) -> Renderer:
        options = web_content.Options(width=self._viewport["width"], height=self._viewport["height"])
        try:
            async with asyncio.timeout(left(deadline)):
                return await self._browser.start_renderer(
                    options, self._context, will_fetch=will_fetch, origin=origin
                )
        except builtins.TimeoutError:
            raise TimeoutError(
                f"{printable(self._url, 200)}: no process within {timeout:g} ms: {self._browser.why_wait()}"
            ) from None

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
        await self._context.lost()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _drop(self, why: End = UNWANTED) -> None:
        renderer, self._renderer = self._renderer, None
        if renderer is not None:
            renderer.kill(why)
            self._browser.see_off(renderer)

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """One action at a time."""
        async with self._lock:
            with descriptors_left():
                yield

    # ── asking the page's process ────────────────────────────────────────────────────────────────────────────

    def _check_open(self) -> None:
        if self._closed:
            raise PageClosed(f"{printable(self._url, 200)}: the page is closed")

    async def _document(self, deadline: float, timeout: float) -> Loaded:
        """What is loaded, loaded again if the page was discarded. Raises :class:`PageCrashed`, once, for a process
        that ended while nobody waited for it."""
        self._check_open()
        if self._crash is not None:
            self._crash_told = True
            raise PageCrashed(self._url, self._crash)
        entry = self._history.current
        if self._discarded and entry is not None:
            return await self._load(entry, deadline, timeout)
        if self._loaded is None:
            raise self._not_loaded()
        return self._loaded

    def _not_loaded(self) -> NavigationError:
        detail = self._failure or "nothing is loaded yet: call goto(), set_content() or open_file() first"
        return NavigationError(self._url, FailureCode.NOT_LOADED, detail)

    async def _ask(
        self, request: Request[R], fds: Sequence[int] = (), *, deadline: float, timeout: float
    ) -> tuple[R, Descriptors]:
        owned = Descriptors(fds)
        renderer = self._renderer
        if renderer is None:
            owned.close()  # now: whoever keeps the error keeps this frame
            self._check_open()
            raise PageCrashed(self._url, self._crash)
        self.used_at = time.monotonic()
        try:
            return await renderer.page.request(request, owned.release(), timeout=left(deadline))
        except RequestFailed as error:
            if error.code == FailureCode.OUT_OF_MEMORY:
                renderer.web_content.kill(OutOfMemory("it reached the limit of its process"))
                raise await self._crashed(renderer) from None
            if self._led_to is not None and not error.detail.startswith("redirected to "):
                error.detail = f"redirected to {printable(self._led_to, 150)}: {error.detail}"
            raise navigation_error(self._url, error) from None
        except TimeoutError:
            late = f"it was not done within {timeout:g} ms"
            renderer.content.stop(late, quiet=not renderer.web_content.is_unresponsive)
            self._drop()
            self._loaded, self._failure = None, f"it was stopped after {timeout:g} ms"
            raise TimeoutError(
                f"{printable(self._url, 200)}: not done within {timeout:g} ms; the page was stopped"
            ) from None
        except (ChannelClosed, BadMessage):
            self._check_open()
            raise await self._crashed(renderer) from None
        finally:
            self.used_at = time.monotonic()

    async def _crashed(self, renderer: Renderer) -> Exception:
        """What to raise to whoever waited on a process that is gone."""
        error = await renderer.explain(self._url)
        self._on_ended(renderer)
        self._crash_told = True
        return error

    def _unpack(self, body: Any, fds: Descriptors, limit: int) -> bytes:
        try:
            return blob.unpack(body, fds, limit)
        except BadMessage as error:
            raise self._punish(error) from None

    def _punish(self, error: BadMessage) -> BadMessage:
        if self._renderer is not None:
            self._renderer.web_content.punish(error)
        return error

    def on_health(self, child: ChildProcess, event: HealthEvent) -> None:
        """For the browser: a process stopped answering, or does so again. Maybe it is one of this page's."""
        if self._renderer is not None and child in self._renderer.processes:
            self._emit(event.state, event)

    def _on_ended(self, renderer: Renderer) -> None:
        if renderer is self._renderer and not self._closed:
            self._crash, self._crash_told = renderer.web_content.ending or Exited(None), False
            self._loaded, self.gone = None, renderer.web_content
            self._drop()
            self._emit("crash", self)

    def _emit(self, event: str, *arguments: object) -> None:
        for listener in self._listeners.get(event, ()):
            listener(*arguments)


def _entry_at(url: str) -> Entry:
    return Entry(url, lambda: (Load(url), []), True)


class _LedElsewhereError(Exception):
    """A redirect led out of the site that the page's processes are of."""

    def __init__(self, hop: Hop) -> None:
        super().__init__(hop.url)
        self.hop = hop


def child_info(child: Any, page_url: str | None) -> ProcessInfo | None:
    """What a live, locked-down child says of itself; None before, and after its end."""
    report = child.report
    if report is None or not child.is_alive:
        return None
    return ProcessInfo(child.kind, child.pid, page_url, tuple(report.layers), tuple(report.missing))
