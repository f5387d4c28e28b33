"""A browser, a page beside that must not notice anything, a server, and what a program does with them."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import shutil
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest
from PIL import Image

from cloister import AsyncBrowser, CloisterError, NetworkPolicy
from cloister.browser import memory
from cloister.browser.async_page import AsyncPage
from cloister.browser.requests import AsyncAPIRequestContext
from tests.faults.before import back_to_before, holdings
from tests.request_server.sockets import switched
from tests.servers import Handler, Page, Request, Server, closed_port, respond

__all__ = ["STEPS", "Trouble", "World", "picture", "site"]

T = TypeVar("T")
TIMEOUT = 8_000.0
"""Milliseconds of each action."""
GREEN = '<body style="margin:0;background:rgb(0,255,0)">'
"""What the page beside shows."""
PURPLE = (128, 0, 128)


def picture(color: tuple[int, int, int], size: tuple[int, int] = (20, 10)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


def color_of(png: bytes) -> object:
    """Of the first pixel."""
    with Image.open(io.BytesIO(png)) as image:
        return image.convert("RGB").getpixel((0, 0))


async def _lingering(_request: Request, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(0.2)  # a few pings
    await respond(writer, Page(picture(PURPLE), "image/png"))


async def _socket(request: Request, writer: asyncio.StreamWriter) -> None:
    """Says hello, and waits for who is there to leave."""
    writer.write(switched(dict(request.headers)) + b"\x81\x05hello")
    await writer.drain()
    await asyncio.sleep(0.1)
    writer.write(b"\x88\x02\x03\xe8")


@contextlib.contextmanager
def site() -> Iterator[Server]:
    """A page with a style sheet, an image that is one, one that is none and one that cannot be had; and a slow one."""
    with closed_port() as closed:
        html = f"""<!doctype html><title>A page</title><link rel=stylesheet href=/style.css><body>
            <img src=/image.png><img src=/broken.png><img src=http://127.0.0.1:{closed}/nowhere.png>
            <p>Some <a href=/elsewhere>words</a>""".encode()
        routes: dict[str, Page | Handler] = {
            "/page": Page(html, headers=(("Set-Cookie", "page=1"),)),
            "/plain": Page(
                b"<!doctype html><link rel=stylesheet href=/style.css><p>Words",
                headers=(("Set-Cookie", "plain=1"),),
            ),
            "/style.css": Page(
                b"body { margin: 0; background: rgb(128, 0, 128) }", "text/css", headers=(("ETag", '"kept"'),)
            ),
            "/image.png": Page(picture((1, 2, 3)), "image/png"),
            "/broken.png": Page(b"\x89PNG\r\n\x1a\n and no more", "image/png"),
            "/slow": Page(b"<!doctype html><link rel=stylesheet href=/style.css><img src=/slow.png>"),
            "/slow.png": _lingering,
            "/socket": _socket,
            "/events": Page(b"data: 1\n\n", "text/event-stream"),
        }
        with Server(routes) as server:
            yield server


class Served(Protocol):
    """Where pages are."""

    def url(self, path: str, /) -> str: ...


class Trouble(logging.Handler):
    """What nobody may hear of: an exception that no task and no future gave to anyone, an error in the log."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(f"{record.name}: {self.format(record)}")

    def handle_context(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.found.append(f"the event loop: {context}")


class World:
    """``errors`` are what actions of this run ended in."""

    def __init__(self, server: Served, folders: tuple[Path, ...]) -> None:
        self.server = server
        self.trouble = Trouble()
        self.errors: list[CloisterError] = []
        self.page: AsyncPage
        self.folders = folders
        self.image_file = folders[0] / "picture.png"
        self.image_file.write_bytes(picture(PURPLE))
        self._runner = asyncio.Runner()
        self._loop = self._runner.get_loop()
        self._loop.set_exception_handler(self.trouble.handle_context)
        for name in ("asyncio", "cloister"):
            logging.getLogger(name).addHandler(self.trouble)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    async def start(self, **options: Any) -> None:
        self.browser = await self.new_browser(**options).start()
        self.bystander = await self.browser.new_page()
        await self.bystander.set_content(GREEN)
        await self.bystander.screenshot()
        await self.settle()
        self.before = holdings(self.folders)
        self._remember()

    def _remember(self) -> None:
        self.bystanders_pid = self.pid_of(self.bystander)

    async def new_page(self) -> AsyncPage:
        """In a context where there may be more."""
        return await (await self.browser.new_context()).new_page()

    async def recover(self) -> None:
        """From a test that failed: the next one is another."""
        self.errors.clear()
        self.trouble.found.clear()
        if not self.bystander.processes:
            await self.again(self.bystander.reload)
            self._remember()

    def new_browser(self, **options: Any) -> AsyncBrowser:
        network = NetworkPolicy(allow_hosts=["127.0.0.1"], request_timeout=5)
        settings: dict[str, Any] = {"viewport": {"width": 80, "height": 60}, "max_live_pages": 3, **options}
        return AsyncBrowser(network=network, **settings)

    async def settle(self) -> None:
        """Let what is forked ahead come, and go."""
        zygote = self.browser._processes._zygote.current if self.browser._processes else None
        if zygote is not None:
            await zygote.ready()
        while (keeper := self.browser._memory) is not None and keeper._pressure is None:
            await asyncio.sleep(0.02)  # a second after the start
        quiet_since, last = time.monotonic(), holdings(self.folders)
        while time.monotonic() - quiet_since < 0.3:
            await asyncio.sleep(0.02)
            now = holdings(self.folders)
            if now != last:
                quiet_since, last = time.monotonic(), now

    def close(self) -> None:
        self.run(self.browser.close())
        for name in ("asyncio", "cloister"):
            logging.getLogger(name).removeHandler(self.trouble)
        self._runner.close()

    # ── acting ───────────────────────────────────────────────────────────────────────────────────────────────

    async def act(self, work: Awaitable[T]) -> T | CloisterError:
        """The result, or the error that has a name. Anything else fails, and so does an action that does not end."""
        try:
            async with asyncio.timeout(TIMEOUT / 1000 + 7):
                return await work
        except CloisterError as error:
            self.errors.append(error)
            return error

    async def again(self, work: Callable[[], Awaitable[T]]) -> T:
        """Until it does not fail as something that may be tried again."""
        deadline = time.monotonic() + 20
        while True:
            try:
                return await work()
            except CloisterError as error:
                if not error.retriable or time.monotonic() > deadline:
                    raise

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────

    @staticmethod
    def pid_of(page: AsyncPage, kind: str = "web_content") -> int:
        (pid,) = (process.pid for process in page.processes if process.kind == kind)
        return pid

    def pids(self, *kinds: str) -> set[int]:
        assert self.browser._processes is not None
        return {child.pid for child in self.browser._processes.standing() if child.kind in kinds}

    async def all_is_well(self, *, died: int | None = None) -> None:
        """After a fault: the page beside is the same process with the same picture, the browser opens another page,
        nothing is left behind, and nobody complained. ``died``: the pid of the zygote, or of a branch, that did."""
        if died is not None:
            async with asyncio.timeout(20):
                while died in self.pids("zygote"):  # the others of them end a moment later
                    await asyncio.sleep(0.005)
            await self.again(self.bystander.reload)
            self._remember()
        assert self.pid_of(self.bystander) == self.bystanders_pid, "the page beside has another process"
        assert color_of(await self.bystander.screenshot(timeout=TIMEOUT)) == (0, 255, 0)
        async with await self.browser.new_page() as fresh:
            await self.again(lambda: fresh.goto(self.server.url("/plain"), timeout=TIMEOUT))
            assert color_of(await fresh.screenshot(timeout=TIMEOUT)) == PURPLE
        assert (await self.browser.decode_image(self.image_file)).width == 20
        await back_to_before(self.before, self.folders)
        self.nobody_complained()

    def nobody_complained(self) -> None:
        found, self.trouble.found = self.trouble.found, []
        assert not found, "\n".join(found)


# ── what a program does ──────────────────────────────────────────────────────────────────────────────────────────


async def start_and_close(world: World) -> None:
    """A second browser, from its start to its end."""
    browser = world.new_browser()
    if isinstance(await world.act(browser.start()), CloisterError):
        await world.act(browser.close())
        return
    page = await browser.new_page()
    await world.act(page.set_content("x", timeout=TIMEOUT))
    await world.act(page.goto(world.server.url("/page"), timeout=TIMEOUT))
    await world.act(browser.close())


async def load(world: World) -> None:
    world.page = await world.new_page()
    await world.act(world.page.goto(world.server.url("/page"), timeout=TIMEOUT))


async def look(world: World) -> None:
    await world.act(world.page.screenshot(full_page=True, timeout=TIMEOUT))
    await world.act(world.page.pdf(timeout=TIMEOUT))
    await world.act(world.page.text(timeout=TIMEOUT))
    await world.act(world.page.links(timeout=TIMEOUT))


async def load_again(world: World) -> None:
    await world.act(world.page.reload(timeout=TIMEOUT))
    await world.act(world.page.set_content("<p>Some words", timeout=TIMEOUT))
    await world.act(world.page.open_file(__file__, timeout=TIMEOUT))
    await world.act(world.page.goto("http://10.0.0.1/", timeout=TIMEOUT))


async def decode(world: World) -> None:
    await world.act(world.browser.decode_image(picture(PURPLE)))
    await world.act(world.browser.decode_image(world.image_file))
    await world.act(world.browser.decode_image(b"no image"))


async def linger(world: World) -> None:
    await world.act(world.page.goto(world.server.url("/slow"), timeout=TIMEOUT))


async def talk(world: World) -> None:
    """Without a page: a WebSocket, and events."""
    await world.act(_talk(world))
    await world.act(_listen(world))


async def _talk(world: World) -> None:
    url = world.server.url("/socket").replace("http", "ws")
    async with world.browser.websocket(url, timeout=TIMEOUT) as socket:
        assert await socket.recv(timeout=TIMEOUT) == "hello"
        await socket.send("hello")


async def _listen(world: World) -> None:
    async with world.browser.events(world.server.url("/events"), timeout=TIMEOUT) as events:
        await events.recv(timeout=TIMEOUT)
    async with world.browser.events(world.server.url("/plain"), timeout=TIMEOUT):
        pass


async def share(world: World) -> None:
    """As if memory were short: a second page joins the process of the first, and has the cookies with it."""
    await world.act(world.page.goto(world.server.url("/plain"), timeout=TIMEOUT))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "SHARE_FROM", -1.0)
        world.browser.share_sites(True)
        async with await world.page.context.new_page() as other:
            await world.act(other.goto(world.server.url("/plain"), timeout=TIMEOUT))
            await world.act(other.text(timeout=TIMEOUT))
    world.browser.share_sites(False)


