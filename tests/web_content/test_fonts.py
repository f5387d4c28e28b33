from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

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


def own_home() -> str:
    """Where nothing in the environment says so."""
    return pwd.getpwuid(os.getuid()).pw_dir


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


def test_the_usual_configuration_says_what_would_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """But for what fontconfig itself puts in: the user's folders (fonts-conf(5), dir and its prefix)."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(fonts, "_SYSTEM_CONFIGURATION", tmp_path / "fonts.conf")
    (tmp_path / "fonts.conf").touch()
    written = ElementTree.fromstring(fonts.configuration(None))
    usual = ElementTree.parse(fonts.USUAL).getroot()
    data = {"xdg": f"{tmp_path}/.local/share/", None: ""}
    folders = [data[each.get("prefix")] + str(each.text) for each in usual.iter("dir")]
    assert [each.replace("~", str(tmp_path)) for each in folders] == [
        each.text for each in written.iter("dir")
    ]
    assert [each.text for each in usual.iter("include")] == ["/etc/fonts/fonts.conf"]
    assert [each.text for each in written.iter("include")] == [str(tmp_path / "fonts.conf")]
    assert {each.tag for each in usual} == {each.tag for each in written}


@pytest.mark.skipif(
    not (Path("/etc/fonts/fonts.conf").exists() and fonts.system_has_fonts()),
    reason="this machine has no fonts, or no configuration of them",
)
def test_where_there_are_fonts_nothing_is_written_that_could_be_left_behind(tmp_path: Path) -> None:
    """By a process that is killed while it loads, where mounts are refused: it has no place of its own then."""
    code = (
        "import os\n"
        "from cloister.web_content import warmup\n"
        "def written(_text): raise AssertionError('a file was made')\n"
        "warmup._file = written\n"
        "warmup.run()\n"
        "print(os.environ['HOME'])\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    # Fontconfig complains where it can write its cache nowhere, as for an account whose home is not there.
    environment["XDG_CACHE_HOME"] = str(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=50, check=False, env=environment
    )
    assert (done.returncode, done.stderr, done.stdout.strip()) == (0, "", own_home())


@pytest.mark.parametrize("lacks", ["fonts", "configuration"])
def test_what_is_not_usual_is_written(lacks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = tmp_path / "fonts.conf"
    system.touch()
    monkeypatch.setattr(fonts, "_SYSTEM_CONFIGURATION", system)
    assert fonts.is_usual(None)
    if lacks == "configuration":
        system.unlink()
    assert not fonts.is_usual(tmp_path if lacks == "fonts" else None)
