"""What is done once before lock-down, so that nothing has to be imported after it."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import asyncio, sys
from cloister.request_server import main, programs, warmup
main.preload(b"")

class Nothing:
    def find_spec(self, name, path=None, target=None):
        raise AssertionError(f"{name} is imported after lock-down")

sys.meta_path.insert(0, Nothing())
warmup._HTTP_1 = warmup._HTTP_1.replace(b"a=b;", b"a=b; Domain=xn--bcher-kva.example;")
asyncio.run(warmup._fetch("http://www.b\u00fccher.example/", warmup._HTTP_1, ""))
asyncio.run(warmup._fetch("https://www.b\u00fccher.example/", warmup._http_2(), "h2"))
asyncio.run(programs._switch())
main.settle()
warmup._begin_handshake(main._context)
"""


def test_a_host_in_another_script_and_a_cookie_for_a_domain_need_nothing_more() -> None:
    """The rehearsal leaves them out, as what they need takes time and no file."""
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
