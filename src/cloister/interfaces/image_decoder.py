"""web_content (or the browser) ── image_decoder: one image, then the process ends."""

from typing import Annotated

import msgspec
from msgspec import Meta

from .base import Blob, Descriptor, Interface, Reply, Request

__all__ = ["IMAGES", "MAX_PIXELS", "Decode", "DecodeFile", "Decoded", "Options"]

MAX_PIXELS = 64 * 1000 * 1000
"""Of one image, unless the options say otherwise: 256 MB of BGRA."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Start options."""

    max_pixels: Annotated[int, Meta(ge=1, le=2**28)] = MAX_PIXELS


class Decoded(Reply, frozen=True):
    """The pixels come in the memfd: BGRA, 8 bits each, straight (not premultiplied) alpha, top row first,
    ``width * 4`` bytes a row and nothing else. The first frame of an animation; EXIF orientation applied."""

    descriptors = (Descriptor.SEALED_MEMFD,)

    width: Annotated[int, Meta(ge=1, le=2**24)]
    height: Annotated[int, Meta(ge=1, le=2**24)]
    format: Annotated[str, Meta(pattern=r"^[A-Z0-9]{1,16}\Z")]  # what it was: "PNG", "JPEG", ...
    frames: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    has_alpha: bool = False


class Decode(Request[Decoded], frozen=True):
    """Decode ``body``. Fails with IMAGE_BROKEN, IMAGE_TOO_LARGE or UNSUPPORTED_TYPE."""

    body: Blob


class DecodeFile(Request[Decoded], frozen=True):
    """The same for a file that the browser opened for reading."""

    descriptors = (Descriptor.FILE,)


IMAGES = Interface("image_decoder", client=(Decode, DecodeFile))
