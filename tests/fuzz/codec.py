"""``make fuzz``: the decoder of every interface, under atheris, for as long as one likes. Not collected by pytest.

The first byte of an input chooses the direction of an interface; the rest is a packet. What comes of it must be what
the judge of ``tests/hostile`` says, and whatever is whole must come back the same when it is packed again. The corpus
begins with messages made from their types, and half of the mutations make one more. The judge is instrumented too: it
is written in Python, so that its branches show the way, which those of the decoder, in C, cannot.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from typing import Any

import atheris

with atheris.instrument_imports(include=["cloister", "tests.hostile.messages"]):
    from tests.hostile.messages import BOUNDARIES, Forger, Verdict, judge

    from cloister.errors import BadMessage
    from cloister.ipc.codec import codec

SEEDS = 40
"""Packets of each direction that the corpus begins with."""


def try_one(data: bytes) -> None:
    if not data:
        return
    boundary, packet = BOUNDARIES[data[0] % len(BOUNDARIES)], data[1:]
    verdict, _ = judge(packet, boundary, None)
    try:
        kind, number, message = codec(boundary.interface, boundary.receiver).decode(packet)
    except BadMessage as error:
        complaint = str(error)
    else:
        if verdict.name != kind.name:
            raise AssertionError(f"{kind.name} came through, and is {verdict}: {boundary}: {packet!r}")
        if message is not None:
            message.expected_descriptors()
            again = codec(boundary.interface, boundary.sender).encode(kind, number, message)
            if codec(boundary.interface, boundary.receiver).decode(again) != (kind, number, message):
                raise AssertionError(f"it is another after a round trip: {boundary}: {packet!r}")
        return
    if verdict is not Verdict.BAD:
        raise AssertionError(f"{verdict} was refused: {complaint}: {boundary}: {packet!r}")
    if not complaint.isprintable() or len(complaint) > 500:
        raise AssertionError(f"no line for a terminal: {complaint!r}")


def forged(number: int, random: Random) -> bytes:
    return bytes([number]) + Forger(BOUNDARIES[number], random).packet({})


def mutated(data: bytes, max_size: int, seed: int) -> bytes:
    random = Random(seed)
    if random.random() < 0.5:
        return forged(random.randrange(len(BOUNDARIES)), random)[:max_size]
    changed: Any = atheris.Mutate(data, max_size)
    return bytes(changed)


if __name__ == "__main__":
    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    for number in range(len(BOUNDARIES)):
        for each in range(SEEDS):
            (corpus / f"{number}-{each}").write_bytes(forged(number, Random(each)))
    atheris.Setup([sys.argv[0], str(corpus), *sys.argv[2:]], try_one, custom_mutator=mutated)
    atheris.Fuzz()
