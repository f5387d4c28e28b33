"""The entry of a page's process."""

from __future__ import annotations

import msgspec

from .. import sandbox
from ..interfaces.web_content import Options
from ..ipc.service import Service, Start
from . import warmup
from .page import Page
from .sandbox import POLICY

__all__ = ["POLICY", "main", "preload"]


def preload(_options: bytes) -> None:
    """Before lock-down, once for every page process that is forked later."""
    warmup.run()


def main(start: Start) -> None:
    """Lock down, then serve the page channel until it is closed: nobody can ask for anything after that."""
    options = msgspec.msgpack.decode(start.options, type=Options)
    service = Service()
    report = sandbox.enter(POLICY, allow_degraded=start.allow_degraded)
    (page_channel,) = start.channels
    pages: list[Page] = []

    async def serve() -> None:
        pages.append(Page(page_channel, options, service.stop))

    service.run(start.control, report, serve)
