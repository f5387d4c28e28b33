"""A machine without a single font, made with a mount namespace: text is shown all the same, in every style, by a
process that is locked down and may open nothing but those fonts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import pixels

FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts")
STYLES = (
    "normal 16px sans-serif",
    "bold 16px serif",
    "italic 16px sans-serif",
    "16px monospace",
    "16px NoSuch",
)


def without_fonts(*command: str) -> list[str]:
    """``command`` where the font folders are empty. Needs mount namespaces: root's, or a user's own."""
    hide = " && ".join(f"mount -t tmpfs none {folder}" for folder in FOLDERS if Path(folder).is_dir())
    options = "-m" if os.geteuid() == 0 else "-rm"
    return ["unshare", options, "sh", "-c", f'{hide or "true"} && exec "$@"', "sh", *command]


def test_text_is_shown_in_every_style_on_a_machine_without_fonts(tmp_path: Path) -> None:
    try:
        probe = subprocess.run(without_fonts("true"), capture_output=True, timeout=20, check=False)
    except FileNotFoundError:
        pytest.skip("util-linux's unshare is not installed")
    if probe.returncode != 0:
        pytest.skip("this machine allows no mount namespace")
    page = tmp_path / "page.html"
    page.write_text(
        "<body style='margin:0'>"
        + "".join(f"<p style='margin:0;height:40px;font:{s}'>WWWW</p>" for s in STYLES)
    )
    cache = tmp_path / "cache"
    environment = {
        **os.environ,
        "XDG_CACHE_HOME": str(cache),
        "HOME": str(tmp_path),
        "XDG_DATA_HOME": str(tmp_path),
    }
    for _ in range(2):  # the fonts are written, then found
        command = [sys.executable, "-m", "cloister", "screenshot", str(page), "--viewport", "200x200"]
        done = subprocess.run(
            without_fonts(*command), capture_output=True, timeout=50, check=False, env=environment
        )
        assert done.returncode == 0, done.stderr.decode()
        image = pixels(done.stdout).convert("L")
        for row, style in enumerate(STYLES):
            darkest, _ = image.crop((0, row * 40, 200, row * 40 + 40)).getextrema()
            assert isinstance(darkest, int)
            assert darkest < 100, f"{style}: nothing is drawn"
    assert [folder.name.startswith("fonts-") for folder in (cache / "cloister").iterdir()] == [True]
