"""``cloister fetch`` on real servers: what they hear, what is printed, and which code it ends with."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from tests.echo import Echo, echo
from tests.servers import Page, Server

from cloister import Browser, NetworkPolicy
from cloister.cli import command, fetch

CLOISTER = (sys.executable, "-m", "cloister")


@pytest.fixture(scope="module")
def peer() -> Iterator[Echo]:
    with echo() as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser(network=NetworkPolicy(allow_hosts=["127.0.0.1"])) as browser:
        yield browser


Run = Callable[..., tuple[int, bytes, str]]


@pytest.fixture
def run(browser: Browser, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Run:
    """The command in this process, with a browser that is there already: its code, and what it says."""
    monkeypatch.setattr(fetch, "browser", lambda _arguments: nullcontext(browser))

    def run(*arguments: str, stdin: bytes = b"") -> tuple[int, bytes, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = command.main(["fetch", *arguments])
        said = capfdbinary.readouterr()
        return code, said.out, said.err.decode()

    return run


def test_an_answer_is_printed_as_it_is() -> None:
    with echo() as peer:
        target = [peer.url("/a?b=c"), "--allow-host", "127.0.0.1"]
        arguments = [*target, "-H", "X-Mine:  yes ", "-H", "User-Agent: me"]
        done = subprocess.run([*CLOISTER, "fetch", *arguments], capture_output=True, timeout=50, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"echo", b"")
    (asked,) = peer.asked
    assert (asked.method, asked.target) == ("GET", "/a?b=c")
    assert (asked.headers["x-mine"], asked.headers["user-agent"]) == ("yes", "me")


def test_what_is_sent_is_a_form_unless_it_says_otherwise(run: Run, peer: Echo, tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    file.write_bytes(b"from\na file")
    _, said, _ = run(peer.url(), "-d", "a=b", "-d", "@-", "-i", stdin=b"c=d")
    first, _, head = said.decode().partition("\n")
    assert first == "200 OK"
    assert "x-twice: one\nx-twice: two\n" in head
    assert head.endswith("\n\necho")
    asked = peer.asked[-1]
    assert (asked.method, asked.body) == ("POST", b"a=b&c=d")
    assert asked.headers["content-type"] == "application/x-www-form-urlencoded"
    run(peer.url(), "-X", "put", "-d", f"@{file}", "-H", "Content-Type: text/plain")
    asked = peer.asked[-1]
    assert (asked.method, asked.body, asked.headers["content-type"]) == ("PUT", b"from\na file", "text/plain")
    run(peer.url(), "-F", "a=b", "-F", f"f=@{file}", "-F", "a==c")
    body = peer.asked[-1].body
    assert body.count(b'name="a"\r\n') == 2
    assert b"\r\n\r\n=c\r\n" in body
    assert b'name="f"; filename="file.txt"\r\nContent-Type: text/plain\r\n\r\nfrom\na file\r\n' in body


def test_json_has_all_of_it(run: Run, peer: Echo, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    peer.answers["/gone"] = (410, "")
    assert run(peer.url("/gone"), "--json", "-o", str(out)) == (0, b"", "")
    said = json.loads(out.read_text())
    assert (said["url"], said["status"], said["body"]) == (peer.url("/gone"), 410, "echo")
    assert {"name": "set-cookie", "value": "a=1"} in said["headers"]
    with Server({"/": Page(b"\xff")}) as site:
        assert json.loads(run(site.url(), "--json")[1])["base64"] == "/w=="


def test_a_status_is_a_failure_where_that_is_asked_for(run: Run, peer: Echo) -> None:
    peer.answers["/gone"] = (410, "")
    assert run(peer.url("/gone"), "--fail") == (1, b"", f"cloister: {peer.url('/gone')}: 410 Gone\n")


def test_an_address_that_is_not_public_is_refused(run: Run) -> None:
    code, said, complained = run("http://10.0.0.1/")
    assert (code, said) == (1, b"")
    assert "10.0.0.1 is not public" in complained


def test_a_terminal_gets_text_without_escapes_and_nothing_else(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, terminal = pty.openpty()
    try:
        with (
            os.fdopen(terminal, "w") as stdout,
            Server({"/text": Page(b"a\x1b[2Jb"), "/binary": Page(b"\xff\xfe")}) as site,
        ):
            monkeypatch.setattr(sys, "stdout", stdout)
            assert run(site.url("/text"))[0] == 0
            code, _, complained = run(site.url("/binary"))
            assert (code, "binary data" in complained) == (1, True)
            assert os.read(ours, 1000) == "a\ufffd[2Jb".encode()
    finally:
        os.close(ours)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-H", "no colon"), "-H no colon: is not NAME:VALUE"),
        (("-F", "novalue"), "-F novalue: is not NAME=VALUE"),
        (("-F", "a=@/nowhere/at/all"), "/nowhere/at/all: there is no such file"),
        (("-d", "@/nowhere/at/all"), "/nowhere/at/all: there is no such file"),
        (("-d", "a", "-d", "@x"), "a file is sent alone"),
        (("-o", "/nowhere/at/all"), "there is no folder"),
        (("-H", "a b: c"), "no name of one"),
        (("-X", "GET /"), "not a method"),
    ],
)
def test_a_mistake_is_named(run: Run, arguments: tuple[str, ...], words: str) -> None:
    code, said, complained = run("http://a.example/", *arguments)
    assert (code, said) == (2, b"")
    assert words in complained
