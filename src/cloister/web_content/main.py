"""The entry of a page's process."""

from __future__ import annotations

import msgspec

from .. import sandbox
from ..interfaces.web_content import WEB_CONTENT_CONTROL, AddPage, Options
from ..ipc import Channel, Descriptors
from ..ipc.codec import codec
from ..ipc.service import Service, Start
from . import warmup
from .page import Page
from .sandbox import POLICY

__all__ = ["POLICY", "main", "preload"]


_LINGER = 0.1
"""Seconds without a page: the browser may have sent one more before it closed the last, on another channel."""


def preload(_options: bytes) -> None:
    """Before lock-down, once for every page process that is forked later."""
    warmup.run()
    codec(WEB_CONTENT_CONTROL, "server")


def main(start: Start) -> None:
    """Lock down, then serve the page channel, and those of further pages of the same site, until the last of them is
    closed: nobody can ask for anything after that."""
    options = msgspec.msgpack.decode(start.options, type=Options)
    pages: set[Page] = set()

    def add(channel: Channel, options: Options) -> None:
        pages.add(Page(channel, options, gone))

    def gone(page: Page) -> None:
        pages.discard(page)
        service.loop.call_later(_LINGER, end_without_pages)

    def end_without_pages() -> None:
        if not pages:
            service.stop()

    def add_page(message: AddPage, fds: Descriptors) -> None:
        add(Channel(fds.take()), message.options)

    service = Service(WEB_CONTENT_CONTROL, {AddPage: add_page})
    report = sandbox.enter(POLICY, allow_degraded=start.allow_degraded)
    (page_channel,) = start.channels

    async def serve() -> None:
        add(page_channel, options)

    service.run(start.control, report, serve)
