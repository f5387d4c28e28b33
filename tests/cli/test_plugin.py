"""``cloister plugin``: what it makes, what it says of a plugin, and which exit code tells what went wrong."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cloister.cli import main
from cloister.interfaces.plugin_host import Language

MANIFEST = """\
name = "{name}"
version = "1.0.0"
api-version = "1.0"
source = "plugin.py"
language = "python"
exports = [{exports}]
"""
CODE = """
import ctypes, logging, os, time

def echo(*arguments, **named): return [*arguments, named]
def words(): return "caf\\u00e9 \\x1b[2J"
def picture(): return b"\\x89PNG"
def count(n):
    for number in range(n):
        print("at", number, "\\x1b]0;mine")
        yield {"n": number}
    1 / 0
def odd(): return {1: float("nan"), "b": b"\\0", "buffer": bytearray(b"\\0\\1"), "deep": [None, True]}
def huge(): return 10**5000
def fault(): ctypes.string_at(0)
def spin():
    print("ready", flush=True)
    while True: pass
def where(): return [os.environ.get("GRANTED"), open("/proc/self/status").read(4)]
def _private(): pass
"""


def plugin(folder: Path, code: str = CODE, more: str = "", name: str = "tried") -> Path:
    exports = ", ".join(
        f'"{line[4:].partition("(")[0]}"'
        for line in code.splitlines()
        if line[:4] == "def " and line[4] != "_"
    )
    (folder / "plugin.toml").write_text(MANIFEST.format(name=name, exports=exports) + more)
    (folder / "plugin.py").write_text(code)
    return folder


def cloister(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = main(["plugin", *map(str, arguments)])
    said = capsys.readouterr()
    return code, said.out, said.err


# ── new ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_new_plugin_is_in_order_and_passes_its_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = cloister(capsys, "new", "my-plugin")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        f"my-plugin/{file}" for file in ("plugin.toml", "README.md", "my_plugin.py", "test_my_plugin.py")
    ]
    code, out, err = cloister(capsys, "test", "my-plugin")
    assert (code, err) == (0, "")
    assert out.endswith("1 passed, 0 failed\n")
    assert cloister(capsys, "run", "my-plugin", "greet", "you") == (0, "Hello, you!\n", "")


@pytest.mark.parametrize("language", [each for each in Language if each is not Language.PYTHON])
def test_so_does_one_in_any_language(
    language: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "made"
    assert cloister(capsys, "new", "made", "--path", place, "--language", language)[0] == 0
    code, out, err = cloister(capsys, "test", place)
    assert (code, err, out.splitlines()[-1]) == (0, "", "1 passed, 0 failed")


def test_new_overwrites_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "there"
    place.mkdir()
    (place / "README.md").write_text("mine")
    code, out, err = cloister(capsys, "new", "my-plugin", "--path", place)
    assert (code, out) == (2, "")
    assert "is there already" in err
    assert [(file.name, file.read_text()) for file in place.iterdir()] == [("README.md", "mine")]
    assert cloister(capsys, "new", "other", "--path", tmp_path / "no" / "where")[0] == 2


@pytest.mark.parametrize("name", ["My_Plugin", "../up", "", "a" * 65, "json", "class", "3d", "host", "a\n"])
def test_a_name_that_cannot_be_one_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cloister(capsys, "new", name, "--path", tmp_path / "x")[0] == 2
    assert list(tmp_path.iterdir()) == []


# ── check ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_check_says_what_it_is_and_what_it_asks_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = 'description = "Tries \\u001b[2J things"\n[capabilities]\n"fs:read" = ["/srv/data"]\n'
    code, out, err = cloister(capsys, "check", plugin(tmp_path, more=more + '[limits]\nmemory = "50 MiB"\n'))
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == f"tried 1.0.0: python, plugin.py of {len(CODE)} bytes"
    assert "Tries ?[2J things\n" in out
    assert "asks for  fs:read /srv/data\n          to read the files and folders that are listed\n" in out
    assert "          what holds it: Landlock, and a file tree that holds nothing else\n" in out
    assert "limit     memory 52428800\n" in out
    assert out.endswith("It is in order.\nWhat it asks for is granted with --grant fs:read=/srv/data\n")


@pytest.mark.parametrize(
    ("code", "more", "words"),
    [
        ("def f(): pass", "colour = 1\n", "plugin.toml, line 7: colour: "),
        ("def f(): pass", '[limits]\nmemory = "much"\n', "plugin.toml, line 8: limits.memory: "),
        ("def f(): pass", '[capabilities]\n"fs:all" = []\n', "line 7: capabilities: there is no capability"),
        ("def f(): pass\ndel f", "", "tried does not have what its manifest exports: f"),
        ("def f(): pass\nraise OSError('\\x1b[2J')", "", "line 2, in <module>\n      raise OSError("),
        ("def f(: pass", "", "SyntaxError"),
        ("def f(): pass", '[dependencies]\nother = "^1"\n', "tried needs other ^1, which is not there"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], code: str, more: str, words: str
) -> None:
    exit_code, out, err = cloister(capsys, "check", plugin(tmp_path, code, more))
    assert exit_code == 1
    assert "in order" not in out
    assert err.startswith("cloister: ")
    assert words in err
    assert "\x1b" not in err
    assert all(line.startswith("  ") for line in err.splitlines()[1:])


def test_a_source_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (plugin(tmp_path) / "plugin.py").unlink()
    for command in (("check",), ("check", "--json"), ("run",)):
        more = ("echo",) if command == ("run",) else ()
        code, out, err = cloister(capsys, *command, tmp_path, *more)
        assert code == 1
        assert "No such file or directory" in (out if "--json" in command else err)


def test_check_says_what_could_never_be_granted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = '[capabilities]\n"net:request" = ["https://example.org/"]\n"net:dns" = ["*"]\n'
    code, out, _ = cloister(capsys, "check", plugin(tmp_path, more=asked))
    assert code == 0
    assert "it cannot be granted here: net:request: 'https://example.org/' is not HOST" in out
    assert out.endswith("What it asks for is granted with --grant 'net:dns=*'\n")
    relative = '[capabilities]\n"fs:read" = ["data"]\n'
    code, out, err = cloister(capsys, "check", plugin(tmp_path, more=relative))
    assert code == 1
    assert "it cannot be granted here: fs:read: 'data' is not an absolute path\n" in out
    assert "fs:read: 'data' is not an absolute path" in err


def test_check_for_scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = cloister(capsys, "check", plugin(tmp_path), "--json")
    told = json.loads(out)
    assert (code, told["ok"], told["problem"]) == (0, True, None)
    assert "seccomp" in told["layers"]
    code, out, err = cloister(capsys, "check", plugin(tmp_path, more="colour = 1\n"), "--json")
    problem = json.loads(out)["problem"]
    assert (code, err, problem["type"], problem["key"], problem["line"]) == (
        1,
        "",
        "ManifestError",
        "colour",
        7,
    )


def test_a_plugin_that_needs_another_finds_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    first = plugin(tmp_path / "first", "def f(): pass", name="first")
    second = plugin(tmp_path / "second", "def f(): return 2", '[dependencies]\nfirst = "^1"\n', name="second")
    assert cloister(capsys, "run", second / "plugin.toml", "f", "--with", first) == (0, "2\n", "")


# ── run ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_arguments_are_json_or_text_or_the_bytes_of_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").write_bytes(b"\0{}")
    given = ["1", "one two", '"1"', "[1, null]", f"@{tmp_path / 'data'}", "{broken", "--", "-x"]
    code, out, _ = cloister(capsys, "run", "--json", plugin(tmp_path), "echo", *given)
    assert (code, json.loads(out)) == (0, [1, "one two", "1", [1, None], "AHt9", "{broken", "-x", {}])
    (tmp_path / "args").write_text('{"b": [2], "a": 1}')
    code, out, _ = cloister(capsys, "run", tmp_path, "echo", "--args", tmp_path / "args")
    assert (code, json.loads(out)) == (0, [{"b": [2], "a": 1}])


def test_a_stream_comes_line_by_line_and_what_is_printed_is_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = cloister(capsys, "run", plugin(tmp_path), "count", "2", "--json")
    assert (code, out) == (1, '{"n": 0}\n{"n": 1}\n')
    first, second, failed, *trace = err.splitlines()
    assert (first, second) == ("tried| at 0 ?]0;mine", "tried| at 1 ?]0;mine")
    assert failed == "cloister: tried raised ZeroDivisionError: division by zero"
    assert trace
    assert all(line.startswith("  ") for line in trace)


@pytest.mark.parametrize(
    ("arguments", "exit_code", "words"),
    [
        (("echo", "--timeout", "soon"), 2, ""),
        (("_private",), 2, "tried exports echo, "),
        (("echo", "--profile", "none at all"), 2, "there is no profile"),
        (("echo", "--grant", "fs:all=/"), 2, "there is no capability 'fs:all'"),
        (("echo", "--limit", "memory"), 2, "NAME=VALUE"),
        (("echo", "--limit", "memory=much"), 2, "'much' is no size"),
        (("echo", "--limit", "colour=1"), 2, "colour"),
        (("echo", "--args", "/nowhere"), 2, "/nowhere: "),
        (("echo", "@/nowhere"), 2, "/nowhere: "),
        (("huge",), 1, "cannot be printed"),
        (("spin", "--timeout", "0.1"), 4, "did not answer within 0.1 s"),
        (("fault",), 5, "was ended by SIGSEGV"),
    ],
)
def test_each_failure_has_its_exit_code(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: tuple[str, ...], exit_code: int, words: str
) -> None:
    path, function, *more = (plugin(tmp_path), *arguments)
    try:
        found = main(["plugin", "run", str(path), str(function), *map(str, more)])
    except SystemExit as ended:
        found = int(str(ended.code))
    assert found == exit_code
    said = capfd.readouterr()
    assert said.out == ""
    assert words in said.err
    assert "Traceback" not in said.err


def test_what_is_granted_and_allowed_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GRANTED", "yes")
    code = "import os, decimal\ndef f(): return os.environ.get('GRANTED')"
    path = plugin(tmp_path, code, '[capabilities]\n"sys:env" = ["GRANTED"]\n')
    assert cloister(capsys, "run", path, "f", "--json") == (0, "null\n", "")
    assert cloister(capsys, "run", path, "f", "--grant", "sys:env=GRANTED") == (0, "yes\n", "")
    monkeypatch.setenv("LANG", "xx")
    path = plugin(tmp_path, code.replace("GRANTED", "LANG"), '[capabilities]\n"sys:env" = ["LANG"]\n')
    assert cloister(capsys, "run", path, "f", "--profile", "terminal") == (0, "xx\n", "")


def test_a_path_is_granted_as_one_types_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = plugin(
        tmp_path, "def f(path): return open(path).read(4)", '[capabilities]\n"fs:read" = ["/usr"]\n'
    )
    monkeypatch.chdir("/usr/share")
    code, out, _ = cloister(
        capsys, "run", "--grant", "fs:read=../lib/os-release", path, "f", "/usr/lib/os-release"
    )
    assert (code, len(out)) == (0, 5)
    assert cloister(capsys, "check", path, "--grant", "fs:reed=x")[0] == 2


def test_on_a_terminal_nothing_drives_it(tmp_path: Path) -> None:
    path = str(plugin(tmp_path))

    def said(function: str) -> tuple[int, bytes, bytes]:
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "cloister", "plugin", "run", path, function]
        done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, timeout=30, check=False)
        os.close(theirs)
        shown = b""
        try:
            while data := os.read(ours, 1000):
                shown += data
        except OSError:  # EIO: nobody has it open any more
            os.close(ours)
        return done.returncode, shown, done.stderr

    code, shown, _ = said("words")
    assert (code, shown.decode()) == (0, "café \N{REPLACEMENT CHARACTER}[2J\r\n")
    code, shown, err = said("picture")
    assert (code, shown) == (2, b"")
    assert b"not writing binary data to a terminal" in err


def test_an_interrupt_ends_it_and_all_its_processes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cloister", "plugin", "run", str(plugin(tmp_path)), "spin"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        assert running.stderr.readline() == "tried| ready\n"
        children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 130
        assert running.stderr.read() == ""
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def test_a_reader_that_goes_ends_it_quietly(tmp_path: Path) -> None:
    endless = "def f():\n    while True: yield 'a line'\n"
    command = [sys.executable, "-m", "cloister", "plugin", "run", str(plugin(tmp_path, endless)), "f"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline() == "a line\n"
        running.stdout.close()
        assert running.wait(20) == 141
        assert running.stderr.read() == ""


# ── test ─────────────────────────────────────────────────────────────────────────────────────────────────────────

TESTS = """
import os, unittest
import plugin, tried

