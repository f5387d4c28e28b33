"""A program that forks while a browser is open, or ends: a copy ends nothing that it does not own, the end ends all."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import os, sys
from cloister import Browser

with Browser() as browser:
    page = browser.new_page()
    page.set_content("<title>still here</title>")
    child = os.fork()
    if child == 0:
        sys.exit(7)  # runs what is registered for the end of the program
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    print(page.title())
"""


def test_a_copy_of_the_program_that_ends_leaves_the_browser_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=25, check=False
    )
    assert (done.returncode, done.stdout) == (0, "still here\n"), done.stderr


UNCLOSED = """
from cloister import Browser

browser = Browser()
page = browser.new_page()
page.set_content("<title>open</title>")
print(page.title())
"""


def test_a_program_that_closes_nothing_ends_in_order_all_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNCLOSED], capture_output=True, text=True, timeout=25, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "open\n", "")
