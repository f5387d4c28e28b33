"""The folder of the crash reports: its bounds, its permissions, and what happens when it cannot be used."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cloister.errors import CloisterError, InvalidArgument
from cloister.process.crash_report import MAX_REPORT, MAX_TRACE
from cloister.process.crashes import CrashStore
from tests.process.reports import IDS, ids, names, refusing, report


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "crashes"


@pytest.fixture
def store(folder: Path) -> CrashStore:
    return CrashStore(folder)


def test_the_folder_is_where_the_xdg_specification_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert _folder_of(CrashStore().write(report())) == tmp_path / "state" / "cloister" / "crashes"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert _folder_of(CrashStore().write(report())) == tmp_path / ".local" / "state" / "cloister" / "crashes"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert len(CrashStore().list()) == 1
    assert not Path("relative").exists()


def test_folders_and_files_are_the_users_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = CrashStore(tmp_path / "state" / "cloister" / "crashes").write(report())
    finally:
        os.umask(before)
    assert path is not None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for made in (tmp_path / "state", tmp_path / "state" / "cloister", path.parent):
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
    assert list(path.parent.iterdir()) == [path]


def test_the_oldest_reports_make_room_for_new_ones(folder: Path) -> None:
    store = CrashStore(folder, max_reports=3)
    for id in (IDS[4], IDS[1], IDS[5], IDS[2], IDS[3]):
        store.write(report(id))
    assert ids(store) == [IDS[5], IDS[4], IDS[3]]
    assert names(folder) == {IDS[5], IDS[4], IDS[3]}


def test_of_one_second_the_reports_that_were_written_last_stay(folder: Path) -> None:
    store = CrashStore(folder, max_reports=2)
    for age, digits in enumerate(("ffffff", "000000", "aaaaaa")):
        path = store.write(report(f"20261120T130102Z-{digits}"))
        assert path is not None
        os.utime(path, ns=(age, age))
    store.write(report("20261120T130102Z-000001"))
    assert ids(store) == ["20261120T130102Z-000001", "20261120T130102Z-aaaaaa"]
    assert names(folder) == set(ids(store))


def test_the_folder_has_no_more_bytes_than_it_may(folder: Path) -> None:
    store = CrashStore(folder, max_bytes=MAX_REPORT)
    for id in IDS[:12]:
        store.write(report(id, trace="x" * MAX_TRACE))
    left = sum(path.stat().st_size for path in folder.iterdir())
    assert MAX_REPORT - 2 * MAX_TRACE < left <= MAX_REPORT
    assert ids(store)[0] == IDS[11]


def test_bounds_that_hold_no_report_are_refused() -> None:
    for reports, size in ((0, MAX_REPORT), (1, MAX_REPORT - 1)):
        with pytest.raises(InvalidArgument, match="at least 1 report"):
            CrashStore(max_reports=reports, max_bytes=size)


def test_a_temporary_file_is_deleted_once_its_writer_must_be_gone(store: CrashStore, folder: Path) -> None:
    store.write(report())
    old, future, young, other = (
        folder / f"{name}.tmp" for name in (f".{IDS[0]}", f".{IDS[1]}", f".{IDS[2]}", "mine")
    )
    for path in (old, future, young, other):
        path.touch()
    os.utime(old, (0, 0))
    os.utime(other, (0, 0))
    os.utime(future, (2**32, 2**32))
    store.write(report())
    assert [path.exists() for path in (old, future, young, other)] == [False, False, True, True]


def test_clear_deletes_what_is_named_or_everything_and_nothing_else(store: CrashStore, folder: Path) -> None:
    for id in IDS[:4]:
        store.write(report(id))
    (folder / "notes.json").write_text("mine")
    (folder / f"{IDS[9]}.json").write_text("broken")
    (folder.parent / "x.json").write_text("mine")
    assert store.clear([IDS[0], IDS[0], IDS[7], "../x", "notes", ""]) == 1
    assert names(folder) == {IDS[1], IDS[2], IDS[3], IDS[9], "notes"}
    assert store.clear([]) == 0
    assert store.clear() == 4
    assert names(folder) == {"notes"}
    assert (folder.parent / "x.json").exists()


def test_where_there_is_no_folder_there_are_no_reports_and_none_is_made(
    store: CrashStore, folder: Path
) -> None:
    assert store.list() == []
    assert store.clear() == 0
    with pytest.raises(CloisterError, match=f"{IDS[0]}: there is no such crash report"):
        store.read(IDS[0])
    assert not folder.exists()


@pytest.mark.parametrize(
    "id", ["", ".", "../x", "/etc/passwd", f"{IDS[0]}\n", f"../crashes/{IDS[0]}", "\x1b[2J"]
)
def test_what_is_not_an_id_never_becomes_a_path(
    id: str, store: CrashStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(report(IDS[0]))
    monkeypatch.setattr("cloister.process.crashes._open", lambda _path: pytest.fail("the folder was opened"))
    with pytest.raises(CloisterError, match="there is no such crash report") as refused:
        store.read(id)
    assert str(refused.value).isprintable()


# ── a folder that cannot be used: one warning, no exception, no file ─────────────────────────────────────────────


def test_a_full_disk_leaves_nothing_half_written(
    store: CrashStore, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.write(report(IDS[0]))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with refusing(caplog, "File too large"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # the first 100 bytes are written
        try:
            assert store.write(report(IDS[1])) is None
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(folder) == [f"{IDS[0]}.json"]


def test_a_folder_in_which_nothing_can_be_made_is_said_to_be_so(caplog: pytest.LogCaptureFixture) -> None:
    for folder in ("/proc/self/fd", "/proc/self/crashes", "/proc/version/crashes"):
        with refusing(caplog):
            assert CrashStore(Path(folder)).write(report()) is None


def test_without_a_home_there_are_no_reports_and_none_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("XDG_STATE_HOME")
    for home in (str(tmp_path / "gone"), "relative"):
        monkeypatch.setenv("HOME", home)
        with refusing(caplog, "there is no home folder"):
            assert CrashStore().write(report()) is None
        with pytest.raises(CloisterError, match="there is no home folder"):
            CrashStore().list()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_folder_that_others_can_write_to_is_refused(
    mode: int, store: CrashStore, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir()
    folder.chmod(mode)
    with refusing(caplog, "other users can write to this folder"):
        assert store.write(report()) is None
    assert list(folder.iterdir()) == []
    for use in (store.list, store.clear, lambda: store.read(IDS[0])):
        with pytest.raises(CloisterError, match="other users can write"):
            use()


def test_a_folder_of_another_user_is_refused(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    if os.geteuid() == 0:
        folder.mkdir()
        os.chown(folder, 65534, 65534)
    else:
        folder = Path("/usr")
    with refusing(caplog, "other users can write to this folder"):
        assert CrashStore(folder).write(report()) is None


def test_a_link_in_the_place_of_the_folder_is_not_followed(
    tmp_path: Path, store: CrashStore, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    with refusing(caplog, str(folder)):
        assert store.write(report()) is None
    with pytest.raises(CloisterError, match="Not a directory"):
        store.list()
    assert list((tmp_path / "elsewhere").iterdir()) == []


# ── at the same time ─────────────────────────────────────────────────────────────────────────────────────────────


def test_programs_that_write_list_and_clear_at_once_do_not_disturb_each_other(folder: Path) -> None:
    code = """if True:
        import logging, sys
        from pathlib import Path
        from cloister.ends import Crashed
        from cloister.process.crashes import CrashReport, CrashStore

        class Loud(logging.Handler):
            def emit(self, record):
                raise SystemExit(record.getMessage())

        logging.getLogger("cloister").addHandler(Loud())
        store = CrashStore(Path(sys.argv[1]), max_reports=5)
        print("here", flush=True)
        sys.stdin.read()  # until all are here
        for number in range(40):
            store.write(CrashReport.of(kind="web_content", pid=number, end=Crashed(11), trace="x" * number * 100))
            for found in store.list():
                assert len(found.trace) == found.pid * 100
            if number == 20:
                store.clear()
    """
    start, hold = os.pipe()
    programs = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(folder)],
            stdin=start,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    os.close(start)
    try:
        for program in programs:
            assert program.stdout is not None
            assert program.stdout.readline() == "here\n"
        os.close(hold)
        said = [program.communicate(timeout=40)[1] for program in programs]
    finally:
        for program in programs:
            program.kill()
            program.communicate()
    assert [program.returncode for program in programs] == [0, 0, 0], said
    assert len(os.listdir(folder)) == len(CrashStore(folder).list()) == 5


def _folder_of(path: Path | None) -> Path | None:
    return path and path.parent
