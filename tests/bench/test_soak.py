"""A short soak: what `make soak` does two thousand times. Counts only; times and memory are the benchmark's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SOAK = Path(__file__).parents[2] / "bench" / "soak.py"


@pytest.fixture(scope="module")
def result() -> dict[str, Any]:
    """Sixty loads, eight at once; in every fifth a process is killed, once the zygote."""
    command = [sys.executable, str(SOAK), "--loads=60", "--kills=0.2", "--seed=47", "--json"]
    done = subprocess.run(command, capture_output=True, timeout=55, check=False, text=True)
    assert not done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def of(result: dict[str, Any], measure: str) -> Any:
    (row,) = (row for row in result["rows"] if row["measure"].startswith(measure))
    return row["result"]


def test_every_load_is_answered_though_processes_are_killed(result: dict[str, Any]) -> None:
    assert sum(result["outcomes"].values()) == 60
    assert {"web_content", "zygote"} <= set(result["killed"])
    assert result["lost"] == []
    assert of(result, "answers lost") == 0


def test_nothing_is_left_of_loads_and_kills(result: dict[str, Any]) -> None:
    assert of(result, "descriptors at rest") == 0
    assert of(result, "processes at rest") == 0
    assert of(result, "descriptors and processes left after close()") == 0


def test_no_exception_is_left_to_the_log(result: dict[str, Any]) -> None:
    assert result["logged"] == []
