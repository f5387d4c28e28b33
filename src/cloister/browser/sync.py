"""The browser, for programs without asyncio: the same, on an event loop in a thread of its own."""

from __future__ import annotations

import concurrent.futures
import os
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from ..errors import BrowserClosed
from ..process.loop_thread import CLOSE_TIMEOUT, LoopThread
from ..process.supervisor import HealthEvent
from .async_browser import USER_AGENT, AsyncBrowser
from .async_page import AsyncPage
from .context import AsyncBrowserContext, Wanted
from .identity import ClientHints, HttpCredentials
from .network import NetworkPolicy
from .own_requests import Headers
from .proxy import ProxySettings
from .tab import DEFAULT_TIMEOUT, PageEvent
from .values import Image, Link, Margin, ProcessInfo, Response, Viewport

if TYPE_CHECKING:
    from .cookie_files import CookieParam, State, StorageState
    from .downloads import Download, Progress
    from .event_source import Events
    from .sync_requests import APIRequestContext
    from .web_socket import WebSocket

__all__ = ["Browser", "BrowserContext", "Page"]


def _close(thread: LoopThread, browser: AsyncBrowser) -> None:
    """The end of a browser that nobody closed: dropped, or the program exits."""
    try:
        thread.run(browser.close(), CLOSE_TIMEOUT)
    except (BrowserClosed, concurrent.futures.TimeoutError):
        pass
    finally:
        thread.stop()