async def request(world: World) -> None:
    """Without a page: an answer, a file that is sent, one that is saved, one that is left in the middle, a failure."""
    ask = world.browser.request
    folder = world.folders[0] / "downloads"
    folder.mkdir(exist_ok=True)
    try:
        await world.act(ask.get(world.server.url("/page"), timeout=TIMEOUT))
        await world.act(ask.put(world.server.url("/plain"), data=world.image_file, timeout=TIMEOUT))
        await world.act(world.browser.download(world.server.url("/page"), folder, timeout=TIMEOUT))
        await world.act(_leave(ask, world.server.url("/page")))
        await world.act(ask.get("http://10.0.0.1/", timeout=TIMEOUT))
    finally:
        shutil.rmtree(folder)
        await world.browser.request.servers.close()


async def look_up(world: World) -> None:
    """Without a page: a name that has addresses, and one that has none."""
    for name in ("localhost", "none.invalid"):
        await world.act(world.browser.look_up(name, named=False, timeout=TIMEOUT / 1000))


async def _leave(ask: AsyncAPIRequestContext, url: str) -> None:
    async with ask.stream("GET", url, timeout=TIMEOUT):
        pass


async def close(world: World) -> None:
    await world.act(world.page.context.close())
    await asyncio.sleep(0.02)


async def lose(world: World) -> None:
    """A second browser loses what everything in it hangs on."""
    browser = world.new_browser()
    if not isinstance(await world.act(browser.start()), CloisterError):
        await world.act(_lose(browser))
    await world.act(browser.close())


async def _lose(browser: AsyncBrowser) -> None:
    assert browser._processes is not None
    zygote = browser._processes._zygote.current
    lookup = browser._processes._lookup.current
    if zygote is None or lookup is None:
        return  # it is lost already
    await zygote.ready()
    for victim in [await lookup._forking, *zygote.branches[-1:]]:
        victim.kill()
        await victim.wait(5)
        await asyncio.sleep(0.02)


STEPS: dict[str, Callable[[World], Awaitable[None]]] = {
    "load": load,
    "look": look,
    "load again": load_again,
    "decode": decode,
    "linger": linger,
    "talk": talk,
    "share": share,
    "request": request,
    "look up": look_up,
    "close": close,
    "start and close": start_and_close,
    "lose": lose,
}
"""In this order: the first needs nothing, and others a page."""
