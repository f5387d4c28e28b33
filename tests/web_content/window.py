"""A real page process, forked from a zygote and locked down, and in-test peers for what it asks of others."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import msgspec
from PIL import Image

from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode, Reply, Request
from cloister.interfaces.fetch import Fetch, Fetched
from cloister.interfaces.image_decoder import IMAGES, Decode, Decoded
from cloister.interfaces.requests import REQUESTS
from cloister.interfaces.web_content import (
    PAGE,
    WEB_CONTENT_CONTROL,
    AddPage,
    GetLinks,
    GetText,
    ImageDecoderReady,
    Link,
    Load,
    Loaded,
    LoadFile,
    NewImageDecoder,
    NewRequestServer,
    Options,
    Paint,
    Pdf,
    PrintToPdf,
    Progress,
    RequestServerReady,
    SetContent,
    TextFormat,
)
from cloister.ipc import Channel, Connection, Descriptors, memory
from cloister.ipc import blob as blobs
from cloister.process import ChildProcess, Zygote

__all__ = ["Answer", "Run", "Window", "picture"]

T = TypeVar("T")
R = TypeVar("R", bound=Reply)
Run = Callable[[Coroutine[Any, Any, Any]], Any]
Answer = tuple[int, str, bytes]
_TIMEOUT = 30.0


def picture(color: tuple[int, ...], size: tuple[int, int] = (20, 20), form: str = "PNG") -> bytes:
    """An image file of one colour, with alpha where the colour has it."""
    out = io.BytesIO()
    Image.new("RGBA" if len(color) == 4 else "RGB", size, color).save(out, form)
    return out.getvalue()


class Window:
    """One page. ``site`` maps a URL to what its server answers, with ``headers``; ``asked`` and ``decoded`` are what
    was asked of the peers: every request of the page, and the bytes of every image that it gave to a decoder."""

    def __init__(self, run: Run, child: ChildProcess, page: Channel) -> None:
        self._run = run
        self.child = child
        self.site: dict[str, Answer | FailureCode] = {}
        self.headers: dict[str, tuple[tuple[str, str], ...]] = {}
        self.asked: list[Fetch] = []
        self.decoded: list[bytes] = []
        self.decoded_as: tuple[int, ...] | None = (
            None  # decoders answer with this colour, whatever they are sent
        )
        self.progress: list[Progress] = []
        self._servers: list[Connection] = []
        self._page = Connection(
            page,
            PAGE,
            "client",
            {
                NewImageDecoder: self._new_decoder,
                NewRequestServer: self._new_request_server,
                Progress: lambda message, _fds: self.progress.append(message),
            },
        )

    @classmethod
    async def open(cls, run: Run, zygote: Zygote, options: Options) -> Window:
        page, page_end = Channel.pair()
        child = await zygote.fork(
            "web_content",
            msgspec.msgpack.encode(options),
            [page_end],
            keep=[page],
            interface=WEB_CONTENT_CONTROL,
        )
        await child.ready()
        return cls(run, child, page)

    def another(self, options: Options) -> Window:
        """One more page of the same process."""

        async def add() -> Window:
            page, page_end = Channel.pair()
            self.child.control.send(AddPage(options), [page_end.detach()])
            return Window(self._run, self.child, page)

        added: Window = self._run(add())
        return added

    def leave(self) -> None:
        """Close this page's channels, and leave the process to the others."""

        async def close() -> None:
            for connection in (self._page, *self._servers):
                connection.close()

        self._run(close())

    async def close(self) -> None:
        for connection in (self._page, *self._servers):
            connection.close()
        await self.child.shutdown()

    # ── what the browser does ────────────────────────────────────────────────────────────────────────────────

    def ask(self, message: Request[R], fds: Sequence[int] = ()) -> tuple[R, Descriptors]:
        """A request to the page, and its reply."""
        result: tuple[R, Descriptors] = self._run(self._page.request(message, fds, timeout=_TIMEOUT))
        return result

    def load(self, url: str) -> Loaded:
        return self.ask(Load(url))[0]

    def show(
        self,
        html: str | bytes,
        base_url: str = "http://site.test/",
        content_type: str = "text/html; charset=utf-8",
    ) -> Loaded:
        body, fds = blobs.pack(html.encode() if isinstance(html, str) else html)
        return self.ask(SetContent(body, base_url, content_type), fds)[0]

    def load_file(self, path: str, name: str) -> Loaded:
        return self.ask(LoadFile(name), [os.open(path, os.O_RDONLY | os.O_CLOEXEC)])[0]

    def paint(self, x: int = 0, y: int = 0, width: int = 200, height: int = 100) -> Image.Image:
        """What stands in a rectangle of the page."""
        fd = memory.create_bitmap(width * height * 3)
        try:
            self.ask(Paint(x, y, width, height), [os.dup(fd)])
            with memory.map_bitmap(fd, width * height * 3) as pixels:
                return Image.frombytes("RGB", (width, height), bytes(pixels)).convert("RGBA")
        finally:
            os.close(fd)

    def colors(self, width: int = 200, height: int = 100) -> set[tuple[int, ...]]:
        """Every colour that the page shows."""
        found = self.paint(0, 0, width, height).getcolors(width * height)
        assert found is not None
        return {color for _, color in found if isinstance(color, tuple)}

    def pixel(self, x: int, y: int) -> tuple[int, int, int, int]:
        """The colour at one place of the page, red first."""
        value = self.paint(x, y, 1, 1).getpixel((0, 0))
        assert isinstance(value, tuple)
        red, green, blue, alpha = value
        return int(red), int(green), int(blue), int(alpha)

    def text(self, form: TextFormat = TextFormat.TEXT) -> str:
        reply, fds = self.ask(GetText(form))
        return blobs.unpack(reply.body, fds, 2**24).decode()

    def links(self) -> list[Link]:
        reply, fds = self.ask(GetLinks())
        return list(msgspec.msgpack.decode(blobs.unpack(reply.body, fds, 2**24), type=tuple[Link, ...]))

    def pdf(self, message: PrintToPdf | None = None) -> tuple[bytes, Pdf]:
        reply, fds = self.ask(message or PrintToPdf())
        return blobs.unpack(reply.body, fds, 2**28), reply

    # ── what others do for the page ──────────────────────────────────────────────────────────────────────────

    async def _fetch(self, message: Fetch, _fds: Descriptors) -> tuple[Fetched, list[int]]:
        self.asked.append(message)
        answer = self.site.get(message.url, (404, "text/html", b"not here"))
        if isinstance(answer, FailureCode):
            raise RequestFailed(answer, f"the test says {answer}")
        status, content_type, data = answer
        body, fds = blobs.pack(data)
        return Fetched(message.url, status, content_type, self.headers.get(message.url, ()), body), fds

    async def _new_decoder(
        self, _message: NewImageDecoder, _fds: Descriptors
    ) -> tuple[ImageDecoderReady, list[int]]:
        mine, theirs = Channel.pair()
        self._servers.append(Connection(mine, IMAGES, "server", {Decode: self._decode}))
        return ImageDecoderReady(), [theirs.detach()]

    async def _new_request_server(
        self, _message: NewRequestServer, _fds: Descriptors
    ) -> tuple[RequestServerReady, list[int]]:
        mine, theirs = Channel.pair()
        self._servers.append(Connection(mine, REQUESTS, "server", {Fetch: self._fetch}))
        return RequestServerReady(), [theirs.detach()]

    async def _decode(self, message: Decode, fds: Descriptors) -> tuple[Decoded, list[int]]:
        data = blobs.unpack(message.body, fds, 2**26)
        self.decoded.append(data)
        try:
            image = Image.open(io.BytesIO(data)).convert("RGBA")
        except OSError:
            raise RequestFailed(FailureCode.IMAGE_BROKEN, "not an image") from None
        if self.decoded_as is not None:
            image = Image.new("RGBA", image.size, self.decoded_as)
        pixels = image.tobytes("raw", "BGRA")
        return Decoded(image.width, image.height, "TEST"), [memory.sealed(pixels)]
