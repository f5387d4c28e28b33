"""The monitor of a browser: what it tells its user, what it does for them, and that nobody else gets anything of it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.servers import Page as Answer
from tests.servers import Server

from cloister import Browser, NetworkPolicy, Page, PageCrashed
from cloister.errors import ChannelClosed, RequestFailed
from cloister.interfaces.base import FailureCode
from cloister.interfaces.monitor import (
    MAX_TABLE,
    MONITOR,
    GetProcesses,
    KillProcess,
    ProcessRow,
    ProcessRows,
    ReloadPage,
)
from cloister.ipc import Channel, Connection, blob
from cloister.ipc.codec import Packet, codec
from cloister.process import monitor
from cloister.process.census import Census

ROWS = msgspec.msgpack.Decoder(ProcessRows)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A runtime folder whose name is longer than the address of a socket may be."""
    folder = tmp_path_factory.mktemp("x" * 120)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def browser(runtime: Path) -> Iterator[Browser]:
    with Browser(network=NetworkPolicy(allow_hosts=["127.0.0.1"])) as browser:
        yield browser
    assert names(runtime) == []


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_page() as page:
        yield page


def names(runtime: Path) -> list[str]:
    return sorted(os.listdir(runtime / "cloister" / "browsers"))


@asynccontextmanager
async def client(name: str | None = None) -> AsyncIterator[Connection]:
    """A connection to the browser that listens at ``name``, or to the only one."""
    folder = monitor.open_folder(create=False)
    try:
        channel = monitor.connect(folder, name or next(iter(monitor.sockets(folder))))
    finally:
        os.close(folder)
    connection = Connection(channel, MONITOR, "client")
    try:
        yield connection
    finally:
        connection.close()


async def table(connection: Connection) -> list[ProcessRow]:
    reply, fds = await connection.request(GetProcesses(), timeout=10)
    return list(ROWS.decode(blob.unpack(reply.body, fds, MAX_TABLE)))


def processes() -> list[ProcessRow]:
    async def go() -> list[ProcessRow]:
        async with client() as connection:
            return await table(connection)

    rows: list[ProcessRow] = run(go())
    return rows


def ask(message: Any) -> None:
    async def go() -> None:
        async with client() as connection:
            await connection.request(message, timeout=20)

    run(go())


def run(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 30))


def pid_of(page: Page) -> int:
    return next(info.pid for info in page.processes if info.kind == "web_content")


def row_of(pid: int) -> ProcessRow:
    return next(row for row in processes() if row.pid == pid)


# ── what it tells ────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_process_is_told_with_what_it_uses_and_what_holds_it(browser: Browser, page: Page) -> None:
    page.set_content("<p>words")
    page.text()
    while {"lookup_server", "image_decoder"} - {
        info.kind for info in browser.processes()
    }:  # nobody waits for them
        time.sleep(0.01)
    rows = {row.pid: row for row in processes()}
    assert {info.pid for info in browser.processes()} <= rows.keys()
    assert rows[os.getpid()].kind == "browser"
    assert {row.kind for row in rows.values()} >= {"browser", "zygote", "lookup_server", "web_content"}
    told = rows[pid_of(page)]
    (known,) = (info for info in browser.processes() if info.pid == told.pid)
    assert (told.kind, told.layers, told.missing) == (known.kind, known.layers, known.missing)
    assert told.state == "running"
    assert told.sent >= 2  # SetContent, GetText, and pings
    assert told.received >= 3  # Ready and the replies
    for row in rows.values():
        assert row.pss_bytes > 100_000
        assert row.cpu_seconds >= 0
        assert 0 < row.age_seconds < 3600
        assert row.descriptors is None or row.descriptors >= 2
    assert rows[os.getpid()].exact
    assert rows[os.getpid()].cpu_seconds > 0


def test_of_a_page_no_more_is_told_than_its_site(page: Page) -> None:
    page.set_content("<p>words", base_url="http://user:word@127.0.0.1:8000/secret/page?with=query#too")
    assert row_of(pid_of(page)).site == "http://127.0.0.1:8000"


def test_a_table_larger_than_a_packet_arrives_whole() -> None:
    class Many:
        def rows(self) -> list[ProcessRow]:
            return [ProcessRow("web_content", 2**22 - n, "ended", "x" * 300) for n in range(1000)]

        def kill(self, pid: int) -> bool:
            return False

        async def reload(self, pid: int) -> bool:
            return False

    async def go() -> None:
        here, there = Channel.pair()
        served = Census(Many()).serve(there, lambda _error: None)
        connection = Connection(here, MONITOR, "client")
        assert len(await table(connection)) == 1000
        connection.close()
        served.close()

    run(go())


