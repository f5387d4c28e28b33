import io

from PIL import Image
from thumbnailer import thumbnail

RED, BLUE = (255, 0, 0), (0, 0, 255)


def picture(kind, mode="RGB", size=(400, 200), color=RED, **options):
    out = io.BytesIO()
    image = Image.new(mode, size, color)
    image.save(out, kind, **options)
    return out.getvalue()


def opened(found):
    image = Image.open(io.BytesIO(found["bytes"]))
    assert (image.width, image.height) == (found["width"], found["height"])
    return image


def test_fits_and_keeps_its_shape():
    for kind in ("PNG", "JPEG", "GIF", "BMP"):
        image = opened(thumbnail(picture(kind), 100))
        assert image.size == (100, 50)
        assert image.format == "JPEG"


def test_what_shows_through_stays():
    image = opened(thumbnail(picture("PNG", "RGBA", color=(0, 0, 255, 0))))
    assert (image.format, image.getpixel((0, 0))[3]) == ("PNG", 0)


def test_is_upright_and_says_nothing_of_the_camera():
    image = Image.new("RGB", (400, 200), RED)
    image.paste(BLUE, (0, 0, 200, 200))  # its left half
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: left is up
    exif[0x010F] = "a camera"
    out = io.BytesIO()
    image.save(out, "JPEG", exif=exif)
    upright = opened(thumbnail(out.getvalue(), 100))
    assert upright.size == (50, 100)
    assert upright.getpixel((25, 10))[2] > 200
    assert upright.getpixel((25, 90))[0] > 200
    assert not upright.getexif()


def test_deep_grey_is_scaled():
    out = io.BytesIO()
    Image.new("I;16", (10, 10), 32768).save(out, "PNG")
    assert opened(thumbnail(out.getvalue())).getpixel((5, 5)) == (128, 128, 128)


def test_a_small_one_is_not_made_larger():
    assert thumbnail(picture("PNG", size=(3, 2)))["width"] == 3


def test_what_is_no_image_is_an_error():
    for data in (b"", b"GIF89a", picture("PNG")[:60], b"<svg/>"):
        try:
            thumbnail(data)
        except (OSError, SyntaxError):
            pass
        else:
            raise AssertionError(data)
