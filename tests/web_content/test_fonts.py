from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cloister.web_content import fonts, packaged_fonts

# A machine without fonts: the system's folders are empty, and so is what the system says of them.
WITHOUT_FONTS = """
import mmap
from cloister.interfaces.web_content import Paint
from cloister.web_content import fonts, paint, warmup
import plutoprint
fonts._system_folders = lambda: ()
fonts._system_configuration = lambda: ()
assert not fonts.system_has_fonts()
warmup.run()

class Nothing(plutoprint.ResourceFetcher):
    def fetch_url(self, url):
        raise AssertionError(url)

pictures = set()
for family in ("sans-serif", "serif", "monospace", "no such family"):
    html = f"<p style='font-family:{family}'>iiii <b>WWWW</b></p>"
    book = paint.lay_out(html, "http://x.test/", 200, 60, Nothing())
    target = mmap.mmap(-1, 200 * 60 * 3)
    paint.paint(book, Paint(0, 0, 200, 60), target)
    assert len(set(target[:])) > 20, family
    pictures.add(target[:])
print(len(pictures))
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_a_machine_without_fonts_shows_text_all_the_same(cache: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_FONTS], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 2  # monospace is another face than sans-serif


def test_packaged_fonts_are_written_once_and_by_the_user_alone(cache: Path) -> None:
    folder = packaged_fonts.install()
    assert folder.is_relative_to(cache)
    assert folder.stat().st_mode & 0o777 == 0o755
    assert {path.stat().st_mode & 0o777 for path in folder.glob("*.ttf")} == {0o644}
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(before) == 12
    assert packaged_fonts.install() == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_packaged_fonts_may_be_read_where_the_system_has_none(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fonts, "_system_folders", lambda: ())
    folder = fonts.install()
    assert folder is not None
    assert folder.is_relative_to(cache)
    assert str(folder) in fonts.folders()


def test_a_system_with_fonts_needs_none_of_the_packaged_ones(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    system = tmp_path / "system"
    system.mkdir()
    (system / "some.ttf").touch()
    monkeypatch.setattr(fonts, "_system_folders", lambda: (system,))
    assert fonts.install() is None
    assert fonts.folders() == (str(system),)
    assert [path.name for path in cache.iterdir()] == ["system"]


def test_a_damaged_font_is_written_anew(cache: Path) -> None:
    damaged = packaged_fonts.install() / "NotoSans-Regular.ttf"
    whole = damaged.read_bytes()
    damaged.write_bytes(b"not a font")
    packaged_fonts.install()
    assert damaged.read_bytes() == whole


def test_a_folder_that_others_may_write_is_not_trusted(cache: Path) -> None:
    folder = packaged_fonts.install()
    (folder / "more.ttf").write_bytes(b"x")
    folder.chmod(0o777)
    packaged_fonts.install()
    assert folder.stat().st_mode & 0o777 == 0o755
    assert not (folder / "more.ttf").exists()


def test_fonts_are_never_looked_for_again() -> None:
    assert "<rescan><int>0</int></rescan>" in fonts.configuration(None)