def helper(): raise AssertionError
def test_passes():
    assert plugin is tried
    plugin.kept = 1
def test_compares():
    three = 3
    assert tried.double(three) == 7
def test_is_on_its_own():
    assert not hasattr(plugin, "kept")
def test_says(): assert tried.double(1) == 3, "not three"
def test_raises(): tried.double(None)
def test_crashes(): os._exit(9)
def test_hangs():
    while True: pass
def test_skips(): raise unittest.SkipTest("not \\x1b[2J now")
def test_exits(): raise SystemExit(0)
"""


def test_each_test_has_its_own_process_and_failures_their_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = plugin(tmp_path, "def double(n):\n    return n * 2\n")
    (tmp_path / "test_it.py").write_text(TESTS)
    code, out, err = cloister(capsys, "test", path, "--limit", "timeout=0.3")
    assert (code, err) == (1, "")
    said = [line.rstrip() for line in out.splitlines()]
    assert "ok      test_it.py::test_passes" in out
    assert "ok      test_it.py::test_is_on_its_own" in out
    assert "  test_it.py:11: AssertionError: not 6 == 7" in said
    assert "      assert tried.double(three) == 7" in said
    assert "  test_it.py:14: AssertionError: not three" in said
    assert "  test_it.py:15: TypeError: unsupported operand type(s) for *: 'NoneType' and 'int'" in said
    assert '    File "<plugin tried>", line 2, in double' in said
    assert "  tried: its process exited with code 9. The next call starts a new one" in said
    assert "  tried did not answer within 0.3 s, and its process was ended" in said
    assert "skipped test_it.py::test_skips: not ?[2J now" in said
    assert "  test_it.py:20: SystemExit: 0" in said
    assert said[-1] == "2 passed, 6 failed, 1 skipped"


LIES = """
import sys
def f(): pass
fake = lambda: 1 / 0
fake.__module__ = "test_it"
sys._getframe(1).f_globals["vars"] = lambda _: {NAMES}
"""


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ("{f'test{n}': fake for n in range(20_000)}", "did not let its tests be run"),
        ("{'test' + 'x' * 600: fake}", "did not let its tests be run"),
        ("{'test\\x1b[2J': fake}", "FAILED  test_it.py::test?[2J"),
    ],
)
def test_what_it_says_of_its_tests_is_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], names: str, words: str
) -> None:
    """The plugin's code may do to what runs its tests what it likes: that is in its own process."""
    (tmp_path / "test_it.py").write_text("def test(): pass")
    path = plugin(tmp_path, LIES.replace("{NAMES}", names))
    code, out, err = cloister(capsys, "test", path)
    assert code == 1
    assert words in out + err
    assert "\x1b" not in out + err


