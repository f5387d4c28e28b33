"""The doctor's table: a line for each layer, a column for each kind of process."""

from __future__ import annotations

import pytest
from rich.console import Console

from cloister.cli.attack import COLUMNS, Cell, Row, Survey, Verdict
from cloister.cli.attack_report import show as show_attack
from cloister.cli.examination import Examination, LayerHere, ProcessHere, show
from cloister.sandbox import Layer

FOUND = Examination(
    kernel="6.1",
    architecture="x86_64",
    landlock_abi=2,
    layers=(LayerHere("seccomp", True, "3.17", "its calls."), LayerHere("landlock_scope", False, "6.12", "not here.")),
    processes=(
        ProcessHere("web_content", ("seccomp",), ("landlock_scope",)),
        ProcessHere("lookup_server", ("seccomp",), ()),
    ),
    refused="",
)  # fmt: skip


def test_a_layer_is_in_force_or_missing_or_not_meant_for_the_process(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show(FOUND)
    lines = capsys.readouterr().out.splitlines()
    assert next(line.split() for line in lines if line.strip().startswith("seccomp")) == [
        "seccomp",
        "3.17",
        "✓",
        "✓",
    ]
    scope = next(line.split() for line in lines if line.strip().startswith("landlock_scope"))
    assert scope == ["landlock_scope", "6.12", "✗", "·"]
    assert "Every process gets all that it requires." in lines


def test_a_machine_that_is_refused_is_told_why(capsys: pytest.CaptureFixture[str]) -> None:
    show(Examination("5.4", "x86_64", 0, (), (), refused="web_content was not started: no landlock"))
    out = capsys.readouterr().out
    assert "web_content was not started: no landlock" in out
    assert "no Landlock" in out
    assert "Every process gets" not in out


def test_the_matrix_of_attacks_fits_a_terminal_and_tells_what_got_through(
    capsys: pytest.CaptureFixture[str],
) -> None:
    denied = Cell(Verdict.DENIED, (Layer.SECCOMP, Layer.EMPTY_ROOT))
    cells = dict.fromkeys(COLUMNS, denied) | {
        "web_content": Cell(Verdict.DENIED, (Layer.EMPTY_ROOT,), alone=True),
        "request_server": Cell(Verdict.THROUGH),
        "lookup_server": Cell(Verdict.ALLOWED),
        "image_decoder": Cell(Verdict.ABSENT),
    }
    found = Survey((Row("open a file", "files", "Opens it.", control=True, cells=cells),))
    show_attack(found, Console(width=80))
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert max(map(len, lines)) <= 80
    line = next(line for line in lines if "open a file" in line)
    assert line.split() == ["open", "a", "file", "R", "1", "✗✗✗", "may", "–", *["SR"] * 7]
    assert "request_server could open a file" in lines
    assert "1 attempts by 11 kinds of process: 8 denied" in shown