# ── what it does ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_page_is_killed_and_reloaded(page: Page) -> None:
    page.set_content("<p>words")
    killed = pid_of(page)
    ask(KillProcess(killed))
    with pytest.raises(PageCrashed):
        page.text()
    assert row_of(killed).state == "crashed"
    ask(ReloadPage(killed))
    assert page.text() == "words\n"
    assert row_of(pid_of(page)).state == "running"
    assert killed not in {row.pid for row in processes()}


def test_only_the_browsers_own_children_are_killed(page: Page) -> None:
    page.set_content("<p>words")
    with subprocess.Popen(["sleep", "60"]) as bystander:
        try:
            for pid in (bystander.pid, os.getpid(), 1, 2**22):
                with pytest.raises(RequestFailed, match="is no child here") as refused:
                    ask(KillProcess(pid))
                assert refused.value.code == FailureCode.NO_PROCESS
            assert bystander.poll() is None
        finally:
            bystander.kill()


def test_only_what_works_for_a_page_is_reloaded(page: Page) -> None:
    page.set_content("<p>words")
    before = pid_of(page)
    zygote = next(row.pid for row in processes() if row.kind == "zygote")
    for pid in (zygote, os.getpid(), 1):
        with pytest.raises(RequestFailed, match="works for no page"):
            ask(ReloadPage(pid))
    assert pid_of(page) == before


def test_a_reload_that_fails_says_why_and_not_where(page: Page) -> None:
    with Server({"/secret": Answer(b"<p>words")}) as site:
        page.goto(site.url("/secret"))
    with pytest.raises(RequestFailed) as refused:
        ask(ReloadPage(pid_of(page)))
    assert refused.value.code == FailureCode.CONNECTION_REFUSED
    assert str(refused.value) == "the page was not loaded: NavigationError"


def test_a_client_that_goes_during_a_reload_does_not_stop_it() -> None:
    began, go_on, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

    class Slow:
        def rows(self) -> list[ProcessRow]:
            return []

        def kill(self, pid: int) -> bool:
            return False

        async def reload(self, pid: int) -> bool:
            began.set()
            await go_on.wait()
            done.set()
            return True

    async def go() -> None:
        here, there = Channel.pair()
        gone = asyncio.Event()
        census = Census(Slow())
        census.serve(there, lambda _error: gone.set())
        connection = Connection(here, MONITOR, "client")
        asked = asyncio.ensure_future(connection.request(ReloadPage(1), timeout=5))
        await began.wait()
        connection.close()
        with pytest.raises(ChannelClosed):
            await asked
        await gone.wait()
        go_on.set()
        await done.wait()
        await census.close()

    run(go())


def test_a_discarded_page_is_told_and_may_be_reloaded(page: Page) -> None:
    page.set_content("<p>words")
    pid = pid_of(page)
    assert page.discard()
    assert row_of(pid).state == "discarded"
    ask(ReloadPage(pid))
    assert row_of(pid_of(page)).state == "running"


# ── who may come ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_socket_is_in_a_folder_of_the_user_alone(browser: Browser, runtime: Path) -> None:
    (name,) = names(runtime)
    assert name.startswith(f"{os.getpid()}-")
    for folder in (runtime / "cloister", runtime / "cloister" / "browsers"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_process_of_another_user_is_turned_away(browser: Browser, runtime: Path) -> None:
    opened = [
        *runtime.parents[: len(runtime.parents) - 2],
        runtime,
        runtime / "cloister",
        runtime / "cloister" / "browsers",
        runtime / "cloister" / "browsers" / names(runtime)[0],
    ]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in opened}
    code = (
        "import os, socket, sys\n"
        "os.chdir(sys.argv[1]); os.setgid(65534); os.setuid(65534)\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.settimeout(10); s.connect(sys.argv[2])\n"
        "try: print(s.recv(100))\n"
        "except ConnectionResetError: print(b'')\n"
    )
    try:
        for path in opened:
            path.chmod(0o777)
        command = [sys.executable, "-c", code, str(opened[-2]), opened[-1].name]
        done = subprocess.run(command, capture_output=True, timeout=30, check=True)
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
    assert done.stdout == b"b''\n"
    assert processes()


def test_no_more_clients_are_taken_than_eight(browser: Browser) -> None:
    async def go() -> None:
        clients = []
        try:
            for _ in range(monitor.MAX_CLIENTS):
                context = client()
                clients.append((context, await context.__aenter__()))
                assert await table(clients[-1][1])
            async with client() as ninth:
                with pytest.raises(ChannelClosed):
                    await table(ninth)
            assert await table(clients[0][1])
        finally:
            for context, _ in clients:
                await context.__aexit__(None, None, None)

    run(go())


