"""The browser, for asyncio programs."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import logging
import os
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from ..ends import Killed
from ..errors import (
    BadMessage,
    BrowserClosed,
    ChannelClosed,
    ImageError,
    InvalidArgument,
    RequestFailed,
    TimeoutError,
)
from ..interfaces import web_content
from ..interfaces.image_decoder import IMAGES, MAX_PIXELS, Decode, Decoded, DecodeFile
from ..ipc import Connection, Descriptors, blob, memory, trace
from ..process import ChildProcess
from ..process.crashed import report_crash
from ..process.limiter import Limiter
from ..process.monitor import Monitor
from ..process.size import size
from ..process.supervisor import HealthEvent, Supervisor
from .ahead import Ahead
from .async_page import AsyncPage
from .checks import descriptors_left, open_regular
from .context import AsyncBrowserContext
from .identity import ClientHints, HttpCredentials, Keyring, with_hints
from .memory import MemoryKeeper, default_budget
from .network import NetworkPolicy
from .processes import Processes
from .proxy import ProxySettings, proxies
from .renderer import Renderer
from .room import Room, default_room
from .tab import Tab, child_info
from .values import Image, ProcessInfo, Viewport
from .without_pages import WithoutPages

if TYPE_CHECKING:
    from ..interfaces import monitor
    from .cookie_files import State

__all__ = ["DEFAULT_VIEWPORT", "USER_AGENT", "AsyncBrowser"]

DEFAULT_VIEWPORT: Viewport = {"width": 1280, "height": 720}
USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Cloister/0.1"
"""Honest about what it is; the tokens before it are what servers expect of anything that shows pages."""
log = logging.getLogger("cloister.browser")

_MAX_ROOTS = 4 * 2**20
_DECODE_TIMEOUT = 30.0
MAX_DECODERS = 16
"""Images that :meth:`AsyncBrowser.decode_image` decodes at once, each in a process."""
_PAGE_MEMORY = 2**30  # bytes; a page of documentation takes 20 MiB, a gallery of photographs 200


class AsyncBrowser(WithoutPages):
    """Opens pages, each in sandboxed processes of its own::

        async with AsyncBrowser() as browser:
            page = await browser.new_page()
            await page.goto("https://example.org/")

    ``network``: what pages may reach (:class:`NetworkPolicy`; public addresses only by default).
    ``proxy``: what pages connect through, as in Playwright: ``{"server": "socks5://host:port"}`` or ``http://``, with
    ``username``, ``password`` and ``bypass`` (``"example.org, .corp.example"``); or a list of such, each with the
    ``hosts`` that it is for. The proxy looks names up, so ``network`` judges them by what they are called
    (docs/network.md).
    ``viewport``: the size of new pages. ``user_agent``: what servers are told; ``client_hints`` say the same in
    other words (:class:`ClientHints`), to servers over https, and nothing unless given.
    ``http_credentials``: names and passwords for origins that ask for them by Basic authentication
    (:class:`HttpCredentials`, or several); only the origin of a page's document gets its own.
    ``max_live_pages``: how many documents may have processes at once; who loads one more waits in order, until the
    deadline of the action. As many as there are descriptors for (256 at most) unless given.
    ``memory_budget``: bytes, or a text such as ``"2 GiB"``, that all processes together may take: beyond it, pages
    that nobody uses are discarded (:attr:`AsyncPage.is_discarded`), then new ones wait. Half of the machine's
    memory unless given. ``max_page_memory``: the same for one page's process, which is ended beyond it (1 GiB).
    ``max_cpu_percent``: of one core, for each page's process; no limit unless given.
    ``crash_reports``: whether a process that ends as it should not leaves a report for ``cloister crashes``.
    ``ca_certs``: a PEM file of further certificate authorities to trust, beside the system's.
    ``allow_degraded``: run although the kernel lacks a layer of the sandbox that is otherwise required;
    ``cloister doctor`` tells which.
    ``trace_ipc``: a file that gets a line of JSON for each message between this process and its children: names,
    sizes, times. ``trace_payload``: and all that they say.
    """

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
        policy = network or NetworkPolicy()
        options = with_hints(policy.request_options(user_agent), client_hints)
        super().__init__(policy, options, Keyring(http_credentials))
        self._proxies = proxies(proxy)
        self._viewport = _checked_viewport(viewport or DEFAULT_VIEWPORT)
        self._extra_roots = _read_roots(ca_certs)
        self._budget = default_budget() if memory_budget is None else size("memory_budget", memory_budget)
        page_memory = None if max_page_memory is None else size("max_page_memory", max_page_memory)
        self._page_memory = page_memory or _PAGE_MEMORY
        self._limiter = Limiter(page_memory, max_cpu_percent)
        self._crash_reports = crash_reports
        self._allow_degraded = allow_degraded
        self._processes: Processes | None = None
        self._pages: list[AsyncPage] = []
        self._contexts: list[AsyncBrowserContext] = []
        self._ending: set[asyncio.Task[None]] = set()
        self._ahead = Ahead(lambda: self._fork_renderer(self._usual, will_fetch=True), self.see_off)
        self._usual = web_content.Options(width=self._viewport["width"], height=self._viewport["height"])
        self._room = Room(default_room() if max_live_pages is None else max_live_pages)
        self._trace_to = (trace_ipc, trace_payload)
        self._trace: trace.Trace | None = None
        self._monitor: Monitor | None = None
        self._closed = False
        self._started = time.monotonic()
        self._decoding = asyncio.Semaphore(MAX_DECODERS)
        self._share_sites = False
        self._supervisor: Supervisor | None = None
        self._memory: MemoryKeeper | None = None
        self._listeners: list[Callable[[HealthEvent], object]] = []

    async def start(self) -> Self:
        """Start the standing processes; ``async with`` does it. Raises :class:`SandboxUnavailable` when the
        kernel lacks a required layer, :class:`LaunchError` when the first process does not come up. Others still load
        when this returns: the first page that needs one which failed raises :class:`LaunchError`, too."""
        self._check_open()
        if self._processes is None:
            try:
                with descriptors_left():
                    await self._start()
            except BaseException:
                await self._stop()
                raise
            log.info("the browser started")
        return self

    async def _start(self) -> None:
        self._open_trace()
        self._supervisor = Supervisor(self._on_health, self._on_end)
        processes = Processes(
            self._supervisor,
            self._network.lookup_options(self._proxies),
            self._network.lookup_preload(self._extra_roots),
            self._extra_roots,
            allow_degraded=self._allow_degraded,
            pages_only=self.pages_only,
        )
        with self._traced():
            await processes.start()
        self._processes = processes
        self._limiter.start()
        self._memory = MemoryKeeper(
            lambda: self._pages,
            self._children,
            self._room,
            self.share_sites,
            budget=self._budget,
            page_limit=self._page_memory,
        )
        self._monitor = Monitor.start(self)

    async def _stop(self) -> None:
        """End what :meth:`_start` started, as far as it came."""
        if self._monitor is not None:
            await self._monitor.close()
        if self._memory is not None:
            await self._memory.close()
        await self._ahead.close()
        await self._end_requests()
        ending = asyncio.gather(*self._ending, return_exceptions=True)
        if self._processes is not None:
            await self._processes.close()
            self._processes = None
        await ending
        await self._limiter.close()
        if self._supervisor is not None:
            self._supervisor.close()
        await asyncio.gather(*self._ending, return_exceptions=True)
        self._close_trace()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def pages(self) -> list[AsyncPage]:
        """The open pages, oldest first."""
        return list(self._pages)

    @property
    def contexts(self) -> list[AsyncBrowserContext]:
        """The open contexts, oldest first."""
        return list(self._contexts)

    async def new_context(
        self, *, viewport: Viewport | None = None, storage_state: State = None
    ) -> AsyncBrowserContext:
        """A context without pages: its cookies are no other context's. ``viewport`` is the size of its pages,
        ``storage_state`` the cookies to begin with (:meth:`AsyncBrowserContext.storage_state`)."""
        return self._new_context(viewport, storage_state)

    async def new_page(self, *, viewport: Viewport | None = None, storage_state: State = None) -> AsyncPage:
        """A new, empty page in a context of its own, which is closed with it. Its processes start with its first
        navigation."""
        context = self._new_context(viewport, storage_state)
        context.closes_with_page = True
        return await context.new_page()

    def _new_context(self, viewport: Viewport | None, storage_state: State) -> AsyncBrowserContext:
        self._running()
        context = AsyncBrowserContext(self, _checked_viewport(viewport or self._viewport), storage_state)
        self._contexts.append(context)
        return context

    def add_page(self, context: AsyncBrowserContext, viewport: Viewport) -> AsyncPage:
        """For a context: one more page."""
        self._running()
        page = AsyncPage(self, context, _checked_viewport(viewport))
        self._pages.append(page)
        return page

    def on(self, event: Literal["health"], handler: Callable[[HealthEvent], object]) -> None:
        """Call ``handler`` with a :class:`HealthEvent` whenever a process stops answering, or does so again."""
        if event != "health":
            raise InvalidArgument(f"a browser has the event 'health', not {event!r}")
        self._listeners.append(handler)

    async def decode_image(self, source: bytes | str | os.PathLike[str]) -> Image:
        """Decode an image (a path, or the bytes of one) in a process of its own.

        At most 16 at once; who comes then waits in order. Raises :class:`ImageError` when it is broken, too large, or
        of no known format, :class:`TimeoutError` after 30 seconds of waiting or of decoding.
        """
        try:
            async with asyncio.timeout(_DECODE_TIMEOUT):
                await self._decoding.acquire()
        except builtins.TimeoutError:
            raise TimeoutError(
                f"no image decoder within {_DECODE_TIMEOUT:g} s: {MAX_DECODERS} images are being decoded"
            ) from None
        try:
            return await self._decode_alone(source)
        finally:
            self._decoding.release()

    async def _decode_alone(self, source: bytes | str | os.PathLike[str]) -> Image:
        with descriptors_left(), self._traced():
            decoder = await self._running().decoders.take()
        try:
            with self._traced():
                connection = Connection(decoder.channel, IMAGES, "client")
            try:
                return await _decode(connection, source)
            except BadMessage as error:
                decoder.punish(error)
                raise
            except ChannelClosed:
                status = await decoder.wait(5)
                raise ImageError(f"the image decoder ended while decoding: {status}") from None
            finally:
                connection.close()
        finally:
            await asyncio.shield(decoder.end())

    def processes(self) -> list[ProcessInfo]:
        """The live, locked-down processes: what each is for, and the layers that hold it. One that pages share is
        there for each of them."""
        waiting = [*self._running().standing(), *self._ahead.processes]
        standing = [child_info(child, None) for child in waiting]
        standing += [child_info(child, url) for child, url in self._of_requests()]
        return [
            *(info for info in standing if info is not None),
            *(info for page in self._pages for info in page.processes),
        ]

    async def close(self) -> None:
        """Close every page and end every process. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        await asyncio.gather(*(page.close() for page in self.pages), return_exceptions=True)
        await asyncio.gather(*(context.close() for context in self.contexts), return_exceptions=True)
        await self._stop()
        log.info("the browser ended")

    async def start_renderer(
        self,
        options: web_content.Options,
        context: AsyncBrowserContext,
        *,
        will_fetch: bool,
        origin: str | None = None,
    ) -> Renderer:
        """For a page of ``context``: the processes of one navigation, as soon as there is room for them. Where it goes
        to ``origin``, they may be joined to those of another page of the context there."""
        await self._room.take()
        try:
            renderer = None
            if origin is not None and self._share_sites:
                renderer = self._join(options, context, origin)
            if renderer is None:
                renderer = await self._fresh_renderer(options, will_fetch=will_fetch)
        except BaseException:
            self._room.give_back()
            raise
        renderer.on_gone = self._room.give_back
        renderer.cookies.use(context.store)
        return renderer

    async def _fresh_renderer(self, options: web_content.Options, *, will_fetch: bool) -> Renderer:
        renderer = None
        if will_fetch and options == self._usual:
            renderer = self._ahead.take(sum(page.is_loading for page in self._pages))
        renderer = renderer or await self._fork_renderer(options, will_fetch=will_fetch)
        try:
            self._limiter.hold(renderer.web_content)
        except BaseException:
            self.see_off(renderer)
            raise
        return renderer

    def why_wait(self) -> str:
        """For a page whose deadline passed before it got a process."""
        return self._room.why_wait() if self._room.is_full else "none could be forked"

    def _join(
        self, options: web_content.Options, context: AsyncBrowserContext, origin: str
    ) -> Renderer | None:
        for page in context.pages:
            content = page.content_process
            if content is not None and content.can_be_joined(origin):
                with contextlib.suppress(ChannelClosed, BadMessage):  # it is ending
                    joined = Renderer.join(content, self._running(), options, self._request_options)
                    joined.credentials_of = self._keyring.get
                    return joined
        return None

    async def _fork_renderer(self, options: web_content.Options, *, will_fetch: bool) -> Renderer:
        with self._traced():
            renderer = await Renderer.start(
                self._running(), options, self._request_options, will_fetch=will_fetch
            )
        renderer.credentials_of = self._keyring.get
        return renderer

    def loaded(self) -> None:
        """For a page that was fetched and laid out: another may follow."""
        if not self._share_sites:
            self._ahead.loaded()

    def share_sites(self, share: bool) -> None:
        """For the keeper of memory: whether a page may join the process of another that shows the same origin."""
        self._share_sites = share

    def see_off(self, renderer: Renderer) -> None:
        """For a page: wait for the end of processes that are killed, while it goes on."""
        self._keep(renderer.close())

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _on_health(self, child: ChildProcess, event: HealthEvent) -> None:
        for page in self._pages:
            page.on_health(child, event)
        for listener in self._listeners:
            listener(event)

    def _on_end(self, child: ChildProcess) -> None:
        if self._crash_reports:
            self._keep(report_crash(child))

    def forget(self, page: Tab) -> None:
        """For a page that closes."""
        self._pages = [each for each in self._pages if each is not page]

    def forget_context(self, context: AsyncBrowserContext) -> None:
        """For a context that closes."""
        if context in self._contexts:
            self._contexts.remove(context)

    def rows(self) -> list[monitor.ProcessRow]:
        """For the monitor: this process and every child, as far as it is known here."""
        from ..interfaces import monitor
        from ..process.census import row

        spares = {*self._running().decoders.spares, *self._ahead.processes}
        age = time.monotonic() - self._started
        me = monitor.ProcessRow("browser", os.getpid(), "running", age_seconds=age)
        live = [
            row(child, "spare" if child in spares else None)
            for child in self._children()
            if child.pid > 0  # it had ended before anybody could ask who it was
        ]
        lost = [
            row(page.gone, "discarded" if page.is_discarded else "crashed")
            for page in self._pages
            if page.gone is not None
        ]
        return [me, *live, *lost]

    def kill(self, pid: int) -> bool:
        """For the monitor: end the child ``pid``; False when there is none."""
        for child in self._children():
            if child.pid == pid and child.is_alive:
                log.info("%s %d was killed through the monitor", child.kind, pid)
                child.kill(Killed("on request, through the monitor"))
                return True
        return False

    async def reload(self, pid: int) -> bool:
        """For the monitor: reload the page that the child ``pid`` works for; False when it works for none."""
        for page in self._pages:
            if any(child.pid == pid for child in (*page.children, page.gone) if child is not None):
                await page.reload()
                return True
        return False

    def _children(self) -> list[ChildProcess]:
        """Each once, though pages may share one."""
        of_pages = [child for page in self._pages for child in page.children]
        of_mine = [child for child, _ in self._of_requests()]
        return list(dict.fromkeys([*self._running().standing(), *self._ahead.processes, *of_pages, *of_mine]))

    def _open_trace(self) -> None:
        path, payload = self._trace_to
        if path is not None:
            self._trace = trace.Trace(path, payload=payload)

    @contextlib.contextmanager
    def _traced(self) -> Iterator[None]:
        """Connections that are made meanwhile, and by what is begun meanwhile, are traced if this browser is."""
        before = trace.current.set(self._trace)
        try:
            yield
        finally:
            trace.current.reset(before)

    def _close_trace(self) -> None:
        if self._trace is not None:
            self._trace.close()

    def _check_open(self) -> None:
        if self._closed:
            raise BrowserClosed("the browser is closed")

    def _running(self) -> Processes:
        self._check_open()
        if self._processes is None:
            raise BrowserClosed(
                "the browser is not started: use `async with AsyncBrowser()`, or await start()"
            )
        return self._processes


