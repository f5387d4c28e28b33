"""A small picture of a large one. The file is foreign, and Pillow is a lot of C: both stay in this process."""

from __future__ import annotations

import io
import warnings
from typing import Any

from PIL import Image, ImageOps

# How large an image may be, this process's memory says; Pillow's own bound would refuse what fits.
Image.MAX_IMAGE_PIXELS = None
warnings.simplefilter("ignore")


def thumbnail(data: bytes, side: int = 256) -> dict[str, Any]:
    """The image in the bytes ``data``, at most ``side`` pixels wide and high: a dict with type, width, height, bytes.

    JPEG, or PNG where something shows through. Of what the file says besides (camera, place, comments) nothing is kept.
    """
    if not 1 <= side <= 2048:
        raise ValueError(f"side is {side}: 1 to 2048 pixels")
    with Image.open(io.BytesIO(data)) as image:
        image.thumbnail((side, side))  # a large JPEG is decoded in small at once
        small = ImageOps.exif_transpose(image)
    if small.mode.startswith("I;16"):
        small = small.point(lambda value: value / 256, "L")
    kind, mode = ("png", "RGBA") if small.has_transparency_data else ("jpeg", "RGB")
    made = Image.new(mode, small.size)
    made.paste(small.convert(mode))
    out = io.BytesIO()
    made.save(out, kind)
    return {"type": kind, "width": made.width, "height": made.height, "bytes": out.getvalue()}
