"""WebSockets (RFC 6455) of a page, or of the program: a part of the interface with a request_server.

Everything is pulled: a message stays with the request_server, and soon with its server, until it is asked for.
"""

import enum
from typing import Annotated

from msgspec import Meta

from .base import Blob, HeaderName, HeaderValue, Reply, Request, Url

__all__ = [
    "MAX_SENT_MESSAGE",
    "MAX_WEB_SOCKETS",
    "WEB_SOCKET_WAIT",
    "CloseWebSocket",
    "NextWebSocketMessage",
    "OpenWebSocket",
    "SendWebSocket",
    "WebSocketClosed",
    "WebSocketMessage",
    "WebSocketNews",
    "WebSocketOpened",
    "WebSocketSent",
]

MAX_WEB_SOCKETS = 64
"""That one request_server has at once."""
MAX_SENT_MESSAGE = 64 * 1024 * 1024
"""Bytes of :attr:`SendWebSocket.body`."""
WEB_SOCKET_WAIT = 20.0
"""Seconds after which :class:`NextWebSocketMessage` is answered though there is no news."""

SocketId = Annotated[int, Meta(ge=1, le=2**32 - 1)]
Subprotocol = Annotated[str, Meta(max_length=128, pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")]
CloseCode = Annotated[int, Meta(ge=1000, le=4999)]
CloseReason = Annotated[str, Meta(max_length=500)]


class WebSocketOpened(Reply, frozen=True):
    """``protocol`` is one of those that were offered, or "". ``extensions`` are those in force, as the server says."""

    socket: SocketId
    protocol: Annotated[str, Meta(max_length=128)]
    extensions: Annotated[str, Meta(max_length=256)]


class OpenWebSocket(Request[WebSocketOpened], frozen=True):
    """Shake hands with the server at ``url`` (ws or wss). Redirects are not followed.

    The server is told the origin of the document that the browser allowed, whatever the page says. ``headers`` are
    for the browser only, and from a page a BAD_REQUEST. Fails as ``Fetch`` does; with BAD_RESPONSE where the server
    does not speak WebSocket; TOO_MANY_REQUESTS where :data:`MAX_WEB_SOCKETS` are open.
    """

    url: Url
    protocols: Annotated[tuple[Subprotocol, ...], Meta(max_length=32)] = ()
    headers: Annotated[tuple[tuple[HeaderName, HeaderValue], ...], Meta(max_length=64)] = ()


class WebSocketSent(Reply, frozen=True):
    """All of it is on its way, and there is room for the next."""


class SendWebSocket(Request[WebSocketSent], frozen=True):
    """Send one message; a text is UTF-8. Several are sent in the order in which they came.

    Fails with NOT_OPEN, or TIMED_OUT where the server does not read: the connection is over then.
    """

    socket: SocketId
    is_text: bool
    body: Blob


class WebSocketNews(enum.StrEnum):
    """What a :class:`WebSocketMessage` is."""

    TEXT = "text"
    BINARY = "binary"
    CLOSED = "closed"  # the last
    NOTHING_YET = "nothing_yet"


class WebSocketMessage(Reply, frozen=True):
    """The next message, whose text is UTF-8; or the end, with what :class:`WebSocketClosed` has."""

    news: WebSocketNews
    code: CloseCode = 1006
    reason: CloseReason = ""
    was_clean: bool = False
    body: Blob = Blob(0, b"")


class NextWebSocketMessage(Request[WebSocketMessage], frozen=True):
    """Wait for news, for :data:`WEB_SOCKET_WAIT` at most. Who does not wait until it is answered loses a message.

    Fails with NOT_OPEN after the end was told.
    """

    socket: SocketId


class WebSocketClosed(Reply, frozen=True):
    """``code`` and ``reason`` are the server's, 1005 for none, where it ``was_clean``: both sides said the same. Where
    not, 1006 and what went wrong."""

    code: CloseCode
    reason: CloseReason
    was_clean: bool


class CloseWebSocket(Request[WebSocketClosed], frozen=True):
    """Say goodbye, and wait for the server to do so, with a deadline. What it sends meanwhile is dropped.

    Fails with BAD_REQUEST for a code that nobody may send (a page: other than 1000 and 3000 to 4999) and a reason of
    more than 123 bytes; NOT_OPEN after the end was told.
    """

    socket: SocketId
    code: CloseCode = 1000
    reason: Annotated[str, Meta(max_length=123)] = ""
