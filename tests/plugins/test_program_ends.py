"""A program that forks while a runtime is open: the copy has one of its own if it needs one, and ends nothing."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import os, sys
from cloister import PluginPool, PluginRuntime, RuntimeClosed, isolated

@isolated
def double(x): return 2 * x

with PluginRuntime() as runtime, PluginPool(size=1) as pool:
    plugin = runtime.load_source("count = 0\\ndef f():\\n global count\\n count += 1\\n return count", "counter")
    assert (plugin.call("f"), double(1), pool.submit(double.__wrapped__, 1).result()) == (1, 2, 2)
    child = os.fork()
    if child == 0:
        try:
            plugin.call("f")
        except RuntimeClosed:
            sys.exit(double(3))  # runs what is registered for the end of the program
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 6
    print(plugin.call("f"), double(2))
"""


def test_a_copy_of_the_program_leaves_its_plugins_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stdout) == (0, "2 4\n"), done.stderr


UNCLOSED = """
from cloister import PluginPool, PluginRuntime, isolated

@isolated
def double(x): return 2 * x

runtime = PluginRuntime()
plugin = runtime.load_source("def count():\\n yield 1\\n yield 2", "counter")
stream = plugin.call("count")
pool = PluginPool(size=1)
print(next(stream), double(1), pool.submit(double.__wrapped__, 2).result())
"""


def test_a_program_that_closes_nothing_ends_in_order_all_the_same() -> None:
    done = subprocess.run(
        [sys.executable, "-c", UNCLOSED], capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 2 4\n", "")
