"""Server-sent events (HTML standard, 9.2) of a page, or of the program: a part of the interface with a request_server.

Everything is pulled: an event stays with the request_server, and soon with its server, until it is asked for.
"""

import enum
from typing import Annotated

from msgspec import Meta

from .base import Blob, HeaderName, HeaderValue, Reply, Request, Url

__all__ = [
    "EVENT_WAIT",
    "MAX_EVENT_BYTES",
    "MAX_EVENT_SOURCES",
    "CloseEventSource",
    "EventNews",
    "EventSourceClosed",
    "EventSourceOpened",
    "NextEvent",
    "OpenEventSource",
    "ServerSentEvent",
]

MAX_EVENT_SOURCES = 16
"""That one request_server has at once."""
MAX_EVENT_BYTES = 4 * 1024 * 1024
"""Of one event's data, and of one line."""
EVENT_WAIT = 20.0
"""Seconds after which :class:`NextEvent` is answered though there is no news."""

SourceId = Annotated[int, Meta(ge=1, le=2**32 - 1)]
EventName = Annotated[str, Meta(max_length=1024)]


class EventSourceOpened(Reply, frozen=True):
    """The server has begun to answer, at ``url``."""

    source: SourceId
    url: Url


class OpenEventSource(Request[EventSourceOpened], frozen=True):
    """Ask for a stream of events, and go on asking whenever the connection ends.

    ``headers`` are for the browser only, and from a page a BAD_REQUEST. Fails as ``Fetch`` does; with BAD_RESPONSE
    where the first answer is not 200 and ``text/event-stream``; TOO_MANY_REQUESTS where :data:`MAX_EVENT_SOURCES` are
    open.
    """

    url: Url
    with_credentials: bool = False
    last_event_id: EventName = ""
    headers: Annotated[tuple[tuple[HeaderName, HeaderValue], ...], Meta(max_length=64)] = ()


class EventNews(enum.StrEnum):
    """What a :class:`ServerSentEvent` is."""

    EVENT = "event"
    RECONNECTING = "reconnecting"  # the connection ended, and is made anew
    CLOSED = "closed"  # the last
    NOTHING_YET = "nothing_yet"


class ServerSentEvent(Reply, frozen=True):
    """The next event: its type as ``name`` ("message" where the server says none), its data as UTF-8. Or the end, with
    what went wrong as ``reason``, "" where the server wanted it (a 204)."""

    news: EventNews
    name: EventName = ""
    last_event_id: EventName = ""
    reason: Annotated[str, Meta(max_length=500)] = ""
    body: Blob = Blob(0, b"")


class NextEvent(Request[ServerSentEvent], frozen=True):
    """Wait for news, for :data:`EVENT_WAIT` at most. Who does not wait until it is answered loses an event.

    Fails with NOT_OPEN after the end was told.
    """

    source: SourceId


class EventSourceClosed(Reply, frozen=True):
    """It is."""


class CloseEventSource(Request[EventSourceClosed], frozen=True):
    """End the stream. Fails with NOT_OPEN after the end was told."""

    source: SourceId
