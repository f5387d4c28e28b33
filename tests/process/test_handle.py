"""The life of a child: alive and answering, then ended, in order or by force, and never left behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import certifi
import msgspec
import pytest

from cloister import ends
from cloister.errors import ChannelClosed, LaunchError, ProcessLost, RequestFailed
from cloister.interfaces import image_decoder, lookup_server, request_server, web_content
from cloister.interfaces.base import FailureCode
from cloister.interfaces.control import CONTROL, Ready
from cloister.interfaces.lookup_server import LOOKUP, LOOKUP_ADMIN, AddClient, Connect
from cloister.interfaces.zygote import PreloadKind
from cloister.ipc import Channel, Connection
from cloister.ipc.codec import Packet, codec
from cloister.process import ChildProcess, Zygote, launch, launcher
from cloister.process.handle import ExitStatus
from cloister.process.kinds import MODULES
from tests.conftest import children, descriptors

FORKED = {
    "request_server": (request_server.Options(user_agent="test"), 2),
    "image_decoder": (image_decoder.Options(), 1),
    "web_content": (web_content.Options(), 1),
}


@asynccontextmanager
async def a_zygote(*kinds: str) -> AsyncIterator[Zygote]:
    zygote = await Zygote.start([PreloadKind(kind, MODULES[kind]) for kind in kinds])
    try:
        yield zygote
    finally:
        await zygote.close()


async def fork(zygote: Zygote, kind: str) -> ChildProcess:
    options, count = FORKED[kind]
    ends = [Channel.pair() for _ in range(count)]
    child = await zygote.fork(
        kind,
        msgspec.msgpack.encode(options),
        [theirs for _, theirs in ends],
        keep=[ours for ours, _ in ends],
    )
    await child.ready()
    return child


async def start_lookup_server() -> ChildProcess:
    here, there = Channel.pair()
    options = msgspec.msgpack.encode(lookup_server.Options())
    child = await launch("lookup_server", options, [there], keep=[here])
    await child.ready()
    return child


def run(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 50))


def is_gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_each_kind_answers_pings_is_alive_and_ends_with_code_0_when_asked() -> None:
    async def go() -> None:
        async with a_zygote(*FORKED) as zygote:
            children = [zygote.process, *zygote.branches, await start_lookup_server()]
            children += [await fork(zygote, kind) for kind in FORKED]
            for child in reversed(children):
                await child.ping()
                assert child.is_alive, child
                status = await child.shutdown()
                assert (status.code, status.signal) == (0, None), child
                assert not child.is_alive
                assert is_gone(child.pid)
                with pytest.raises(ChannelClosed):
                    await child.ping()

    run(go())


def test_a_child_that_hangs_is_killed_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    async def go() -> None:
        async with a_zygote("image_decoder") as zygote:
            child = await fork(zygote, "image_decoder")
            os.kill(child.pid, signal.SIGSTOP)
            with caplog.at_level(logging.DEBUG, "cloister.process"):
                status = await child.shutdown(timeout=0.05)
            assert status.signal == signal.SIGKILL
            assert "was stopped: it did not shut down within 0.05 s" in caplog.text
            assert is_gone(child.pid)

    run(go())


def test_a_graceful_end_is_logged_as_one(caplog: pytest.LogCaptureFixture) -> None:
    async def go() -> None:
        async with a_zygote("image_decoder") as zygote:
            child = await fork(zygote, "image_decoder")
            with caplog.at_level(logging.DEBUG, "cloister.process"):
                await child.shutdown()
            assert f"image_decoder {child.pid} exited with code 0" in caplog.text
            assert "stopped" not in caplog.text

    run(go())


def test_an_async_with_block_ends_its_child() -> None:
    async def go() -> None:
        async with a_zygote("image_decoder") as zygote:
            async with await fork(zygote, "image_decoder") as child:
                assert child.is_alive
            assert is_gone(child.pid)
            async with await start_lookup_server() as lookup:
                assert lookup.is_alive
            assert is_gone(lookup.pid)

    run(go())


@pytest.mark.parametrize("forked", [True, False])
def test_dropping_the_handle_ends_the_process(forked: bool) -> None:
    async def go() -> None:
        async with a_zygote("image_decoder") as zygote:
            child = await fork(zygote, "image_decoder") if forked else await start_lookup_server()
            pid, channels = child.pid, child.channels
            del child
            gc.collect()
            for _ in range(500):
                if is_gone(pid):
                    break
                await asyncio.sleep(0.01)
            assert is_gone(pid)
            for channel in channels:
                channel.close()
            assert zygote.process.is_alive

    run(go())


def test_a_killed_child_is_told_apart_from_one_that_ended() -> None:
    async def go() -> None:
        async with a_zygote("image_decoder") as zygote:
            child = await fork(zygote, "image_decoder")
            os.kill(child.pid, signal.SIGSEGV)
            status = await child.wait(5)
            assert (status.code, status.signal) == (None, signal.SIGSEGV)
            await child.end()

    run(go())


def test_a_child_without_its_control_channel_ends() -> None:
    async def go() -> None:
        async with a_zygote("web_content") as zygote:
            child = await fork(zygote, "web_content")
            child.control.close()
            assert (await child.wait(5)).code == 0
            await child.end()

    run(go())


def test_a_child_that_breaks_the_protocol_is_ended_with_the_reason() -> None:
    async def go() -> None:
        async with a_zygote("image_decoder") as zygote:
            child = await fork(zygote, "image_decoder")
            for handler in (child.control._handlers,):
                handler.clear()  # then Ready, and any other event, is not expected
            child.punish(LaunchError("a test"))
            assert (await child.wait(5)).signal == signal.SIGKILL
            assert child.ending == ends.BadMessage("a test")
            await child.end()

    run(go())


def test_what_a_child_said_before_its_end_counts_although_its_end_is_told_first() -> None:
    async def go() -> None:
        here, there = Channel.pair()
        process = subprocess.Popen(["true"])
        child = ChildProcess("image_decoder", process.pid, os.pidfd_open(process.pid), here, ours=True)
        there.send(codec(CONTROL, "server").encode(Packet.EVENT, 0, Ready((), ())))
        there.send(b"what no child says")
        there.close()
        process.wait()
        child.set_ended(ExitStatus(code=0))
        assert child.report == Ready((), ())
        assert isinstance(child.ending, ends.BadMessage)
        await child.end()

    run(go())


def test_a_child_whose_end_nobody_tells_has_ended_all_the_same() -> None:
    async def go() -> None:
        async with a_zygote("image_decoder") as zygote:
            child = await fork(zygote, "image_decoder")
            (branch,) = zygote.branches
            os.kill(branch.pid, signal.SIGSTOP)
            why = ends.Killed("a test")
            await child.end(why)
            assert child.has_ended
            assert child.ending == why
            os.kill(branch.pid, signal.SIGCONT)

    run(go())


def test_a_fork_that_comes_when_the_zygote_is_known_to_have_ended_gives_an_ended_child(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def go() -> None:
        zygote = await Zygote.start([PreloadKind("image_decoder", MODULES["image_decoder"])])
        await zygote.ready()

        def meanwhile(*_: object) -> int:
            zygote.process.set_ended(ExitStatus(signal=signal.SIGKILL))
            zygote._on_own_end()
            return -1  # it is gone already

        monkeypatch.setattr(launcher, "_host_pid", meanwhile)
        here, there = Channel.pair()
        options = msgspec.msgpack.encode(image_decoder.Options())
        child = await zygote.fork("image_decoder", options, [there], keep=[here])
        assert child.has_ended
        assert child.ending == ends.Killed("the zygote ended", quiet=True)
        await child.end()
        await zygote.close()

    run(go())


def test_a_branch_that_has_nothing_to_do_parses_the_roots_for_those_to_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", certifi.where())
    monkeypatch.setenv("SSL_CERT_DIR", "/no-such-folder")

    def memory(pid: int) -> int:
        """KiB; anybody may read that."""
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024

    async def go() -> None:
        async with a_zygote("request_server") as zygote:
            child = await fork(zygote, "request_server")
            (branch,) = zygote.branches
            before = memory(branch.pid)
            for _ in range(1000):
                if memory(branch.pid) > before + 500:  # they take over a thousand
                    break
                await asyncio.sleep(0.01)
            assert memory(branch.pid) > before + 500
            later = await fork(zygote, "request_server")  # it still works
            for process in (child, later):
                await process.shutdown()

    run(go())


def test_the_end_of_the_zygote_is_the_end_of_what_it_forked() -> None:
    async def go() -> None:
        zygote = await Zygote.start([PreloadKind("image_decoder", MODULES["image_decoder"])])
        children = [await fork(zygote, "image_decoder") for _ in range(3)]
        zygote.process.kill()
        for child in children:
            await child.wait(5)
        for _ in range(500):
            if all(is_gone(child.pid) for child in children):
                break
            await asyncio.sleep(0.01)
        assert all(is_gone(child.pid) for child in children)
        with pytest.raises(ProcessLost):
            await fork(zygote, "image_decoder")
        for child in children:
            await child.end()
        await zygote.close()

    run(go())


def test_the_death_of_the_program_takes_every_process_with_it() -> None:
    program = textwrap.dedent(
        """
        import asyncio, os, signal, sys
        from tests.process.test_handle import *
        async def go():
            zygote = await Zygote.start([PreloadKind("web_content", MODULES["web_content"])])
            lookup = await start_lookup_server()
            children = [await fork(zygote, "web_content") for _ in range(2)]
            print(*[child.pid for child in (zygote.process, lookup, *children)], flush=True)
            await asyncio.sleep(60)
        asyncio.run(go())
        """
    )
    root = Path(__file__).parents[2]
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None
        pids = [int(pid) for pid in process.stdout.readline().split()]
        assert len(pids) == 4
        assert not any(is_gone(pid) for pid in pids)
        process.kill()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and not all(map(_ended, pids)):
        time.sleep(0.01)
    assert all(map(_ended, pids))


def _ended(pid: int) -> bool:
    """Gone, or a zombie that waits for a new parent which is not ours to hurry."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_an_unknown_kind_is_refused_by_the_zygote_by_name() -> None:
    async def go() -> None:
        async with a_zygote("image_decoder") as zygote:
            with pytest.raises(LaunchError, match="plugin_host: this zygote forks image_decoder"):
                await zygote.fork("plugin_host")
            assert zygote.process.is_alive

    run(go())


