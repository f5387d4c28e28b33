"""A sandboxed page and a sandboxed image, from a script that has no browser in it.

    cloister portal &
    python examples/portal_client.py screenshot page.html page.png
    python examples/portal_client.py screenshot --images page.html page.png
    python examples/portal_client.py text page.html
    python examples/portal_client.py image picture.webp picture.png

Each connection to the portal is a fresh process that ends with the connection. What goes over it is in
docs/portal.md; ``cloister.interfaces`` has the messages and ``cloister.ipc`` the way they travel.

A page has no network here: this script is all that it can ask. Images that are in the page itself (``data:``) are
decoded, each in a process of its own that this script connects to and passes on. With ``--images`` the page also
gets the image files that lie beside it; everything else that it asks for, it is refused.

What a process answers is as untrusted as the page that it read: it may be the page that answers. So this script
bounds the size that it is told, encodes the PNG itself, and takes the control characters out of the text.
"""

from __future__ import annotations

import argparse
import asyncio
import mimetypes
import os
import socket
import struct
import sys
import urllib.parse
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cloister.errors import CloisterError, RequestFailed, printable
from cloister.interfaces.base import FailureCode
from cloister.interfaces.fetch import FETCHES, Fetch, Fetched
from cloister.interfaces.image_decoder import IMAGES, DecodeFile
from cloister.interfaces.web_content import (
    PAGE,
    GetText,
    ImageDecoderReady,
    Loaded,
    NewImageDecoder,
    NewRequestServer,
    Paint,
    Progress,
    RequestServerReady,
    SetContent,
    TextFormat,
)
from cloister.ipc import Channel, Connection, Descriptors, blob, memory

TIMEOUT = 30.0  # seconds for each answer
BASE = "http://beside.invalid/"  # RFC 2606: a name that leads nowhere
MAX_HEIGHT = 8192  # pixels
MAX_IMAGE_PIXELS = 64_000_000
MAX_FILE = 64 * 2**20  # bytes
MAX_TEXT = 16 * 2**20
IMAGE_TYPES = {".png", ".jpg", ".jpeg", ".gif", ".webp", ".avif", ".bmp", ".svg"}


def portal_folder() -> Path:
    """Where ``cloister portal`` serves unless it is told otherwise."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    base = Path(runtime, "cloister") if runtime.startswith("/") else Path(f"/tmp/cloister-{os.geteuid()}")  # noqa: S108
    return base / "portal"


def connect(folder: Path, kind: str) -> Channel:
    """A fresh process of ``kind``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as new:
        new.setblocking(False)  # a portal that has too many waiting already is one that cannot be had
        try:
            new.connect(str(folder / kind))
        except OSError as error:
            raise CloisterError(f"no portal serves at {folder / kind}: {error.strerror or error}") from None
        credentials = new.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        if struct.unpack("iII", credentials)[1] != os.geteuid():
            raise CloisterError(f"{folder}: another user serves there")
        return Channel(new.detach())


class Page:
    """A page's process, and what it may ask of this script."""

    def __init__(self, folder: Path, siblings: dict[str, Path] | None) -> None:
        self._folder = folder
        self._siblings = siblings
        self._files: list[Connection] = []
        self._connection = Connection(
            connect(folder, "web_content"),
            PAGE,
            "client",
            {
                NewImageDecoder: self._new_image_decoder,
                NewRequestServer: self._new_request_server,
                Progress: lambda _message, _fds: None,
            },
        )

    def close(self) -> None:
        """The process ends when its channel is closed."""
        for connection in (self._connection, *self._files):
            connection.close()

    async def show(self, html: bytes) -> Loaded:
        body, fds = blob.pack(html)
        loaded, _ = await self._connection.request(SetContent(body, BASE, "text/html"), fds, timeout=TIMEOUT)
        return loaded

    async def text(self) -> str:
        result, fds = await self._connection.request(GetText(TextFormat.TEXT), timeout=TIMEOUT)
        return blob.unpack(result.body, fds, MAX_TEXT).decode("utf-8", "replace")

    async def paint(self, width: int, height: int) -> bytes:
        """RGB, the top row first."""
        size = width * height * 3
        bitmap = memory.create_bitmap(size)
        try:
            message = Paint(0, 0, width, height)
            await self._connection.request(message, [os.dup(bitmap)], timeout=TIMEOUT)
            with memory.map_bitmap(bitmap, size) as pixels:
                return bytes(pixels)  # a copy, which the process cannot change any more
        finally:
            os.close(bitmap)

    async def _new_image_decoder(
        self, _message: NewImageDecoder, _fds: Descriptors
    ) -> tuple[ImageDecoderReady, list[int]]:
        """Pass a connection on: what the page and the decoder say to one another is not for this script."""
        try:
            return ImageDecoderReady(), [connect(self._folder, "image_decoder").detach()]
        except CloisterError as error:
            raise RequestFailed(FailureCode.NO_PROCESS, str(error)) from None

    async def _new_request_server(
        self, _message: NewRequestServer, _fds: Descriptors
    ) -> tuple[RequestServerReady, list[int]]:
        """A page that is refused goes on without what it wanted."""
        if self._siblings is None:
            raise RequestFailed(FailureCode.NO_PROCESS, "there is no network here")
        ours, theirs = Channel.pair()
        self._files.append(Connection(ours, FETCHES, "server", {Fetch: self._fetch}))
        return RequestServerReady(), [theirs.detach()]

    async def _fetch(self, message: Fetch, _fds: Descriptors) -> tuple[Fetched, list[int]]:
        """One of the files beside the page. The page's words are looked up, and no path is made of them."""
        name = urllib.parse.unquote(message.url.removeprefix(BASE))
        path = (self._siblings or {}).get(name)
        if path is None:
            raise RequestFailed(FailureCode.ADDRESS_REFUSED, "this page gets the images beside it only")
        try:
            body, fds = blob.pack(read(path))
        except OSError as error:
            raise RequestFailed(FailureCode.UNREACHABLE, str(error)) from None
        return Fetched(message.url, 200, mimetypes.guess_type(name)[0] or "", (), body), fds


