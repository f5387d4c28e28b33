"""Every channel that there is between two processes, and from the interfaces: every message on each, and so every
moment at which the one or the other may die."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Literal

from cloister import interfaces
from cloister.interfaces.attack import ATTACK
from cloister.interfaces.base import Failure, Interface, Message
from cloister.interfaces.control import CONTROL, Refused, Shutdown
from cloister.interfaces.event_source import CloseEventSource, EventSourceClosed
from cloister.interfaces.fetch import FETCHES, Fetch, Fetched
from cloister.interfaces.image_decoder import IMAGES, DecodeFile
from cloister.interfaces.lookup_server import LOOKUP, LOOKUP_ADMIN
from cloister.interfaces.monitor import MONITOR
from cloister.interfaces.plugin_host import PLUGIN
from cloister.interfaces.program_host import PROGRAM
from cloister.interfaces.request_server import REQUEST_CONTROL
from cloister.interfaces.requests import REQUESTS
from cloister.interfaces.web_content import PAGE, WEB_CONTENT_CONTROL
from cloister.interfaces.zygote import BRANCH, LAUNCH, ZYGOTE

__all__ = ["KINDS", "LINES", "OF_OTHERS", "UNREACHABLE", "Line", "Point", "every_interface", "points"]

Side = Literal["client", "server"]
_SIDES: tuple[Side, Side] = ("client", "server")
KINDS = ("web_content", "request_server", "lookup_server", "image_decoder")


@dataclass(frozen=True)
class Line:
    """A channel: who speaks with whom, and by which interface."""

    client: str
    server: str
    interface: Interface

    def __str__(self) -> str:
        return f"{self.client}-{self.server} {self.interface.name}"


LINES = (
    Line("browser", "zygote", LAUNCH),
    Line("browser", "zygote", ZYGOTE),
    *(Line("browser", f"branch of {kind}", BRANCH) for kind in KINDS),
    Line("browser", "web_content", WEB_CONTENT_CONTROL),
    Line("browser", "request_server", REQUEST_CONTROL),
    Line("browser", "lookup_server", CONTROL),
    Line("browser", "image_decoder", CONTROL),
    Line("browser", "web_content", PAGE),
    Line("browser", "lookup_server", LOOKUP_ADMIN),
    Line("browser", "image_decoder", IMAGES),
    Line("web_content", "image_decoder", IMAGES),
    Line("web_content", "request_server", FETCHES),
    Line("browser", "request_server", REQUESTS),
    Line("request_server", "lookup_server", LOOKUP),
)
"""The browser sees what passes on its own; a relay in the test stands in the middle of the others."""


OF_OTHERS = frozenset({MONITOR, ATTACK, PLUGIN, PROGRAM})
"""What the browser speaks with programs that are none of its processes (tests/browser/test_monitor.py ends those), and
the doctor with processes that are there to end (tests/attack), and plugins, which no page has (tests/plugins)."""


@dataclass(frozen=True)
class Point:
    """``victim`` dies when ``sender`` sends ``message`` on ``line``."""

    line: Line
    sender: Side
    message: type[Message]
    victim: str

    def __str__(self) -> str:
        return f"{self.line} {self.message.__name__} kills {self.victim}"


_NO_PING_FAILS = "whoever is there answers a ping; whoever is not says nothing"
_CONTROLS = (CONTROL, WEB_CONTENT_CONTROL, REQUEST_CONTROL)
_KILLED = "the browser kills it: a process of one document has nothing to put in order"
_ENDED = "the program ends the process instead"
UNREACHABLE: dict[tuple[Line, Side, type[Message]], str] = {
    **{
        (line, "server", Refused): "is sent where the kernel lacks a layer, before there is anything to lose"
        for line in LINES
        if Refused in line.interface.server
    },
    **{(line, "server", Failure): _NO_PING_FAILS for line in LINES if line.interface in (*_CONTROLS, ZYGOTE)},
    **{(line, "client", Shutdown): _KILLED for line in LINES if line.interface in (*_CONTROLS, BRANCH)},
    (Line("browser", "request_server", REQUEST_CONTROL), "client", Failure): (
        "is the browser's no to a document of another site: tests/browser/test_sharing.py brings it about"
    ),
    **{
        (line, "server", Failure): "is sent when the machine forks no more, which a test must not bring about"
        for line in LINES
        if line.interface is BRANCH
    },
    (Line("browser", "web_content", PAGE), "client", Failure): (
        "is the browser's answer when it has no process to give: the points that kill branches bring it about"
    ),
    (Line("web_content", "image_decoder", IMAGES), "client", DecodeFile): "a page has no files",
    (Line("browser", "request_server", REQUESTS), "client", Fetch): "a program's answers come piece by piece",
    (Line("browser", "request_server", REQUESTS), "server", Fetched): "so it is with these",
    (Line("browser", "request_server", REQUESTS), "client", CloseEventSource): _ENDED,
    (Line("browser", "request_server", REQUESTS), "server", EventSourceClosed): _ENDED,
}
"""What no scenario makes a process say, and why. A message that is neither here nor seen fails a test."""


def every_interface() -> set[Interface]:
    """Whatever the package ``cloister.interfaces`` defines."""
    names = [module.name for module in pkgutil.iter_modules(interfaces.__path__)]
    modules = [importlib.import_module(f"{interfaces.__name__}.{name}") for name in names]
    return {value for module in modules for value in vars(module).values() if isinstance(value, Interface)}


def points() -> list[Point]:
    """Each message of each channel, in both directions, with each of the two that may die of it."""
    return [
        Point(line, side, message, victim)
        for line in LINES
        for side in _SIDES
        for message in line.interface.sent_by(side)
        if (line, side, message) not in UNREACHABLE
        for victim in (line.client, line.server)
        if victim != "browser"
    ]
