"""What comes out of each kind of file, and what is said about the rest."""

from __future__ import annotations

import os
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops

from cloister.errors import RequestFailed
from cloister.image_decoder.decode import FORMATS, Pixels, decode
from cloister.image_decoder.samples import SAMPLES
from cloister.ipc import memory

from .pictures import encode, png, quarters

LIMIT = 1_000_000
FAITHFULLY: dict[str, dict[str, Any]] = {
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 100},
    "JPEG": {"quality": 100, "subsampling": 0},
}


def pixels(data: bytes, max_pixels: int = LIMIT) -> tuple[Pixels, Image.Image]:
    """What was decoded, and its pixels as the receiver maps them."""
    decoded = decode(data, max_pixels)
    try:
        raw = memory.read_sealed(decoded.fd, decoded.width * decoded.height * 4)
    finally:
        os.close(decoded.fd)
    return decoded, Image.frombytes("RGBA", (decoded.width, decoded.height), raw, "raw", "BGRA")


def failure(data: bytes, max_pixels: int = LIMIT) -> RequestFailed:
    with pytest.raises(RequestFailed) as caught:
        os.close(decode(data, max_pixels).fd)
    return caught.value


def first_pixel(data: bytes) -> Any:
    return pixels(data)[1].getpixel((0, 0))


