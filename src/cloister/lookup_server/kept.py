"""A TLS connection to a name server, which is kept for the next questions."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Protocol

from .message import Answer, Forged, NoAnswer, Question
from .servers import Server
from .sockets import connect_tcp, said

__all__ = ["Framing", "KeptServer", "Unreadable"]

_RECORDS = 64 * 1024  # bytes read at once: four TLS records
_IDLE = 30.0  # seconds after which a connection that nobody uses is closed (RFC 7858, section 3.4)
_MAX_UNSENT = 1024 * 1024  # bytes; a question has 128


class Unreadable(Exception):
    """What the server sent is not the protocol. Nothing can follow it."""


class Framing(Protocol):
    """What is between TLS and DNS, for one connection. Without input or output."""

    @property
    def protocol(self) -> str | None:
        """What the server must have agreed to speak (RFC 7301)."""

    @property
    def has_room(self) -> bool:
        """Whether one more question may be asked now."""

    @property
    def is_ready(self) -> bool:
        """Whether the server has said what must be known before the first question."""

    def opening(self) -> bytes:
        """What is sent before the first question."""

    def ask(self, wire: bytes) -> tuple[int, bytes]:
        """A number for the question, and what is sent for it."""

    def forget(self, number: int) -> bytes:
        """Nobody waits for that answer any more; what is sent because of it."""

    def received(self, data: bytes) -> tuple[dict[int, bytes | NoAnswer], bytes]:
        """The answers, or what there is instead of one, that ``data`` completes; and what is sent because of it.
        Raises Unreadable."""


class KeptServer:
    """One name server over TLS, asked by all clients over one connection. One that is lost, full or silent is
    followed by the next."""

    def __init__(
        self, server: Server, timeout: float, context: ssl.SSLContext, framing: Callable[[], Framing]
    ) -> None:
        self._server = server
        self._timeout = timeout
        self._context = context
        self._framing = framing
        self._opening: asyncio.Task[_Stream] | None = None
        self._live: set[_Stream] = set()

    def __str__(self) -> str:
        return str(self._server)

    async def ask(self, question: Question) -> Answer:
        """Raises NoAnswer with what came instead of an answer within ``timeout`` seconds."""
        wire = question.padded()
        try:
            async with asyncio.timeout(self._timeout):
                stream, fresh = await self._stream()
                try:
                    data = await stream.ask(wire)
                except ConnectionError:
                    if fresh:
                        raise
                    # It closed a connection that was idle just when it was used again.
                    stream, _ = await self._stream()
                    data = await stream.ask(wire)
        except TimeoutError:
            raise NoAnswer(f"no answer within {self._timeout:g} s") from None
        except ssl.SSLCertVerificationError as error:
            raise NoAnswer(f"its certificate is not trusted: {error.verify_message}") from None
        except ssl.SSLError as error:
            raise NoAnswer(f"no TLS with it: {error.reason or 'it closed the connection'}") from None
        except OSError as error:
            raise NoAnswer(said(error)) from None
        try:
            return question.read(data, stream=True)
        except Forged:
            raise NoAnswer("it answered another question") from None

    async def _stream(self) -> tuple[_Stream, bool]:
        """A connection with room for a question, and whether it was made for this one."""
        fresh = False
        while True:
            opening = self._opening
            if opening is not None and opening.done():
                stream = None if _failed(opening) else opening.result()
                if stream is not None and stream.has_room:
                    return stream, fresh
                if stream is not None:
                    stream.retire()
                    if fresh:
                        raise ConnectionError("it takes no questions")
                opening = None
            if opening is None:
                opening = self._opening = asyncio.create_task(self._open())
                fresh = True
            await asyncio.shield(opening)

    async def _open(self) -> _Stream:
        server = self._server
        async with asyncio.timeout(self._timeout):  # of its own: it is made for whoever waits for it
            there = await connect_tcp(server.address, server.port, server.scope)
            try:
                reader, writer = await asyncio.open_connection(
                    sock=there, ssl=self._context, server_hostname=server.name or str(server.address)
                )
            except BaseException:
                there.close()
                raise
            framing = self._framing()
            tls: ssl.SSLObject = writer.get_extra_info("ssl_object")
            if framing.protocol not in (None, tls.selected_alpn_protocol()):
                writer.transport.abort()
                raise ConnectionError(f"it does not speak {framing.protocol}")
            stream = _Stream(reader, writer, framing, self._timeout)
            self._live.add(stream)
            stream.reading.add_done_callback(lambda _: self._live.discard(stream))
            try:
                await stream.ready
            except BaseException:
                stream.retire()
                raise
        return stream


def _failed(task: asyncio.Task[_Stream]) -> bool:
    return task.cancelled() or task.exception() is not None


class _Stream:
    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, framing: Framing, patience: float
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._framing = framing
        self._patience = patience
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._retired = False
        self._closed = False
        self._heard = 0.0
        writer.write(framing.opening())
        self.ready: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if framing.is_ready:
            self.ready.set_result(b"")
        self.reading = asyncio.create_task(self._read())

    @property
    def has_room(self) -> bool:
        return not self._retired and self._framing.has_room

    async def ask(self, wire: bytes) -> bytes:
        """The answer. Raises ConnectionError when the connection is lost before it came."""
        if self._closed:
            raise ConnectionError
        asked_at = asyncio.get_running_loop().time()
        number, data = self._framing.ask(wire)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self._writer.write(data)
        try:
            return await answer
        finally:
            self._waiting.pop(number, None)
            if not answer.done() or answer.cancelled():
                self._writer.write(self._framing.forget(number))
                silent = asyncio.get_running_loop().time() - asked_at > self._patience / 2
                if silent and self._heard < asked_at:
                    self._retired = True  # the other end may be gone: the next question has a new connection
            if self._retired:
                self.retire()

    def retire(self) -> None:
        """Take no more questions, and end with the last answer."""
        self._retired = True
        if not self._waiting:
            self._close()

    async def _read(self) -> None:
        lost = ConnectionError()
        try:
            while data := await self._read_some():
                self._heard = asyncio.get_running_loop().time()
                self._take(data)
        except OSError as error:
            lost = ConnectionError(said(error))
        except Unreadable as error:
            lost = ConnectionError(str(error))
        finally:
            self._close()
            for waiting in (self.ready, *self._waiting.values()):
                if not waiting.done():
                    waiting.set_exception(lost)
                    waiting.exception()  # nobody may be waiting for it

    async def _read_some(self) -> bytes:
        while True:
            try:
                async with asyncio.timeout(_IDLE):
                    return await self._reader.read(_RECORDS)
            except TimeoutError:
                if not self._waiting:
                    return b""

    def _take(self, data: bytes) -> None:
        answers, reply = self._framing.received(data)
        self._writer.write(reply)
        if self._writer.transport.get_write_buffer_size() > _MAX_UNSENT:
            raise Unreadable("it sends and does not read")
        if self._framing.is_ready and not self.ready.done():
            self.ready.set_result(b"")
        for number, answer in answers.items():
            waiting = self._waiting.get(number)
            if waiting is None or waiting.done():
                continue
            if isinstance(answer, bytes):
                waiting.set_result(answer)
            else:
                waiting.set_exception(answer)

    def _close(self) -> None:
        self._closed = self._retired = True
        self._writer.transport.abort()
