"""What the sandbox costs and what it leaves: the time in which a fresh process locks itself down, and the system
calls that remain to it, for each kind.

    python bench/sandbox.py [--quick] [--json]

The process is made as a branch of the zygote makes it: namespaces, imports and preloading first, the branch's own
lock-down, then a fork for each timing. What is timed is all that the fork does to give up what it has
(:func:`cloister.sandbox.shed` and :func:`cloister.sandbox.enter`), by its own clock, so it holds neither the fork nor
the first message.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import select
import socket
import statistics
import struct
import subprocess
import sys
import time
from dataclasses import asdict

import msgspec

from cloister import sandbox
from cloister.interfaces import request_server
from cloister.process.kinds import HOST_NETWORK, MODULES
from cloister.sandbox.describe import Description
from table import Row, table

MOST_CALLS = {"image_decoder": 25, "web_content": 45, "request_server": 50, "lookup_server": 70}
PRELOAD = {"request_server": msgspec.msgpack.encode(request_server.PreloadOptions(extra_roots=""))}
WAIT = 20.0  # seconds for anything that is waited for


def lock_down(kind: str, rounds: int) -> list[float]:
    """In a process made for it: milliseconds of each of ``rounds`` lock-downs of a ``kind``."""
    keep = os.dup(1)
    host = {sandbox.Layer.NETWORK_NAMESPACE} if kind in HOST_NETWORK else set()
    got = sandbox.isolate(sandbox.NAMESPACES - host)
    if sandbox.Layer.PID_NAMESPACE in got and (first := os.fork()):
        os.waitpid(first, 0)
        os._exit(0)
    environment = dict(os.environ)
    sandbox.shed([keep])
    os.environ.update(environment)
    module = importlib.import_module(MODULES[kind])
    module.preload(PRELOAD.get(kind, b""))
    os.environ.clear()
    sandbox.prepare(module.POLICY)
    gc.freeze()
    policy = sandbox.zygote_policy([module.POLICY])
    sandbox.enter_empty_root(policy.read_paths)
    answers, answer = socket.socketpair()
    sandbox.enter(policy)
    times = [_once(module.POLICY, answers, answer) for _ in range(rounds)]
    os.write(keep, json.dumps(times).encode())
    os._exit(0)


def _once(policy: sandbox.Policy, answers: socket.socket, answer: socket.socket) -> float:
    child = os.fork()
    if child == 0:
        began = time.perf_counter()
        sandbox.shed([answer.fileno()])
        sandbox.enter(policy)
        took = time.perf_counter() - began
        os.write(answer.fileno(), struct.pack("d", took))
        os._exit(0)
    poll = select.poll()
    poll.register(answers, select.POLLIN)
    if not poll.poll(WAIT * 1000):
        raise TimeoutError(f"{policy.kind} was not locked down within {WAIT:g} s")
    (took,) = struct.unpack("d", answers.recv(8))
    os.waitpid(child, 0)
    return float(took) * 1000


def measured(kind: str, rounds: int) -> list[float]:
    """:func:`lock_down` in a process of its own."""
    command = [sys.executable, __file__, "--kind", kind, "--rounds", str(rounds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=WAIT + rounds, check=True)
    times: list[float] = json.loads(done.stdout)
    return times


def calls(kind: str) -> Description:
    command = [sys.executable, "-P", "-m", "cloister.sandbox.describe", f"cloister.{kind}.sandbox"]
    done = subprocess.run(command, stdout=subprocess.PIPE, timeout=WAIT, check=True)
    return msgspec.json.decode(done.stdout, type=Description)


def run(rounds: int) -> list[Row]:
    rows = []
    for kind in MOST_CALLS:
        took = statistics.median(measured(kind, rounds))
        rows.append(Row(f"lock-down of a fresh {kind}", "ms", took, None, took, "≤ 2 ms", took <= 2))
    for kind, most in MOST_CALLS.items():
        left = calls(kind)
        measure = f"system calls that remain to {kind}, of {left.calls_of_the_kernel}"
        count = len(left.calls)
        rows.append(Row(measure, "", count, None, count, f"≤ {most}", count <= most))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that it runs")
    parser.add_argument("--json", action="store_true", help="the rows for scripts")
    parser.add_argument("--kind", choices=list(MOST_CALLS), help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.kind:
        lock_down(arguments.kind, arguments.rounds)
    rows = run(20 if arguments.quick else 300)
    print(json.dumps([asdict(row) for row in rows]) if arguments.json else table(rows))
    return 0 if all(row.holds is not False for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
