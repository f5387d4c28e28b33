"""Draw the demo site's pictures: ``python -m cloister.demo.pictures``.

A tool for whoever changes the site, not a part of the running program: its output is committed. The same
window is drawn at twelve hours of one day, and each hour is stored in another format that the image decoder reads.
"""

from __future__ import annotations

import math
import struct
import zlib
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFilter

Colour = tuple[int, int, int]

SITE = Path(__file__).parent / "site"
OVERSAMPLING = 4  # drawn this many times larger and scaled down, because ImageDraw does not smooth edges
WALL: Colour = (226, 213, 190)

# Zenith and horizon of the sky, twelve hours of a day from the night office to the night after.
HOURS: dict[str, tuple[Colour, Colour]] = {
    "matins.png": ((12, 18, 44), (40, 52, 92)),
    "lauds.jpg": ((38, 48, 96), (206, 128, 122)),
    "prime.gif": ((94, 126, 184), (250, 196, 140)),
    "terce.bmp": ((96, 154, 214), (232, 226, 204)),
    "mist.pgm": ((150, 150, 150), (238, 238, 238)),
    "sext.webp": ((52, 128, 208), (206, 232, 244)),
    "ink.pbm": ((120, 120, 120), (250, 250, 250)),
    "none.tiff": ((74, 140, 196), (240, 220, 176)),
    "vespers.avif": ((96, 84, 150), (252, 158, 92)),
    "compline.ppm": ((52, 40, 92), (214, 98, 84)),
    "lamp.ico": ((20, 22, 52), (84, 58, 96)),
}


def mix(a: Colour, b: Colour, part: float) -> Colour:
    """``a`` where ``part`` is 0, ``b`` where it is 1."""
    red, green, blue = (round(x + (y - x) * part) for x, y in zip(a, b, strict=True))
    return red, green, blue


def landscape(width: int, height: int, zenith: Colour, horizon: Colour) -> Image.Image:
    """Sky, sun, three rows of hills and a few cypresses."""
    picture = Image.new("RGB", (width, height))
    draw = ImageDraw.Draw(picture)
    for y in range(height):
        draw.line([(0, y), (width, y)], fill=mix(zenith, horizon, min(1.0, y / (height * 0.72)) ** 1.3))
    radius = height * 0.07
    sun_x, sun_y = width * 0.52, height * 0.42
    draw.ellipse(
        [sun_x - radius, sun_y - radius, sun_x + radius, sun_y + radius],
        fill=mix(horizon, (255, 252, 236), 0.75),
    )
    ground = mix(zenith, (44, 74, 58), 0.55)
    for row, (base, swing) in enumerate([(0.60, 0.06), (0.70, 0.05), (0.82, 0.04)]):
        colour = mix(horizon, ground, 0.45 + 0.25 * row)
        ridge = [
            (x, height * (base + swing * math.sin(x / height * (1.7 + row) + row * 2.1)))
            for x in range(0, width + 8, 8)
        ]
        draw.polygon([(0, height), *ridge, (width, height)], fill=colour)
        if row == 1:
            cypresses(draw, width, height, mix(colour, (10, 20, 18), 0.45))
    return picture


def cypresses(draw: ImageDraw.ImageDraw, width: int, height: int, colour: Colour) -> None:
    """Trees along the second ridge, at a distance that the height sets and not the width."""
    for number in range(1 + int(width / height * 3)):
        x = height * (0.22 + number * 0.37 + 0.09 * math.sin(number * 2.4))
        tall = height * (0.17 + 0.05 * math.sin(number * 1.7))
        wide = tall * 0.13
        foot = height * 0.76
        draw.polygon(
            [
                (x, foot - tall),
                (x + wide, foot - tall * 0.3),
                (x + wide * 0.5, foot),
                (x - wide * 0.5, foot),
                (x - wide, foot - tall * 0.3),
            ],
            fill=colour,
        )


def openings(width: int, height: int, *, arches: int, top: float, sill: float, pier: float) -> Image.Image:
    """A mask that is white inside the arches. ``pier`` is a pier's share of one bay's width."""
    mask = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(mask)
    bay = width / arches
    for number in range(arches):
        left, right = bay * (number + pier / 2), bay * (number + 1 - pier / 2)
        spring = height * top + (right - left) / 2  # where the half circle begins
        draw.ellipse([left, height * top, right, spring + (right - left) / 2], fill=255)
        draw.rectangle([left, spring, right, height * sill], fill=255)
    return mask


