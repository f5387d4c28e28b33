"""The image_decoder's entry: channels[0] asks for one image. After the answer the process ends."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import msgspec

from cloister.errors import BadMessage, RequestFailed
from cloister.interfaces.base import Blob, FailureCode
from cloister.interfaces.image_decoder import IMAGES, Decode, Decoded, DecodeFile, Options
from cloister.ipc import Channel, Connection, Descriptors, blob
from cloister.ipc.service import Service, Start
from cloister.sandbox import enter

from .decode import decode
from .samples import SAMPLES
from .sandbox import POLICY

__all__ = ["MAX_FILE_BYTES", "POLICY", "main", "preload"]

MAX_FILE_BYTES = 256 * 1024 * 1024
"""Bytes of one image file. 64 megapixels of uncompressed 16-bit RGBA are 512 MB, and nobody publishes those."""


def preload(_options: bytes) -> None:
    """Decode one small image of each format: nothing can be loaded after lock-down."""
    for data in SAMPLES.values():
        os.close(decode(data, max_pixels=256).fd)


def main(start: Start) -> None:
    """Answer one request, then return."""
    options = msgspec.msgpack.decode(start.options, type=Options)
    (work,) = start.channels
    service = Service()
    report = enter(POLICY, allow_degraded=start.allow_degraded)

    async def serve() -> None:
        _OneImage(work, options.max_pixels, service.stop)

    service.run(start.control, report, serve)


class _OneImage:
    """The work channel, until its first request is answered."""

    def __init__(self, channel: Channel, max_pixels: int, stop: Callable[[], None]) -> None:
        self._max_pixels = max_pixels
        self._stop = stop
        self._asked = False
        self._connection = Connection(
            channel,
            IMAGES,
            "server",
            {Decode: self._decode, DecodeFile: self._decode_file},
            on_close=lambda _error: stop(),
        )

    async def _decode(self, message: Decode, fds: Descriptors) -> tuple[Decoded, list[int]]:
        return self._answer(lambda: _unpack(message.body, fds))

    async def _decode_file(self, _message: DecodeFile, fds: Descriptors) -> tuple[Decoded, list[int]]:
        return self._answer(lambda: _read(fds.take()))

    def _answer(self, read: Callable[[], bytes]) -> tuple[Decoded, list[int]]:
        if self._asked:
            raise BadMessage("an image_decoder decodes one image")
        self._asked = True
        # The reply is sent in the step of the loop that this runs in, and the end comes in the next.
        asyncio.get_running_loop().call_soon(self._end)
        pixels = decode(read(), self._max_pixels)
        reply = Decoded(pixels.width, pixels.height, pixels.format, pixels.frames, pixels.has_alpha)
        return reply, [pixels.fd]

    def _end(self) -> None:
        self._connection.close()
        self._stop()


def _check_size(size: int) -> None:
    if size > MAX_FILE_BYTES:
        detail = f"an image file of {size} bytes is too large: at most {MAX_FILE_BYTES} are read"
        raise RequestFailed(FailureCode.IMAGE_TOO_LARGE, detail)


def _unpack(body: Blob, fds: Descriptors) -> bytes:
    _check_size(body.size)
    return blob.unpack(body, fds, MAX_FILE_BYTES)


def _read(fd: int) -> bytes:
    """The whole file from its beginning. It is read and not mapped: whoever shortens a mapped file kills its reader."""
    with os.fdopen(fd, "rb") as file:
        _check_size(os.fstat(file.fileno()).st_size)
        file.seek(0)
        data = file.read(MAX_FILE_BYTES + 1)
    _check_size(len(data))
    return data