JAVASCRIPT = """
function helper() {}
export function test_passes() { if (double(2) !== 4 || globalThis.kept) throw new Error(double(2)); }
export function test_fails() { globalThis.kept = true; throw new TypeError("\x1b[2J it is not"); }
export async function test_later() { await null; throw new Error("late"); }
"""


def test_tests_in_javascript_see_the_source_and_say_their_own_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin(tmp_path, "def double(n): ...")
    manifest = (tmp_path / "plugin.toml").read_text()
    (tmp_path / "plugin.toml").write_text(
        manifest.replace("plugin.py", "p.js").replace("python", "javascript")
    )
    (tmp_path / "p.js").write_text("// a comment\n\nexport function double(n) { return 2 * n; }\n")
    (tmp_path / "test_p.js").write_text(JAVASCRIPT)
    code, out, err = cloister(capsys, "test", tmp_path)
    assert (code, err) == (1, "")
    said = out.splitlines()
    assert "  test_p.js:4: TypeError: ?[2J it is not" in said
    assert "  test_p.js:5: Error: late" in said
    assert said[-1] == "1 passed, 2 failed"
    (tmp_path / "test_p.js").write_text("\nnot a test")
    code, _, err = cloister(capsys, "test", tmp_path)
    assert code == 1
    assert "test_p.js:2" in err


def test_no_tests_are_no_success(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = cloister(capsys, "test", plugin(tmp_path))
    assert code == 1
    assert "there are no tests: functions test* in files test*.py" in err