class Browser:
    """Opens pages, each in sandboxed processes of its own::

        with Browser() as browser:
            page = browser.new_page()
            page.goto("https://example.org/")
            page.screenshot("example.png")

    Takes what :class:`AsyncBrowser` takes; started when this returns. May be used from several threads.
    """

    _made_of: ClassVar[type[AsyncBrowser]] = AsyncBrowser

    def __init__(
        self,
        *,
        network: NetworkPolicy | None = None,
        proxy: ProxySettings | Sequence[ProxySettings] | None = None,
        viewport: Viewport | None = None,
        user_agent: str = USER_AGENT,
        client_hints: ClientHints | None = None,
        http_credentials: HttpCredentials | Sequence[HttpCredentials] = (),
        ca_certs: str | os.PathLike[str] | None = None,
        max_live_pages: int | None = None,
        memory_budget: int | str | None = None,
        max_page_memory: int | str | None = None,
        max_cpu_percent: float | None = None,
        crash_reports: bool = True,
        allow_degraded: bool = False,
        trace_ipc: str | os.PathLike[str] | None = None,
        trace_payload: bool = False,
    ) -> None:
        self._browser = self._made_of(
            network=network,
            proxy=proxy,
            viewport=viewport,
            user_agent=user_agent,
            client_hints=client_hints,
            http_credentials=http_credentials,
            ca_certs=ca_certs,
            max_live_pages=max_live_pages,
            memory_budget=memory_budget,
            max_page_memory=max_page_memory,
            max_cpu_percent=max_cpu_percent,
            crash_reports=crash_reports,
            allow_degraded=allow_degraded,
            trace_ipc=trace_ipc,
            trace_payload=trace_payload,
        )
        self._thread = LoopThread(lambda: BrowserClosed("the browser is closed"))
        self._handed_out = _HandedOut(self._thread)
        try:
            self._thread.run(self._browser.start())
        except BaseException:
            _close(self._thread, self._browser)
            raise
        self._finalizer = weakref.finalize(self, _close, self._thread, self._browser)

    @property
    def pages(self) -> list[Page]:
        """The open pages, oldest first."""
        return [self._handed_out.page(page) for page in self._browser.pages]

    @property
    def request(self) -> APIRequestContext:
        """Requests without a page."""
        from .sync_requests import APIRequestContext

        return APIRequestContext(self._browser.request, self._thread)

    @property
    def contexts(self) -> list[BrowserContext]:
        """The open contexts, oldest first."""
        return [self._handed_out.context(context) for context in self._browser.contexts]

    def new_context(self, *, viewport: Viewport | None = None, storage_state: State = None) -> BrowserContext:
        """As :meth:`AsyncBrowser.new_context`."""
        made = self._browser.new_context(viewport=viewport, storage_state=storage_state)
        return self._handed_out.context(self._thread.run(made))

    def new_page(self, *, viewport: Viewport | None = None, storage_state: State = None) -> Page:
        """As :meth:`AsyncBrowser.new_page`."""
        made = self._browser.new_page(viewport=viewport, storage_state=storage_state)
        return self._handed_out.page(self._thread.run(made))

    def download(
        self,
        url: str,
        path: str | os.PathLike[str] | None = None,
        *,
        resume: bool = True,
        progress: Progress | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        max_bytes: int | None = None,
        sha256: str | None = None,
    ) -> Download:
        """As :meth:`AsyncBrowser.download`; ``progress`` is called in the browser's thread."""
        return self._thread.run(
            self._browser.download(
                url,
                path,
                resume=resume,
                progress=progress,
                headers=headers,
                timeout=timeout,
                max_bytes=max_bytes,
                sha256=sha256,
            )
        )

    def on(self, event: Literal["health"], handler: Callable[[HealthEvent], object]) -> None:
        """As :meth:`AsyncBrowser.on`; ``handler`` is called in the browser's thread, and must not call the browser."""
        self._browser.on(event, handler)

    def decode_image(self, source: bytes | str | os.PathLike[str]) -> Image:
        """As :meth:`AsyncBrowser.decode_image`."""
        return self._thread.run(self._browser.decode_image(source))

    def websocket(
        self,
        url: str,
        *,
        protocols: Sequence[str] = (),
        headers: Headers | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> WebSocket:
        """As :meth:`AsyncBrowser.websocket`, for ``with``."""
        from .web_socket import WebSocket

        made = self._browser.websocket(url, protocols=protocols, headers=headers, timeout=timeout)
        return WebSocket(made, self._thread)

    def events(
        self,
        url: str,
        *,
        headers: Headers | None = None,
        last_event_id: str = "",
        timeout: float = DEFAULT_TIMEOUT,
    ) -> Events:
        """As :meth:`AsyncBrowser.events`, for ``with``."""
        from .event_source import Events

        made = self._browser.events(url, headers=headers, last_event_id=last_event_id, timeout=timeout)
        return Events(made, self._thread)

    def processes(self) -> list[ProcessInfo]:
        """The live, locked-down processes: what each is for, and the layers that hold it."""

        async def processes() -> list[ProcessInfo]:
            return self._browser.processes()

        return self._thread.run(processes())

    def close(self) -> None:
        """Close every page and end every process. Closing twice is fine."""
        self._finalizer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _HandedOut:
    """The page and the context that a program has for each of the browser's, for as long as it has them. It holds no
    :class:`Browser`: one ends with the program's last reference to it."""

    def __init__(self, thread: LoopThread) -> None:
        self._thread = thread
        self._pages: weakref.WeakValueDictionary[AsyncPage, Page] = weakref.WeakValueDictionary()
        self._contexts: weakref.WeakValueDictionary[AsyncBrowserContext, BrowserContext] = (
            weakref.WeakValueDictionary()
        )

    def page(self, page: AsyncPage) -> Page:
        found = self._pages.get(page)
        if found is None:
            found = self._pages[page] = Page(page, self.context(page.context), self._thread)
        return found

    def context(self, context: AsyncBrowserContext) -> BrowserContext:
        found = self._contexts.get(context)
        if found is None:
            found = self._contexts[context] = BrowserContext(context, self, self._thread)
        return found


class BrowserContext:
    """One context of a :class:`Browser`; each method is that of :class:`AsyncBrowserContext`, done when it returns."""

    def __init__(self, context: AsyncBrowserContext, handed_out: _HandedOut, thread: LoopThread) -> None:
        self._context = context
        self._handed_out = handed_out
        self._thread = thread

    @property
    def pages(self) -> list[Page]:
        """Its open pages, oldest first."""
        return [self._handed_out.page(page) for page in self._context.pages]

    @property
    def request(self) -> APIRequestContext:
        """As :attr:`AsyncBrowserContext.request`."""
        from .sync_requests import APIRequestContext

        return APIRequestContext(self._context.request, self._thread)

    def new_page(self, *, viewport: Viewport | None = None) -> Page:
        """As :meth:`AsyncBrowserContext.new_page`."""
        return self._handed_out.page(self._thread.run(self._context.new_page(viewport=viewport)))

    def cookies(self, urls: str | Sequence[str] | None = None) -> list[CookieParam]:
        """As :meth:`AsyncBrowserContext.cookies`."""
        return self._thread.run(self._context.cookies(urls))

    def add_cookies(self, cookies: Iterable[CookieParam]) -> None:
        """As :meth:`AsyncBrowserContext.add_cookies`."""
        self._thread.run(self._context.add_cookies(list(cookies)))

    def clear_cookies(self, *, name: Wanted = None, domain: Wanted = None, path: Wanted = None) -> None:
        """As :meth:`AsyncBrowserContext.clear_cookies`."""
        self._thread.run(self._context.clear_cookies(name=name, domain=domain, path=path))

    def storage_state(self, path: str | os.PathLike[str] | None = None) -> StorageState:
        """As :meth:`AsyncBrowserContext.storage_state`."""
        return self._thread.run(self._context.storage_state(path))

    def close(self) -> None:
        """As :meth:`AsyncBrowserContext.close`."""
        self._thread.run(self._context.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Page:
    """One page of a :class:`Browser`; each method is that of :class:`AsyncPage`, done when it returns."""

    def __init__(self, page: AsyncPage, context: BrowserContext, thread: LoopThread) -> None:
        self._page = page
        self._context = context
        self._thread = thread

    def __repr__(self) -> str:
        return repr(self._page).replace("AsyncPage", "Page")

    @property
    def url(self) -> str:
        """As :attr:`AsyncPage.url`."""
        return self._page.url

    @property
    def context(self) -> BrowserContext:
        """As :attr:`AsyncPage.context`."""
        return self._context

    @property
    def viewport_size(self) -> Viewport:
        return self._page.viewport_size

    @property
    def processes(self) -> list[ProcessInfo]:
        """As :attr:`AsyncPage.processes`."""
        return self._page.processes

    def is_closed(self) -> bool:
        return self._page.is_closed()

    @property
    def is_discarded(self) -> bool:
        """As :attr:`AsyncPage.is_discarded`."""
        return self._page.is_discarded

    def discard(self) -> bool:
        """As :meth:`AsyncPage.discard`."""

        async def discard() -> bool:
            return self._page.discard()

        return self._thread.run(discard())

    def on(self, event: PageEvent, handler: Callable[..., object]) -> None:
        """As :meth:`AsyncPage.on`; ``handler`` is called in the browser's thread, and must not call the page (a
        :class:`HealthEvent` may be called from anywhere)."""
        if event == "crash":
            self._page.on(event, lambda _page: handler(self))
        else:
            self._page.on(event, handler)

    def goto(self, url: str, *, timeout: float = DEFAULT_TIMEOUT) -> Response:
        """As :meth:`AsyncPage.goto`."""
        return self._thread.run(self._page.goto(url, timeout=timeout))

    def set_content(
        self, html: str | bytes, *, base_url: str | None = None, timeout: float = DEFAULT_TIMEOUT
    ) -> Response:
        """As :meth:`AsyncPage.set_content`."""
        return self._thread.run(self._page.set_content(html, base_url=base_url, timeout=timeout))

    def open_file(self, path: str | os.PathLike[str], *, timeout: float = DEFAULT_TIMEOUT) -> Response:
        """As :meth:`AsyncPage.open_file`."""
        return self._thread.run(self._page.open_file(path, timeout=timeout))

    def reload(self, *, timeout: float = DEFAULT_TIMEOUT) -> Response:
        """As :meth:`AsyncPage.reload`."""
        return self._thread.run(self._page.reload(timeout=timeout))

    def go_back(self, *, timeout: float = DEFAULT_TIMEOUT) -> Response | None:
        """As :meth:`AsyncPage.go_back`."""
        return self._thread.run(self._page.go_back(timeout=timeout))

    def go_forward(self, *, timeout: float = DEFAULT_TIMEOUT) -> Response | None:
        """As :meth:`AsyncPage.go_forward`."""
        return self._thread.run(self._page.go_forward(timeout=timeout))

    def screenshot(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        full_page: bool = False,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> bytes:
        """As :meth:`AsyncPage.screenshot`."""
        return self._thread.run(self._page.screenshot(path, full_page=full_page, timeout=timeout))

    def pdf(
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
        """As :meth:`AsyncPage.pdf`."""
        return self._thread.run(
            self._page.pdf(
                path,
                format=format,
                landscape=landscape,
                width=width,
                height=height,
                margin=margin,
                timeout=timeout,
            )
        )

    def text(self, *, timeout: float = DEFAULT_TIMEOUT) -> str:
        """As :meth:`AsyncPage.text`."""
        return self._thread.run(self._page.text(timeout=timeout))

    def markdown(self, *, timeout: float = DEFAULT_TIMEOUT) -> str:
        """As :meth:`AsyncPage.markdown`."""
        return self._thread.run(self._page.markdown(timeout=timeout))

    def content(self, *, timeout: float = DEFAULT_TIMEOUT) -> str:
        """As :meth:`AsyncPage.content`."""
        return self._thread.run(self._page.content(timeout=timeout))

    def links(self, *, timeout: float = DEFAULT_TIMEOUT) -> list[Link]:
        """As :meth:`AsyncPage.links`."""
        return self._thread.run(self._page.links(timeout=timeout))

    def title(self) -> str:
        """As :meth:`AsyncPage.title`."""
        return self._thread.run(self._page.title())

    def close(self) -> None:
        """As :meth:`AsyncPage.close`."""
        self._thread.run(self._page.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
