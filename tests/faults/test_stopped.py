"""A process stops in the middle of its work. Whoever waits for it hears of it in time, and it is gone."""

from __future__ import annotations

import signal

import pytest

from cloister import CloisterError
from cloister.process import ChildProcess, supervisor
from tests.faults.hooks import Hooks
from tests.faults.lines import LINES, Point
from tests.faults.world import World

AT = {
    "web_content": ("browser-web_content web_content", "Load"),
    "request_server": ("web_content-request_server request_server", "Fetch"),
    "lookup_server": ("request_server-lookup_server lookup_server", "Connect"),
    "image_decoder": ("web_content-image_decoder image_decoder", "Decode"),
    "zygote": ("browser-zygote zygote", "Ping"),
    "branch of web_content": ("browser-branch of web_content zygote.branch", "Fork"),
}
"""Who stops, and before which message."""


@pytest.fixture(scope="module")
def hooks(patch: pytest.MonkeyPatch) -> Hooks:
    return Hooks(patch)


@pytest.fixture(scope="module")
def world(hooks: Hooks, patch: pytest.MonkeyPatch, world: World) -> World:
    for kind in supervisor.GRACE:
        patch.setitem(supervisor.GRACE, kind, 1.0)
    return world


def stop(child: ChildProcess) -> None:
    signal.pidfd_send_signal(child._pidfd, signal.SIGSTOP)


def point(kind: str) -> Point:
    name, message = AT[kind]
    (line,) = (line for line in LINES if str(line) == name)
    (sent,) = (sent for sent in line.interface.sent_by("client") if sent.__name__ == message)
    return Point(line, "client", sent, kind)


@pytest.mark.parametrize("kind", AT)
def test_who_stops_is_not_waited_for(world: World, hooks: Hooks, kind: str) -> None:
    async def go() -> None:
        await world.recover()
        standing = world.pids("zygote")
        page = await world.browser.new_page()
        hooks.spared = world.bystanders_pid
        hooks.arm(point(kind), strike=stop)
        outcome = await world.act(page.goto(world.server.url("/page"), timeout=700))
        assert kind == "zygote" or isinstance(outcome, CloisterError)
        victim = hooks.killed
        assert victim is not None
        await page.close()
        await victim.wait(5)
        died = victim.pid if victim.pid in standing else None
        del victim
        hooks.killed = None
        await world.all_is_well(died=died)

    world.run(go())
