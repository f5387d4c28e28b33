"""``cloister crashes``: what it shows of the reports, what it deletes, and what it says when there are none."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from cloister.cli import main
from cloister.ends import Crashed, End, OutOfMemory, SandboxViolation
from cloister.process import spawn
from cloister.process.crashes import CrashReport, CrashStore, ResourceUse

IDS = ("20261120T130101Z-000001", "20261120T130102Z-000002", "20261120T130103Z-000003")
SEGFAULT = Crashed(11)
ESCAPE = "\x1b]0;mine\x07\x1b[2J\x9b31m\u202e"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The reports of these tests; and no test here starts a process."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(spawn, "spawn", lambda kind: pytest.fail(f"started a {kind}"))
    return tmp_path / "cloister" / "crashes"


def write(id: str, end: End = SEGFAULT, site: str | None = "https://example.org/x", trace: str = "") -> None:
    made = CrashReport.of(
        kind="web_content",
        pid=4711,
        end=end,
        site=site,
        trace=trace,
        messages=[("sent", "Load"), ("received", "Loaded")],
        layers=["seccomp"],
        usage=ResourceUse(max_rss_bytes=3 * 2**19, open_descriptors=7),
    )
    assert CrashStore().write(msgspec.structs.replace(made, id=id)) is not None


def test_list_has_a_line_for_each_report_with_the_newest_first(capsys: pytest.CaptureFixture[str]) -> None:
    write(IDS[0], SandboxViolation("socket"))
    write(IDS[1], OutOfMemory("its own limit"), site=None)
    assert main(["crashes", "list"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "id"
    assert [line[:23] for line in lines] == [IDS[1], IDS[0]]
    assert lines[0].split()[3:5] == ["web_content", "-"]
    assert lines[1].split()[3:5] == ["web_content", "https://example.org"]
    assert lines[0].endswith("ran out of memory: its own limit")
    assert lines[1].endswith("was stopped by the sandbox at a forbidden system call (socket)")
    assert len({line.index("web_content") for line in lines} | {head.index("kind")}) == 1


def test_show_says_everything_that_is_known_and_leaves_out_what_is_not(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(IDS[0], SandboxViolation("socket"), trace="Traceback:\n  line 1\n")
    assert main(["crashes", "show", IDS[0]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"web_content 4711 {SandboxViolation('socket')}"
    for line in (
        f"id        {IDS[0]}",
        "site      https://example.org",
        "end       SandboxViolation",
        "signal    SIGSYS",
        "syscall   socket",
        "max RSS   1.5 MiB",
        "open      7 descriptors",
        "layers    seccomp",
    ):
        assert line in lines
    assert any(line.startswith("versions  ") and "turbohtml" in line for line in lines)
    assert not any(line.startswith(("PSS", "cpu", "age")) for line in lines)
    assert lines[-6:] == ["messages", "  → Load", "  ← Loaded", "trace", "  Traceback:", "    line 1"]


def test_latest_is_the_newest(capsys: pytest.CaptureFixture[str]) -> None:
    write(IDS[1], Crashed(6))
    write(IDS[0], Crashed(11))
    assert main(["crashes", "show", "latest"]) == 0
    assert "signal    SIGABRT\n" in capsys.readouterr().out


def test_json_is_the_report_as_it_was_kept(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    write(IDS[0])
    kept = json.loads((folder / f"{IDS[0]}.json").read_bytes())
    assert main(["crashes", "show", "latest", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == kept
    assert main(["crashes", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [kept]


def test_without_reports_list_says_so_and_show_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crashes", "list"]) == 0
    assert capsys.readouterr().out == "There are no crash reports.\n"
    assert main(["crashes", "list", "--json"]) == 0
    assert capsys.readouterr().out == "[]\n"
    assert main(["crashes", "show", "latest"]) == 1
    assert capsys.readouterr().err == "cloister: there are no crash reports\n"


@pytest.mark.parametrize("id", [IDS[2], "newest", "../../../etc/passwd", f"{ESCAPE}"])
@pytest.mark.parametrize("command", ["show", "clear"])
def test_a_report_that_is_not_there_is_named_and_ends_with_1(
    command: str, id: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(IDS[0])
    assert main(["crashes", command, id]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line
        == f"cloister: {''.join(c if c.isprintable() else '?' for c in id)}: there is no such crash report"
    )
    assert len(CrashStore().list()) == 1


def test_clear_says_how_many_it_deleted(capsys: pytest.CaptureFixture[str]) -> None:
    for id in IDS:
        write(id)
    assert main(["crashes", "clear", IDS[0], IDS[0]]) == 0
    assert capsys.readouterr().out == "1 crash report deleted.\n"
    assert main(["crashes", "clear"]) == 0
    assert capsys.readouterr().out == "2 crash reports deleted.\n"
    assert main(["crashes", "clear"]) == 0
    assert capsys.readouterr().out == "0 crash reports deleted.\n"


def test_clear_deletes_what_is_there_although_another_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    write(IDS[0])
    assert main(["crashes", "clear", IDS[1], IDS[0]]) == 1
    said = capsys.readouterr()
    assert said.out == "1 crash report deleted.\n"
    assert IDS[1] in said.err
    assert IDS[0] not in said.err
    assert CrashStore().list() == []


@pytest.mark.parametrize(
    "arguments", [("list",), ("list", "--json"), ("show", IDS[0]), ("show", IDS[0], "--json")]
)
def test_no_text_of_a_report_drives_the_terminal_it_is_shown_on(
    arguments: tuple[str, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(IDS[0], OutOfMemory(ESCAPE), trace=f"a\r{ESCAPE}\nkind      forged\n")
    path = folder / f"{IDS[0]}.json"
    fields = json.loads(path.read_bytes())
    foreign = ("kind", "site", "sentence", "signal", "syscall", "trace")
    path.write_text(json.dumps({**fields, **{name: f"{ESCAPE}{name}{ESCAPE}" for name in foreign},
                                "layers": [ESCAPE], "versions": {ESCAPE: ESCAPE}, "messages": [["sent", ESCAPE]],
                                "end": {"type": ESCAPE}}))  # fmt: skip
    for _ in range(2):
        assert main(["crashes", *arguments]) == 0
        shown = capsys.readouterr().out
        assert all(c == "\n" or c.isprintable() for c in shown)
        assert "mine" in shown
        path.write_text(json.dumps(fields))  # and what Cloister itself had written


def test_a_trace_cannot_pass_for_the_rest_of_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    write(IDS[0], trace="x\nsite      https://bank.example\n\x85site      https://bank.example")
    assert main(["crashes", "show", IDS[0]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("site")] == ["site      https://example.org"]


def test_a_report_that_cannot_be_read_is_told_on_standard_error_and_the_others_are_listed(
    folder: Path,
) -> None:
    write(IDS[0])
    (folder / f"{IDS[1]}.json").write_text('{"kind": "\\u001b[2J"')
    done = subprocess.run(
        [sys.executable, "-m", "cloister", "crashes", "list"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0
    assert IDS[0] in done.stdout
    assert done.stderr.startswith(
        f"cloister.process.crashes: a crash report was left out: {IDS[1]}: this is not a crash report: "
    )
    assert "\x1b" not in done.stderr


def test_on_a_terminal_the_same_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    write(IDS[0])
    assert main(["crashes", "show", "latest"]) == 0
    ours, terminal = pty.openpty()
    try:
        command = [sys.executable, "-m", "cloister", "crashes", "show", "latest"]
        subprocess.run(command, stdout=terminal, timeout=30, check=True)
        os.close(terminal)
        shown = b""
        while not shown.endswith(b"Loaded\r\n"):
            shown += os.read(ours, 65536)
    finally:
        os.close(ours)
    assert shown.decode().replace("\r\n", "\n") == capsys.readouterr().out


@pytest.mark.parametrize("arguments", [(), ("show",), ("burn",), ("list", "--format", "csv")])
def test_a_mistake_in_the_command_line_ends_with_2(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["crashes", *arguments])
    assert ended.value.code == 2
    assert "usage: cloister" in capsys.readouterr().err
