"""The opening handshake of a WebSocket (RFC 6455, 4.1; Fetch standard, "establish a WebSocket connection")."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Awaitable, Callable
from typing import Final

import ada_url
import h11
import msgspec

from ..errors import RequestFailed
from ..interfaces.base import FailureCode
from ..interfaces.fetch import Destination, Fetch
from ..interfaces.request_server import Options
from ..interfaces.web_socket import OpenWebSocket
from . import headers, urls
from .client import Client, Special
from .exchange import MAX_HEADERS_BYTES, MAX_INTERIM, Asked, BadResponse, Effort, Headers
from .http1 import READ_HEAD, judge
from .web_socket_frames import OFFER, Deflate
from .wire import Link

__all__ = ["Established", "shake_hands"]

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_MAX_EXTENSIONS: Final = 256  # characters, of interfaces.web_socket.WebSocketOpened

Dial = Callable[[ada_url.URL], Awaitable[Link]]


class Established(msgspec.Struct, frozen=True):
    """A server that speaks WebSocket now. ``first`` is what it has said already."""

    link: Link
    first: bytes
    protocol: str
    deflate: Deflate | None
    extensions: str


async def shake_hands(message: OpenWebSocket, client: Client, options: Options, dial: Dial) -> Established:
    """Have the server at ``message.url`` speak WebSocket, over a connection of its own that ``dial`` makes.

    It is a fetch that counts as one: HTTPS where its host wants that, no mixed content, credentials as for any other.
    Raises :class:`RequestFailed`.
    """
    url = _as_http(message.url)
    if len(set(message.protocols)) < len(message.protocols):
        raise RequestFailed(FailureCode.BAD_REQUEST, "a subprotocol is offered twice")
    if message.headers and not options.for_browser:
        raise RequestFailed(FailureCode.BAD_REQUEST, "a page sets no header of a WebSocket")
    handshake = _Handshake(message.protocols, dial)
    fetch = Fetch(url.href, Destination.DOCUMENT if options.for_browser else Destination.EMPTY)
    ours = handshake.headers
    if options.for_browser:
        given = headers.given(message.headers)
        names = {name.lower() for name, _ in given}
        ours = [header for header in ours if header[0].lower() not in names] + given
    else:
        ours.append((b"Origin", client.page.origin.encode()))
    async with client.open(fetch, special=Special(ours, handshake.ask)) as response:
        if handshake.established is None:
            # With which status is another origin's to tell.
            may_know = options.for_browser or urls.origin(url) == client.page.origin
            status = f" with status {response.status}" if may_know else ""
            raise RequestFailed(
                FailureCode.BAD_RESPONSE, f"{url.host} answered{status} where a WebSocket was asked for"
            )
        return handshake.established


def _as_http(text: str) -> ada_url.URL:
    """The URL of the handshake's request. Raises :class:`RequestFailed` (BAD_URL, UNSUPPORTED_SCHEME)."""
    scheme, colon, rest = text.strip().partition(":")
    by = {"ws": "http", "wss": "https", "http": "http", "https": "https"}.get(scheme.lower())
    if by is None:
        raise RequestFailed(
            FailureCode.UNSUPPORTED_SCHEME, f"{urls.shown(text)}: a WebSocket has the scheme ws or wss"
        )
    url = urls.parse(by + colon + rest)
    url.hash = ""
    return url


class _Handshake:
    """Asks once, or twice where a password is wanted."""

    def __init__(self, protocols: tuple[str, ...], dial: Dial) -> None:
        self._protocols = protocols
        self._dial = dial
        self._key = base64.b64encode(os.urandom(16))
        self.established: Established | None = None

    @property
    def headers(self) -> Headers:
        made = [
            (b"Accept", b"*/*"),
            (b"Connection", b"Upgrade"),
            (b"Upgrade", b"websocket"),
            (b"Cache-Control", b"no-cache"),
            (b"Pragma", b"no-cache"),
            (b"Sec-WebSocket-Version", b"13"),
            (b"Sec-WebSocket-Key", self._key),
            (b"Sec-WebSocket-Extensions", OFFER),
        ]
        if self._protocols:
            made.append((b"Sec-WebSocket-Protocol", ", ".join(self._protocols).encode()))
        return made

    async def ask(self, asked: Asked) -> _Answer:
        """What the server answers. Raises as a pool does, and ``BadResponse`` for a 101 that is not as it must be."""
        link = await self._dial(asked.url)
        try:
            answer, rest = await _exchange(link, asked)
            if answer.status == 101:
                self.established = self._judged(link, answer.headers, rest)
        except BaseException:
            link.close()
            raise
        return answer

    def _judged(self, link: Link, found: Headers, rest: bytes) -> Established:
        upgrade, connection, accept, protocol = (
            ", ".join(headers.values(found, name))
            for name in ("upgrade", "connection", "sec-websocket-accept", "sec-websocket-protocol")
        )
        expected = base64.b64encode(hashlib.sha1(self._key + _GUID, usedforsecurity=False).digest())
        if upgrade.strip().lower() != "websocket":
            raise BadResponse("it switched to another protocol than WebSocket")
        if "upgrade" not in {token.strip().lower() for token in connection.split(",")}:
            raise BadResponse("it switched protocols without saying so")
        if accept.strip() != expected.decode():
            raise BadResponse("it did not accept what it was asked, but something else")
        if protocol.strip() not in self._protocols and (
            protocol or headers.values(found, "sec-websocket-protocol")
        ):
            raise BadResponse("it chose a subprotocol that was not offered")
        extensions = headers.values(found, "sec-websocket-extensions")
        return Established(
            link, rest, protocol.strip(), Deflate.agreed(extensions), ", ".join(extensions)[:_MAX_EXTENSIONS]
        )


class _Answer:
    """A response without its body: of the one that counts there is none, and no other is wanted."""

    def __init__(self, link: Link, response: h11.Response | h11.InformationalResponse) -> None:
        self.status = response.status_code
        self.headers: Headers = list(response.headers)
        self._link = link

    async def receive(self) -> bytes:
        return b""

    def close(self) -> None:
        if self.status != 101:
            self._link.close()


async def _exchange(link: Link, asked: Asked) -> tuple[_Answer, bytes]:
    """The answer to ``asked``, and what came after its head."""
    state = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADERS_BYTES)
    request = h11.Request(method=asked.method, target=asked.target, headers=asked.headers)
    link.write((state.send(request) or b"") + (state.send(h11.EndOfMessage()) or b""))
    effort, interim = Effort(), 0
    while interim <= MAX_INTERIM:
        try:
            event = state.next_event()
        except h11.RemoteProtocolError as error:
            raise BadResponse(str(error)) from error
        if event is h11.NEED_DATA:
            data = await link.receive(READ_HEAD)
            effort.spend(len(data))
            state.receive_data(data)
            continue
        if not isinstance(event, h11.Response | h11.InformationalResponse):
            raise BadResponse("it ended the connection without an answer")
        judge(event)
        if isinstance(event, h11.Response) or event.status_code == 101:
            return _Answer(link, event), bytes(state.trailing_data[0])
        interim += 1
    raise BadResponse(f"more than {MAX_INTERIM} interim responses came before the answer")
