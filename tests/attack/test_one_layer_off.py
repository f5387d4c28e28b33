"""Which layers stand in the way of an attempt, one of them switched off at a time, or all but one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest

from cloister import sandbox
from cloister.attack.attempt import KINDS
from cloister.attack.catalogue import CATALOGUE
from cloister.cli.attack import Cell, Rounds, Verdict
from cloister.cli.targets import targets
from cloister.interfaces.attack import Targets
from cloister.sandbox import NAMESPACES, Layer

FILES = {Layer.SECCOMP, Layer.LANDLOCK, Layer.EMPTY_ROOT}
OTHERS = {Layer.SECCOMP, Layer.LANDLOCK_SCOPE, Layer.PID_NAMESPACE}
STANDING: Mapping[str, set[Layer]] = {
    "open a file": FILES,
    "make a file": FILES,
    "overwrite a file": FILES,
    "list a folder": FILES,
    "read the environment of another": FILES,
    "open the memory of another": FILES,
    "run a program": FILES,
    "connect to this machine": {Layer.SECCOMP, Layer.LANDLOCK_NETWORK, Layer.NETWORK_NAMESPACE},
    "take a port": {Layer.SECCOMP, Layer.LANDLOCK_NETWORK},
    "connect to an abstract socket": {Layer.SECCOMP, Layer.LANDLOCK_SCOPE, Layer.NETWORK_NAMESPACE},
    "send to an abstract socket": {Layer.SECCOMP, Layer.LANDLOCK_SCOPE, Layer.NETWORK_NAMESPACE},
    "fork": {Layer.SECCOMP, Layer.LIMITS},
    "start a thread": {Layer.SECCOMP, Layer.LIMITS},
    "signal a process outside": OTHERS,
    "queue a signal": OTHERS,
    "trace another process": {Layer.SECCOMP, Layer.LANDLOCK, Layer.PID_NAMESPACE},
    "read the memory of another": {Layer.SECCOMP, Layer.LANDLOCK, Layer.PID_NAMESPACE},
    "take a descriptor of another": {Layer.SECCOMP, Layer.LANDLOCK, Layer.PID_NAMESPACE},
    "write code and make it executable": {Layer.SECCOMP, Layer.NO_EXECUTABLE_MEMORY},
    "map writable code": {Layer.SECCOMP, Layer.NO_EXECUTABLE_MEMORY},
    "make a user namespace": {Layer.SECCOMP, Layer.USER_NAMESPACE},
    "mount": {Layer.SECCOMP, Layer.CAPABILITIES},
    "make a raw socket": {Layer.SECCOMP, Layer.CAPABILITIES},
    "attach shared memory": {Layer.SECCOMP, Layer.IPC_NAMESPACE},
    "open a queue by name": {Layer.SECCOMP, Layer.IPC_NAMESPACE},
    "make a ring": {Layer.SECCOMP, Layer.LIMITS},
}
"""Each attempt, and the layers any one of which denies it."""

SWITCHES = {
    Layer.SECCOMP,
    Layer.LANDLOCK,
    Layer.EMPTY_ROOT,
    Layer.LIMITS,
    Layer.NO_EXECUTABLE_MEMORY,
}
LANDLOCK = {Layer.LANDLOCK, Layer.LANDLOCK_NETWORK, Layer.LANDLOCK_SCOPE}
APART = {*NAMESPACES, Layer.EMPTY_ROOT}
SWITCHED_OFF = {
    "nothing": set[Layer](),
    "seccomp": {Layer.SECCOMP},
    "Landlock": LANDLOCK,
    "limits": {Layer.LIMITS},
    "W xor X by the kernel": {Layer.NO_EXECUTABLE_MEMORY},
    "namespaces": APART,
    "seccomp and namespaces": {Layer.SECCOMP, *APART},
    "seccomp and Landlock": {Layer.SECCOMP, *LANDLOCK},
    "seccomp and limits": {Layer.SECCOMP, Layer.LIMITS},
}
ALLOWED = {("lookup_server", "connect to this machine")}


@pytest.fixture(scope="module")
def at() -> Iterator[Targets]:
    with targets() as found:
        yield found


@pytest.mark.parametrize("switched_off", SWITCHED_OFF)
def test_each_layer_that_is_left_denies_it(
    switched_off: str, at: Targets, this_machine: sandbox.Machine
) -> None:
    off = SWITCHED_OFF[switched_off]
    expected = {
        (kind, name)
        for kind in KINDS
        for name, layers in STANDING.items()
        if (left_in(kind, layers) - off) & this_machine.available
    } - ALLOWED
    names = sorted({name for _, name in expected})
    attempts = {kind: [CATALOGUE[name] for name in names] for kind in KINDS}
    with Rounds(at, [], lambda _done, _of: None) as rounds:
        found = rounds.begin(off & SWITCHES, attempts=attempts, isolated=not off & APART).result()
    through = {case: found[case[0]][case[1]] for case in expected if not is_denied(found[case[0]][case[1]])}
    assert not through
    assert expected


def left_in(kind: str, layers: set[Layer]) -> set[Layer]:
    """Those that ``kind`` has: a page opens fonts, and the lookup_server is in the host's network."""
    if kind == "web_content" and layers is FILES:
        return layers - {Layer.SECCOMP}
    return layers - {Layer.NETWORK_NAMESPACE} if kind == "lookup_server" else layers


def is_denied(cell: Cell) -> bool:
    return cell.verdict in (Verdict.DENIED, Verdict.ABSENT)


def test_without_any_of_its_layers_it_gets_through(at: Targets) -> None:
    """A test of the tests: the switches do switch off."""
    attempts = {
        "image_decoder": [CATALOGUE["open a file"], CATALOGUE["map writable code"], CATALOGUE["fork"]]
    }
    with Rounds(at, [], lambda _done, _of: None) as rounds:
        found = rounds.begin(SWITCHES, attempts=attempts, isolated=False).result()
    assert [cell.verdict for cell in found["image_decoder"].values()] == [Verdict.THROUGH] * 3
