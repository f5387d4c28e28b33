"""Answers that the browser itself asks for and reads piece by piece."""

from __future__ import annotations

import asyncio
import itertools
from typing import Final

from ..errors import RequestFailed
from ..interfaces.base import FailureCode, Message
from ..interfaces.fetch import MAX_REQUEST_BODY, Destination, Fetch
from ..interfaces.request_server import Options
from ..interfaces.transfers import (
    MAX_FILES,
    MAX_PIECE,
    CloseTransfer,
    FileHeld,
    HoldFile,
    NextPiece,
    Onward,
    OpenTransfer,
    Piece,
    TransferOpened,
)
from ..ipc import Descriptors, blob
from ..ipc.connection import Handler
from . import headers, saving, urls
from .client import Client, LedElsewhere, Response, Special, Terms
from .upload import HeldFile, Upload

__all__ = ["Transfers"]

MAX_OPEN: Final = 64
"""Answers that are open at once."""


class Transfers:
    """Those of one request_server."""

    def __init__(self, client: Client, options: Options) -> None:
        self._client = client
        self._seconds = options.request_timeout / 1000
        self._numbers = itertools.count(1)
        self._held: dict[int, int] = {}
        self._open: dict[int, _Transfer] = {}

    def handlers(self) -> dict[type[Message], Handler]:
        """For the browser's channel."""
        return {
            HoldFile: self._hold,
            OpenTransfer: self._start,
            NextPiece: self._next,
            CloseTransfer: self._close,
        }

    async def _hold(self, _message: HoldFile, fds: Descriptors) -> FileHeld:
        if len(self._held) >= MAX_FILES:
            raise RequestFailed(FailureCode.TOO_MANY_REQUESTS, f"{MAX_FILES} files wait to be sent already")
        number = next(self._numbers)
        self._held[number] = fds.take()
        return FileHeld(number)

    async def _start(self, message: OpenTransfer, fds: Descriptors) -> TransferOpened:
        body = blob.unpack(message.body, fds, MAX_REQUEST_BODY)
        upload = self._upload(message, body)
        if len(self._open) >= MAX_OPEN:
            upload.close()
            raise RequestFailed(FailureCode.TOO_MANY_REQUESTS, f"{MAX_OPEN} answers are open already")
        number = next(self._numbers)
        transfer = self._open[number] = _Transfer(number, self._client, message, upload, self._seconds)
        transfer.task.add_done_callback(lambda _task: self._forget(number))
        try:
            return await asyncio.shield(transfer.head)
        except asyncio.CancelledError:
            transfer.task.cancel()
            raise

    def _upload(self, message: OpenTransfer, body: bytes) -> Upload:
        """What is sent. Raises :class:`RequestFailed` for segments that are not of what there is."""
        parts: list[bytes | HeldFile] = []
        rest = memoryview(body)
        for segment in message.segments:
            if segment.file is None:
                parts.append(bytes(rest[: segment.size]))
                rest = rest[segment.size :]
            elif (fd := self._held.pop(segment.file, None)) is not None:
                parts.append(HeldFile(fd, segment.size))
        upload = Upload(parts)
        if (
            rest
            or len(parts) != len(message.segments)
            or len(upload) != sum(s.size for s in message.segments)
        ):
            upload.close()
            raise RequestFailed(
                FailureCode.BAD_REQUEST, "the parts of what is to be sent do not fit together"
            )
        return upload

    async def _next(self, message: NextPiece, _fds: Descriptors) -> tuple[Piece, list[int]]:
        transfer = self._open.get(message.id)
        if transfer is None:
            raise RequestFailed(FailureCode.BAD_REQUEST, "there is no such answer")
        try:
            piece = await transfer.next()
        except RequestFailed:
            del self._open[message.id]
            raise
        if not piece:
            del self._open[message.id]
        body, given = blob.pack(piece)
        return Piece(body), given

    def _close(self, message: CloseTransfer, _fds: Descriptors) -> None:
        if (transfer := self._open.pop(message.id, None)) is not None:
            transfer.task.cancel()

    def _forget(self, number: int) -> None:
        """One is over. What became of it is kept until it was told, if it had begun."""
        transfer = self._open.get(number)
        if transfer is not None and not transfer.has_begun:
            del self._open[number]


class _Transfer:
    """One answer: a task that reads it no faster than it is asked for. ``head`` fails if there is none."""

    def __init__(
        self, number: int, client: Client, message: OpenTransfer, upload: Upload, seconds: float
    ) -> None:
        loop = asyncio.get_running_loop()
        self.head: asyncio.Future[TransferOpened] = loop.create_future()
        self.has_begun = False
        self._number = number
        self._client = client
        self._seconds = seconds
        self._loop = loop
        self._clock = asyncio.timeout(seconds)
        self._pieces: asyncio.Queue[bytes | RequestFailed] = asyncio.Queue(1)
        upload.on_progress = self._touch
        self.task = loop.create_task(self._run(message, upload))

    async def next(self) -> bytes:
        """More of it, b"" at the end. Raises :class:`RequestFailed`."""
        piece = await self._pieces.get()
        if isinstance(piece, RequestFailed):
            raise piece
        return piece

    async def _run(self, message: OpenTransfer, upload: Upload) -> None:
        own = message.headers
        if not any(name.lower() == "accept" for name, _ in own):
            own = (*own, ("Accept", "*/*"))
        fetch = Fetch(message.url, Destination.DOCUMENT, method=message.method, headers=own)
        terms = Terms(message.max_bytes, message.max_redirects, self._clock)
        try:
            async with self._client.open(fetch, upload, Special(terms=terms)) as response:
                self.has_begun = True
                if not self.head.done():
                    self.head.set_result(_opened(self._number, response))
                await self._read(response)
            await self._pieces.put(b"")
        except LedElsewhere as led:
            if not self.head.done():
                self.head.set_result(_onward(self._number, message, upload, led))
        except RequestFailed as error:
            await self._fail(error)
        except asyncio.CancelledError:
            self.head.cancel()
            raise
        except Exception as error:  # whatever hostile bytes make of a parser, those who wait are told
            await self._fail(RequestFailed(FailureCode.INTERNAL, f"{type(error).__name__}: {error}"))
        finally:
            upload.close()

    async def _read(self, response: Response) -> None:
        """The server is waited for, one piece ahead of whoever asks; while that one takes time, it may."""
        async for data in response.body:
            for start in range(0, len(data), MAX_PIECE):
                self._clock.reschedule(None)
                await self._pieces.put(data[start : start + MAX_PIECE])
            self._touch()

    async def _fail(self, error: RequestFailed) -> None:
        if self.has_begun:
            await self._pieces.put(error)
        elif not self.head.done():
            self.head.set_exception(error)

    def _touch(self) -> None:
        """Something moved: the server has as long again."""
        self._clock.reschedule(self._loop.time() + self._seconds)


def _opened(number: int, response: Response) -> TransferOpened:
    raw = response.raw
    return TransferOpened(
        id=number,
        url=response.url,
        status=response.status,
        headers=headers.all_of(raw),
        length=saving.length(raw),
        name=saving.name(urls.parse(response.url), raw),
        validator=saving.validator(raw),
        range=saving.content_range(raw),
        redirects=response.requests - 1,
    )


def _onward(number: int, message: OpenTransfer, upload: Upload, led: LedElsewhere) -> TransferOpened:
    step = led.step
    onward = Onward(step.url.href, step.method, step.body is upload)
    return TransferOpened(number, message.url, led.status, (), redirects=led.redirects, onward=onward)
