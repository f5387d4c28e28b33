"""docs/plugins.md: what it shows runs, and says what it says."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from cloister.cli import main
from cloister.plugins import capabilities
from cloister.plugins.limits import DEFAULTS, Limits
from cloister.plugins.manifest import parse
from cloister.plugins.shared_runtime import close_shared

GUIDE = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text()


def blocks(section: str) -> list[tuple[str, str]]:
    """The examples under a heading, each with its language."""
    (text,) = re.findall(rf"^## {section}\n(.*?)^## ", GUIDE, re.DOTALL | re.MULTILINE)
    return re.findall(r"```([a-z]+)\n(.*?)```", text, re.DOTALL)


def test_the_first_minute_runs(capsys: pytest.CaptureFixture[str]) -> None:
    ((_, code),) = blocks("In one minute")
    exec(compile(code, "guide", "exec"), {})
    shown = capsys.readouterr().out
    assert shown.startswith("HELLO!\nAttributeError Traceback")
    assert shown.endswith("AGAIN!\n")


def test_the_function_runs() -> None:
    names: dict[str, Any] = {"untrusted": "[1, 2]"}
    ((_, code),) = blocks("One function")
    exec(compile(code + "\nfound = parse(untrusted)\n", "guide", "exec"), names)
    assert names["found"] == [1, 2]
    close_shared()


def test_the_ten_minutes_go_as_they_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each file is written, each command typed, and what it says compared; … stands for what differs."""
    monkeypatch.chdir(tmp_path)
    for language, text in blocks("In ten minutes"):
        if language == "python":
            Path(text.partition("\n")[0].removeprefix("# ")).write_text(text)
            continue
        for typed in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, expected = typed.partition("\n")
            run(command, monkeypatch)
            shown = capfd.readouterr()
            pattern = re.escape(expected).replace("…", ".*?")
            assert re.fullmatch(pattern, shown.err + shown.out, re.DOTALL), (command, shown)


def run(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a shell does; here, because a new interpreter for each takes its time."""
    match shlex.split(command):
        case ["cloister", *arguments]:
            main(arguments)
        case ["cd", folder]:
            monkeypatch.chdir(folder)
        case ["python", file]:
            exec(compile(Path(file).read_text(), file, "exec"), {"__name__": "__main__"})
        case _:
            subprocess.run(["bash", "-ec", command], check=True, timeout=20)


def test_the_manifest_holds() -> None:
    ((_, text),) = blocks("A manifest")
    assert parse(text).name == "csv-cleaner"


def test_every_limit_and_every_capability_is_told() -> None:
    for name in Limits.__struct_fields__:
        assert re.search(rf"^\|[^|]*`{name}`", GUIDE, re.MULTILINE), name
    for name in capabilities.ABOUT:
        assert f"`{name}`" in GUIDE, name
    for name, told in {
        "memory": "256 MiB",
        "result": "8 MiB",
        "file_size": "64 MiB",
        "output": "1 MiB",
    }.items():
        assert DEFAULTS.bytes_of(name) == int(told.split()[0]) * 2**20
        assert re.search(rf"\| `{name}`[^|]*\| {told} \|", GUIDE), name
