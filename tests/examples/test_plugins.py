"""The plugins that are examples: their own tests pass in their sandbox, and each host's script does what it says."""

from __future__ import annotations

import csv
import io
import runpy
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from cloister.cli import main

EXAMPLES = Path(__file__).parents[2] / "examples"
PILLOW = [
    "Image",
    "ImageOps",
    *(f"{name}ImagePlugin" for name in ("Bmp", "Gif", "Jpeg", "Png", "Ppm", "Tiff")),
]


class Done(NamedTuple):
    code: int
    out: str
    err: str


Script = Callable[..., Done]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Script:
    """Runs an example, in this process: a new interpreter takes longer than all that it would do."""

    def run(name: str, *arguments: str | Path) -> Done:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        said = capsys.readouterr()
        return Done(int(str(ended.value.code)), said.out, said.err)

    return run


@pytest.mark.parametrize(
    ("name", "modules"),
    [("csv-cleaner", []), ("markdown", []), ("thumbnailer", [f"--module=PIL.{name}" for name in PILLOW])],
)
def test_its_own_tests_pass(name: str, modules: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugin", "test", *modules, str(EXAMPLES / "plugins" / name)]) == 0, capsys.readouterr()
    assert "ok " in capsys.readouterr().out


def test_a_csv_file_is_cleaned_and_none_overwritten(script: Script, tmp_path: Path) -> None:
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_bytes("\ufeffName; City;;Name\r\n Zoë ;Köln;;=1+1\r\n;;;\r\n".encode())
    done = script("clean_csv.py", source, target)
    assert (done.code, done.err) == (0, "")
    assert "empty rows: 1, empty columns: 1, formulas: 1" in done.out
    with target.open(newline="", encoding="utf-8") as file:
        assert [*csv.reader(file)] == [["Name", "City", "Name 2"], ["Zoë", "Köln", "'=1+1"]]
    again = script("clean_csv.py", source, target)
    assert (again.code, again.out) == (1, "")
    assert "File exists" in again.err


def test_a_page_is_made_of_markdown(script: Script, tmp_path: Path) -> None:
    source, target = tmp_path / "in.md", tmp_path / "out.html"
    source.write_text("# Salut, *Zoë*\n\n<script>alert(1)</script>\n", encoding="utf-8")
    done = script("markdown_to_html.py", source, target, "--title", "a & b")
    assert (done.code, done.err) == (0, "")
    html = target.read_text(encoding="utf-8")
    assert "<h1>Salut, <em>Zoë</em></h1>" in html
    assert "<title>a &amp; b</title>" in html
    assert "<script" not in html


def bomb() -> bytes:
    """A PNG of a few bytes that unpacks to forty gigabytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 6, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def test_thumbnails_are_made_and_a_bomb_is_one_line(script: Script, tmp_path: Path) -> None:
    out = io.BytesIO()
    Image.new("RGBA", (600, 300), (0, 0, 255, 99)).save(out, "PNG")
    (tmp_path / "bomb.png").write_bytes(bomb())
    (tmp_path / "no.gif").write_bytes(b"GIF89a")
    (tmp_path / "good.webp").write_bytes(out.getvalue())
    images = [tmp_path / name for name in ("bomb.png", "no.gif", "good.webp")]
    done = script("thumbnail.py", "-o", tmp_path / "small", "--side", "100", *images)
    assert (done.code, done.out) == (1, f"{tmp_path}/small/good.png\n")
    bombed, broken = done.err.splitlines()
    assert bombed.startswith(f"{tmp_path}/bomb.png: thumbnailer needed more memory than it may have")
    assert "thumbnailer raised PIL.UnidentifiedImageError" in broken
    with Image.open(tmp_path / "small" / "good.png") as small:
        assert small.size == (100, 50)
