"""A request_server of a browser that has only pages: there is nothing in it that pages do not ask for."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import msgspec
import pytest

from cloister import ends
from cloister.errors import InvalidArgument
from cloister.interfaces.base import Message
from cloister.interfaces.event_source import OpenEventSource
from cloister.interfaces.request_server import REQUEST_CONTROL, Options, PreloadOptions
from cloister.interfaces.requests import REQUESTS
from cloister.interfaces.transfers import CloseTransfer
from cloister.interfaces.web_socket import OpenWebSocket
from cloister.interfaces.zygote import PreloadKind
from cloister.ipc import Channel
from cloister.ipc.codec import Packet, codec
from cloister.process import Zygote
from cloister.process.kinds import MODULES, PAGES_ONLY

OF_PROGRAMS = ("programs", "web_socket", "web_socket_frames", "event_source", "transfers")
ASKED = [OpenWebSocket("ws://a.example/"), OpenEventSource("http://a.example/"), CloseTransfer(1)]


def test_what_a_command_tells_its_zygote_early_is_what_its_browser_would() -> None:
    told = {
        kind: msgspec.msgpack.decode(options, type=PreloadOptions) for kind, options in PAGES_ONLY.items()
    }
    assert told == {"request_server": PreloadOptions(pages_only=True)}


@pytest.mark.parametrize("pages_only", [True, False])
def test_what_programs_ask_for_is_loaded_only_where_one_may(pages_only: bool) -> None:
    code = (
        "import sys\n"
        "from cloister.request_server import main\n"
        f"main.preload({PAGES_ONLY['request_server'] if pages_only else b''!r})\n"
        "names = [name for name in sys.argv[1:] if f'cloister.request_server.{name}' in sys.modules]\n"
        "print(*names)\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, *OF_PROGRAMS],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ([] if pages_only else list(OF_PROGRAMS))


@pytest.mark.parametrize("message", ASKED, ids=lambda message: type(message).__name__)
def test_a_page_that_asks_for_it_all_the_same_has_broken_the_protocol(message: Message) -> None:
    entry = PreloadKind("request_server", MODULES["request_server"], PAGES_ONLY["request_server"])

    async def go() -> ends.End | None:
        zygote = await Zygote.start([entry])
        try:
            page, page_end = Channel.pair()
            lookup, lookup_end = Channel.pair()
            child = await zygote.fork(
                "request_server",
                msgspec.msgpack.encode(Options("Cloister tests", for_browser=True)),
                [page_end, lookup_end],
                keep=[page, lookup],
                interface=REQUEST_CONTROL,
            )
            await child.ready()
            await child.ping()
            page.send(codec(REQUESTS, "client").encode(Packet.REQUEST, 1, message))
            await child.wait(10)
            await child.end()
            return child.ending
        finally:
            await zygote.close()

    assert asyncio.run(go()) == ends.Exited(0)


def test_a_browser_of_pages_only_asks_for_nothing_without_one() -> None:
    from cloister.cli.pages import BrowserOfPages

    with BrowserOfPages() as browser:
        with pytest.raises(InvalidArgument, match="pages only"):
            browser.request.get("http://127.0.0.1:1/")
        with pytest.raises(InvalidArgument, match="pages only"), browser.websocket("ws://127.0.0.1:1/"):
            pass
        page = browser.new_page()
        page.set_content("<p>words")
        assert page.text().strip() == "words"
