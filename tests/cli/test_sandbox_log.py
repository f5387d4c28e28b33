"""``CLOISTER_SANDBOX_LOG=1``: what the sandbox denies quietly is told on standard error."""

from __future__ import annotations

import os
import re
import subprocess
import sys

PAGE = b"<title>x</title><p>Some words."


def text_of_a_page(**environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "cloister", "text", "-"],
        input=PAGE,
        capture_output=True,
        env={**os.environ, **environment},
        timeout=30,
        check=True,
    )


def test_without_it_nothing_is_said() -> None:
    assert text_of_a_page(CLOISTER_SANDBOX_LOG="").stderr == b""


def test_with_it_a_page_works_as_it_did_and_each_sort_of_denial_is_said_once() -> None:
    done = text_of_a_page(CLOISTER_SANDBOX_LOG="1")
    assert done.stdout == text_of_a_page(CLOISTER_SANDBOX_LOG="").stdout
    told = re.findall(
        r"^cloister\.sandbox: (\w+) was denied (\w+)\((?:0x[0-9a-f]+,){5}0x[0-9a-f]+\): (.*)$",
        done.stderr.decode(),
        re.MULTILINE,
    )
    # Python asks for a socket's name where it was told the family (socket.socket(fileno=...)), and does without.
    assert ("web_content", "getsockname", "Operation not permitted") in told
    assert len(told) == len(set(told)) == len(done.stderr.splitlines())