# ── what it bears ────────────────────────────────────────────────────────────────────────────────────────────────


def raw() -> socket.socket:
    folder = monitor.open_folder(create=False)
    try:
        channel = monitor.connect(folder, next(iter(monitor.sockets(folder))))
    finally:
        os.close(folder)
    liar = socket.socket(fileno=channel.detach())
    liar.settimeout(10)
    return liar


def is_a_cancellation(data: bytes) -> bool:
    """That is no garbage: a request may be answered before its cancellation comes."""
    return len(data) == 5 and data[0] == Packet.CANCEL


@given(st.binary(min_size=1, max_size=200).filter(lambda data: not is_a_cancellation(data)))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_garbage_is_the_end_of_whoever_sends_it_and_of_nobody_else(browser: Browser, data: bytes) -> None:
    with raw() as liar:
        liar.send(data)
        try:
            assert liar.recv(100) == b""
        except ConnectionResetError:
            pass
    assert processes()


def test_a_client_that_asks_and_asks_and_never_reads_is_cut_off(browser: Browser, page: Page) -> None:
    page.set_content("<p>words")
    with raw() as greedy:
        asked = 0
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while asked < 100_000:
                asked += 1
                greedy.send(codec(MONITOR, "client").encode(Packet.REQUEST, asked, GetProcesses()))
    assert page.text() == "words\n"
    assert processes()


def test_descriptors_that_a_client_sends_are_closed(browser: Browser) -> None:
    reader, writer = os.pipe()
    with raw() as liar:
        socket.send_fds(liar, [codec(MONITOR, "client").encode(Packet.REQUEST, 1, GetProcesses())], [writer])
        os.close(writer)
        assert os.read(reader, 1) == b""
    os.close(reader)
    assert processes()


# ── where it listens ─────────────────────────────────────────────────────────────────────────────────────────────


def test_two_browsers_of_one_program_have_a_socket_each(browser: Browser, runtime: Path) -> None:
    with Browser() as other:
        assert len(names(runtime)) == 2
        mine = {info.pid for info in browser.processes()}

        async def go() -> list[set[int]]:
            pids = []
            for name in names(runtime):
                async with client(name) as connection:
                    pids.append({row.pid for row in await table(connection)})
            return pids

        first, second = run(go())
        assert first & second == {os.getpid()}
        assert mine & first
        assert {info.pid for info in other.processes()} & second
    assert len(names(runtime)) == 1


BARE = (
    "import os, sys, time; from cloister import Browser; b = Browser(); print(1, flush=True); time.sleep(60)"
)


def test_what_a_killed_program_leaves_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", BARE], stdout=subprocess.PIPE) as program:
        assert program.stdout is not None
        program.stdout.readline()
        program.send_signal(signal.SIGKILL)
    assert names(tmp_path) == [f"{program.pid}-1.sock"]
    note = tmp_path / "cloister" / "browsers" / "note.txt"
    note.touch()
    live = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with live:  # of a pid that looks dead, as that of another container does, and yet listens
        monkeypatch.chdir(note.parent)
        live.bind(f"{program.pid}-2.sock")
        live.listen()
        with Browser():
            assert f"{program.pid}-1.sock" not in names(tmp_path)
            assert len(names(tmp_path)) == 3
    assert names(tmp_path) == [f"{program.pid}-2.sock", "note.txt"]


@pytest.mark.parametrize("trouble", ["unset", "relative", "missing", "open to others", "a link"])
def test_without_a_folder_of_the_users_own_a_browser_runs_unwatched(
    trouble: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runtime = {"relative": "here", "missing": str(tmp_path / "missing")}.get(trouble, str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    monkeypatch.chdir(tmp_path)
    if trouble == "unset":
        monkeypatch.delenv("XDG_RUNTIME_DIR")
    if trouble == "open to others":
        (tmp_path / "cloister").mkdir()
        (tmp_path / "cloister").chmod(0o755)
    if trouble == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        (tmp_path / "cloister").symlink_to("elsewhere")
    before = sorted(tmp_path.rglob("*"))
    with caplog.at_level("DEBUG", "cloister.process"):

        async def go() -> None:
            assert monitor.Monitor.start(None) is None  # type: ignore[arg-type]

        run(go())
    assert "no monitor: " in caplog.text
    assert sorted(tmp_path.rglob("*")) == before
