"""The doctor's table: a line for each layer, a column for each kind of process."""

from __future__ import annotations

import pytest

from cloister.cli.examination import Examination, LayerHere, ProcessHere, show

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
