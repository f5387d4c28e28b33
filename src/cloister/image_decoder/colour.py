"""Every mode that Pillow decodes to, as 8-bit RGBA."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode

__all__ = ["converter"]

Convert = Callable[[Image.Image], Image.Image]


def converter(image: Image.Image) -> Convert:
    """What turns a strip of ``image`` into RGBA. The whole image decides, so that all strips are alike. It is RGBA
    itself afterwards, where that takes no copy.

    Raises RequestFailed (UNSUPPORTED_TYPE) for CIELAB: its conversion would need a colour management library.
    """
    if image.mode == "LAB":
        raise RequestFailed(FailureCode.UNSUPPORTED_TYPE, "images in CIELAB are not decoded")
    if image.mode == "La":  # premultiplied grey, which Pillow converts to LA only
        return lambda strip: strip.convert("LA").convert("RGBA")
    if image.mode == "F" or image.mode.startswith("I"):
        return _deep_grey(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        image.putalpha(255)  # Pillow keeps four bytes for each pixel, so this changes the fourth, in place
    return lambda strip: strip if strip.mode == "RGBA" else strip.convert("RGBA")


def _deep_grey(image: Image.Image) -> Convert:
    """Grey of more than 8 bits, which convert("L") would cut at 255 instead of scaling it."""
    factor = _to_8_bits(image)
    clear = image.info.get("transparency")
    # The one grey value that a 16-bit PNG may declare transparent (tRNS).
    opacity = [255 * (value != clear) for value in range(1 << 16)] if isinstance(clear, int) else None

    def convert(strip: Image.Image) -> Image.Image:
        wide = strip if strip.mode == "F" else strip.convert("I")
        result = wide.point(lambda value: value * factor).convert("L").convert("RGBA")
        if opacity is not None:
            result.putalpha(wide.point(opacity, "L"))
        return result

    return convert


def _to_8_bits(image: Image.Image) -> float:
    """By what to multiply. The file formats leave the range of 32-bit samples open, so the samples tell it."""
    if image.mode.startswith("I;16"):
        return 1 / 256
    _, high = image.getextrema()
    if not isinstance(high, int | float):
        raise TypeError(f"{image.mode} has more than one channel")
    if image.mode == "F":
        return 255.0 if high <= 1 else 1.0
    return 1 / 256 if high < 1 << 16 else 1 / (1 << 23)