def test_an_unknown_kind_exits_with_an_error() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "cloister", "--subprocess-kind=nonsense"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert result.returncode == 2
    assert "unknown kind of process 'nonsense'" in result.stderr
    assert result.stdout == ""


def test_a_kind_started_by_hand_says_that_it_is_not_a_command() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "cloister", "--subprocess-kind=web_content"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert result.returncode == 2
    assert "started by Cloister itself" in result.stderr


def test_a_launch_that_fails_says_what_the_process_said() -> None:
    async def go() -> None:
        with pytest.raises(LaunchError, match=r"nonsense ended while it started.*unknown kind"):
            await launch("nonsense")

    run(go())


def test_a_zygote_that_cannot_preload_says_why() -> None:
    async def go() -> None:
        zygote = await Zygote.start([PreloadKind("x", "cloister.no_such_module")])
        with pytest.raises(LaunchError, match="No module named 'cloister.no_such_module'"):
            await zygote.ready()
        await zygote.close()

    run(go())


def test_three_requests_to_a_child_get_the_replies_that_match_by_id() -> None:
    async def go() -> None:
        async with await start_lookup_server() as lookup:
            admin = Connection(lookup.channel, LOOKUP_ADMIN, "client")
            here, there = Channel.pair()
            admin.send(AddClient(), [there.detach()])
            client = Connection(here, LOOKUP, "client")
            hosts = {
                "10.0.0.1": "10.0.0.1",
                "192.168.7.7": "192.168.7.7",
                "nowhere.invalid": "nowhere.invalid",
            }
            asked = {
                host: asyncio.ensure_future(client.request(Connect(host, 80), timeout=10)) for host in hosts
            }
            for host, answer in asked.items():
                with pytest.raises(RequestFailed, match=hosts[host]) as caught:
                    await answer
                refused = host != "nowhere.invalid"
                assert caught.value.code == (
                    FailureCode.ADDRESS_REFUSED if refused else FailureCode.UNKNOWN_HOST
                )
            client.close()
            admin.close()

    run(go())


