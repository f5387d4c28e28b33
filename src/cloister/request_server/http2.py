"""HTTP/2 (RFC 9113) over one connection, many exchanges at once.

h2 keeps the state. One task reads, and hands each answer its part; what is written goes out at once. What h2
has no limit for is limited before it sees it, by :class:`.frames.Frames`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from typing import Final

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from ..errors import RequestFailed
from .exchange import (
    MAX_HEADERS,
    MAX_HEADERS_BYTES,
    MAX_INTERIM,
    Asked,
    BadResponse,
    Broken,
    Headers,
    Unanswered,
    Unprocessed,
    WantsHttp1,
)
from .frames import MAX_FRAME, Frames
from .upload import Outgoing, pieces
from .wire import Link

__all__ = ["Http2"]

_STREAM_WINDOW: Final = 6 * 1024 * 1024
_CONNECTION_WINDOW: Final = 15 * 1024 * 1024
"""Bytes that may be under way: enough for 500 Mbit/s with a round trip of 100 ms, and all that one connection can
make us hold. Chromium's windows are as large."""
_MAX_STREAMS: Final = 100
"""At once, whatever the server allows."""
_FIRST_STREAMS: Final = 100
"""Until the server has said how many (RFC 9113, 6.5.2 recommends it no less)."""


class Http2:
    """``on_change`` hears whenever one more request may be sent, and when the connection is over."""

    def __init__(self, link: Link, on_change: Callable[[Http2], None]) -> None:
        self._link = link
        self._on_change = on_change
        self._streams: dict[int, _Answer] = {}
        self._frames = Frames()
        self._ending: Exception | None = None
        self._last_stream: int | None = None  # that the server will answer, once it has said GOAWAY
        self._has_settings = False
        self.idle_since = 0.0
        self._state = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding=None)
        )
        self._state.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                h2.settings.SettingCodes.ENABLE_PUSH: 0,
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: _STREAM_WINDOW,
                h2.settings.SettingCodes.MAX_FRAME_SIZE: MAX_FRAME,
                h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEADERS_BYTES,
            },
        )
        self._state.initiate_connection()
        self._state.max_inbound_frame_size = MAX_FRAME  # h2 reads its settings before we make ours
        self._state.decoder.max_header_list_size = MAX_HEADERS_BYTES
        self._state.increment_flow_control_window(_CONNECTION_WINDOW - 65535)
        self._reading = asyncio.get_running_loop().create_task(self._read())

    @property
    def is_over(self) -> bool:
        """Whether nothing more can be asked here; what was asked may still be answered."""
        return self._ending is not None or self._last_stream is not None

    @property
    def is_closed(self) -> bool:
        """Whether nothing more comes from it."""
        return self._ending is not None

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for anything."""
        return not self._streams

    @property
    def has_room(self) -> bool:
        """Whether one more request may be sent now."""
        if self.is_over:
            return False
        allowed = self._state.remote_settings.max_concurrent_streams if self._has_settings else _FIRST_STREAMS
        return len(self._streams) < min(allowed, _MAX_STREAMS)

    async def ask(self, asked: Asked) -> _Answer:
        """Send ``asked`` and wait for the head of the answer. Raises :class:`Broken` and :class:`BadResponse`. The
        server is told when this is cancelled."""
        if self._ending is not None:
            raise Unprocessed("the connection was closed")
        try:
            number = self._state.get_next_available_stream_id()
            self._state.send_headers(number, _fields(asked), end_stream=not asked.body)
        except (
            h2.exceptions.H2Error,
            ValueError,
        ) as error:  # no numbers left; more streams than it now allows
            raise Unprocessed(str(error)) from error
        answer = self._streams[number] = _Answer(self, number)
        self._frames.effort.asked()
        try:
            self._flush()
            if asked.body:
                answer.send(asked.body)
            await answer.head
        except BaseException:
            answer.close()
            raise
        return answer

    def close(self) -> None:
        """End it and everything that waits for it. Closing twice is fine."""
        self._end(Broken("the connection was closed"))

    # ── what answers do ──────────────────────────────────────────────────────────────────────────────────────

    def acknowledge(self, number: int, size: int) -> None:
        """``size`` bytes are out of our hands: the server may send as many again."""
        if self._ending is None:
            self._state.acknowledge_received_data(size, number)
            self._flush()

    def send(self, number: int, body: memoryview, left: int) -> int:
        """Send as much of ``body`` as the server has room for now, the end too if no more than it is ``left``; how many
        bytes that were."""
        if self._ending is not None:
            raise Broken("the connection was closed")
        size = min(
            len(body), self._state.local_flow_control_window(number), self._state.max_outbound_frame_size
        )
        if size > 0:
            self._state.send_data(number, bytes(body[:size]), end_stream=size == left)
            self._flush()
        return max(size, 0)

    async def drain(self) -> None:
        """Wait until what was written is sent."""
        await self._link.drain()

    def forget(self, number: int) -> None:
        """Nobody waits for this answer any more; if it is not over, the server is told (RFC 9113, 5.4.2)."""
        answer = self._streams.pop(number)
        if self._ending is None:
            with contextlib.suppress(h2.exceptions.H2Error):
                if answer.held:
                    self._state.acknowledge_received_data(answer.held, number)
                if not (answer.is_over and answer.is_sent):
                    self._state.reset_stream(number, h2.errors.ErrorCodes.CANCEL)
            self._flush()
            if self._last_stream is not None and not self._streams:
                self.close()
        if not self._streams:
            self.idle_since = asyncio.get_running_loop().time()
        self._on_change(self)

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────

    async def _read(self) -> None:
        try:
            while data := await self._link.receive():
                self._take(data)
                self._flush()
                with contextlib.suppress(Broken):  # it may have said something before it went
                    await self._link.drain()  # what it does not read, we do not answer
            self._end(Broken("it closed the connection"))
        except Broken as error:
            self._end(error)
        except BadResponse as error:
            self._flush()  # the GOAWAY that h2 prepared
            self._end(error)
        except Exception as error:  # whatever hostile bytes make of a parser, those who wait are told
            self._flush()
            self._end(BadResponse(str(error) or type(error).__name__))

    def _take(self, data: bytes) -> None:
        for piece in self._frames.judge(data):
            for event in self._state.receive_data(piece):
                self._dispatch(event)
            if self._ending is not None:
                return
        if self._frames.last_stream is not None:
            self._go_away(self._frames.last_stream)

    def _dispatch(self, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self._has_settings = True
            self._window_grew(0)
            self._on_change(self)
        elif isinstance(event, h2.events.WindowUpdated):
            self._window_grew(event.stream_id or 0)
        answer = self._streams.get(getattr(event, "stream_id", None) or 0)
        if answer is None:
            return  # of the connection, or of what nobody waits for any more
        if isinstance(event, h2.events.DataReceived):
            self._frames.effort.earn(len(event.data or b""))
        answer.take(event)

    def _window_grew(self, number: int) -> None:
        for answer in self._streams.values():
            if number in (0, answer.number):
                answer.window_grew()

    def _go_away(self, last: int) -> None:
        """No new streams. Those that it will not answer were not begun with (RFC 9113, 6.8)."""
        if self._last_stream is None or last < self._last_stream:
            self._last_stream = last
            wants_http1 = self._frames.reason == h2.errors.ErrorCodes.HTTP_1_1_REQUIRED
            unprocessed = WantsHttp1 if wants_http1 else Unprocessed
            for answer in list(self._streams.values()):
                if answer.number > last:
                    answer.fail(unprocessed("it is about to close the connection"))
            if not self._streams:
                self.close()
            self._on_change(self)

    def _flush(self) -> None:
        """Send what is to be sent. That it cannot be, whoever reads is told, after what came before."""
        with contextlib.suppress(Broken):
            if data := self._state.data_to_send():
                self._link.write(data)

    def _end(self, error: Exception) -> None:
        if self._ending is not None:
            return
        self._ending = error
        self._reading.cancel()
        self._link.close()
        for answer in list(self._streams.values()):
            if not answer.is_over:  # else all of it is there, to be read
                answer.fail(error)
        self._on_change(self)


class _Answer:
    """One stream: what has come of it and was not asked for yet. ``head`` is done once there is a status."""

    status = 0

    def __init__(self, connection: Http2, number: int) -> None:
        self.number = number
        self.headers: Headers = []
        self.head: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.held = 0
        """Bytes of the window that are taken until they are acknowledged."""
        self.is_over = False
        """Whether the server has ended the stream."""
        self.is_sent = True
        """Whether we have."""
        self._connection = connection
        self._pieces: list[bytes] = []
        self._error: Exception | None = None
        self._interim = 0
        self._more = asyncio.Event()
        self._window = asyncio.Event()
        self._sending: asyncio.Task[None] | None = None
        self._is_closed = False

    async def receive(self) -> bytes:
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self.is_over:
                return b""
            self._more.clear()
            await self._more.wait()
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        size, self.held = self.held, 0
        self._connection.acknowledge(self.number, size)
        return data

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if self._sending is not None:
            self._sending.cancel()
        if self.head.done() and not self.head.cancelled():
            self.head.exception()  # whoever asked may be gone: then nobody need hear of it
        self._connection.forget(self.number)

    def send(self, body: Outgoing) -> None:
        """Send ``body`` beside everything else, as the server gives room."""
        self.is_sent = False
        self._sending = asyncio.get_running_loop().create_task(self._send(body))

    async def _send(self, body: Outgoing) -> None:
        left = len(body)
        with contextlib.suppress(Broken, h2.exceptions.H2Error):  # whoever reads is told
            try:
                for piece in pieces(body):
                    rest = memoryview(piece)
                    while rest:
                        self._window.clear()
                        size = self._connection.send(self.number, rest, left)
                        rest, left = rest[size:], left - size
                        await (self._connection.drain() if size else self._window.wait())
            except RequestFailed as error:
                self.fail(error)
            else:
                self.is_sent = True

    # ── what the connection hands over ───────────────────────────────────────────────────────────────────────

    def window_grew(self) -> None:
        """There may be room for more of the request's body."""
        self._window.set()

    def take(self, event: h2.events.Event) -> None:
        """One event of this stream. Trailers are dropped, as browsers do."""
        if isinstance(event, h2.events.DataReceived):
            self.held += event.flow_controlled_length or 0
            if event.data:
                self._pieces.append(event.data)
                self._more.set()
        elif isinstance(event, h2.events.ResponseReceived):
            self._take_head([(bytes(name), bytes(value)) for name, value in event.headers or ()])
        elif isinstance(event, h2.events.InformationalResponseReceived):
            self._interim += 1
            if self._interim > MAX_INTERIM:
                self.fail(BadResponse(f"more than {MAX_INTERIM} interim responses came before the answer"))
        elif isinstance(event, h2.events.StreamEnded):
            self.is_over = True
            self._more.set()
        elif isinstance(event, h2.events.StreamReset):
            self._was_reset(event.error_code or 0)

    def fail(self, error: Exception) -> None:
        """Nothing more will come."""
        if self.is_over:
            return  # all has come, though nobody may have read it yet
        if not self.head.done():
            self.head.set_exception(Unanswered(str(error)) if type(error) is Broken else error)
        self._error = self._error or error
        self._more.set()

    def _take_head(self, fields: Headers) -> None:
        status = dict(fields).get(b":status", b"")
        headers = [(name, value) for name, value in fields if not name.startswith(b":")]
        if not _STATUS.fullmatch(status):
            self.fail(BadResponse(f"{status[:20]!r} is no status"))
        elif len(headers) > MAX_HEADERS:
            self.fail(BadResponse(f"it has {len(headers)} headers; that is too many"))
        elif not self.head.done():
            self.status = int(status)
            self.headers = headers
            self.head.set_result(None)

    def _was_reset(self, code: int) -> None:
        if self.is_over:
            return  # it does not want the rest of the request (RFC 9113, 8.1)
        if code == h2.errors.ErrorCodes.REFUSED_STREAM:
            self.fail(Unprocessed("it refused the stream"))
        elif code == h2.errors.ErrorCodes.HTTP_1_1_REQUIRED:
            self.fail(WantsHttp1("it wants HTTP/1.1"))
        else:
            names = {each.value: each.name for each in h2.errors.ErrorCodes}
            self.fail(BadResponse(f"it reset the stream: {names.get(code, code)}"))
        self.is_over = True


_STATUS = re.compile(rb"[2-9][0-9]{2}")


def _fields(asked: Asked) -> Headers:
    """The request as HTTP/2 spells it: what the first line and Host say stands in fields of its own."""
    fields = [
        (b":method", asked.method.encode()),
        (b":scheme", asked.url.protocol.removesuffix(":").encode()),
        (b":authority", next(value for name, value in asked.headers if name.lower() == b"host")),
        (b":path", asked.target.encode()),
    ]
    fields += ((name.lower(), value) for name, value in asked.headers if name.lower() != b"host")
    if asked.has_length:
        fields.append((b"content-length", b"%d" % len(asked.body)))
    return fields
