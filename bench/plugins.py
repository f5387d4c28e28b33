"""What a plugin costs: a warm call, a pool, a start, a fresh process, an array handed over, memory. All in one run.

    python bench/plugins.py [--quick] [--json]

Each row says what its time is made of in the function that measures it. What stands beside ours is measured in the same
run, in turn with ours, so that both meet the same machine; figures are medians. Memory is PSS, which only root may read
of a sandboxed process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path

from cloister import Limits, PluginPool, PluginRuntime, SharedBuffer, isolated
from processes import pss
from table import Row, ratio, table

CALLS = 1000
ARRAY = 64 * 10**6  # bytes
IDLE = 8  # plugins
SETTLE = 1.0  # seconds
PLUGIN = "def same(x): return x\ndef length(x): return len(x)\n"


def same(x: int) -> int:
    return x


def parse(text: str) -> int:
    import json

    return len(json.loads(text))


TEXT = json.dumps([*range(100)])


def milliseconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1000


class Bench:
    """How often to try."""

    def __init__(self, *, quick: bool) -> None:
        self._quick = quick

    def times(self, full: int, quick: int) -> range:
        return range(quick if self._quick else full)


# ── rows ────────────────────────────────────────────────────────────────────────────────────────────────────────


def call_rows(bench: Bench, runtime: PluginRuntime, processes: Executor) -> list[Row]:
    """``runtime.call()`` of a function that returns its argument, and ``submit().result()`` of the same: a round trip
    with one int, in batches of a hundred in turn."""
    ours: list[float] = []
    theirs: list[float] = []
    for _ in bench.times(30, 5):
        ours += [1000 * milliseconds(lambda: runtime.call("plugin", "same", 1)) for _ in range(100)]
        theirs += [1000 * milliseconds(lambda: processes.submit(same, 1).result()) for _ in range(100)]
    return [ratio("a call and its answer, beside ProcessPoolExecutor", "µs", ours, theirs, 1.0, "")]


def pool_rows(bench: Bench, pool: Executor, processes: Executor) -> list[Row]:
    """A thousand calls submitted at once to two processes, until the last answer."""

    def thousand(executor: Executor) -> None:
        futures = [executor.submit(same, number) for number in range(CALLS)]
        if [future.result() for future in futures] != [*range(CALLS)]:
            raise AssertionError

    thousand(pool)
    thousand(processes)
    ours: list[float] = []
    theirs: list[float] = []
    for _ in bench.times(15, 3):
        ours.append(milliseconds(lambda: thousand(pool)))
        theirs.append(milliseconds(lambda: thousand(processes)))
    return [ratio("1,000 calls over 2 processes, beside ProcessPoolExecutor", "ms", ours, theirs, 1.0, "")]


def start_rows(bench: Bench, runtime: PluginRuntime) -> list[Row]:
    """``load_source()`` until the plugin can be called: fork, lock-down, its source run."""
    took = []
    for _ in bench.times(50, 10):
        took.append(milliseconds(lambda: runtime.load_source(PLUGIN, "started")))
        runtime.unload("started")
        time.sleep(0.02)
    found = statistics.median(took)
    return [Row("a plugin started, until it can be called", "ms", found, None, found, "≤ 10 ms", found <= 10)]


SHELL = """#!/bin/sh
while read -r line; do echo '{"type": "result", "value": 1}'; done
"""
MANIFEST = """name = "shell"
version = "1.0.0"
api-version = "1.0"
source = "program"
language = "executable"
exports = ["f"]
"""
RUNNER = "import host\ndef f(): return host.run('/bin/true')['returncode']\n"


def program_rows(bench: Bench, runtime: PluginRuntime) -> list[Row]:
    """A plugin that is a shell script: both of its processes until it can be called, and a call. And ``host.run()``: a
    program from the call of the plugin that runs it until its answer is there."""
    with tempfile.TemporaryDirectory() as folder:
        program, manifest = Path(folder, "program"), Path(folder, "plugin.toml")
        program.write_text(SHELL)
        program.chmod(0o755)
        manifest.write_text(MANIFEST)
        plugin = runtime.load(manifest)
        starts = [milliseconds(plugin.restart) for _ in bench.times(30, 5)]
        calls = [milliseconds(lambda: plugin.call("f")) for _ in bench.times(500, 50)]
        runtime.unload("shell")
    runner = runtime.load_source(RUNNER, "runner", grants={"sys:exec": ["/bin/true"]})
    runner.call("f")
    runs = [milliseconds(lambda: runner.call("f")) for _ in bench.times(30, 5)]
    runtime.unload("runner")
    started, called, ran = map(statistics.median, (starts, calls, runs))
    return [
        Row("a plugin that is a program started", "ms", started, None, None, "", None),
        Row("a call of it and its answer", "µs", called * 1000, None, None, "", None),
        Row("host.run() of a program that does nothing", "ms", ran, None, None, "", None),
    ]


OTHERS = {
    "JavaScript": "export const same = (x) => x;",
    "WASM": '(module (func (export "same") (param i64) (result i64) (local.get 0)))',
}


def language_rows(bench: Bench, runtime: PluginRuntime) -> list[Row]:
    """The same call and start as above, of plugins in other languages, whose zygotes run already; and their memory."""
    rows = []
    for title, code in OTHERS.items():
        load = partial(runtime.load_source, code, language=title.lower())
        kept = load("kept")
        calls = [1000 * milliseconds(partial(kept.call, "same", 1)) for _ in bench.times(1000, 100)]
        rows.append(Row(f"a call in {title}", "µs", statistics.median(calls), None, None, "", None))
        starts = []
        for _ in bench.times(30, 5):
            starts.append(milliseconds(partial(load, "started")))
            runtime.unload("started")
            time.sleep(0.02)
        rows.append(
            Row(f"a plugin in {title} started", "ms", statistics.median(starts), None, None, "", None)
        )
        if os.geteuid() == 0:
            idle = [kept, *(load(f"idle-{number}") for number in range(IDLE - 1))]
            for plugin in idle:
                plugin.call("same", 1)
            time.sleep(SETTLE)
            each = pss({plugin.pid for plugin in idle if plugin.pid is not None}) / IDLE
            rows.append(
                Row(f"{IDLE} idle plugins in {title}, PSS of each", "MiB", each, None, None, "", None)
            )
        for plugin in [p for p in runtime.plugins if p.name != "plugin"]:
            runtime.unload(plugin.name)
    return rows


def isolated_rows(bench: Bench) -> list[Row]:
    """A function called in a fresh process, from the call to the result, beside other ways to do that: each starts a
    Python that gets a text, parses it as JSON and answers with a number."""
    function = isolated(memory="50 MiB")(parse)
    function(TEXT)
    others = dict(peers())
    took: dict[str, list[float]] = {name: [] for name in ("ours", *others)}
    for _ in bench.times(30, 5):
        took["ours"].append(milliseconds(lambda: function(TEXT)))
        for name, work in others.items():
            took[name].append(milliseconds(work))
    ours = statistics.median(took["ours"])
    rows = [Row("@isolated, one call", "ms", ours, None, ours, "≤ 8 ms", ours <= 8)]
    for name in others:
        rows.append(ratio(f"@isolated, one call, beside {name}", "ms", took["ours"], took[name], 1.0, ""))
    return rows


SCRIPT = "import json, sys; print(len(json.loads(sys.argv[1])))"
COMMAND = [sys.executable, "-I", "-S", "-c", SCRIPT, TEXT]


def peers() -> Iterator[tuple[str, Callable[[], object]]]:
    def limits() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (50 * 2**20, 50 * 2**20))
        resource.setrlimit(resource.RLIMIT_CPU, (5, 5))

    def run(command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, check=True, preexec_fn=limits)
        if done.stdout != b"100\n":
            raise AssertionError

    yield "subprocess with rlimits", lambda: run(COMMAND)
    if bwrap := shutil.which("bwrap"):
        wrapped = [bwrap, "--ro-bind", "/", "/", "--unshare-all", "--die-with-parent", *COMMAND]
        with contextlib.suppress(subprocess.CalledProcessError):  # no user namespaces
            run(wrapped)
            yield "bubblewrap", lambda: run(wrapped)
    with contextlib.suppress(ImportError):
        import sandlock

        def lock() -> None:
            if not sandlock.Sandbox(fs_readable=["/"], max_memory="50M").run(COMMAND).success:
                raise AssertionError

        lock()
        yield "sandlock", lock


def array_rows(bench: Bench, runtime: PluginRuntime) -> list[Row]:
    """64 MB given to a plugin that answers with their length: from a SharedBuffer, which is handed over as it is, and
    from a bytearray, which is copied once. What a plugin reads of it, it maps then."""
    shared, plain = SharedBuffer(ARRAY), bytearray(ARRAY)
    shared[:] = plain
    handed: list[float] = []
    copied: list[float] = []
    for _ in bench.times(30, 5):
        handed.append(milliseconds(lambda: runtime.call("plugin", "length", shared)))
        copied.append(milliseconds(lambda: runtime.call("plugin", "length", plain)))
    ours, other = statistics.median(handed), statistics.median(copied)
    return [
        Row("64 MB passed in a SharedBuffer", "ms", ours, None, ours, "≤ 2 ms", ours <= 2),
        Row("64 MB passed in a bytearray", "ms", other, None, None, "", None),
    ]


def memory_rows() -> list[Row]:
    """Eight plugins that were called once and rest: their own processes, and with the zygote and its branch."""
    if os.geteuid() != 0:
        return [
            Row(f"{IDLE} idle plugins, PSS of each", "MiB", 0.0, None, None, "≤ 8 MiB", None, "needs root")
        ]
    with PluginRuntime() as runtime:
        for number in range(IDLE):
            runtime.load_source(PLUGIN, f"idle-{number}").call("same", 1)
        time.sleep(SETTLE)
        own = pss({plugin.pid for plugin in runtime.plugins if plugin.pid is not None})
        every = pss({*runtime.pids})
    each = own / IDLE
    return [
        Row(f"{IDLE} idle plugins, PSS of each", "MiB", each, None, each, "≤ 8 MiB", each <= 8),
        Row("the same with their zygotes, divided among them", "MiB", every / IDLE, None, None, "", None),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few rounds of each")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    bench = Bench(quick=arguments.quick)
    with ProcessPoolExecutor(1) as one, ProcessPoolExecutor(2) as two:
        for executor in (one, two):  # their processes are forks of this one, which has no threads yet
            list(executor.map(same, range(10)))
        rows = memory_rows()
        with (
            PluginRuntime(limits=Limits(timeout=60)) as runtime,
            PluginPool(size=2, queue_size=CALLS) as pool,
        ):
            runtime.load_source(PLUGIN, "plugin")
            rows = [
                *call_rows(bench, runtime, one),
                *pool_rows(bench, pool, two),
                *start_rows(bench, runtime),
                *program_rows(bench, runtime),
                *language_rows(bench, runtime),
                *isolated_rows(bench),
                *array_rows(bench, runtime),
                *rows,
            ]
    print(json.dumps([asdict(row) for row in rows], indent=2) if arguments.json else table(rows))
    return 1 if any(row.holds is False for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
