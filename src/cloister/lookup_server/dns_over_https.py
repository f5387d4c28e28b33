"""DNS over HTTPS (RFC 8484), over HTTP/2: the version that the RFC recommends, and some servers insist on."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from .kept import Unreadable
from .message import MAX_ANSWER, NoAnswer
from .servers import Server

__all__ = ["DnsOverHttps"]

_MAX_HEADERS = 16 * 1024  # bytes
_MEDIA_TYPE = "application/dns-message"


class DnsOverHttps:
    """The framing of one connection to ``server``. A question's number is that of its stream."""

    protocol = "h2"

    def __init__(self, server: Server) -> None:
        host = server.name or (f"[{server.address}]" if server.address.version == 6 else str(server.address))
        self._authority = host if server.port == 443 else f"{host}:{server.port}"
        self._path = server.path
        self._state = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        self._ids: dict[int, bytes] = {}
        self._bodies: dict[int, bytearray] = {}
        self._ending = False
        self._greeted = False

    @property
    def is_ready(self) -> bool:
        return self._greeted  # by the settings that say how many questions it takes at once

    @property
    def has_room(self) -> bool:
        most = min(self._state.remote_settings.max_concurrent_streams, 1024)
        # A connection has 2^30 streams; a fresh one is cheap.
        return not self._ending and len(self._ids) < most and self._state.highest_outbound_stream_id < 2**30

    def opening(self) -> bytes:
        self._state.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                h2.settings.SettingCodes.ENABLE_PUSH: 0,
                h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: _MAX_HEADERS,
            },
        )
        self._state.initiate_connection()
        return self._state.data_to_send()

    def ask(self, wire: bytes) -> tuple[int, bytes]:
        number = self._state.get_next_available_stream_id()
        fields = [
            (":method", "POST"),
            (":scheme", "https"),
            (":authority", self._authority),
            (":path", self._path),
            ("accept", _MEDIA_TYPE),
            ("content-type", _MEDIA_TYPE),
            ("content-length", str(len(wire))),
        ]
        try:
            self._state.send_headers(number, fields)
            self._state.send_data(number, b"\0\0" + wire[2:], end_stream=True)  # RFC 8484, 4.1: the id is 0
        except h2.exceptions.ProtocolError as error:
            raise ConnectionError(f"HTTP/2: {error}") from None
        self._ids[number] = wire[:2]
        self._bodies[number] = bytearray()
        return number, self._state.data_to_send()

    def forget(self, number: int) -> bytes:
        if self._ids.pop(number, None) is None:
            return b""
        del self._bodies[number]
        try:
            self._state.reset_stream(number, h2.errors.ErrorCodes.CANCEL)
        except h2.exceptions.ProtocolError:
            pass  # it is over already
        return self._state.data_to_send()

    def received(self, data: bytes) -> tuple[dict[int, bytes | NoAnswer], bytes]:
        answers: dict[int, bytes | NoAnswer] = {}
        try:
            for event in self._state.receive_data(data):
                self._take(event, answers)
        except h2.exceptions.H2Error as error:
            raise Unreadable(f"HTTP/2: {error}") from None
        return answers, self._state.data_to_send()

    def _take(self, event: h2.events.Event, answers: dict[int, bytes | NoAnswer]) -> None:
        if isinstance(event, h2.events.RemoteSettingsChanged):
            self._greeted = True
        elif isinstance(event, h2.events.ConnectionTerminated):
            self._ending = True
        elif isinstance(event, h2.events.DataReceived):
            # What was forgotten counts too: all streams share one window.
            self._state.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        number = getattr(event, "stream_id", None)
        if number is None or (own := self._ids.get(number)) is None:
            return
        if failure := self._failure(event, self._bodies[number]):
            answers[number] = NoAnswer(failure)
            self.forget(number)
        elif isinstance(event, h2.events.StreamEnded):
            body = bytes(self._bodies.pop(number))
            del self._ids[number]
            answers[number] = own + body[2:] if body[:2] == b"\0\0" else NoAnswer("an answer without its id")

    @staticmethod
    def _failure(event: h2.events.Event, body: bytearray) -> str:
        """Why there will be no answer; data of one that goes well is added to ``body``."""
        if isinstance(event, h2.events.ResponseReceived):
            fields: dict[bytes, bytes] = dict(event.headers or ())
            status, kind = fields.get(b":status", b""), fields.get(b"content-type", b"")
            if status != b"200":
                return f"HTTP status {status[:3].decode('ascii', 'replace')}"
            if kind.partition(b";")[0].strip().lower() != _MEDIA_TYPE.encode():
                return f"it sent no {_MEDIA_TYPE}"
        elif isinstance(event, h2.events.DataReceived):
            body += event.data
            if len(body) > MAX_ANSWER:
                return f"an answer of over {MAX_ANSWER:,} bytes"
        elif isinstance(event, h2.events.StreamReset):
            return "it gave up on the question"
        return ""