def arcade(
    width: int, height: int, sky: tuple[Colour, Colour], *, arches: int, top: float, sill: float, pier: float
) -> Image.Image:
    """The landscape seen through ``arches`` arches in a wall that takes the colour of the hour."""
    big_w, big_h = width * OVERSAMPLING, height * OVERSAMPLING
    view = landscape(big_w, big_h, *sky)
    hole = openings(big_w, big_h, arches=arches, top=top, sill=sill, pier=pier)
    light = mix(sky[1], (255, 255, 255), 0.35)
    wall = Image.new("RGB", (big_w, big_h))
    draw = ImageDraw.Draw(wall)
    for y in range(big_h):
        share = y / big_h
        tinted: Colour = mix(mix(WALL, light, 0.30), mix(WALL, sky[0], 0.25), share)
        draw.line([(0, y), (big_w, y)], fill=mix(tinted, sky[0], 0.12))
    # The reveal: the thickness of the wall, lit on one side, seen as the hole's shifted copy.
    shift = round(big_h * 0.022)
    inner = ImageChops.multiply(hole, ImageChops.offset(hole, -shift, shift))
    reveal = Image.new("RGB", (big_w, big_h), mix(mix(WALL, sky[0], 0.62), (20, 16, 14), 0.15))
    shade = hole.filter(ImageFilter.GaussianBlur(big_h * 0.02))
    wall = Image.composite(Image.blend(wall, Image.new("RGB", wall.size, light), 0.25), wall, shade)
    picture = Image.composite(reveal, wall, hole)
    picture = Image.composite(view, picture, inner)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def window(size: int, sky: tuple[Colour, Colour]) -> Image.Image:
    """One arch: a tile of the row of hours."""
    return arcade(size, size, sky, arches=1, top=0.11, sill=0.90, pier=0.34)


def save_hours(folder: Path) -> None:
    """One tile in each raster format, each as small as its format lets it be without harm."""
    for name, sky in HOURS.items():
        tile = window(128, sky)
        path = folder / name
        match path.suffix:
            case ".jpg":
                tile.save(path, quality=88)
            case ".gif":
                later = window(128, (mix(*sky, 0.5), sky[1]))  # two frames: the first is what a page shows
                tile.quantize(64).save(
                    path, save_all=True, append_images=[later.quantize(64)], duration=900, loop=0
                )
            case ".bmp":
                tile.quantize(256).save(path)
            case ".pgm":
                tile.convert("L").save(path)
            case ".pbm":
                tile.convert("1").save(path)
            case ".ppm":
                tile.resize((96, 96), Image.Resampling.LANCZOS).save(path)
            case ".tiff":
                tile.save(path, compression="tiff_adobe_deflate")
            case ".ico":
                tile.save(path, sizes=[(128, 128), (32, 32)])
            case ".png":
                tile.quantize(128).save(path, optimize=True)
            case _:
                tile.save(path, quality=80)


def save_garden(folder: Path) -> None:
    """The wide picture on top of the article."""
    picture = arcade(1040, 380, ((66, 96, 160), (252, 190, 128)), arches=5, top=0.13, sill=0.88, pier=0.26)
    picture.save(folder / "arcade.jpg", quality=84, progressive=True)


def oversized_png() -> bytes:
    """A PNG of 60,000 × 60,000 pixels: 14 GB once decoded, and the file holds the first 16 MB of them."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 6, 0, 0, 0)
    pixels = zlib.compress(bytes(16 * 1024 * 1024), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def save_broken(folder: Path) -> None:
    """Images that are not what they say: cut off in the middle, or far larger than their file."""
    tile = window(128, HOURS["vespers.avif"])
    for suffix, name in ((".png", "PNG"), (".jpg", "JPEG"), (".webp", "WEBP")):
        whole = BytesIO()
        tile.save(whole, name)
        (folder / f"truncated{suffix}").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    (folder / "oversized.png").write_bytes(oversized_png())


def main() -> None:
    """Write every picture below ``site/``."""
    pictures, hostile = SITE / "pictures", SITE / "hostile"
    for folder in (pictures, hostile):
        folder.mkdir(parents=True, exist_ok=True)
    save_hours(pictures)
    save_garden(pictures)
    save_broken(hostile)


if __name__ == "__main__":
    main()
