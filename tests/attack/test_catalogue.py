"""The whole catalogue, from inside every kind of process: nothing gets through, and little hangs on a single layer."""

from __future__ import annotations

import errno

import pytest

from cloister import sandbox
from cloister.attack.attempt import KINDS, Harm
from cloister.attack.catalogue import CATALOGUE
from cloister.cli.attack import COLUMNS, Row, Survey, Verdict, judge
from cloister.interfaces.attack import Tried
from cloister.sandbox import Layer

ALONE = {
    # A page reads fonts, so its filter lets it ask about paths, which Landlock does not judge.
    "ask whether a file is there",
    # Closing descriptors and emptying the environment each come after a launcher that hands over neither.
    "find a descriptor that was left open", "read what the user types", "write where the user reads",
    "read the environment", "read the environment it was started with",
    # What a held descriptor lets be done with itself, to nobody else.
    "listen on a channel", "accept on a channel", "choose the signal of a channel", "put a filter on a channel",
    "ask a channel about the network", "grow the pipe of its last words", "lock what it holds",
    # A little of the kernel's memory each; the number of them is limited by that of descriptors or of signals.
    "make a pipe", "make a counter", "make a timer", "reserve room for a file",
    # Keys of its own, and of the user that it is inside, which has none.
    "keep a key", "take the keyring of its user",
    # Code that was never written in memory: the kernel has no other switch for it. (To run a memfd there is one, for
    # those whom root started.)
    "map code from a memfd", "map code twice", "run a program from memory",
    # The kernel's own surface, and what it tells: nothing of it reaches anybody by itself.
    "call as a 32 bit program", "call as an x32 program", "unshare as an x32 program",
    "call a number that has no name", "change its segments",
    "have its calls delivered to itself", "splice memory into a pipe", "use the old asynchronous io",
    "hide memory from the kernel", "change the order of its pages", "watch its own performance",
    "stop itself at a page", "read the machine's name", "change quotas", "ask for a cookie", "list every mount",
    "change its security module's label", "read the kernel's log",
    "make a ruleset", "add a filter", "have its calls judged by another", "survive a violation",
    # Its own bits: each is one of the layers, and what it guards has others.
    "be readable again", "outlive its parent", "die by a signal of its choice", "choose who traces it",
    "be given orphans", "trap its clock", "speculate", "share a core", "set strict seccomp",
    # Sockets that reach nobody in an empty network; the first of them is the one that is not of a network.
    "reach the hypervisor", "use the kernel's ciphers", "make a Unix socket", "ask the kernel for its routes",
    "ask the kernel about sockets", "change the firewall", "take a datagram port", "listen without binding",
    # It may connect to where its own code decides: another protocol, or another call, is no other place.
    "connect by multipath tcp", "connect by sending",
}  # fmt: skip
"""What one layer alone denies, on some machine."""

ONE_LAYER = {Harm.LEFT_DESCRIPTORS, Harm.ENVIRONMENT}
"""Harms that no attempt shows two layers against: the other one is on the launcher's side."""

SOMETIMES = {
    "account for processes", "advise on the memory of another", "ask for a cookie", "become root", "bend the clock",
    "call a number that has no name", "call as a 32 bit program", "call as an x32 program",
    "call with a high half set", "change its root folder", "change its security module's label",
    "change its segments", "change the firewall", "change the root", "choose what is run at a crash",
    "choose what is run at an event", "choose what is run to load a module",
    "choose what is run when a cgroup empties", "choose what runs a kind of file", "choose who traces it",
    "climb out of the font folder", "clone a tree", "compare with another process",
    "connect a channel elsewhere", "connect by multipath tcp", "enter the namespaces of another", "find a key",
    "flush for a disk", "fork into a user namespace", "fork into a user namespace by the new call",
    "gain privileges by a program", "have a larger buffer", "have every capability",
    "hide memory from the kernel", "join more groups", "join the group of root", "keep a key",
    "leave by the root of the first process", "leave its cgroup", "lie about who it is", "list every mount",
    "list everybody's keys", "load a bpf program", "load a module", "load a module from a file",
    "make a bpf map", "make a cgroup namespace", "make a device", "make a file system",
    "make a mount namespace", "make a mount writable", "make a network namespace", "make a packet socket",
    "make a packet socket without headers", "make a pid namespace", "make a queue", "make a raw socket",
    "make a raw socket by a ring", "make a raw socket of IPv6", "make a ring", "make a terminal",
    "make a time namespace", "make a user namespace", "make a virtual machine", "map a library",
    "map the first page", "mark the packets of a channel", "mount", "mount in user space", "move a mount",
    "move its own memory map", "name the machine", "name the machine's domain", "open a file by a ring",
    "open a file by its handle", "open a namespace of the first process", "open a queue by name",
    "overwrite its own program", "paste into the console", "pick a mount", "press the magic key",
    "put another into a group", "raise an ambient capability", "raise the limit of descriptors",
    "raise the limit of memory", "raise the limit of processes", "reach one port", "reach the hypervisor",
    "reach the ports", "read a key", "read from the disk before everybody", "read the kernel's log",
    "read the kernel's memory", "read the kernel's symbols", "read the machine's memory",
    "read the users' passwords", "replace the kernel", "replace the kernel from a file", "request a key",
    "restart the machine", "run before everybody", "run without a break", "set the limits of another",
    "set strict seccomp", "set the clock", "share a core", "signal its neighbours", "signal the first process",
    "speculate", "stop itself at a page", "stop swapping", "stop the kernel at a page", "swap to a file",
    "take all descriptors", "take the terminal", "take the keyring of its user", "talk to the terminal",
    "trace another process", "type into the terminal", "unload a module", "unlock its secure bits", "unmount",
    "unshare as a 32 bit program", "unshare as an x32 program", "use the kernel's ciphers", "watch every file",
    "watch its own performance", "watch the whole machine", "write into the font folder",
}  # fmt: skip
"""What not every user may, or not every kernel has. Anybody can do the rest, anywhere."""


