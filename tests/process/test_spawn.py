"""Where a process that is started by exec finds what it imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import cloister
from cloister.process import spawn

OWN = str(Path(cloister.__file__).parents[1])
PROGRAM = """
from cloister import Browser
with Browser() as browser:
    page = browser.new_page()
    page.set_content("<p>words")
    print(page.text().strip())
"""
MARKER = "import os; os.write(2, b'a file of the folder was imported')\n"


def test_what_was_installed_goes_along_and_the_programs_own_folders_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed = ["/home/me/.local/lib/python3/site-packages", "/venv/lib/site-packages/", "/editable/src"]
    monkeypatch.setattr(sys, "path", ["", "/downloads", "/lib/python3", *installed])
    assert spawn._libraries() == [*installed, OWN]


def test_what_hangs_on_the_folder_where_it_was_started_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    odd = ["", ".", "libraries", "/a:b/site-packages", Path("/a/path")]
    monkeypatch.setattr(sys, "path", [*odd, "/lib/python3", "/venv/site-packages", *odd])
    assert spawn._libraries() == ["/venv/site-packages", OWN]


def test_debians_folders_are_known_and_none_at_all_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["/lib/python3", "/usr/lib/python3/dist-packages", OWN])
    assert spawn._libraries() == ["/usr/lib/python3/dist-packages", OWN]
    monkeypatch.setattr(sys, "path", ["/downloads"])
    assert spawn._libraries() == [OWN]


def test_no_file_beside_the_program_or_where_it_was_started_is_imported_by_a_child(tmp_path: Path) -> None:
    """A folder of downloads may hold a file by a library's name."""
    for name in ("turbohtml", "h11", "PIL", "mimetypes", "asyncio"):
        (tmp_path / f"{name}.py").write_text(MARKER)
    # The program itself would take them, if it were not told to leave its folder alone.
    (tmp_path / "program.py").write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-P", str(tmp_path / "program.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "words\n", "")


def test_a_program_that_finds_cloister_by_pythonpath_has_children_that_find_it(tmp_path: Path) -> None:
    """Its folder is on no list of what was installed."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM],
        env={"PYTHONPATH": OWN, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "words\n", "")
