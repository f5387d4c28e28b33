"""HTTP/1.1 (RFC 9112) over one connection, one exchange after another.

h11 reads the bytes. Lenient as browsers are, it takes lines that end in a bare LF, folded headers (as one line),
several Content-Length of one value, and Transfer-Encoding beside Content-Length (the former counts). What could be
read in two ways costs the connection, so that nothing of it is taken for the next answer.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import h11

from ..errors import RequestFailed
from .exchange import (
    MAX_HEADERS,
    MAX_HEADERS_BYTES,
    MAX_INTERIM,
    Asked,
    BadResponse,
    Broken,
    Effort,
    Headers,
    Unanswered,
)
from .upload import Outgoing, pieces
from .wire import READ, Link

__all__ = ["READ_HEAD", "Http1", "judge"]

READ_HEAD: Final = 32 * 1024
"""Bytes that are read at once while it is about headers: what is there in whole is parsed, however long."""


class Http1:
    """``on_free`` hears when the connection can take the next request, ``on_end`` when it is over."""

    def __init__(self, link: Link, on_free: Callable[[Http1], None], on_end: Callable[[Http1], None]) -> None:
        self._link = link
        self._on_free = on_free
        self._on_end = on_end
        self._state = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEADERS_BYTES)
        self._effort = Effort()
        self._sending: asyncio.Task[None] | None = None
        self._not_sent: RequestFailed | None = None
        """Why the request could not be sent in whole."""
        self._is_over = False
        self.idle_since = 0.0

    @property
    def is_usable(self) -> bool:
        """Between two exchanges: whether the server has neither closed it nor said anything unasked."""
        return not self._is_over and not self._link.is_readable()

    async def ask(self, asked: Asked) -> _Answer:
        """Send ``asked`` and wait for the head of the answer. Raises :class:`Broken`, :class:`BadResponse`, and
        :class:`RequestFailed` for what cannot be sent; the connection is over then, and also when this is cancelled."""
        self._effort.asked()
        try:
            with contextlib.suppress(Broken):  # it may have said why it takes no more: whoever reads is told
                self._send(asked)
            return _Answer(self, await self._head())
        except BaseException:
            self.close()
            raise

    def _send(self, asked: Asked) -> None:
        headers = list(asked.headers)
        if asked.has_length:
            headers.append((b"Content-Length", b"%d" % len(asked.body)))
        request = h11.Request(method=asked.method, target=asked.target, headers=headers)
        head = self._state.send(request) or b""
        if asked.body:
            self._link.write(head)
            self._sending = asyncio.get_running_loop().create_task(self._send_body(asked.body))
        else:
            self._link.write(head + (self._state.send(h11.EndOfMessage()) or b""))

    async def _send_body(self, body: Outgoing) -> None:
        """Beside the reading: a server may answer before it has heard all. It ends with the connection."""
        with contextlib.suppress(Broken, h11.LocalProtocolError):  # whoever reads is told
            try:
                for piece in pieces(body):
                    self._link.write(self._state.send(h11.Data(data=piece)) or b"")
                    await self._link.drain()
            except RequestFailed as error:
                self._not_sent = error
                self.close()  # nothing else says to the server that the rest does not come
            else:
                self._link.write(self._state.send(h11.EndOfMessage()) or b"")

    async def _head(self) -> h11.Response:
        interim = 0
        while True:
            event = await self._next(READ_HEAD, is_first=not interim)
            if isinstance(event, h11.Response | h11.InformationalResponse):
                judge(event)
            if isinstance(event, h11.Response):
                return event
            interim += 1
            if interim > MAX_INTERIM:
                raise BadResponse(f"more than {MAX_INTERIM} interim responses came before the answer")

    async def receive(self) -> bytes:
        """More of the answer's body; b"" at its end."""
        while not isinstance(event := await self._next(READ), h11.EndOfMessage):
            if isinstance(event, h11.Data):
                self._effort.spend()
                self._effort.earn(len(event.data))
                return bytes(event.data)
        return b""

    async def _next(self, size: int, *, is_first: bool = False) -> h11.Event:
        has_begun = not is_first or bool(self._state.trailing_data[0])
        while True:
            try:
                event = self._state.next_event()
            except h11.RemoteProtocolError as error:
                raise BadResponse(str(error)) from error
            if isinstance(event, h11.Event):
                return event
            if event is h11.PAUSED:
                raise BadResponse("it switched protocols, which nobody asked for")
            try:
                data = await self._link.receive(size)
            except Broken as error:
                if self._not_sent is not None:
                    raise self._not_sent from None
                raise (error if has_begun or type(error) is not Broken else Unanswered(str(error))) from error
            if not data and not has_begun:
                raise Unanswered("it closed the connection without an answer")
            has_begun = True
            self._effort.spend(len(data))
            self._state.receive_data(data)

    def release(self) -> None:
        """The answer is done with: begin anew, if all of it was read and all of the request was sent."""
        state = self._state
        if (
            self._is_over
            or state.our_state is not h11.DONE
            or state.their_state is not h11.DONE
            or state.trailing_data[0]  # what nobody asked for
        ):
            self.close()
            return
        state.start_next_cycle()
        self.idle_since = asyncio.get_running_loop().time()
        self._on_free(self)

    def close(self) -> None:
        """Nothing more is asked here. Closing twice is fine."""
        if not self._is_over:
            self._is_over = True
            self._link.close()
            self._on_end(self)


class _Answer:
    def __init__(self, connection: Http1, response: h11.Response) -> None:
        self.status = response.status_code
        self.headers: Headers = list(response.headers)
        self._connection = connection
        self._is_closed = False

    async def receive(self) -> bytes:
        return await self._connection.receive()

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        names = {name for name, _ in self.headers}
        if {b"transfer-encoding", b"content-length"} <= names:
            self._connection.close()
        else:
            self._connection.release()


def judge(response: h11.Response | h11.InformationalResponse) -> None:
    """What h11 lets pass. Raises :class:`BadResponse`."""
    if not response.http_version.startswith(b"1."):
        raise BadResponse(f"it speaks HTTP/{response.http_version.decode()}, which was not agreed on")
    if response.status_code < 100:
        raise BadResponse(f"{response.status_code} is no status")
    headers = response.headers
    if len(headers) > MAX_HEADERS:
        raise BadResponse(f"it has {len(headers)} headers; that is too many")
    if sum(len(name) + len(value) for name, value in headers) > MAX_HEADERS_BYTES:
        raise BadResponse("its headers are too long")
