"""A page with 60 subresources, as bench/http_server.py serves it: 40 images of 5 to 27 KB, 12 style sheets of 3 to 10
KB, 8 fonts; always the same bytes."""

from __future__ import annotations

import io
from random import Random

import pymupdf_fonts
from PIL import Image, ImageFilter

__all__ = ["SUBRESOURCES", "files"]

IMAGES, SHEETS = 40, 12
FONTS = ("spacemo", "spacembo", "spacemit", "spacembi", "fimo", "fimbo", "ubuntm", "ubuntmbo")
SUBRESOURCES = IMAGES + SHEETS + len(FONTS)
WORDS = (
    "harbour",
    "ferry",
    "pilot",
    "lantern",
    "signal",
    "bell",
    "tide",
    "anchor",
    "cargo",
    "quay",
    "ledger",
)
FORMATS = (("png", "PNG"), ("jpeg", "JPEG"), ("webp", "WEBP"))


def files() -> dict[str, tuple[str, bytes]]:
    """The content type and the content of each path; the page is at ``/page``."""
    random = Random(6)
    made: dict[str, tuple[str, bytes]] = {}
    for number in range(IMAGES):
        extension, form = FORMATS[number % len(FORMATS)]
        made[f"/image{number}"] = (f"image/{extension}", _image(form, number, random))
    for name in FONTS:
        made[f"/{name}.ttf"] = ("font/ttf", pymupdf_fonts.myfont(name))
    for number in range(SHEETS):
        made[f"/sheet{number}.css"] = ("text/css", _sheet(number, random).encode())
    made["/page"] = ("text/html; charset=utf-8", _page(random).encode())
    return made


def _image(form: str, number: int, random: Random) -> bytes:
    """A soft pattern with some noise, as a photograph has; larger ones of larger numbers."""
    width = (70 if form == "PNG" else 150) + number * (1 if form == "PNG" else 6)
    small = Image.frombytes("RGB", (16, 12), random.randbytes(16 * 12 * 3))
    soft = small.resize((width, width * 3 // 4), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))
    noise = Image.frombytes("RGB", soft.size, random.randbytes(soft.width * soft.height * 3))
    file = io.BytesIO()
    Image.blend(soft, noise, 0.15).save(file, form)
    return file.getvalue()


def _sheet(number: int, random: Random) -> str:
    """Rules for parts of the page, and for many that it does not have."""
    rules = [f".part{number} {{ margin: {number % 4 + 2}px; padding: 6px; border: 1px solid #ccc }}"]
    if number < len(FONTS):
        name = FONTS[number]
        rules.append(f"@font-face {{ font-family: f{number}; src: url({name}.ttf) format('truetype') }}")
        rules.append(f".part{number} p {{ font-family: f{number}, monospace }}")
    for rule in range(40 + number * 8):
        size, color = random.randrange(10, 24), random.randrange(0x1000000)
        said = f"font-size: {size}px; color: #{color:06x}; margin: 0 {size}px"
        rules.append(f".s{number} .x{rule} > a:hover {{ {said} }}")
    return "\n".join(rules)


def _page(random: Random) -> str:
    parts = []
    for number in range(SHEETS):
        images = "".join(
            f"<img src=image{image} alt='' width=120 height=90>" for image in range(number, IMAGES, SHEETS)
        )
        text = " ".join(random.choice(WORDS) for _ in range(150))
        parts.append(f"<section class=part{number}><h2>Part {number}</h2><p>{text}</p>{images}</section>")
    links = "".join(f"<link rel=stylesheet href=sheet{number}.css>" for number in range(SHEETS))
    return f"<!doctype html><html lang=en><title>Sixty</title>{links}<body>{''.join(parts)}"
