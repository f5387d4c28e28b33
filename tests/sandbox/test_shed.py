"""What a fresh child lets go of."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cloister.sandbox import Layer, in_force, shed
from cloister.sandbox.kernel import libc, syscall
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


KEYCTL_READ, SESSION_KEYRING = 11, -3  # include/uapi/linux/keyctl.h


def add_a_key_to_the_session() -> int:
    """Of a session keyring of this process's own, with a key in it; the key's number."""
    syscall("keyctl", 1, None)
    return syscall("add_key", b"user", b"cloister-test", b"secret", 6, SESSION_KEYRING)


def read_key(key: int) -> str:
    buffer = ctypes.create_string_buffer(16)
    try:
        length = syscall("keyctl", KEYCTL_READ, key, buffer, 16)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return buffer.raw[:length].decode()


def test_a_key_of_the_users_session_is_out_of_reach() -> None:
    keys: list[int] = []

    def before() -> None:
        keys.append(add_a_key_to_the_session())
        assert read_key(keys[0]) == "secret"

    said = in_fresh_child(lambda: [read_key(keys[0]), Layer.OWN_KEYRING in in_force()], before=before)
    if not said:
        pytest.skip("this kernel has no keys, or a container refuses them")
    assert said == "['EACCES', True]"


@pytest.mark.parametrize(("before", "after"), [("0", "300"), ("300", "300"), ("700", "700")])
def test_it_goes_before_the_program_that_started_it_when_memory_runs_out(before: str, after: str) -> None:
    score = Path("/proc/self/oom_score_adj")

    def set_it() -> None:
        score.write_text(before)

    if int(score.read_text()) > int(before):
        pytest.skip("this program is to go early itself, and may not take that back")
    assert in_fresh_child(lambda: score.read_text().strip(), before=set_it) == after
