"""What a fresh child lets go of."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cloister.sandbox import shed
from cloister.sandbox.kernel import libc
from tests.sandbox.locked import Sandbox


def in_fresh_child(
    work: Callable[[], object], *keep: int, before: Callable[[], object] = lambda: None
) -> str:
    """What ``work`` returns, as text, in a child that has shed."""
    answers, answer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            before()
            shed([answer, *keep])
            os.write(answer, str(work()).encode())
        finally:
            os._exit(0)
    os.close(answer)
    with os.fdopen(answers) as said:
        text = said.read()
    os.waitpid(child, 0)
    return text


def test_every_descriptor_but_those_kept_is_closed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with (tmp_path / "file").open() as kept, (tmp_path / "file").open() as closed:
        os.set_inheritable(closed.fileno(), True)

        def work() -> list[object]:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(closed.fileno())
            return [os.read(kept.fileno(), 10), len(list(Path("/proc/self/fd").iterdir()))]

        # 0, 1, 2, kept, the pipe, and the listing itself
        assert in_fresh_child(work, kept.fileno()) == "[b'kept', 6]"


def test_a_descriptor_to_keep_that_is_not_open_is_an_error() -> None:
    assert in_fresh_child(lambda: "shed", 1000) == ""


def test_standard_input_reads_nothing_and_output_goes_nowhere() -> None:
    assert in_fresh_child(lambda: [os.read(0, 1), os.write(1, b"x")]) == "[b'', 1]"


def test_standard_input_and_output_may_be_missing() -> None:
    def close_both() -> None:
        os.close(0)
        os.close(1)

    assert in_fresh_child(lambda: [os.read(0, 1), os.write(1, b"x")], before=close_both) == "[b'', 1]"


def test_a_child_forked_in_an_empty_root_sheds_without_a_dev_null() -> None:
    assert Sandbox().run(lambda: list(os.pread(0, 1, 0))).value == []


def test_the_environment_is_emptied_in_python_and_in_c() -> None:
    def set_some() -> None:
        os.environ["SECRET"] = "1"
        os.environ["TZ"] = "UTC"
        libc.putenv(b"UNKNOWN_TO_PYTHON=1")

    def work() -> list[object]:
        import ctypes

        libc.getenv.restype = ctypes.c_char_p
        names = (b"SECRET", b"UNKNOWN_TO_PYTHON", b"PATH", b"TZ")
        return [set(os.environ) <= {"LANG", "LC_ALL", "LC_CTYPE", "TZ"}, [libc.getenv(n) for n in names]]

    assert in_fresh_child(work, before=set_some) == "[True, [None, None, None, b'UTC']]"


def test_the_process_leads_a_session_of_its_own_in_the_root_folder_with_a_narrow_umask() -> None:
    def work() -> list[object]:
        return [os.getsid(0) == os.getpid(), Path.cwd(), os.umask(0)]

    assert in_fresh_child(work) == f"[True, PosixPath('/'), {0o077}]"


def test_a_process_may_shed_again() -> None:
    """One that forked its first process into a pid namespace does, on both sides of the fork."""
    answers, answer = os.pipe()

    def work() -> str:
        shed([answer])
        os.write(answer, b"twice")
        return ""

    in_fresh_child(work, answer)
    os.close(answer)
    with os.fdopen(answers) as said:
        assert said.read() == "twice"
