"""Libraries without what they can do without."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from cloister.process import lean

EARLY = ("typing", "re", "enum", "socket", "signal", "msgspec", "asyncio")


def test_inside_a_library_is_not_there_and_afterwards_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_library.py").write_text("it_is = 'here'")
    monkeypatch.syspath_prepend(tmp_path)
    with lean.without("a_library"), pytest.raises(ImportError):
        importlib.import_module("a_library")
    assert importlib.import_module("a_library").it_is == "here"


def test_a_library_that_is_there_already_stays() -> None:
    with lean.without("subprocess"):
        import subprocess as inside
    assert inside is subprocess


def test_a_failure_inside_leaves_nothing_behind() -> None:
    with pytest.raises(ZeroDivisionError), lean.without("chunk_of_nothing"):
        raise ZeroDivisionError
    assert "chunk_of_nothing" not in sys.modules


def test_what_begins_a_zygote_loads_nothing_that_takes_time() -> None:
    code = "import sys, cloister.process.early, cloister.process.kinds; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    bare = subprocess.run(
        [sys.executable, "-I", "-c", "import sys, contextlib; print(*sys.modules)"],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    more = set(done.stdout.split()) - set(bare.stdout.split())
    assert not more & set(EARLY), more


def test_children_that_speak_no_tls_do_not_have_it_in_memory() -> None:
    """The trunk of a zygote, as its main() makes it."""
    code = (
        "import sys\n"
        "from cloister.process import lean\n"
        "lean.load_msgspec()\n"
        "with lean.without('ssl'):\n"
        "    import cloister.ipc.service, cloister.process.zygote\n"
        "import cloister.web_content.main, cloister.lookup_server.main\n"
        "assert 'ssl' not in sys.modules\n"
        "import cloister.request_server.main\n"
        "assert 'ssl' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-I", "-c", code], timeout=30, check=True)
