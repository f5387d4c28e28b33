"""A plugin that speaks on the channel itself: whatever it says that is not due ends it, and nothing else."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from cloister import ends
from cloister.errors import CloisterError, OutputLimit, PluginCrashed, Timeout
from cloister.interfaces.base import Blob
from cloister.interfaces.plugin_host import CallHost, HostReturned, Logged, Outcome, Printed, Returned
from cloister.ipc.codec import Packet
from cloister.plugins.limits import Limits
from cloister.plugins.runtime import PluginRuntime

CODE = """
import os, stat, time

def sockets():
    return [n for n in range(3, 32) if exists(n) and stat.S_ISSOCK(os.fstat(n).st_mode)]

def exists(n):
    try: os.fstat(n)
    except OSError: return False
    return True

def send(packets, number):
    where = sockets()[number]
    for packet in packets:
        os.write(where, packet)
    time.sleep(30)

def reduce():
    class Trick:
        def __reduce__(self): return (print, ('gotcha',))
    return Trick()

def fine(): return 'fine'
"""
WORK = 1  # the second socket that the process holds; the first is its control channel


def packet(kind: int, number: int, message: object) -> bytes:
    import struct

    import msgspec

    return struct.pack("<BI", kind, number) + msgspec.msgpack.encode(message)


def returned(body: Blob | None = None, **given: int) -> Returned:
    return Returned(Outcome.VALUE, body or Blob(1, b"\xc0"), **given)


RAISED = b"\x93\xa1x\xa1y\xa1z"
FORGED = {
    "nothing known": b"\xff" * 100,
    "a header and no more": b"\0\0\0\0",
    "an answer to what was not asked": packet(Packet.REPLY, 77, returned()),
    "an answer as a request": packet(Packet.REQUEST, 2, returned()),
    "a request as an answer": packet(Packet.REPLY, 2, CallHost("f", Blob(1, b"\x90"))),
    "a message of the host": packet(Packet.REPLY, 2, HostReturned(Outcome.VALUE, Blob(1, b"\xc0"))),
    "buffers that did not come": packet(Packet.REPLY, 2, returned(buffers=3)),
    "a body that did not come": packet(Packet.REPLY, 2, returned(Blob(10**6))),
    "a body of another size": packet(Packet.REPLY, 2, returned(Blob(9, b"\xc0"))),
    "a value that does not decode": packet(Packet.REPLY, 2, returned(Blob(1, b"\xc1"))),
    "a value cut short": packet(Packet.REPLY, 2, returned(Blob(5, b"\xdd\xff\xff\xff\xff"))),
    "a value that nests too deep": packet(Packet.REPLY, 2, returned(Blob(20_001, b"\x91" * 20_000 + b"\xc0"))),
    "an extension that there is not": packet(Packet.REPLY, 2, returned(Blob(3, b"\xd4\x63\x00"))),
    "a buffer that is not there": packet(
        Packet.REPLY, 2, returned(Blob(11, b"\xc7\x08\x03\x95\xa1B\x91\x64\xc2\x00\xc0"))
    ),
    "a date that is none": packet(Packet.REPLY, 2, returned(Blob(6, b"\xc7\x03\x02abc"))),
    "a key that is a list": packet(Packet.REPLY, 2, returned(Blob(4, b"\x81\x91\x80\xc0"))),
    "an exception that is none": packet(Packet.REPLY, 2, Returned(Outcome.RAISED, Blob(1, b"\xc0"))),
    "arguments that are no list": packet(Packet.REQUEST, 5, CallHost("known", Blob(1, b"\xc0"))),
    "a cancellation": b"\x03\x02\0\0\0",
    "output without an end": packet(Packet.EVENT, 0, Printed(False, "x" * 15_000)),
    "a level that there is not": b"\0\0\0\0\0" + b"\x94\xa6Logged\xcd\x7f\xff\xa1x\xa1y",
}  # fmt: skip


@pytest.fixture
def forging(runtime: PluginRuntime) -> PluginRuntime:
    runtime.load_source(
        CODE, "forger", limits=Limits(output="16 KiB", result="1 MiB"), functions={"known": lambda *_: 1}
    )
    return runtime


@pytest.mark.parametrize("what", FORGED)
def test_what_is_not_due_ends_its_sender(forging: PluginRuntime, what: str) -> None:
    with pytest.raises(CloisterError) as caught:
        forging.call("forger", "send", [FORGED[what]] * 3, WORK, timeout=10)
    if what == "output without an end":
        assert isinstance(caught.value, OutputLimit)
    else:
        assert isinstance(caught.value, PluginCrashed), repr(caught.value)
        assert isinstance(caught.value.end, ends.BadMessage)
    assert forging.call("forger", "fine") == "fine"


def test_a_forged_answer_that_is_due_is_the_plugins_answer(forging: PluginRuntime) -> None:
    """It may answer what it likes; what it says too early is not due, and ends it with the next call."""
    assert forging.call("forger", "send", [packet(Packet.REPLY, 2, returned())], WORK, timeout=10) is None
    with pytest.raises((PluginCrashed, Timeout)):
        forging.call("forger", "fine", timeout=0.5)
    assert forging.call("forger", "fine") == "fine"


@pytest.mark.parametrize("what", ["nothing known", "a message of the host"])
def test_the_control_channel_is_judged_too(forging: PluginRuntime, what: str) -> None:
    with pytest.raises(PluginCrashed) as caught:
        forging.call("forger", "send", [FORGED[what]], 0, timeout=10)
    assert isinstance(caught.value.end, ends.BadMessage)
    assert forging.call("forger", "fine") == "fine"


def test_any_bytes_end_it_or_are_a_message(forging: PluginRuntime) -> None:
    random = Random(5)
    whole = [
        packet(Packet.REPLY, 2, returned()),
        packet(Packet.EVENT, 0, Logged(3, "x", "y")),
        *FORGED.values(),
    ]
    for _ in range(40):
        packets = []
        for _ in range(20):
            spoiled = bytearray(random.choice(whole)[:2000])
            for _ in range(random.randrange(1, 4)):
                spoiled[random.randrange(len(spoiled))] = random.randrange(256)
            packets.append(bytes(spoiled))
        try:
            forging.call("forger", "send", packets, WORK, timeout=2)
        except (PluginCrashed, OutputLimit):
            pass
        forging.restart("forger")
        assert forging.call("forger", "fine") == "fine"


def test_a_class_of_the_plugins_does_not_travel(forging: PluginRuntime) -> None:
    with pytest.raises(CloisterError, match="Trick, which does not travel"):
        forging.call("forger", "reduce")


def test_nothing_of_ours_receives_a_pickle_or_a_marshal() -> None:
    import cloister

    for file in Path(cloister.__file__).parent.rglob("*.py"):
        text = file.read_text()
        assert "pickle.load" not in text
        assert "marshal.load" not in text or file.parent.name == "plugin_host"