def read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise CloisterError(f"{path}: more than {MAX_FILE} bytes")
    return data


def images_beside(path: Path) -> dict[str, Path]:
    """The image files in the folder of ``path`` by name, links not followed."""
    with os.scandir(path.absolute().parent) as entries:
        files = [Path(entry.path) for entry in entries if entry.is_file(follow_symlinks=False)]
    return {file.name: file for file in files if file.suffix.lower() in IMAGE_TYPES}


@contextmanager
def opened(arguments: argparse.Namespace) -> Iterator[Page]:
    siblings = images_beside(arguments.source) if getattr(arguments, "images", False) else None
    page = Page(arguments.portal, siblings)
    try:
        yield page
    finally:
        page.close()


async def screenshot(arguments: argparse.Namespace) -> None:
    with opened(arguments) as page:
        loaded = await page.show(read(arguments.source))
        height = max(1, min(loaded.document_height, MAX_HEIGHT))  # which is what the page's process says
        pixels = await page.paint(1280, height)
    arguments.out.write_bytes(png(1280, height, pixels, depth=3))


async def text(arguments: argparse.Namespace) -> None:
    with opened(arguments) as page:
        await page.show(read(arguments.source))
        words = await page.text()
    for line in words.splitlines():
        print(printable(line, MAX_TEXT))


async def image(arguments: argparse.Namespace) -> None:
    connection = Connection(connect(arguments.portal, "image_decoder"), IMAGES, "client")
    try:
        file = os.open(arguments.source, os.O_RDONLY | os.O_CLOEXEC)
        decoded, fds = await connection.request(DecodeFile(), [file], timeout=TIMEOUT)
    finally:
        connection.close()
    if decoded.width * decoded.height > MAX_IMAGE_PIXELS:
        raise CloisterError(f"{arguments.source}: {decoded.width}x{decoded.height} is too large")
    pixels = fds.take()
    try:
        # Checks the seals and the size: nobody changes or shortens it while it is read.
        bgra = memory.read_sealed(pixels, decoded.width * decoded.height * 4)
    finally:
        os.close(pixels)
    rgba = bytearray(bgra)
    rgba[0::4], rgba[2::4] = bgra[2::4], bgra[0::4]
    arguments.out.write_bytes(png(decoded.width, decoded.height, rgba, depth=4))


def png(width: int, height: int, pixels: bytes | bytearray, *, depth: int) -> bytes:
    """A PNG (W3C PNG specification, third edition) of pixels of ``depth`` bytes, RGB or RGBA; well-formed, whatever
    they are."""
    stride = width * depth
    rows = b"".join(b"\0" + pixels[start : start + stride] for start in range(0, len(pixels), stride))
    header = struct.pack(">IIBBBBB", width, height, 8, 6 if depth == 4 else 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(name)))
        for name, data in chunks
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="A page or an image, opened in a sandboxed process.")
    parser.add_argument("--portal", type=Path, default=portal_folder(), help="the folder of the portal")
    commands = parser.add_subparsers(required=True)
    for work, words in (
        (screenshot, "a page as PNG"),
        (text, "what a page says"),
        (image, "an image as PNG"),
    ):
        command = commands.add_parser(work.__name__, help=words)
        command.add_argument("source", type=Path)
        if work is not text:
            command.add_argument("out", type=Path)
        if work is not image:
            command.add_argument("--images", action="store_true", help="with the image files beside the page")
        command.set_defaults(work=work)
    arguments = parser.parse_args()
    try:
        asyncio.run(arguments.work(arguments))
    except (CloisterError, OSError) as error:
        print(f"{arguments.source}: {printable(str(error))}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
