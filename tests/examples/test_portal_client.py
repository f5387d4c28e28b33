"""The example of a client does what its first lines say, and is the plain script that they say it is."""

from __future__ import annotations

import asyncio
import base64
import io
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from cloister.browser.portal import Portal

EXAMPLE = Path(__file__).parents[2] / "examples" / "portal_client.py"
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a portal serves, from a thread."""
    place = tmp_path_factory.mktemp("run") / "portal"
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    portal = Portal(place)
    try:
        asyncio.run_coroutine_threadsafe(portal.start(), loop).result(30)
        yield place
        asyncio.run_coroutine_threadsafe(portal.close(), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def client(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLE), "--portal", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)


def picture(color: tuple[int, ...], form: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (100, 100), color).save(out, form, lossless=True)
    return out.getvalue()


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Three squares in a row: one in the page itself, one beside it, one where it has no business."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "beside the page.webp").write_bytes(picture(GREEN, "WEBP"))
    (tmp_path / "above.png").write_bytes(picture(BLUE))
    inline = base64.b64encode(picture(RED)).decode()
    page = tmp_path / "site" / "page.html"
    page.write_text(
        "<!DOCTYPE html><style>body{margin:0} img{float:left;width:100px;height:100px} p{clear:both}</style>"
        f"<img src='data:image/png;base64,{inline}'>"
        "<img src='beside%20the%20page.webp'><img src='../above.png'><p>Words, and \x1b]0;more\x07."
    )
    return page


def squares(file: Path) -> list[object]:
    with Image.open(file) as image:
        assert image.size == (1280, 720)
        return [image.getpixel((x, 50)) for x in (50, 150, 250)]


def test_a_page_is_shown_with_what_it_brought_along(folder: Path, page: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    done = client(folder, "screenshot", str(page), str(out))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert squares(out) == [RED, WHITE, WHITE]


def test_it_gets_the_images_beside_it_where_it_is_let(folder: Path, page: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    assert client(folder, "screenshot", "--images", str(page), str(out)).returncode == 0
    assert squares(out) == [RED, GREEN, WHITE]


def test_its_text_cannot_drive_a_terminal(folder: Path, page: Path) -> None:
    done = client(folder, "text", str(page))
    assert (done.returncode, done.stderr) == (0, "")
    assert "Words, and" in done.stdout
    assert "\x1b" not in done.stdout
    assert "\x07" not in done.stdout


def test_an_image_becomes_a_png(folder: Path, page: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.png"
    assert client(folder, "image", str(page.parent / "beside the page.webp"), str(out)).returncode == 0
    with Image.open(out) as image:
        assert (image.size, image.getpixel((50, 50))) == ((100, 100), (*GREEN, 255))


def test_what_cannot_be_had_is_one_line(folder: Path, page: Path, tmp_path: Path) -> None:
    for place, words in ((folder, "not an image of a known type"), (tmp_path, "no portal serves at ")):
        done = client(place, "image", str(page), str(tmp_path / "out.png"))
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"{page}: ")
        assert words in line
    assert not (tmp_path / "out.png").exists()


def test_it_has_no_browser_in_it() -> None:
    code = "import sys, portal_client; print([m for m in sys.modules if m.startswith('cloister')])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=EXAMPLE.parent,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "cloister.ipc.connection" in done.stdout
    for package in ("browser", "process", "cli", "web_content", "image_decoder."):
        assert f"'cloister.{package}" not in done.stdout