async def _decode(connection: Connection, source: bytes | str | os.PathLike[str]) -> Image:
    request: Decode | DecodeFile
    if isinstance(source, bytes):
        body, fds = blob.pack(source)
        request = Decode(body)
    else:
        request, fds = DecodeFile(), [open_regular(source)]
    try:
        decoded, given = await connection.request(request, fds, timeout=_DECODE_TIMEOUT)
    except RequestFailed as error:
        raise ImageError(error.detail or error.code) from None
    return _image(decoded, given)


def _image(decoded: Decoded, given: Descriptors) -> Image:
    pixels = decoded.width * decoded.height
    fd = given.take()
    try:
        if pixels > MAX_PIXELS:
            raise BadMessage("the image decoder answered with more pixels than it may")
        bgra = memory.read_sealed(fd, pixels * 4)
    finally:
        os.close(fd)
    rgba = bytearray(bgra)
    rgba[0::4], rgba[2::4] = bgra[2::4], bgra[0::4]
    return Image(decoded.width, decoded.height, decoded.format, decoded.frames, bytes(rgba))


def _checked_viewport(viewport: Viewport) -> Viewport:
    try:
        width, height = viewport["width"], viewport["height"]
        if set(viewport) == {"width", "height"} and 1 <= width <= 16_384 and 1 <= height <= 16_384:
            return {"width": int(width), "height": int(height)}
    except (KeyError, TypeError):
        pass
    raise InvalidArgument(f"viewport: {viewport!r} is not {{'width': 1..16384, 'height': 1..16384}}")


def _read_roots(path: str | os.PathLike[str] | None) -> str:
    if path is None:
        return ""
    try:
        with Path(path).open("rb") as file:
            data = file.read(_MAX_ROOTS + 1)
    except OSError as error:
        raise InvalidArgument(f"ca_certs: {os.fspath(path)}: {error.strerror}") from None
    if len(data) > _MAX_ROOTS or b"-----BEGIN CERTIFICATE-----" not in data:
        raise InvalidArgument(f"ca_certs: {os.fspath(path)} is not a PEM file of certificates")
    return data.decode("ascii", "replace")