def difference(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of any channel of any pixel."""
    extrema = ImageChops.difference(one.convert("RGBA"), other.convert("RGBA")).getextrema()
    return max(high for _, high in extrema)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("kind", "name", "options", "tolerance"),
    [
        ("PNG", "PNG", {}, 0),
        ("PNG", "PNG", {"interlace": 1}, 0),
        ("JPEG", "JPEG", {"quality": 95, "subsampling": 0}, 16),
        ("JPEG", "JPEG", {"quality": 95, "subsampling": 0, "progressive": True}, 16),
        ("GIF", "GIF", {}, 0),
        ("BMP", "BMP", {}, 0),
        ("ICO", "ICO", {"sizes": [(64, 32)]}, 0),
        ("ICO", "ICO", {"sizes": [(64, 32)], "bitmap_format": "bmp"}, 0),
        ("PPM", "PPM", {}, 0),
        ("WEBP", "WEBP", {"lossless": True}, 0),
        ("TIFF", "TIFF", {}, 0),
        ("TIFF", "TIFF", {"compression": "tiff_lzw"}, 0),
        ("TIFF", "TIFF", {"compression": "tiff_adobe_deflate"}, 0),
        ("TIFF", "TIFF", {"compression": "jpeg", "quality": 95}, 60),
        ("AVIF", "AVIF", {"quality": 100, "subsampling": "4:4:4"}, 8),
    ],
)
def test_every_format_gives_its_picture(
    kind: str, name: str, options: dict[str, Any], tolerance: int
) -> None:
    decoded, image = pixels(encode(quarters(), kind, **options))
    assert (decoded.format, decoded.width, decoded.height, decoded.frames) == (name, 64, 32, 1)
    assert difference(image, quarters()) <= tolerance


def test_there_is_a_sample_of_every_format_to_warm_up_with() -> None:
    assert tuple(sorted(SAMPLES)) == tuple(sorted(FORMATS))
    for name, data in SAMPLES.items():
        assert pixels(data)[0].format == name


@pytest.mark.parametrize(
    "image",
    [b"P1\n2 1\n1 0\n", b"P2\n2 1\n15\n0 15\n", b"P3\n2 1\n255\n0 0 0 255 255 255\n", b"P4\n2 1\n\x80",
     b"P5\n2 1\n255\n\x00\xff", b"P5\n2 1\n65535\n\x00\x00\xff\xff", b"P6\n2 1\n255\n\x00\x00\x00\xff\xff\xff"],
)  # fmt: skip
def test_portable_bitmaps_of_every_kind_are_read(image: bytes) -> None:
    _, got = pixels(image)
    assert [got.getpixel((0, 0)), got.getpixel((1, 0))] == [(0, 0, 0, 255), (255, 255, 255, 255)]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "AVIF", "ICO"])
def test_alpha_is_kept_and_straight(kind: str) -> None:
    image = Image.new("RGBA", (32, 32), (200, 100, 50, 128))
    options = FAITHFULLY.get(kind, {})
    decoded, got = pixels(encode(image, kind, **options))
    assert decoded.has_alpha
    assert difference(got, image) <= 6


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_transparent(kind: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    decoded, got = pixels(encode(image, kind, transparency=0))
    assert decoded.has_alpha
    assert got.getpixel((0, 0))[3] == 0  # type: ignore[index]
    assert got.getpixel((1, 0)) == (0, 0, 255, 255)


def test_a_palette_with_an_alpha_for_each_colour_keeps_them() -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([0, 1, 2])
    _, got = pixels(encode(image, "PNG", transparency=bytes([0, 128, 255])))
    assert [got.getpixel((x, 0)) for x in range(3)] == [(10, 20, 30, 0), (40, 50, 60, 128), (70, 80, 90, 255)]


def test_an_opaque_picture_says_that_it_is() -> None:
    assert not pixels(encode(quarters(), "PNG"))[0].has_alpha
    assert not pixels(encode(quarters("L"), "JPEG"))[0].has_alpha


@pytest.mark.parametrize("value", [0, 1, 255, 256, 0x1234, 0x8000, 0xFFFF])
def test_16_bit_grey_is_scaled_not_cut(value: int) -> None:
    grey = value >> 8
    sample = struct.pack(">H", value)
    assert first_pixel(png(1, 1, 16, 0, b"\0" + sample)) == (grey, grey, grey, 255)
    assert first_pixel(png(1, 1, 16, 2, b"\0" + sample * 3)) == (grey, grey, grey, 255)
    assert first_pixel(b"P5\n1 1\n65535\n" + sample)[0] == grey
    for order in ("I;16", "I;16B"):
        image = Image.frombytes(order, (1, 1), struct.pack("<H" if order == "I;16" else ">H", value))
        assert first_pixel(encode(image, "TIFF")) == (grey, grey, grey, 255)


def test_the_transparent_value_of_16_bit_grey_is_exact() -> None:
    rows = b"\0" + struct.pack(">HHH", 0x1234, 0x1235, 0x1200)
    _, got = pixels(png(3, 1, 16, 0, rows, (b"tRNS", struct.pack(">H", 0x1234))))
    assert [got.getpixel((x, 0))[3] for x in range(3)] == [0, 255, 255]  # type: ignore[index]


def test_16_bit_colour_with_alpha_is_read() -> None:
    assert first_pixel(png(1, 1, 16, 6, b"\0" + struct.pack(">HHHH", 0xFF00, 0x8000, 0, 0x4000))) == (
        255,
        128,
        0,
        64,
    )


@pytest.mark.parametrize(
    ("samples", "greys"), [((0.0, 0.5, 1.0), (0, 127, 255)), ((0.0, 100.0, 255.0), (0, 100, 255))]
)
def test_floating_point_grey_is_scaled_by_its_range(
    samples: tuple[float, ...], greys: tuple[int, ...]
) -> None:
    image = Image.frombytes("F", (3, 1), struct.pack("<3f", *samples))
    _, got = pixels(encode(image, "TIFF"))
    assert tuple(got.getpixel((x, 0))[0] for x in range(3)) == greys  # type: ignore[index]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "YCbCr", "RGBX", "RGBA"])
def test_every_colour_mode_of_tiff_becomes_rgba(mode: str) -> None:
    image = Image.new("RGB", (4, 4), "white").convert(mode)
    assert first_pixel(encode(image, "TIFF")) == (255, 255, 255, 255)


def test_a_cmyk_jpeg_has_its_colours_the_right_way_round() -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    red, green, blue, alpha = first_pixel(encode(image, "JPEG", quality=95))
    assert red > 240 > 15 > max(green, blue)
    assert alpha == 255


def test_cielab_is_not_supported_and_said_so() -> None:
    assert failure(encode(Image.new("LAB", (2, 2)), "TIFF")).code == "unsupported_type"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_picture_stands_upright(kind: str, orientation: int) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    stored = quarters().transpose(undo[orientation]) if orientation in undo else quarters()
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = FAITHFULLY.get(kind, {})
    decoded, got = pixels(encode(stored, kind, exif=exif, **options))
    assert (decoded.width, decoded.height) == (64, 32)
    for x, y, colour in ((10, 8, "red"), (50, 8, "lime"), (50, 24, "blue"), (10, 24, "white")):
        spot = got.crop((x, y, x + 1, y + 1))
        assert difference(spot, Image.new("RGB", (1, 1), colour)) < 40


def test_malformed_exif_does_not_hide_the_picture() -> None:
    for exif in (
        b"Exif\0\0",
        b"Exif\0\0garbage",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff",
    ):
        assert pixels(encode(quarters(), "JPEG", exif=exif))[0].width == 64


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_of_an_animation_the_first_frame_is_decoded_and_all_are_counted(kind: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = FAITHFULLY.get(kind, {})
    decoded, got = pixels(encode(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert decoded.frames == 3
    assert difference(got, frames[0]) <= 8


def test_a_long_picture_has_its_strips_in_order() -> None:
    image = Image.linear_gradient("L").resize((300, 3000))
    assert difference(pixels(encode(image, "PNG"))[1], image) == 0


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────


def bombs() -> dict[str, bytes]:
    """60000x60000 where the format can say so, in a few bytes each."""
    side = struct.pack("<I", 59_999)[:3]
    webp = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + side + side + b"VP8L" + struct.pack("<I", 0)
    inner = png(60_000, 60_000, 8, 2, b"\0")
    jpeg = encode(Image.new("L", (8, 8)), "JPEG")
    start = jpeg.index(b"\xff\xc0") + 5
    tiff = encode(Image.new("L", (8, 8)), "TIFF")
    for tag in (256, 257):  # ImageWidth, ImageLength as SHORT
        tiff = tiff.replace(struct.pack("<HHIH", tag, 4, 1, 8), struct.pack("<HHIH", tag, 4, 1, 60_000))
        tiff = tiff.replace(struct.pack("<HHIH", tag, 3, 1, 8), struct.pack("<HHIH", tag, 3, 1, 60_000))
    return {
        "PNG": inner,
        "JPEG": jpeg[:start] + struct.pack(">HH", 60_000, 60_000) + jpeg[start + 4 :],
        "GIF": b"GIF89a" + struct.pack("<HHBBB", 60_000, 60_000, 0, 0, 0) + b",\0\0\0\0\1\0\1\0\0\2\2D\1\0;",
        "BMP": b"BM" + struct.pack("<IHHIIiiHH6I", 60, 0, 0, 54, 40, 60_000, 60_000, 1, 24, *[0] * 6),
        "PPM": b"P6\n60000 60000\n255\n",
        "WEBP": b"RIFF" + struct.pack("<I", len(webp) + 4) + b"WEBP" + webp,
        "ICO": struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22) + inner,
        "TIFF": tiff,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "PPM", "WEBP", "ICO", "TIFF"])
def test_a_bomb_is_refused_by_what_it_declares(kind: str) -> None:
    error = failure(bombs()[kind], max_pixels=64_000_000)
    assert error.code == "image_too_large"
    assert "64000000 pixels" in error.detail
    assert "60000x60000" in error.detail or "3600000000 pixels" in error.detail


def test_the_limit_itself_is_allowed_and_one_pixel_more_is_not() -> None:
    data = encode(quarters(), "PNG")
    assert pixels(data, max_pixels=2048)[0].width == 64
    assert "64x32" in failure(data, max_pixels=2047).detail
    for kind in ("WEBP", "ICO"):
        data = encode(quarters(), kind, **({"sizes": [(64, 32)]} if kind == "ICO" else {}))
        assert pixels(data, max_pixels=2048)[0].width == 64
        assert failure(data, max_pixels=2047).code == "image_too_large"


def test_pillow_is_left_as_it_was_for_whoever_else_uses_it() -> None:
    before = Image.MAX_IMAGE_PIXELS
    pixels(encode(quarters(), "PNG"), max_pixels=2048)
    failure(encode(quarters(), "WEBP"), max_pixels=2047)
    assert before == Image.MAX_IMAGE_PIXELS


def test_a_line_longer_than_any_screen_is_too_large() -> None:
    assert failure(b"P4\n20000000 1\n", max_pixels=64_000_000).code == "image_too_large"


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "ICO", "PPM", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("kept", [0.25, 0.6, 0.9])
def test_a_truncated_file_is_broken(kind: str, kept: float) -> None:
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    data = encode(noise, kind)
    error = failure(data[: int(len(data) * kept)])
    assert error.code == "image_broken"
    assert error.detail.startswith(f"{kind} image is broken")


@pytest.mark.parametrize(
    "data",
    [b"", b"x", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"8BPS\0\1", b"\0" * 1000, b"\x7fELF",
     b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n", b"\x00\x00\x00\x0cjP  \r\n\x87\n"],
)  # fmt: skip
def test_what_is_no_image_of_a_known_type_is_unsupported(data: bytes) -> None:
    assert failure(data).code == "unsupported_type"


def test_a_zip_bomb_in_a_text_chunk_is_broken_and_not_unpacked() -> None:
    bomb = b"k\0\0" + zlib.compress(bytes(100_000_000))
    assert failure(png(1, 1, 8, 0, b"\0\0", (b"zTXt", bomb))).code == "image_broken"


def test_a_result_that_cannot_be_handed_on_is_not_kept_either(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []

    def unsealable(fd: int) -> None:
        kept.append(fd)
        raise OSError("no seals today")

    monkeypatch.setattr(memory, "seal", unsealable)
    failure(encode(quarters(), "PNG"))
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(kept[0])


EVERY_FORMAT = [
    encode(quarters(), kind) for kind in ("PNG", "JPEG", "GIF", "BMP", "ICO", "PPM", "WEBP", "TIFF", "AVIF")
]


@settings(max_examples=300, deadline=None)
@given(
    data=st.sampled_from(EVERY_FORMAT),
    changes=st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), max_size=6
    ),
    cut=st.floats(0.05, 1),
)
def test_a_damaged_file_is_a_picture_or_a_failure(
    data: bytes, changes: list[tuple[float, bytes]], cut: float
) -> None:
    damaged = bytearray(data)
    for place, patch in changes:
        at = int(place * len(data))
        damaged[at : at + len(patch)] = patch
    try:
        decoded, image = pixels(bytes(damaged[: int(len(damaged) * cut)]))
    except RequestFailed as error:
        outcome = error.code
    else:
        outcome = "decoded" if image.size == (decoded.width, decoded.height) else "odd"
    assert outcome in {"decoded", "image_broken", "image_too_large", "unsupported_type"}
