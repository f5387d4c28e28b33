"""A page process's whole work is done once before lock-down: nothing can be loaded after it, and what is in memory
before the fork is shared by all pages."""

from __future__ import annotations

import asyncio
import codecs
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .. import sandbox
from ..interfaces.base import Blob
from ..interfaces.fetch import FETCHES, Fetch, Fetched
from ..interfaces.image_decoder import IMAGES, Decode, Decoded
from ..interfaces.web_content import (
    PAGE,
    GetLinks,
    GetText,
    ImageDecoderReady,
    NewImageDecoder,
    NewRequestServer,
    Options,
    Paint,
    Progress,
    RequestServerReady,
    SetContent,
    TextFormat,
)
from ..ipc import Channel, Connection, Descriptors, memory
from . import fonts
from .page import Page

__all__ = ["run"]

_FACES = "Aa <b>Bb</b> <i>Cc</i> <b><i>Dd</i></b> &rarr;"
_PAGE = f"""<!DOCTYPE html><html lang="en"><head><title>Warm</title>
<link rel="stylesheet" href="s.css"><style>
@font-face{{font-family:warm;src:url(data:font/woff,x)}}
body{{font-family:sans-serif}} .s{{font-family:serif}} code,pre{{font-family:monospace}}
li::before{{content:counter(n)}} .f{{display:flex}} .c{{columns:2}} @media (min-width:1px){{p{{margin:0}}}}
p{{background:url(i.png)}}
</style></head><body><h1>{_FACES}</h1><div class="s">{_FACES}</div><pre>{_FACES}</pre>
<ul><li>One</li></ul><table><tr><td>x</td></tr></table><div class="f"><p>y</p></div><div class="c">z</div>
<a href="/x">link</a><img src="i.png"><svg width="9" height="9"><circle cx="4" cy="4" r="3" fill="red"/></svg>
<img src="data:image/svg+xml;base64,PHN2ZyB4bWxucz0iaHR0cDovL3d3dy53My5vcmcvMjAwMC9zdmciLz4="></body></html>"""
_SHARED_MEMORY = "/dev/shm"  # noqa: S108
_BASE = "http://site.example/"
_SIDE = 256  # pixels
_TIMEOUT = 60.0  # seconds; a slow machine that reads many fonts for the first time takes a few

# Encodings are imported by name; these have modules of their own (Encoding standard, and what it decodes by).
_ENCODINGS = (
    "utf-8", "utf-16-le", "utf-16-be", "latin-1", "ascii", "cp1252", "idna", "punycode", "unicode_escape",
    "whatwg-utf-8", "whatwg-utf-16le", "whatwg-utf-16be", "whatwg-windows-1252", "whatwg-shift_jis",
)  # fmt: skip


def run() -> None:
    """Read the fonts' configuration, then load, paint, print and read a page of our own."""
    for name in _ENCODINGS:
        codecs.lookup(name)
    packaged = fonts.install()
    before = os.environ.get("FONTCONFIG_FILE")
    with _configuration(packaged) as path:
        os.environ["FONTCONFIG_FILE"] = str(path)  # read once, by the first layout
        try:
            asyncio.run(_load_one_page())
        finally:
            del os.environ["FONTCONFIG_FILE"]
            if before is not None:
                os.environ["FONTCONFIG_FILE"] = before


@contextmanager
def _configuration(packaged: Path | None) -> Iterator[Path]:
    """Fontconfig's, in a file."""
    if fonts.is_usual(packaged):
        # Fontconfig looks for it nowhere else.
        os.environ.setdefault("HOME", os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises where there is none
        yield fonts.USUAL
    else:
        with _file(fonts.configuration(packaged)) as path:
            yield path


@contextmanager
def _file(text: str) -> Iterator[Path]:
    """A file of ours alone, as :mod:`tempfile` makes one, which takes 3 ms to load; every start waits for that. Where
    this process has mounts of its own, nobody else ever sees it, and it is gone with a process that is killed.
    Fontconfig resolves links, so a memfd will not do. Raises OSError: there is no place for it."""
    name = f"cloister-{os.urandom(16).hex()}.conf"
    *places, last = (os.environ.get("TMPDIR") or "/tmp", "/tmp", "/var/tmp", _SHARED_MEMORY)  # noqa: S108
    if sandbox.cover(_SHARED_MEMORY):
        places = [_SHARED_MEMORY]
    path = Path(next((place for place in places if os.access(place, os.W_OK | os.X_OK)), last)) / name
    path.touch(0o600, exist_ok=False)
    try:
        path.write_text(text)
        yield path
    finally:
        path.unlink()


async def _load_one_page() -> None:
    page_end, browser_end = Channel.pair()
    page = Page(page_end, Options(width=_SIDE, height=_SIDE))
    servers: list[Connection] = []

    async def fetch(message: Fetch, _fds: Descriptors) -> Fetched:
        kind = "text/css" if message.url.endswith(".css") else "image/png"
        return Fetched(message.url, 200, kind, (), Blob(8, b"h1{a:b\\}"))

    async def new_decoder(
        _message: NewImageDecoder, _fds: Descriptors
    ) -> tuple[ImageDecoderReady, Sequence[int]]:
        mine, theirs = Channel.pair()
        servers.append(Connection(mine, IMAGES, "server", {Decode: decode}))
        return ImageDecoderReady(), [theirs.detach()]

    async def new_request_server(
        _message: NewRequestServer, _fds: Descriptors
    ) -> tuple[RequestServerReady, Sequence[int]]:
        mine, theirs = Channel.pair()
        servers.append(Connection(mine, FETCHES, "server", {Fetch: fetch}))
        return RequestServerReady(), [theirs.detach()]

    async def decode(_message: Decode, _fds: Descriptors) -> tuple[Decoded, Sequence[int]]:
        return Decoded(1, 1, "PNG"), [memory.sealed(bytes(4))]

    browser = Connection(
        browser_end,
        PAGE,
        "client",
        {
            NewImageDecoder: new_decoder,
            NewRequestServer: new_request_server,
            Progress: lambda _message, _fds: None,
        },
    )
    try:
        content = _PAGE.encode()
        await browser.request(SetContent(Blob(len(content), content), _BASE), timeout=_TIMEOUT)
        bitmap = memory.create_bitmap(_SIDE * _SIDE * 3)
        await browser.request(Paint(0, 0, _SIDE, _SIDE), [bitmap], timeout=_TIMEOUT)
        await browser.request(GetLinks(), timeout=_TIMEOUT)
        for form in TextFormat:
            await browser.request(GetText(form), timeout=_TIMEOUT)
    finally:
        page.close()
        for connection in (browser, *servers):
            connection.close()
