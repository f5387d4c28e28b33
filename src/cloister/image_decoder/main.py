"""The image_decoder's entry: channels[0] asks for one image. After the answer the process ends."""

from __future__ import annotations

import os

import msgspec

from cloister.errors import RequestFailed
from cloister.interfaces.base import Blob, FailureCode, Message
from cloister.interfaces.image_decoder import IMAGES, Decode, Decoded, Options
from cloister.ipc import Descriptors, blob
from cloister.ipc.codec import codec
from cloister.ipc.start import Start, answer_one
from cloister.sandbox import enter

from .decode import decode
from .samples import SAMPLES
from .sandbox import POLICY

__all__ = ["MAX_FILE_BYTES", "POLICY", "main", "preload"]

MAX_FILE_BYTES = 256 * 1024 * 1024
"""Bytes of one image file. 64 megapixels of uncompressed 16-bit RGBA are 512 MB, and nobody publishes those."""

_AT_ONCE = 4 * 1024 * 1024  # bytes


def preload(_options: bytes) -> None:
    """Decode one small image of each format: nothing can be loaded after lock-down."""
    codec(IMAGES, "server")
    msgspec.msgpack.decode(msgspec.msgpack.encode(Options()), type=Options)
    for data in SAMPLES.values():
        os.close(decode(data, max_pixels=256).fd)


def main(start: Start) -> None:
    """Answer one request, then return."""
    options = msgspec.msgpack.decode(start.options, type=Options)
    report = enter(POLICY, allow_degraded=start.allow_degraded)

    def answer(message: Message, fds: Descriptors) -> tuple[Decoded, list[int]]:
        data = _unpack(message.body, fds) if isinstance(message, Decode) else _read(fds.take())
        pixels = decode(data, options.max_pixels)
        reply = Decoded(pixels.width, pixels.height, pixels.format, pixels.frames, pixels.has_alpha)
        return reply, [pixels.fd]

    answer_one(start, report, IMAGES, answer)


def _check_size(size: int) -> None:
    if size > MAX_FILE_BYTES:
        detail = f"an image file of {size} bytes is too large: at most {MAX_FILE_BYTES} are read"
        raise RequestFailed(FailureCode.IMAGE_TOO_LARGE, detail)


def _unpack(body: Blob, fds: Descriptors) -> bytes:
    _check_size(body.size)
    return blob.unpack(body, fds, MAX_FILE_BYTES)


def _read(fd: int) -> bytes:
    """The whole file from its beginning. It is read and not mapped: whoever shortens a mapped file kills its reader."""
    try:
        _check_size(os.fstat(fd).st_size)
        data = bytearray()
        while part := os.pread(fd, _AT_ONCE, len(data)):
            data += part
            _check_size(len(data))
    finally:
        os.close(fd)
    return bytes(data)
