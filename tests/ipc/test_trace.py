"""The trace: a line of JSON for each message of one browser, and nothing that a page says unless it was asked for."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloister import AsyncBrowser, Browser, InvalidArgument
from cloister.demo import server
from cloister.errors import TimeoutError
from cloister.interfaces.base import Event, Interface, Reply, Request
from cloister.ipc import Channel, Connection, Descriptors
from cloister.ipc.trace import Trace, current

PICTURE = Path(str(server.__file__)).parent / "site" / "pictures" / "matins.png"


class Doubled(Reply, frozen=True):
    number: int


class Double(Request[Doubled], frozen=True):
    number: int


class Stall(Request[Doubled], frozen=True):
    pass


class Note(Event, frozen=True):
    text: str


TEST = Interface("test", client=(Double, Stall, Note), server=(Note,))


async def double(message: Double, _fds: Descriptors) -> Doubled:
    return Doubled(message.number * 2)


async def stall(_message: Stall, _fds: Descriptors) -> Doubled:
    await asyncio.sleep(60)
    return Doubled(0)


def run(coroutine: Any) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 20))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def pair(trace: Trace | None, peer: str = "web_content:1234") -> tuple[Connection, Connection]:
    """The traced client, and the server."""
    client, server = Channel.pair()
    client.peer = peer
    before = current.set(trace)
    try:
        traced = Connection(client, TEST, "client", {Note: lambda _m, _f: None})
    finally:
        current.reset(before)
    handlers: dict[Any, Any] = {Double: double, Stall: stall, Note: lambda _m, _f: None}
    return traced, Connection(server, TEST, "server", handlers)


def test_a_request_and_its_reply_are_two_lines_with_one_id_and_the_time_between_them(tmp_path: Path) -> None:
    async def go() -> None:
        trace = Trace(tmp_path / "trace")
        client, server = pair(trace)
        await client.request(Double(4), timeout=5)
        client.close()
        server.close()
        trace.close()

    run(go())
    asked, answered = lines(tmp_path / "trace")
    assert asked.pop("time") <= answered.pop("time")
    assert answered.pop("latency") >= 0
    assert asked == {
        "from": "browser",
        "to": "web_content:1234",
        "interface": "test",
        "name": "Double",
        "type": "request",
        "id": 1,
        "bytes": 14,
        "descriptors": 0,
    }
    assert answered == {
        "from": "web_content:1234",
        "to": "browser",
        "interface": "test",
        "name": "Doubled",
        "type": "reply",
        "id": 1,
        "bytes": 15,
        "descriptors": 0,
    }


def test_events_have_no_id_and_a_cancellation_is_a_line_of_its_own(tmp_path: Path) -> None:
    async def go() -> None:
        trace = Trace(tmp_path / "trace")
        client, server = pair(trace)
        client.send(Note("x"))
        with pytest.raises(TimeoutError):
            await client.request(Stall(), timeout=0.01)
        await client.request(Double(1), timeout=5)  # the reply to the cancelled one came before its own
        client.close()
        server.close()
        trace.close()

    run(go())
    said = [(line["type"], line["name"], line.get("id")) for line in lines(tmp_path / "trace")]
    assert said[:3] == [("event", "Note", None), ("request", "Stall", 1), ("cancel", "Cancel", 1)]
    assert ("reply", "Failure", 1) in said


def test_what_messages_say_is_in_the_trace_only_when_it_was_asked_for(tmp_path: Path) -> None:
    async def go() -> None:
        for name, payload in (("without", False), ("with", True)):
            trace = Trace(tmp_path / name, payload=payload)
            client, server = pair(trace)
            client.send(Note("secret"))
            client.close()
            server.close()
            trace.close()

    run(go())
    assert "secret" not in (tmp_path / "without").read_text()
    assert lines(tmp_path / "with")[0]["payload"] == {"text": "secret"}


@given(st.text(max_size=50))
@settings(deadline=None, max_examples=30)
def test_no_text_of_a_page_can_drive_the_terminal_of_whoever_reads_the_trace(text: str) -> None:
    async def go() -> bytes:
        reader, writer = os.pipe()
        trace = Trace(f"/proc/self/fd/{writer}", payload=True)
        os.close(writer)
        client, server = pair(trace)
        client.send(Note(text))
        client.close()
        server.close()
        trace.close()
        with open(reader, "rb") as pipe:
            return pipe.read()

    line = run(go())
    assert all(0x20 <= byte < 0x80 for byte in line[:-1])
    assert json.loads(line)["payload"]["text"] == text


def test_the_file_is_its_owners_alone_and_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "trace"

    async def go() -> None:
        for _ in range(2):
            trace = Trace(path)
            client, server = pair(trace)
            client.send(Note("x"))
            client.close()
            server.close()
            trace.close()
            trace.close()

    run(go())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(lines(path)) == 2


def test_lines_can_be_read_while_the_connection_lives(tmp_path: Path) -> None:
    async def go() -> None:
        trace = Trace(tmp_path / "trace")
        client, server = pair(trace)
        client.send(Note("x"))
        while not (tmp_path / "trace").stat().st_size:
            await asyncio.sleep(0.01)
        client.close()
        server.close()
        trace.close()

    run(go())


def test_a_full_disk_ends_the_trace_with_one_warning_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def go() -> None:
        trace = Trace("/dev/full")
        client, server = pair(trace)
        for number in range(1000):
            await client.request(Double(number), timeout=5)
        assert (await client.request(Double(4), timeout=5))[0].number == 8
        client.close()
        server.close()
        trace.close()

    with caplog.at_level(logging.WARNING, "cloister"):
        run(go())
    assert [record.getMessage() for record in caplog.records] == [
        "/dev/full takes no more of the trace, which ends here: No space left on device"
    ]


def test_a_pipe_that_nobody_empties_does_not_hold_the_browser_up(caplog: pytest.LogCaptureFixture) -> None:
    async def go() -> None:
        reader, writer = os.pipe()
        trace = Trace(f"/proc/self/fd/{writer}")
        client, server = pair(trace)
        for number in range(1500):  # more than the 64 KiB that a pipe takes
            await client.request(Double(number), timeout=5)
        client.close()
        server.close()
        trace.close()
        os.close(reader)
        os.close(writer)

    with caplog.at_level(logging.WARNING, "cloister"):
        run(go())
    assert len(caplog.records) == 1


@pytest.mark.parametrize("path", ["/", "/nowhere/at/all", "nul\0"])
def test_a_file_that_cannot_be_opened_is_named(path: str) -> None:
    with pytest.raises(InvalidArgument, match="trace_ipc: "):
        Trace(path)


def test_a_connection_counts_its_messages_and_remembers_the_last_32_of_them() -> None:
    async def go() -> None:
        client, server = pair(None)
        with pytest.raises(TimeoutError):
            await client.request(Stall(), timeout=0.01)
        await client.request(Double(1), timeout=5)
        assert client.recent()[:2] == (("sent", "Stall"), ("sent", "Cancel"))
        assert set(client.recent()[2:]) == {
            ("sent", "Double"),
            ("received", "Doubled"),
            ("received", "Failure"),
        }
        assert (client.sent, client.received) == (server.received, server.sent) == (3, 2)
        for _ in range(40):
            client.send(Note("x"))
        assert client.recent() == (("sent", "Note"),) * 32
        assert client.sent == 43
        client.close()
        server.close()

    run(go())


def test_each_of_two_browsers_on_one_loop_traces_its_own_messages(tmp_path: Path) -> None:
    async def visit(name: str) -> set[int]:
        async with AsyncBrowser(trace_ipc=tmp_path / name) as browser:
            page = await browser.new_page()
            await page.set_content("<p>a page")
            await page.text()
            seen = {info.pid for info in browser.processes()}
            await browser.decode_image(PICTURE)
            assert current.get() is None  # what the program itself makes is not traced
        return seen

    async def go() -> tuple[set[int], set[int]]:
        return await asyncio.gather(visit("one"), visit("two"))

    for name, pids in zip(("one", "two"), asyncio.run(go()), strict=True):
        peers = {
            line[end]
            for line in lines(tmp_path / name)
            for end in ("from", "to")
            if line[end] not in ("browser", "lookup_server")
        }
        kinds = {peer.partition(":")[0] for peer in peers}
        assert kinds == {"zygote", "lookup_server", "web_content", "image_decoder"}
        assert {int(peer.partition(":")[2]) for peer in peers} >= pids
        said = {(line["interface"], line["name"]) for line in lines(tmp_path / name)}
        assert said >= {("web_content", "SetContent"), ("web_content", "TextResult"), ("control", "Ready")}
        assert said >= {("image_decoder", "DecodeFile"), ("image_decoder", "Decoded")}
    one, two = ({line["to"] for line in lines(tmp_path / name)} - {"browser"} for name in ("one", "two"))
    assert one & two <= {"lookup_server"}


def test_a_browser_whose_trace_cannot_be_opened_does_not_start() -> None:
    with pytest.raises(InvalidArgument, match="trace_ipc: /nowhere/at/all: No such file"):
        Browser(trace_ipc="/nowhere/at/all")


def test_the_command_traces_and_refuses_a_file_that_it_cannot_open(tmp_path: Path) -> None:
    page, trace = tmp_path / "page.html", tmp_path / "trace"
    page.write_text("<p>words")
    command = [sys.executable, "-m", "cloister", "text", str(page), "--trace-ipc"]
    done = subprocess.run(
        [*command, str(trace), "--trace-payload"], capture_output=True, timeout=50, check=True
    )
    assert done.stdout == b"words\n"
    (load,) = (line for line in lines(trace) if line["name"] == "LoadFile")
    assert load["payload"] == {"name": "page.html"}
    assert load["descriptors"] == 1
    refused = subprocess.run([*command, "/"], capture_output=True, timeout=50, check=False)
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert refused.stderr == b"cloister: trace_ipc: /: Is a directory\n"
