"""The portal: each connection is a fresh, locked-down process, which ends with it and with the portal."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from cloister import BrowserClosed, CloisterError, InvalidArgument
from cloister.browser import portal as portals
from cloister.browser.portal import KINDS, Portal
from cloister.image_decoder.samples import SAMPLES
from cloister.ipc import Channel
from cloister.process import ChildProcess

from .portals import (
    PLACES,
    Page,
    Run,
    connect,
    connected,
    decoded,
    end_of,
    gone,
    portal,
    process_of,
    run,
    runner,
    until,
)

__all__ = ["portal", "run", "runner"]

# ── what a connection is ─────────────────────────────────────────────────────────────────────────────────────────


def test_each_connection_is_a_fresh_process_that_is_locked_down(run: Run, portal: Portal) -> None:
    async def go() -> None:
        pids = set()
        for kind in (*KINDS, *KINDS):
            client, child = await connected(portal, kind)
            assert child.kind == kind
            status = Path(f"/proc/{child.pid}/status").read_text()
            assert "\nSeccomp:\t2\n" in status
            assert "\nNoNewPrivs:\t1\n" in status
            report = await child.ready()
            assert {"seccomp", "landlock", "no_new_privs"} <= set(report.layers)
            pids.add(child.pid)
            client.close()
            await until(lambda pid=child.pid: gone(pid))  # type: ignore[misc]
        assert len(pids) == 2 * len(KINDS)

    run(go())


def test_a_page_answers_whoever_speaks_the_protocol_with_nothing_of_ours(run: Run, portal: Portal) -> None:
    async def go() -> None:
        loop = asyncio.get_running_loop()
        document = b"<title>Plain</title><p>words"
        with connect(portal, "web_content") as client:
            body = ["SetContent", [len(document), document], "about:blank", "text/html"]
            await loop.sock_sendall(client, struct.pack("<BI", 1, 7) + msgspec.msgpack.encode(body))
            packet = await loop.sock_recv(client, 65536)
            assert struct.unpack_from("<BI", packet) == (2, 7)
            name, url, status, title, *_ = msgspec.msgpack.decode(packet[5:])
            assert (name, url, status, title) == ("Loaded", "about:blank", 0, "Plain")

    run(go())


def test_the_portal_keeps_nothing_of_a_connection_that_it_could_read_or_write(
    run: Run, portal: Portal
) -> None:
    async def go() -> None:
        with connect(portal, "web_content") as client:
            child = await process_of(portal, [])
            os.kill(child.pid, signal.SIGSTOP)  # nobody reads now but who should not
            client.send(b"not for the portal")
            with Page(portal) as other:
                assert await other.says("meanwhile")
            assert unread_by_the_other_end(client) > 0
            os.kill(child.pid, signal.SIGCONT)
            await end_of(client)

    run(go())


def unread_by_the_other_end(client: socket.socket) -> int:
    """Bytes of memory in what was sent and not yet received (SIOCOUTQ, unix(7))."""
    (value,) = struct.unpack("i", fcntl.ioctl(client, 0x5411, bytes(4)))
    return int(value)


def closes(client: socket.socket) -> None:
    client.close()


def will_send_no_more(client: socket.socket) -> None:
    client.shutdown(socket.SHUT_WR)


LEAVE = [closes, will_send_no_more]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("leave", LEAVE)
def test_a_process_ends_by_itself_when_its_connection_does(
    run: Run, portal: Portal, kind: str, leave: Callable[[socket.socket], None]
) -> None:
    async def go() -> None:
        client, child = await connected(portal, kind)
        leave(client)
        status = await child.wait(30)
        assert status.code == 0
        await until(lambda: gone(child.pid))
        client.close()

    run(go())


def test_a_decoder_ends_after_its_answer(run: Run, portal: Portal) -> None:
    async def go() -> None:
        before = portal.processes
        client = connect(portal, "image_decoder")
        child = await process_of(portal, before)
        message = ["Decode", [len(SAMPLES["PNG"]), SAMPLES["PNG"]]]
        client.send(struct.pack("<BI", 1, 1) + msgspec.msgpack.encode(message))
        status = await child.wait(30)
        assert status.code == 0
        await end_of(client)
        client.close()

    run(go())


CLIENT = """
import socket, sys, time
client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
client.connect(sys.argv[1])
print("connected", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_process_ends_with_a_client_that_is_killed(run: Run, portal: Portal, kind: str) -> None:
    async def go() -> None:
        command = [sys.executable, "-c", CLIENT, str(portal.sockets[kind])]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
            try:
                child = await process_of(portal, [])
            finally:
                client.kill()
        status = await child.wait(30)
        assert status.code == 0
        await until(lambda: gone(child.pid))

    run(go())


@pytest.mark.parametrize("leave", LEAVE)
def test_a_process_that_does_not_end_after_its_client_is_killed(
    run: Run,
    portal: Portal,
    leave: Callable[[socket.socket], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(portals, "_GRACE", 0.05)

    async def go() -> None:
        client, child = await connected(portal, "web_content")
        os.kill(child.pid, signal.SIGSTOP)
        leave(client)
        await until(lambda: gone(child.pid))
        await until(lambda: not portal.processes)
        assert f"web_content {child.pid} was killed: its client had gone" in caplog.text

    run(go())


def test_a_decoder_that_nobody_asks_is_killed_when_its_time_is_over(
    run: Run, portal: Portal, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert KINDS["image_decoder"].lifetime == 30
    monkeypatch.setitem(KINDS, "image_decoder", KINDS["image_decoder"]._replace(lifetime=0.05))

    async def go() -> None:
        with connect(portal, "image_decoder") as client:
            await end_of(client)
        await until(lambda: not portal.processes)
        assert "was killed: its time was over" in caplog.text

    run(go())


# ── places ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_connection_past_the_limit_waits_and_is_served_in_its_turn(run: Run, portal: Portal) -> None:
    async def go() -> None:
        seated = [connect(portal, "web_content") for _ in range(PLACES)]
        await until(lambda: len(portal.processes) == PLACES)
        with Page(portal) as next_one, Page(portal) as last:
            asked = [asyncio.ensure_future(page.says("my turn")) for page in (next_one, last)]
            assert (await decoded(portal)).format == "PNG"  # each kind has places of its own
            await until(lambda: len(portal.processes) == PLACES)
            assert not asked[0].done()
            seated.pop().close()
            assert await asked[0]
            assert not asked[1].done()
            seated.pop().close()
            assert await asked[1]

    run(go())


def test_the_kernel_refuses_what_does_not_fit_the_queue(run: Run, portal: Portal) -> None:
    async def go() -> None:
        seated = [connect(portal, "image_decoder") for _ in range(PLACES)]
        await until(lambda: len(portal.processes) == PLACES)
        with pytest.raises(BlockingIOError):
            for _ in range(200):  # which nobody accepts, and 64 may wait
                seated.append(connect(portal, "image_decoder"))
        assert len(seated) < 100
        for client in seated:
            client.close()
        assert (await decoded(portal)).format == "PNG"
        await until(lambda: not portal.processes)

    run(go())


@pytest.mark.parametrize("number", [0, -1, 129])
def test_a_number_of_processes_that_cannot_be_meant_is_refused(number: int) -> None:
    with pytest.raises(InvalidArgument, match=f"max_processes: {number} is not a number between 1 and 128"):
        Portal(max_processes=number)


# ── the portal itself ────────────────────────────────────────────────────────────────────────────────────────────


def test_everything_ends_with_the_portal_and_its_folder_is_left_empty(tmp_path: Path) -> None:
    folder = tmp_path / "portal"

    async def go() -> None:
        async with Portal(folder, max_processes=2) as portal:
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert sorted(file.name for file in folder.iterdir()) == sorted(KINDS)
            assert all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in folder.iterdir())
            clients = [connect(portal, kind) for kind in KINDS for _ in range(3)]
            await until(lambda: len(portal.processes) == 4)
            pids = [child.pid for child in portal.processes]
        assert list(folder.iterdir()) == []
        await until(lambda: all(map(gone, pids)))
        for client in clients:  # those that still waited, too
            await end_of(client)
            client.close()
        await portal.close()

    asyncio.run(go())


def test_a_second_portal_does_not_take_the_place_of_one_that_is_alive(run: Run, portal: Portal) -> None:
    folder = portal.sockets["web_content"].parent

    async def go() -> None:
        with pytest.raises(CloisterError, match="another portal serves there"):
            await Portal(folder).start()
        with Page(portal) as page:
            assert await page.says("still here")

    run(go())


def test_a_portal_that_is_started_twice_is_one_portal(run: Run, portal: Portal) -> None:
    assert run(portal.start()) is portal


def test_a_portal_says_when_it_can_fork_no_more(tmp_path: Path) -> None:
    async def go() -> None:
        async with Portal(tmp_path / "portal") as portal:
            with connect(portal, "web_content") as client:
                child = await process_of(portal, [])
                serving = asyncio.ensure_future(portal.serve_forever())
                await asyncio.sleep(0)
                assert portal._zygote is not None
                portal._zygote.process.kill()
                with pytest.raises(BrowserClosed, match="the portal's zygote has ended"):
                    await serving
                await end_of(client)
                await until(lambda: gone(child.pid))

    asyncio.run(go())


def test_a_connection_that_gets_no_process_is_closed_and_the_log_says_why(
    run: Run, portal: Portal, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_fork(_kind: str, _options: bytes, channels: list[Channel]) -> ChildProcess:
        channels.pop().close()
        raise BrowserClosed("out of processes")

    async def go() -> None:
        assert portal._zygote is not None
        with monkeypatch.context() as patched, connect(portal, "web_content") as client:
            patched.setattr(portal._zygote, "fork", no_fork)
            await end_of(client)
        assert "a connection ended badly: BrowserClosed: out of processes" in caplog.text
        with Page(portal) as page:
            assert await page.says("and the next one is served")

    with caplog.at_level(logging.ERROR, "cloister.portal"):
        run(go())
