"""From an image file's bytes to BGRA pixels in a sealed memfd, by Pillow."""

from __future__ import annotations

import contextlib
import os
import struct
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from typing import IO

# Every plugin by name: Image.open() would look for one when it needs it, and after lock-down there are no files.
from PIL import (  # noqa: F401 - importing a plugin registers it
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    IcoImagePlugin,
    Image,
    ImageFile,
    ImageOps,
    ImagePalette,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from cloister.errors import RequestFailed, printable
from cloister.interfaces.base import FailureCode
from cloister.ipc import memory

from .colour import converter

__all__ = ["FORMATS", "Pixels", "decode"]

FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "AVIF", "BMP", "ICO", "TIFF", "PPM")
"""Pillow's names of what is decoded; PPM is PBM, PGM and PPM."""

_ALLOCATE_EARLY = frozenset({"WEBP", "ICO"})
"""Formats whose plugin allocates or decodes while it opens: Pillow's own size check stays on for these."""

_MAX_SIDE = 2**24  # interfaces.base.Pixels
_MAX_FRAMES = 1_000_000  # interfaces.image_decoder.Decoded.frames
_STRIP_BYTES = 256 * 1024  # what the processor's cache holds: a megabyte at once takes 1.4 times as long

# dav1d would start a thread per processor, and a sandboxed process has one thread.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


@dataclass(frozen=True)
class Pixels:
    """``fd`` is a sealed memfd of ``width * height * 4`` bytes: BGRA, straight alpha, top row first. It is the
    caller's to close."""

    fd: int
    width: int
    height: int
    format: str
    frames: int
    has_alpha: bool


def decode(data: bytes, max_pixels: int) -> Pixels:
    """Decode the first frame of ``data``, upright by its EXIF orientation; colour profiles are ignored.

    Raises RequestFailed: UNSUPPORTED_TYPE, IMAGE_TOO_LARGE (by what the file declares, before it is decoded, or when
    memory does not suffice) or IMAGE_BROKEN.
    """
    kind = _recognise(data)
    with warnings.catch_warnings(), _pillows_limit_kept():
        # They are for the author of an image, and showing one would read source files.
        warnings.simplefilter("ignore")
        try:
            image = _open(data, kind, max_pixels)
            frames = min(getattr(image, "n_frames", 1), _MAX_FRAMES)
            image.load()
            _check_size(kind, image.size, max_pixels)  # an .ico may hold another size than it declares
            _make_upright(image)
            has_alpha = image.has_transparency_data
            return Pixels(_write(image), *image.size, kind, frames, has_alpha)
        except RequestFailed:
            raise
        except Image.DecompressionBombError as error:
            detail = f"{kind} image: {printable(str(error), 200)} (at most {max_pixels} pixels are decoded)"
            raise RequestFailed(FailureCode.IMAGE_TOO_LARGE, detail) from None
        except MemoryError:
            detail = f"{kind} image: it takes more memory to decode than an image may have"
            raise RequestFailed(FailureCode.IMAGE_TOO_LARGE, detail) from None
        except Exception as error:
            # Pillow's plugins raise whatever a malformed file makes them stumble over; all of it means the same.
            detail = f"{kind} image is broken: {type(error).__name__}: {printable(str(error), 200)}"
            raise RequestFailed(FailureCode.IMAGE_BROKEN, detail) from None


@contextlib.contextmanager
def _pillows_limit_kept() -> Iterator[None]:
    """Pillow has one limit for the whole process, and preload() runs in one that others are forked from."""
    before = Image.MAX_IMAGE_PIXELS
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _recognise(data: bytes) -> str:
    """The format by its first bytes, whatever it was said to be."""
    for name in FORMATS:
        accept = Image.OPEN[name][1]
        if accept is not None and accept(data[:16]) is True:
            return name
    raise RequestFailed(FailureCode.UNSUPPORTED_TYPE, f"not an image of a known type ({', '.join(FORMATS)})")


def _open(data: bytes, kind: str, max_pixels: int) -> ImageFile.ImageFile:
    Image.MAX_IMAGE_PIXELS = None  # Pillow's check knows the number of pixels, ours width and height
    guard = -(-max_pixels // 2)  # Pillow refuses what has more than twice as many
    if kind in _ALLOCATE_EARLY:
        Image.MAX_IMAGE_PIXELS = guard
    image = Image.open(BytesIO(data), formats=[kind])
    _check_size(kind, image.size, max_pixels)
    Image.MAX_IMAGE_PIXELS = guard  # for what a plugin finds later: a frame larger than the screen it is on
    return image


def _check_size(kind: str, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels or max(size) > _MAX_SIDE:
        detail = f"{kind} image of {width}x{height} is too large: at most {max_pixels} pixels are decoded"
        raise RequestFailed(FailureCode.IMAGE_TOO_LARGE, detail)
    if width < 1 or height < 1:
        raise RequestFailed(FailureCode.IMAGE_BROKEN, f"{kind} image of {width}x{height} is empty")


def _make_upright(image: Image.Image) -> None:
    try:
        ImageOps.exif_transpose(image, in_place=True)
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, OSError, struct.error):
        return  # malformed EXIF: the picture as it is stored, as every browser shows it


def _write(image: Image.Image) -> int:
    """What is RGBA, or becomes it in place, is written as it is; the rest is converted strip by strip, so that there is
    no third copy beside the decoded image and the result."""
    to_rgba = converter(image)
    width, height = image.size
    rows = height if image.mode == "RGBA" else max(1, _STRIP_BYTES // (4 * width))
    fd = memory.create("cloister-image")
    try:
        with os.fdopen(fd, "wb", buffering=0, closefd=False) as file:
            for top in range(0, height, rows):
                whole = rows >= height  # most are: a copy less
                _append(
                    to_rgba(image if whole else image.crop((0, top, width, min(top + rows, height)))), file
                )
        memory.seal(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _append(strip: Image.Image, file: IO[bytes]) -> None:
    """As Pillow's own writers do: ``tobytes()`` would have all of it in memory twice more."""
    ImageFile._save(strip, file, [ImageFile._Tile("raw", (0, 0, *strip.size), 0, ("BGRA", 0, 1))])
