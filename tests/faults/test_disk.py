"""Nothing can be written: a page does not notice, and what was to be written is missed, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_PROGRAM = """
import logging, os, signal, sys
from pathlib import Path

folder = Path(sys.argv[1])
logging.basicConfig(format="%(name)s %(message)s")

from cloister import Browser, CloisterError, PageCrashed

with Browser() as browser:
    beside, page = browser.new_page(), browser.new_page()
    beside.set_content("beside")
    (pid,) = (process.pid for process in beside.processes)
    page.set_content("words" * 100)
    for end in (signal.SIGSEGV, signal.SIGKILL):
        os.kill(page.processes[0].pid, end)
        try:
            page.text()
        except PageCrashed as error:
            print("crashed")
        page.reload()
    try:
        page.screenshot(folder / "picture.png")
    except CloisterError as error:
        print(str(error).split(": ")[-1])
    assert page.screenshot() and page.pdf() and page.text()
    assert browser.decode_image(page.screenshot()).width
    assert [process.pid for process in beside.processes] == [pid]
print(*(path.name for path in folder.rglob("*") if path.is_file() and path.name not in ("ballast", "picture.png")))
"""


def run(program: str, folder: Path, before: str) -> subprocess.CompletedProcess[str]:
    """In a mount namespace of its own, after the shell's ``before``."""
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    if subprocess.run(
        [*unshare, "mount", "-t", "tmpfs", "x", str(folder)], capture_output=True, check=False
    ).returncode:
        pytest.skip("this user may not mount: needs user namespaces (kernel.unprivileged_userns_clone)")
    names = {name: str(folder) for name in ("XDG_STATE_HOME", "TMPDIR", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME")}
    script = f'set -e; D="{folder}"; {before}; exec "{sys.executable}" -c "$PROGRAM" "$D"'
    return subprocess.run(
        [*unshare, "sh", "-c", script],
        env={**os.environ, **names, "PROGRAM": textwrap.dedent(program)},
        capture_output=True,
        text=True,
        timeout=50,
        cwd=ROOT,
        check=False,
    )


FULL = 'mount -t tmpfs -o size=16k x "$D"; cat /dev/zero > "$D/ballast" 2>/dev/null || true'
READ_ONLY = 'mount -t tmpfs -o ro x "$D"'


@pytest.mark.parametrize(
    ("before", "reason"), [(FULL, "No space left on device"), (READ_ONLY, "Read-only file system")]
)
def test_a_page_crashes_and_comes_back_where_no_report_can_be_written(
    tmp_path: Path, before: str, reason: str
) -> None:
    done = run(_PROGRAM, tmp_path, before)
    assert done.stdout.splitlines() == ["crashed", "crashed", reason, ""], done.stderr
    assert done.stderr.count("no crash report of web_content") == 2
    assert "Traceback" not in done.stderr
