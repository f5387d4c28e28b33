"""``cloister top``: what it shows of real browsers, what its keys do, and the terminal as it was afterwards."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cloister import Browser, Page, PageCrashed
from cloister.cli import lookout
from cloister.cli.lookout import Lookout, Seen
from cloister.cli.top import _table
from cloister.interfaces.monitor import ProcessRow
from cloister.process import monitor

TOP = (sys.executable, "-m", "cloister", "top")
ON_A_TERMINAL = """\
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.executable, [sys.executable, "-m", "cloister", "top", *sys.argv[1:]])
"""


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("runtime")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def browser(runtime: Path) -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_page() as page:
        page.set_content("<p>words", base_url="https://example.org/secret")
        yield page


def once(*arguments: str) -> str:
    done = subprocess.run([*TOP, *arguments], capture_output=True, timeout=30, check=True)
    assert done.stderr == b""
    return done.stdout.decode()


def rows() -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(once("--once", "--json"))
    return listed


def look() -> list[Seen]:
    async def go() -> list[Seen]:
        out = Lookout()
        try:
            return await out.look()
        finally:
            out.close()

    return asyncio.run(go())


def pid_of(page: Page) -> int:
    return next(info.pid for info in page.processes if info.kind == "web_content")


class Terminal:
    """``cloister top`` on a terminal of its own, and what is to be read there."""

    def __init__(self, *arguments: str) -> None:
        self._ours, self._theirs = pty.openpty()
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 180, 0, 0))
        self.before = termios.tcgetattr(self._theirs)
        self.said = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", ON_A_TERMINAL, *arguments],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env={**os.environ, "TERM": "xterm-256color"},
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def until(self, pattern: str) -> None:
        """Read on until that was said, and forget it."""
        deadline = time.monotonic() + 20
        while (found := re.search(pattern, self.said)) is None:
            assert time.monotonic() < deadline, (pattern, self.said[-3000:])
            if select.select([self._ours], [], [], 0.1)[0]:
                self.said += os.read(self._ours, 65536).decode(errors="replace")
        self.said = self.said[found.end() :]

    def end(self) -> int:
        """The exit code, once all that it wrote is read."""
        deadline = time.monotonic() + 20
        while (running := self.process.poll() is None) or select.select([self._ours], [], [], 0)[0]:
            assert time.monotonic() < deadline, self.said[-3000:]
            if select.select([self._ours], [], [], 0.05 if running else 0)[0]:
                self.said += os.read(self._ours, 65536).decode(errors="replace")
        return self.process.wait(1)

    @property
    def is_as_before(self) -> bool:
        return termios.tcgetattr(self._theirs) == self.before


def test_without_a_browser_it_says_so_and_ends_with_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert once() == "No browser is running, and no plugin.\n"
    assert once("--once") == "No browser is running, and no plugin.\n"
    assert once("--json") == "[]\n"
    assert list(tmp_path.iterdir()) == []
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert once() == "No browser can be found: XDG_RUNTIME_DIR is not set.\n"
    assert once("--json") == "[]\n"


def test_it_starts_no_process_of_its_own(browser: Browser) -> None:
    code = (
        "from cloister.process import spawn\n"
        "def never(kind): raise AssertionError(kind)\n"
        "spawn.spawn = never\n"
        "from cloister.cli import main\n"
        "assert main(['top', '--once']) == 0"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, check=True)
    assert b"zygote" in done.stdout


def test_every_process_of_every_browser_is_listed_for_scripts(browser: Browser, page: Page) -> None:
    with Browser() as other:
        for each in (browser, other):
            while {"lookup_server", "image_decoder"} - {
                info.kind for info in each.processes()
            }:  # nobody waits for them
                time.sleep(0.01)
        listed = rows()
        told = {row["pid"]: row for row in listed}
        assert {info.pid for info in (*browser.processes(), *other.processes())} <= told.keys()
        assert [row["browser"].partition("-")[0] for row in listed] == [str(os.getpid())] * len(listed)
        assert len({row["browser"] for row in listed}) == 2
        assert [row["kind"] for row in listed].count("browser") == 2
    row = told[pid_of(page)]
    assert (row["kind"], row["site"], row["state"]) == ("web_content", "https://example.org", "running")
    assert row["layers"] == list(next(i.layers for i in page.processes if i.pid == row["pid"]))
    assert row["pss_bytes"] > 100_000
    assert row["cpu_percent"] >= 0
    assert row["messages_per_second"] > 0


def test_a_table_has_a_line_for_each_process_also_where_no_terminal_is(browser: Browser, page: Page) -> None:
    for lines in (once("--once").splitlines(), once().splitlines()):
        (line,) = (line for line in lines if f" {pid_of(page)} " in line)
        assert line.split()[:3] == ["web_content", "https://example.org", "running"]
        assert line.split()[-1].isdigit()  # the layers
        assert "secret" not in "".join(lines)


def test_a_rate_is_that_since_the_look_before(browser: Browser, page: Page) -> None:
    async def go() -> list[tuple[int, bool]]:
        out = Lookout()
        pid = pid_of(page)
        seen = []
        try:
            for _ in range(3):
                found = next(each for each in await out.look() if each.row.pid == pid)
                seen.append((found.row.sent + found.row.received, found.messages_per_second > 0))
                if len(seen) == 1:
                    for _ in range(20):
                        await asyncio.to_thread(page.text)
        finally:
            out.close()
        return seen

    (before, _), (busy, has_rate), (idle, has_rate_now) = asyncio.run(go())
    assert busy >= before + 40
    assert has_rate
    assert has_rate_now == (idle > busy)  # a ping may have come in between


def test_keys_select_kill_and_reload_and_quit_and_leave_the_terminal_as_it_was(
    browser: Browser, page: Page
) -> None:
    with Terminal("--interval", "0.2") as terminal:
        terminal.until("web_content")
        terminal.press("j" * 30 + "k" + "\x1b[A" + "\x1b[B" * 30)  # to the end: a page comes last
        terminal.until(r"\x1b\[7m *web_content")  # in reverse
        terminal.press("x")
        terminal.until(r"killed")
        with pytest.raises(PageCrashed):
            page.text()
        terminal.until(r"\x1b\[7m *web_content[^\n]*crashed")
        terminal.press("r")
        terminal.until("page loaded again")
        assert page.text() == "words\n"
        terminal.press("q")
        assert terminal.end() == 0
        assert "\x1b[?1049l" in terminal.said  # the screen before is back
        assert terminal.is_as_before


def test_what_cannot_be_done_is_said(browser: Browser) -> None:
    with Terminal("--interval", "60") as terminal:
        terminal.until("web_content|zygote")
        terminal.press("x")  # the browser itself is selected first
        terminal.until(f"browser {os.getpid()}: {os.getpid()} is no child here")
        terminal.press("r")
        terminal.until("works for no page")
        terminal.press("q")
        assert terminal.end() == 0


@pytest.mark.parametrize(("how", "code"), [("Ctrl-C", 130), ("SIGTERM", 143), ("q after nonsense", 0)])
def test_however_it_ends_the_terminal_is_as_it_was(browser: Browser, how: str, code: int) -> None:
    with Terminal("--interval", "60") as terminal:
        terminal.until("zygote")
        assert not terminal.is_as_before
        if how == "Ctrl-C":
            terminal.press("\x03")
        elif how == "SIGTERM":
            terminal.process.send_signal(signal.SIGTERM)
        else:
            terminal.press("junk\x1b[\x00q")
        assert terminal.end() == code
        assert "\x1b[?1049l" in terminal.said
        assert terminal.is_as_before
        assert "Traceback" not in terminal.said


@pytest.fixture
def impostor(browser: Browser, runtime: Path) -> Iterator[socket.socket]:
    """Listens as a browser would, at a name of a process that lives."""
    folder = runtime / "cloister" / "browsers"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        name = folder / f"{os.getppid()}-1.sock"
        opened = os.open(folder, os.O_PATH)
        listener.bind(f"/proc/self/fd/{opened}/{name.name}")
        os.close(opened)
        listener.listen()
        yield listener
        name.unlink()


def test_a_browser_that_does_not_answer_is_shown_as_such(
    impostor: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout, "_PATIENCE", 0.5)
    seen = {each.row.pid: each.row for each in look()}
    assert seen[os.getppid()].state == "unresponsive"
    assert seen[os.getpid()].state == "running"


@pytest.mark.parametrize("answer", [b"x", b"", b"\x02\x01\0\0\0\x92\xacProcessTable\x92\x02\xc4\x02\x91\x01"])
def test_a_browser_that_answers_nonsense_is_left_out(impostor: socket.socket, answer: bytes) -> None:
    async def go() -> set[int]:
        out = Lookout()
        looking = asyncio.ensure_future(out.look())
        impostor.setblocking(False)
        peer, _ = await asyncio.get_running_loop().sock_accept(impostor)
        with peer:
            await asyncio.get_running_loop().sock_recv(peer, 1000)
            peer.send(answer) if answer else peer.close()
            seen = await looking
        out.close()
        return {each.row.pid for each in seen}

    pids = asyncio.run(go())
    assert os.getpid() in pids
    assert os.getppid() not in pids


def test_what_no_browser_listens_at_is_passed_over(browser: Browser, runtime: Path) -> None:
    stale = runtime / "cloister" / "browsers" / "1-1.sock"
    folder = monitor.open_folder(create=False)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as gone:
        gone.bind(f"/proc/self/fd/{folder}/{stale.name}")
    os.close(folder)
    seen = look()
    stale.unlink()
    assert "1-1" not in {each.browser for each in seen}
    assert os.getpid() in {each.row.pid for each in seen}


def test_no_word_of_a_browser_can_drive_the_terminal() -> None:
    evil = "\x1b[2J\u202e[bold]"
    row = ProcessRow(evil, 1, evil, evil, layers=(evil,), missing=(evil,))
    console = Console(width=200, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(_table([Seen("1-1", row, 0, 0)]))
    assert "\x1b[2J" not in captured.get()
    assert "\u202e" not in captured.get()
    assert "?[2J?[bold]" in captured.get()