@pytest.mark.parametrize("name", CATALOGUE)
def test_it_gets_through_nowhere(name: str, surveyed: Survey) -> None:
    row = row_of(surveyed, name)
    assert set(row.cells) == set(COLUMNS)
    through = [kind for kind, cell in row.cells.items() if cell.verdict is Verdict.THROUGH]
    assert not through, f"{through} could {name}: {row.sentence}"


def row_of(surveyed: Survey, name: str) -> Row:
    return next(row for row in surveyed.rows if row.name == name)


def test_every_kind_makes_more_than_two_hundred_attempts() -> None:
    assert len(CATALOGUE) > 200
    assert {attempt.harm for attempt in CATALOGUE.values()} == set(Harm)
    assert all(attempt.sentence.endswith(".") for attempt in CATALOGUE.values())
    assert {*KINDS, "zygote"} < set(COLUMNS)


def test_what_is_allowed_is_what_the_process_is_for(surveyed: Survey) -> None:
    allowed: dict[str, set[str]] = {}
    for row in surveyed.rows:
        for kind, cell in row.cells.items():
            if cell.verdict is Verdict.ALLOWED:
                allowed.setdefault(kind, set()).add(row.name)
    connecting = {
        "connect to this machine",
        "aim at the metadata service",
        "send a datagram",
    }
    assert allowed["lookup_server"] == connecting
    assert not allowed.keys() & {"web_content", "request_server", "image_decoder", "plugin_host"}
    assert allowed["zygote"] >= {"fork", "signal who forked it"}
    assert allowed["zygote of lookup_server"] == connecting | allowed["zygote"]
    assert allowed["zygote of web_content"] == allowed["zygote"]


def test_what_hangs_on_one_layer_is_known(surveyed: Survey, this_machine: sandbox.Machine) -> None:
    if not this_machine.available >= set(Layer):
        pytest.skip("this machine lacks a layer")
    children = set(KINDS)
    alone = {
        row.name for row in surveyed.rows for kind in children if row.cells[kind].alone and kind in children
    }
    assert alone <= ALONE


def test_every_class_of_harm_has_two_layers_against_it(
    surveyed: Survey, this_machine: sandbox.Machine
) -> None:
    if not this_machine.available >= set(Layer):
        pytest.skip("this machine lacks a layer")
    absent = {row.harm for row in surveyed.rows if all_absent(surveyed, row.harm)}
    for kind in KINDS:
        twice = {row.harm for row in surveyed.rows if len(row.cells[kind].layers) >= 2}
        assert twice >= {harm.value for harm in Harm} - ONE_LAYER - absent, kind


def all_absent(surveyed: Survey, harm: str) -> bool:
    """Whether this kernel has nothing of the sort: no process can, though nothing that could be taken off denies it."""
    rows = [row for row in surveyed.rows if row.harm == harm]
    return not any(row.control or any(cell.alone for cell in row.cells.values()) for row in rows)


@pytest.mark.parametrize("name", CATALOGUE)
def test_it_is_an_attempt_that_succeeds_where_nothing_holds_the_process(name: str, surveyed: Survey) -> None:
    """A test of the tests: a denial must not come from an attempt that could never work."""
    could = row_of(surveyed, name).control
    if name in SOMETIMES and not could:
        pytest.skip("this user may not, or this kernel has no such thing")
    assert could


def test_an_error_that_no_layer_gives_is_no_denial() -> None:
    """Arguments were looked at: whoever has better ones gets through."""
    restart = CATALOGUE["restart the machine"]
    assert judge(restart, Tried(errno.EINVAL, "reboot", filtered=False)).verdict is Verdict.THROUGH
    assert judge(restart, Tried(errno.EPERM, "reboot", filtered=False)).layers == (Layer.CAPABILITIES,)
    assert judge(restart, Tried(errno.EPERM, "reboot", filtered=True)).layers == (Layer.SECCOMP,)
    assert judge(restart, Tried(errno.ENOSYS, "reboot", filtered=False)).verdict is Verdict.ABSENT
    assert judge(restart, Tried(0, "reboot", filtered=False)).verdict is Verdict.THROUGH
    assert judge(restart, Tried(0, "", filtered=False, signal=11)).verdict is Verdict.THROUGH
