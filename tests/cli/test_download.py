"""``cloister download``: files from real servers, Ctrl-C in the middle, and a bar for those who watch."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from tests.servers import Handler, Page, Request, Server

from cloister import Browser
from cloister.cli import command, fetch

DATA = os.urandom(500_000)
HEAD = f'HTTP/1.1 200 OK\r\nETag: "a"\r\nContent-Length: {len(DATA)}\r\n\r\n'.encode()


async def half(request: Request, writer: asyncio.StreamWriter) -> None:
    """Half of it the first time, and then the rest."""
    asked = request.headers.get("range")
    if asked is None:
        writer.write(HEAD + DATA[:250_000])
        await writer.drain()
        await asyncio.sleep(60)
        return
    first = int(asked[6:-1])
    writer.write(
        f'HTTP/1.1 206 Partial\r\nETag: "a"\r\nContent-Range: bytes {first}-{len(DATA) - 1}/{len(DATA)}\r\n'
        f"Content-Length: {len(DATA) - first}\r\n\r\n".encode()
        + DATA[first:]
    )


@pytest.fixture(scope="module")
def site() -> Iterator[Server]:
    named = (("Content-Disposition", 'attachment; filename="../the file.bin"'),)
    routes: dict[str, Page | Handler] = {
        "/file": Page(DATA, "application/x-thing", headers=named),
        "/half.bin": half,
        "/[bold].bin": Page(DATA),
    }
    with Server(routes) as server:
        yield server


def arguments(site: Server, path: str, *more: str) -> list[str]:
    return [sys.executable, "-m", "cloister", "download", site.url(path), "--allow-host", "127.0.0.1", *more]


def test_a_file_is_saved_and_told_of(site: Server, tmp_path: Path) -> None:
    digest = hashlib.sha256(DATA).hexdigest()
    run = arguments(site, "/file", "-o", str(tmp_path), "--json", "--sha256", digest)
    done = subprocess.run(run, capture_output=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout) == {
        "path": str(tmp_path / "the file.bin"),
        "url": site.url("/file"),
        "size": len(DATA),
        "content_type": "application/x-thing",
        "suggested_filename": "the file.bin",
        "sha256": digest,
    }
    assert (tmp_path / "the file.bin").read_bytes() == DATA


def test_ctrl_c_leaves_what_the_same_command_goes_on_with(site: Server, tmp_path: Path) -> None:
    run = arguments(site, "/half.bin")
    with subprocess.Popen(run, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if any(path.stat().st_size == 250_000 for path in tmp_path.iterdir()):
                break
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        said, complained = running.communicate(timeout=30)
    (part,) = tmp_path.iterdir()
    assert (running.returncode, said) == (130, b"")
    assert part.name in complained.decode()
    assert "goes on from there" in complained.decode()
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, timeout=50, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"half.bin\n", b"")
    assert (tmp_path / "half.bin").read_bytes() == DATA
    assert site.requests[-1].headers["range"] == "bytes=250000-"
    assert os.listdir(tmp_path) == ["half.bin"]


def test_who_watches_sees_a_bar_that_is_gone_afterwards(site: Server, tmp_path: Path) -> None:
    ours, terminal = pty.openpty()
    run = arguments(site, "/[bold].bin", "-o", str(tmp_path))
    done = subprocess.run(run, stdout=subprocess.PIPE, stderr=terminal, timeout=50, check=False)
    os.close(terminal)
    seen = b""
    try:
        while data := os.read(ours, 65536):
            seen += data
    except OSError:  # EIO: nobody writes there any more
        pass
    os.close(ours)
    assert done.returncode == 0
    assert b"[bold]" in seen
    assert done.stdout.decode().strip() == str(tmp_path / "[bold].bin")
    assert seen.rstrip().endswith((b"\x1b[2K", b"\x1b[?25h"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.mark.parametrize(
    ("more", "code", "words"),
    [
        (("-o", "/nowhere/at/all/"), 2, "/nowhere/at/all: No such file or directory"),
        (("--sha256", "x"), 2, "64 hexadecimal digits"),
        (("-o", __file__), 1, f"{__file__} is there already: nothing is overwritten"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_asked_for(
    site: Server,
    browser: Browser,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    before = len(site.requests)
    monkeypatch.setattr(fetch, "browser", lambda _arguments: nullcontext(browser))
    assert command.main(["download", site.url("/file"), *more]) == code
    assert words in capsys.readouterr().err
    assert len(site.requests) == before
