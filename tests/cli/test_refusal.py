"""A kernel that lacks a layer: refused by name, or gone without where the user says so."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.sandbox.situations import kernel_without


def run(missing: str, number: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command on a kernel where the system call ``missing`` fails."""
    return subprocess.run(
        [sys.executable, "-m", "cloister", *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        preexec_fn=kernel_without(missing, number),
        env={**os.environ, "COLUMNS": "200"},
    )


@pytest.fixture
def page(tmp_path: Path) -> str:
    path = tmp_path / "page.html"
    path.write_text("<p>words")
    return str(path)


def test_a_kernel_without_landlock_is_refused_with_the_version_that_has_it(page: str) -> None:
    done = run("landlock_create_ruleset", errno.ENOSYS, "text", page)
    assert done.returncode == 3, done.stderr
    assert "landlock" in done.stderr
    assert "5.13" in done.stderr
    assert "--allow-degraded" in done.stderr
    assert done.stdout == ""


def test_a_user_may_run_without_landlock(page: str) -> None:
    done = run("landlock_create_ruleset", errno.ENOSYS, "text", page, "--allow-degraded")
    assert (done.returncode, done.stdout.strip()) == (0, "words"), done.stderr


def test_a_kernel_that_gives_no_namespaces_is_enough_and_the_doctor_says_what_is_missing(page: str) -> None:
    done = run("unshare", errno.EPERM, "text", page)
    assert (done.returncode, done.stdout.strip()) == (0, "words"), done.stderr
    doctor = run("unshare", errno.EPERM, "doctor").stdout
    line = next(line for line in doctor.splitlines() if "user_namespace " in line and "3.8" in line)
    assert "✗" in line
    assert "✓" not in line
