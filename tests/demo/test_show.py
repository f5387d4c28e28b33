"""``cloister demo``: every page ends as it has to, every wall holds, nothing is left."""

from __future__ import annotations

import json
import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cloister.demo.report import show
from cloister.demo.show import Attempt, Killed, Process, Report, Visit


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("demo") / "out"
    command = [sys.executable, "-m", "cloister", "demo", "--json", "-o", str(folder)]
    run = subprocess.run(command, capture_output=True, timeout=50, check=False)
    return run.returncode, json.loads(run.stdout)


def test_every_wall_holds_and_the_exit_code_says_so(done: tuple[int, dict[str, Any]]) -> None:
    code, report = done
    assert (code, report["held"]) == (0, True)


def test_each_hostile_page_meets_its_own_end_and_the_good_ones_are_shown(
    done: tuple[int, dict[str, Any]],
) -> None:
    _, report = done
    assert {visit["name"]: visit["outcome"] for visit in report["visits"]} == {
        "article": "shown",
        "daylight": "shown",
        "rooms": "shown",
        "reach": "shown",
        "images": "shown",
        "bomb": "too_large",
        "crash": "crashed",
        "drip": "timed_out",
    }


def test_nothing_reaches_the_service_next_door_and_each_refusal_says_why(
    done: tuple[int, dict[str, Any]],
) -> None:
    _, report = done
    assert report["canary"] == []
    assert len(report["attempts"]) == 7
    assert all(attempt["refusal"] for attempt in report["attempts"])


def test_the_others_go_on_when_one_page_is_killed(done: tuple[int, dict[str, Any]]) -> None:
    killed = done[1]["killed"]
    assert killed["others_alive"] == killed["others"] == 4
    assert "SIGKILL" in killed["error"]
    assert killed["new_pid"] != killed["pid"]


def test_the_pictures_and_the_pdf_are_where_it_says(done: tuple[int, dict[str, Any]]) -> None:
    _, report = done
    files = [visit["file"] for visit in report["visits"] if visit["file"]]
    assert len(files) == 5
    assert all(Path(name).read_bytes().startswith(b"\x89PNG") for name in files)
    assert Path(report["pdf"]).read_bytes().startswith(b"%PDF")


def test_nothing_is_left_running(done: tuple[int, dict[str, Any]]) -> None:
    _, report = done
    assert len(report["processes"]) > 10
    assert report["left_running"] == []


def whole(**changes: Any) -> Report:
    report = Report(
        visits=[
            Visit("bomb", "http://localhost:1/", "a bomb", "too_large", "more than 64 MiB", 3, held=True)
        ],
        attempts=[Attempt("file:///etc/passwd", "file: is not opened")],
        processes=[Process("web_content", 1, "http://localhost:1/", ("seccomp",), ())],
        killed=Killed("article", 1, "SIGKILL", 2, 2, 2),
        folder="out",
    )
    for name, value in changes.items():
        setattr(report, name, value)
    return report


def printed(report: Report) -> str:
    out = StringIO()
    show(report, Console(file=out, width=200))
    return out.getvalue()


def test_a_report_in_which_all_held_says_so_and_one_that_did_not_says_that() -> None:
    assert whole().held
    assert "every wall held" in printed(whole())
    for fault in (
        {"canary": ["/stolen"]},
        {"left_running": [17]},
        {"killed": None},
        {"attempts": [Attempt("file:///etc/passwd", "")]},
        {"visits": [Visit("bomb", "u", "a bomb", "shown", "", 3, held=False)]},
    ):
        report = whole(**fault)
        assert not report.held
        assert "A WALL DID NOT HOLD" in printed(report)


def test_words_of_a_page_cannot_drive_the_terminal_or_forge_markup() -> None:
    evil = Visit("article", "u", "", "shown", "\x1b]0;owned\x07[bold red]forged", 3, held=True)
    shown = printed(whole(visits=[evil]))
    assert "\x1b" not in shown
    assert "[bold red]forged" in shown
