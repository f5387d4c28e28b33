"""Clients that mean harm: whatever one does, it ends its own process, and neither the portal nor another client."""

from __future__ import annotations

import array
import asyncio
import os
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Callable

import msgspec
import pytest

from cloister.browser.portal import KINDS, Portal
from cloister.ipc.codec import Packet

from .portals import (
    Page,
    Run,
    connect_in_turn,
    connected,
    decoded,
    end_of,
    gone,
    portal,
    run,
    runner,
    until,
)

__all__ = ["portal", "run", "runner"]


def packet(kind: Packet, request: int, message: object) -> bytes:
    return struct.pack("<BI", kind, request) + msgspec.msgpack.encode(message)


def with_descriptors(client: socket.socket, data: bytes, fds: list[int]) -> None:
    client.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])


def says_nothing_in_a_packet(client: socket.socket) -> None:
    client.send(b"")


def sends_a_short_packet(client: socket.socket) -> None:
    client.send(b"\1\1")


def sends_what_is_no_message(client: socket.socket) -> None:
    client.send(b"\1\1\0\0\0" + b"\xff" * 100)


def sends_a_packet_of_no_known_type(client: socket.socket) -> None:
    client.send(b"\x09\1\0\0\0\x90")


def sends_a_message_of_another_interface(client: socket.socket) -> None:
    client.send(packet(Packet.REQUEST, 1, ["Fork", b"", 0, False]))


def answers_what_nobody_asked(client: socket.socket) -> None:
    client.send(packet(Packet.REPLY, 1, ["Failure", "no_process", ""]))


def sends_more_than_a_packet_may_hold(client: socket.socket) -> None:
    client.send(bytes(100_000))


def sends_descriptors_that_no_message_has(client: socket.socket) -> None:
    with_descriptors(client, packet(Packet.REQUEST, 1, ["GetLinks"]), [0])


def sends_more_descriptors_than_any_message_has(client: socket.socket) -> None:
    with_descriptors(client, packet(Packet.REQUEST, 1, ["GetLinks"]), [0] * 100)


def sends_a_pipe_for_a_picture(client: socket.socket) -> None:
    reader, writer = os.pipe()
    with_descriptors(client, packet(Packet.REQUEST, 1, ["Paint", 0, 0, 10, 10]), [writer])
    os.close(reader)
    os.close(writer)


def sends_its_own_socket_and_leaves(client: socket.socket) -> None:
    with_descriptors(client, packet(Packet.REQUEST, 1, ["GetLinks"]), [client.fileno()])
    client.shutdown(socket.SHUT_RDWR)


HOSTILE = [
    says_nothing_in_a_packet,
    sends_a_short_packet,
    sends_what_is_no_message,
    sends_a_packet_of_no_known_type,
    sends_a_message_of_another_interface,
    answers_what_nobody_asked,
    sends_more_than_a_packet_may_hold,
    sends_descriptors_that_no_message_has,
    sends_more_descriptors_than_any_message_has,
    sends_a_pipe_for_a_picture,
    sends_its_own_socket_and_leaves,
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attack", HOSTILE)
def test_a_client_that_breaks_the_protocol_ends_its_own_process_only(
    run: Run, portal: Portal, kind: str, attack: Callable[[socket.socket], None]
) -> None:
    async def go() -> None:
        with Page(portal) as bystander:
            assert await bystander.says("before")
            client, child = await connected(portal, kind)
            attack(client)
            await end_of(client)
            client.close()
            await until(lambda: gone(child.pid))
            assert await bystander.says("after")

    run(go())


def test_a_client_that_asks_for_ever_and_never_reads_ends_its_own_process_only(
    run: Run, portal: Portal
) -> None:
    async def go() -> None:
        client, child = await connected(portal, "web_content")
        with Page(portal) as bystander:
            assert await bystander.says("before")
            with pytest.raises((BrokenPipeError, ConnectionResetError)):
                for number in range(1, 1_000_000):
                    while True:
                        try:
                            client.send(packet(Packet.REQUEST, number, ["GetLinks"]))
                            break
                        except BlockingIOError:
                            await asyncio.sleep(0.001)
            await until(lambda: gone(child.pid))
            assert await bystander.says("after")
        client.close()

    run(go())


def test_clients_that_come_and_go_at_once_leave_nothing(run: Run, portal: Portal) -> None:
    async def go() -> None:
        before = set(os.listdir("/proc/self/fd"))
        for _ in range(60):
            for kind in KINDS:
                (await connect_in_turn(portal, kind)).close()
        assert (await decoded(portal)).format == "PNG"
        await until(lambda: not portal.processes)
        assert set(os.listdir("/proc/self/fd")) == before

    run(go())


OTHER_USER = """
import os, socket, sys
client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
try:
    client.connect(sys.argv[1])
except PermissionError:
    sys.exit(13)
client.settimeout(30)
assert client.recv(1000) == b""
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_does_not_get_in_and_is_turned_away_where_the_folder_is_open(
    run: Run, portal: Portal, caplog: pytest.LogCaptureFixture
) -> None:
    def come() -> int:
        command = [sys.executable, "-c", OTHER_USER, str(portal.sockets["web_content"])]
        return subprocess.run(command, timeout=50, check=False).returncode

    async def go() -> None:
        path = portal.sockets["web_content"]
        assert await asyncio.to_thread(come) == 13
        folders = [folder for folder in path.parents if folder.stat().st_mode & 0o001 == 0]
        modes = {opened: stat.S_IMODE(opened.stat().st_mode) for opened in (path, *folders)}
        for opened, mode in modes.items():
            opened.chmod(mode | 0o077)
        try:
            assert await asyncio.to_thread(come) == 0
        finally:
            for opened, mode in modes.items():
                opened.chmod(mode)
        assert "of user 65534 was turned away" in caplog.text
        assert not portal.processes

    run(go())
