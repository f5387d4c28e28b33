"""Results are whole or absent, and a page's text cannot drive the terminal it is shown on."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloister.cli import output
from cloister.cli.failure import CommandError


def test_a_result_takes_the_place_of_the_old_file_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    out = tmp_path / "page.png"
    out.write_bytes(b"old")
    output.write(str(out), b"new")
    assert out.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [out]


def test_a_result_has_the_permissions_that_any_new_file_gets(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    output.write(str(tmp_path / "page.png"), b"new")
    assert (tmp_path / "page.png").stat().st_mode == plain.stat().st_mode


def test_a_failure_in_the_middle_keeps_the_old_file_and_leaves_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "page.png"
    out.write_bytes(b"old")

    def interrupted(_self: Path, _target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        output.write(str(out), b"new")
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]


def test_a_link_stays_a_link_and_its_target_gets_the_result(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link = tmp_path / "link.png"
    link.symlink_to(tmp_path / "there" / "page.png")
    output.write(str(link), b"new")
    assert link.is_symlink()
    assert (tmp_path / "there" / "page.png").read_bytes() == b"new"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    output.write(str(pipe), b"through")
    reader.join(10)
    assert read == [b"through"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_folder_or_a_place_that_is_not_there_is_refused_before_any_work(tmp_path: Path) -> None:
    for where, words in ((tmp_path, "is a folder"), (tmp_path / "nowhere" / "x.png", "there is no folder")):
        with pytest.raises(CommandError, match=words) as refused:
            output.check(str(where), binary=True)
        assert refused.value.code == 2


def test_a_place_that_cannot_be_written_is_named_in_the_error() -> None:
    with pytest.raises(CommandError, match=r"^/proc/version\.png: "):
        output.write("/proc/version.png", b"new")


@given(st.text())
def test_text_for_a_terminal_keeps_every_character_but_those_that_drive_it(text: str) -> None:
    shown = output.without_controls(text)
    assert len(shown) == len(text)
    assert not any((c < " " and c not in "\n\t") or "\x7f" <= c <= "\x9f" for c in shown)
    assert all(a == b or b == "\N{REPLACEMENT CHARACTER}" for a, b in zip(text, shown, strict=True))
    assert [c for c in shown if c in "\n\t"] == [c for c in text if c in "\n\t"]
