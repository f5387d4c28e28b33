"""Cookies of a file go along, and what there is afterwards can be kept."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from tests.servers import Page, Server

from .test_pages import cloister


def test_cookies_come_from_a_file_and_go_into_one(tmp_path: Path) -> None:
    given, kept = tmp_path / "cookies.txt", tmp_path / "state.json"
    given.write_text("127.0.0.1\tFALSE\t/\tFALSE\t0\tgiven\t1\n")
    with Server({"/": Page(b"<p>words", headers=(("Set-Cookie", "set=2"),))}) as site:
        url, host = site.url("/"), f"127.0.0.1:{site.port}"
        done = cloister(
            "text", url, "--allow-host", host, "--cookies", str(given), "--save-cookies", str(kept)
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"words\n", b"")
        done = cloister("text", url, "--allow-host", host, "--cookies", str(kept))
        assert (done.returncode, done.stderr) == (0, b"")
    assert [request.headers.get("cookie") for request in site.requests] == ["given=1", "given=1; set=2"]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert {each["name"] for each in json.loads(kept.read_text())["cookies"]} == {"given", "set"}


def test_a_file_without_cookies_is_a_mistake_in_the_command(tmp_path: Path) -> None:
    (tmp_path / "not").write_text("cookies")
    done = cloister("text", "https://a.example/", "--cookies", str(tmp_path / "not"))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert b"line 1" in done.stderr
