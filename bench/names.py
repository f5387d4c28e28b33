"""What a connection costs that is asked for by name, and the worst that an answer of a name server can cost.

    python bench/names.py [--quick] [--json]

The lookup_server is the real one, locked down; it is asked as a request_server asks it, and connects to a listener on
loopback. The name server is in this process, so its time is in the figure for names that are asked for.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import dns.message
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import msgspec

from cloister.interfaces.lookup_server import LOOKUP, LOOKUP_ADMIN, AddClient, Connect, Options, PolicyRules
from cloister.ipc import Channel, Connection
from cloister.lookup_server.message import MAX_ANSWER, A, Question
from cloister.process import launch
from table import Row, table


def costly(question: Question, size: int) -> list[bytes]:
    """Answers of ``size`` bytes that are mostly work: aliases that point into a long name, and names that do."""
    begin = len(question.wire)
    deep = b"".join(b"\1" + bytes([97 + i % 26]) for i in range(120)) + b"\0"
    head = deep + struct.pack("!HHIH", 65_280, 1, 60, 0)  # of a type for private use
    pointers = [struct.pack("!H", 0xC000 | begin + 2 * (i % 100)) for i in range(100)]
    shapes: tuple[Callable[[int], bytes], ...] = (
        lambda i: pointers[0] + struct.pack("!HHIH", 5, 1, 60, 2) + pointers[i % 100],
        lambda i: b"\1a" + pointers[0] + struct.pack("!HHIH", A, 1, 60, 4) + i.to_bytes(4),
        lambda i: pointers[i % 100] + struct.pack("!HHIH", 300 + i % 30_000, 1, 60, 0),
    )
    made = []
    for shape in shapes:
        records = [head]
        room = size - begin - len(head)
        while room >= len(record := shape(len(records))):
            records.append(record)
            room -= len(record)
        counts = struct.pack("!5H", 0x8180, 1, len(records), 0, 0)
        made.append(question.wire[:2] + counts + question.wire[12:] + b"".join(records))
    return made


def dnspython(data: bytes) -> None:
    """As a resolver on it reads an answer."""
    message = dns.message.from_wire(data)
    assert isinstance(message, dns.message.QueryMessage)
    message.resolve_chaining()


def worst(read: Any, answers: list[bytes], rounds: int) -> float:
    """Milliseconds that the costliest of ``answers`` takes."""
    figures = []
    for answer in answers:
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            read(answer)
            times.append((time.perf_counter() - began) * 1000)
        figures.append(statistics.median(times))
    return max(figures)


class NameServer(asyncio.DatagramProtocol):
    """Says of every name that it is at 127.0.0.1, for an hour."""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, sender: Any) -> None:
        has_address = data[-3] == A
        record = b"\xc0\x0c" + struct.pack("!HHIH", A, 1, 3600, 4) + b"\x7f\0\0\1" if has_address else b""
        counts = struct.pack("!5H", 0x8180, 1, int(has_address), 0, 0)
        self.transport.sendto(data[:2] + counts + data[12:] + record, sender)


async def connections(rounds: int) -> tuple[list[float], list[float]]:
    """Milliseconds for each connection: to new names, and to one that is known."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(NameServer, local_addr=("127.0.0.1", 0))
    listener = socket.create_server(("127.0.0.1", 0), backlog=4 * rounds + 16)
    here, there = Channel.pair()
    admin = Connection(here, LOOKUP_ADMIN, "client")
    name_server = f"127.0.0.1:{transport.get_extra_info('sockname')[1]}"
    rules = PolicyRules(allow_hosts=("*.example",), max_connections=4096)
    options = Options(rules, dns_servers=(name_server,))
    child = await launch("lookup_server", msgspec.msgpack.encode(options), [there])
    await child.ready()
    mine, its = Channel.pair()
    admin.send(AddClient(), [its.detach()])
    client = Connection(mine, LOOKUP, "client")

    async def once(name: str) -> float:
        began = time.perf_counter()
        _, fds = await client.request(Connect(name, listener.getsockname()[1]), timeout=10)
        took = time.perf_counter() - began
        os.close(fds.take())
        return took * 1000

    try:
        fresh = [await once(f"{number}.example") for number in range(rounds)]
        known = [await once("0.example") for _ in range(rounds)]
        return fresh, known
    finally:
        client.close()
        admin.close()
        await child.end()
        transport.close()
        listener.close()


def run(rounds: int) -> list[Row]:
    question = Question("a.example", A)
    for kind in (1, 5, 28):  # and no other, as in a process that can load nothing any more
        dns.rdata.get_rdata_class(dns.rdataclass.IN, dns.rdatatype.RdataType(kind))  # type: ignore[no-untyped-call]
    dns.rdata._dynamic_load_allowed = False
    few = 1 if rounds < 100 else 5
    theirs = worst(dnspython, costly(question, 65_535), 1 if few == 1 else 2)
    ours = worst(lambda data: question.read(data, stream=True), costly(question, MAX_ANSWER), few)
    fresh, known = (statistics.median(times) for times in asyncio.run(connections(rounds)))
    beside = "the costliest answer that is read (16 KiB; dnspython: 64 KiB)"
    return [
        Row(beside, "ms", ours, theirs, ours / theirs, "≤ 50 ms", ours <= 50),
        Row("a connection by a name that is known", "ms", known, None, known, "≤ 2 ms", known <= 2),
        Row("a connection by a name that is asked for", "ms", fresh, None, fresh, "≤ 4 ms", fresh <= 4),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that it runs")
    parser.add_argument("--json", action="store_true", help="the rows for scripts")
    arguments = parser.parse_args()
    rows = run(20 if arguments.quick else 300)
    print(json.dumps([asdict(row) for row in rows]) if arguments.json else table(rows))
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