def test_a_fork_that_nobody_waits_for_leaves_no_process() -> None:
    async def go() -> None:
        async with a_zygote("image_decoder") as zygote:
            await zygote.ready()
            task = asyncio.ensure_future(fork(zygote, "image_decoder"))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            del task  # it holds the frames that it was cancelled in, and a handle if it was that far
            gc.collect()
            for _ in range(500):
                (branch,) = zygote.branches
                tree = Path(f"/proc/{branch.pid}/task/{branch.pid}/children").read_text()
                if not tree.split():
                    break
                await asyncio.sleep(0.01)
            assert tree.split() == []

    run(go())


@pytest.mark.parametrize("wait", [0, 0.01, 0.04, 0.08, 0.15])
def test_a_launch_that_is_cancelled_leaves_no_process(wait: float) -> None:
    async def go() -> None:
        before = children()
        here, there = Channel.pair()
        task = asyncio.ensure_future(launch("lookup_server", b"", [there], keep=[here]))
        await asyncio.sleep(wait)
        task.cancel()
        (result,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(result, ChildProcess):
            await result.end()
        assert children() == before

    run(go())


def test_a_launch_whose_hand_over_fails_leaves_no_process_and_no_descriptor() -> None:
    async def go() -> None:
        before = children(), len(descriptors())
        with pytest.raises(ValueError, match="too large to send"):
            ends = [Channel.pair() for _ in range(9)]
            await launch("lookup_server", b"", [there for _, there in ends], keep=[here for here, _ in ends])
        del ends
        gc.collect()
        assert (children(), len(descriptors())) == before

    run(go())


def test_the_environment_of_a_child_holds_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "xyzzy-secret")

    async def go() -> None:
        async with a_zygote("image_decoder") as zygote, await start_lookup_server() as lookup:
            child = await fork(zygote, "image_decoder")
            for process in (zygote.process, lookup, child):
                if os.geteuid() == 0:  # they are not dumpable: only root may look
                    assert b"xyzzy" not in Path(f"/proc/{process.pid}/environ").read_bytes()
                else:
                    with pytest.raises(PermissionError):
                        Path(f"/proc/{process.pid}/environ").read_bytes()
            await child.end()

    run(go())


def test_the_control_interface_is_the_same_for_every_kind() -> None:
    assert {message.__name__ for message in CONTROL.client} == {"Ping", "Shutdown"}
