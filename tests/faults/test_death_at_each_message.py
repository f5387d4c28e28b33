"""Each process dies at each message that it sends or is sent. Whoever waited gets a result or an error with a name,
the page beside notices nothing, the browser goes on, and nothing is left of what was."""

from __future__ import annotations

import pytest

from cloister.interfaces.event_source import ServerSentEvent
from cloister.interfaces.requests import REQUESTS
from cloister.interfaces.web_socket import OpenWebSocket, WebSocketMessage
from cloister.interfaces.zygote import BRANCH, Fork, Forked
from cloister.process.kinds import MODULES, OF_PLUGINS
from tests.faults.hooks import Hooks, Seen, When
from tests.faults.lines import KINDS, LINES, OF_OTHERS, UNREACHABLE, Line, Point, every_interface, points
from tests.faults.world import STEPS, World

POINTS = points()
OWN = Line("browser", "request_server", REQUESTS)
USUAL = [
    point
    for point in POINTS
    if (
        point.line.interface is not BRANCH
        or point.victim == "branch of web_content"
        or point.message in (Fork, Forked)
    )
    and (point.line != OWN or point.message in (OpenWebSocket, WebSocketMessage, ServerSentEvent))
]
"""The branches have one program: that each dies at a ping is left to `make faults`. So are the other messages of a
request_server that only the program speaks to."""


@pytest.fixture(scope="module")
def hooks(patch: pytest.MonkeyPatch) -> Hooks:
    return Hooks(patch)


@pytest.fixture(scope="module")
def world(hooks: Hooks, world: World) -> World:
    """After the hooks: they are to know every process."""
    return world


@pytest.fixture(scope="module")
def steps(world: World, hooks: Hooks) -> dict[Seen, str]:
    """In which step each message is seen first, when nobody dies."""
    found: dict[Seen, str] = {}

    async def all_of_them() -> None:
        for name, step in STEPS.items():
            hooks.seen.clear()
            await step(world)
            found.update({seen: name for seen in hooks.seen if seen not in found})
        await world.all_is_well()

    world.run(all_of_them())
    return found


def test_every_interface_is_spoken_on_a_line_and_every_kind_dies() -> None:
    assert {line.interface for line in LINES} == every_interface() - OF_OTHERS
    of_pages = set(MODULES) - OF_PLUGINS
    assert {"zygote", *KINDS} == of_pages
    assert of_pages <= {point.victim for point in POINTS}


def test_every_message_is_sent_by_the_scenario_or_has_a_reason(steps: dict[Seen, str]) -> None:
    wanted = {(point.line, point.sender, point.message) for point in POINTS}
    silent = [f"{line}: {message.__name__}" for line, _, message in wanted - set(steps)]
    assert not silent, (
        f"the scenario has nobody send these: {silent}; let a step do it, or say why not in UNREACHABLE"
    )
    assert not set(steps) & set(UNREACHABLE), "what is sent needs no excuse"


async def _die_at(
    world: World, hooks: Hooks, point: Point, step: str, when: When = "before", nth: int = 1
) -> bool:
    """Whether it came to that."""
    await world.recover()
    standing = world.pids("zygote")
    if step not in ("load", "start and close", "lose"):
        await STEPS["load"](world)
    else:
        world.page = await world.new_page()
    hooks.spared = world.bystanders_pid
    hooks.arm(point, when, nth)
    for name in list(STEPS)[list(STEPS).index(step) :]:
        await STEPS[name](world)
        if hooks.has_struck:
            break
    hooks.disarm()
    struck = hooks.killed
    await world.page.context.close()
    hooks.killed = None
    pid = getattr(struck, "pid", 0)
    await world.all_is_well(died=pid if pid in standing else None)
    return struck is not None


@pytest.mark.parametrize("point", USUAL, ids=str)
def test_whoever_dies_at_a_message_takes_nobody_along(
    world: World, hooks: Hooks, steps: dict[Seen, str], point: Point
) -> None:
    step = steps[point.line, point.sender, point.message]
    assert world.run(_die_at(world, hooks, point, step)), "it was not sent again"


@pytest.mark.exhaustive
@pytest.mark.timeout(300)
@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("point", POINTS, ids=str)
def test_each_time_before_and_after(
    world: World, hooks: Hooks, steps: dict[Seen, str], point: Point, when: When, nth: int
) -> None:
    step = steps[point.line, point.sender, point.message]
    if not world.run(_die_at(world, hooks, point, step, when, nth)):
        pytest.skip("the scenario sends it less often")
