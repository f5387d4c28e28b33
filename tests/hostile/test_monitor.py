"""Both ends of a browser's monitor: a client that was taken over, and a socket behind which there is no browser."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from random import Random

import pytest

from cloister.cli.lookout import Lookout
from cloister.process import monitor
from tests.faults.world import World
from tests.hostile.messages import BOUNDARIES, Forger, Verdict, judge

CLIENT, BROWSER = (
    next(each for each in BOUNDARIES if str(each) == f"monitor from its {side}")
    for side in ("client", "server")
)
SENT = 1_000


def test_a_client_of_the_monitor_ends_nothing_but_its_own_connection(world: World) -> None:
    async def one(folder: int, name: str, random: Random) -> int:
        channel, forger, sent = monitor.connect(folder, name), Forger(CLIENT, random), 0
        verdict = Verdict.EVENT
        while verdict is not Verdict.BAD:
            data = forger.packet({})
            verdict, _ = judge(data, CLIENT, {})
            channel.send(data)
            sent += 1
        async with asyncio.timeout(10):
            await _closed(channel.fileno())
        channel.close()
        return sent

    async def go() -> None:
        await world.recover()
        folder, sent, random = monitor.open_folder(create=False), 0, Random(1)
        (name,) = monitor.sockets(folder)
        while sent < SENT:
            sent += await one(folder, name, random)
        os.close(folder)
        await world.all_is_well()

    world.run(go())


async def _closed(fd: int) -> None:
    while True:
        try:
            if not os.read(fd, 65536):
                return
        except BlockingIOError:
            await asyncio.sleep(0.001)
        except ConnectionResetError:
            return


def test_what_is_no_browser_is_not_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any program of the user can listen there."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))

    async def go() -> None:
        folder = monitor.open_folder(create=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as listener:
            listener.bind(f"/proc/self/fd/{folder}/{os.getpid()}-1.sock")
            listener.listen(8)
            loop, random = asyncio.get_running_loop(), Random(2)
            for _ in range(50):
                lookout = Lookout()
                looking = asyncio.ensure_future(lookout.look())
                client, _ = await loop.sock_accept(listener)
                with client:
                    forger = Forger(BROWSER, random)
                    await loop.sock_recv(client, 65536)
                    try:
                        while not looking.done():
                            client.send(forger.packet({}))
                            await asyncio.sleep(0)
                    except OSError:
                        pass
                    assert await looking == []
                lookout.close()
        os.close(folder)

    asyncio.run(go())
