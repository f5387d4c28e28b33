"""What a plugin may do wrong on purpose: each ends as its own failure, and the next call works."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from cloister import ends
from cloister.errors import (
    CloisterError,
    CpuLimit,
    LimitExceeded,
    MemoryLimit,
    OutputLimit,
    PluginCrashed,
    PluginRaised,
    ProcessLimit,
    ResultLimit,
    Timeout,
)
from cloister.plugins.limits import Limits
from cloister.plugins.plugin import Running
from cloister.plugins.runtime import PluginRuntime
from cloister.process.cgroups import CgroupParent

CODE = """
import array, ctypes, os, re, signal, sys, threading, time

def fine(): return 'fine'
def gigabyte(): return b'x' * 10**9
def nearly(n): return 'x' * n
def many_bytes(n): return bytearray(n)
def recursion(): return recursion()
def deep_c():
    sys.setrecursionlimit(10**9)
    x = []
    for _ in range(100_000): x = [x]
    return repr(x)
def power(): return pow(10, 10**9) % 7
def expression(): return re.match('(a+)+$', 'a' * 60 + 'b')
def spin():
    while True: pass
def sleep(): time.sleep(60)
def memory():
    kept = []
    while True: kept.append(bytearray(2**20))
def memory_in_c(): return ctypes.memset(ctypes.create_string_buffer(2**33), 1, 2**33)
def shared_memory():
    kept = []
    while True:
        kept.append(os.memfd_create('bomb'))
        while True:
            try: os.write(kept[-1], b'x' * 2**20)
            except OSError: break
def forks():
    while True: os.fork()
def program():
    import subprocess
    return subprocess.run(['/bin/sh', '-c', 'true'])
def threads():
    while True: threading.Thread(target=time.sleep, args=(60,)).start()
def descriptors():
    while True: os.dup(0)
def disk():
    import tempfile
    return tempfile.TemporaryFile()
def write_library(): open(os.__file__, 'a')
def remove_library(): os.unlink(os.__file__)
def flood():
    while True: print('x' * 1000)
def flood_of_lines():
    while True: print('x', flush=True)
def flood_of_logs():
    import logging
    while True: logging.warning('x')
def flood_of_errors():
    while True: os.write(2, b'x' * 1000)
def leave(): os._exit(0)
def exits(): sys.exit(3)
def fault(): ctypes.string_at(0)
def abort(): ctypes.CDLL(None).abort()
def kill(): os.kill(os.getpid(), signal.SIGKILL)
def stop(): os.kill(os.getpid(), signal.SIGSTOP)
def close_all():
    for number in range(3, 32):
        try: os.close(number)
        except OSError: pass
def close_at_once(): os.closerange(3, 1000)
def close_all_and_stay():
    close_all()
    while True: pass
def network():
    import socket
    return socket.socket()
def parent(): os.kill(1, 9)
def ignore():
    for number in set(signal.Signals) - {9, 19, 31}: signal.signal(number, signal.SIG_IGN)
    while True:
        try: time.sleep(1)
        except BaseException: pass
"""


@pytest.fixture
def plugin(runtime: PluginRuntime) -> PluginRuntime:
    limits = Limits(memory="64 MiB", file_size="16 MiB", output="64 KiB", result="1 MiB", timeout=20)
    runtime.load_source(CODE, "bad", limits=limits)
    return runtime


@pytest.mark.parametrize(
    ("function", "error"),
    [
        ("gigabyte", MemoryLimit),
        ("memory", MemoryLimit),
        ("memory_in_c", MemoryLimit),
        ("forks", ProcessLimit),
        ("threads", ProcessLimit),
        ("flood", OutputLimit),
        ("flood_of_lines", OutputLimit),
        ("flood_of_logs", OutputLimit),
        ("recursion", PluginRaised),
        ("descriptors", PluginRaised),
        ("disk", PluginRaised),
        ("write_library", PluginRaised),
        ("remove_library", PluginRaised),
        ("exits", PluginRaised),
        ("network", PluginRaised),
        ("leave", PluginCrashed),
        ("fault", PluginCrashed),
        ("abort", PluginCrashed),
        ("close_all", PluginCrashed),
        ("close_at_once", PluginCrashed),
        ("stop", PluginCrashed),
        ("flood_of_errors", PluginRaised),
    ],
)
def test_each_has_its_own_error_and_the_next_call_works(
    plugin: PluginRuntime, function: str, error: type[CloisterError]
) -> None:
    with pytest.raises(CloisterError) as caught:
        plugin.call("bad", function)
    assert type(caught.value) is error, repr(caught.value)
    assert isinstance(caught.value, LimitExceeded) == error.__name__.endswith("Limit")
    assert plugin.call("bad", "fine") == "fine"
    assert plugin.status("bad") == Running()


@pytest.mark.parametrize("function", ["spin", "sleep", "power", "expression", "ignore"])
def test_what_does_not_end_is_ended(plugin: PluginRuntime, function: str) -> None:
    with pytest.raises(Timeout):
        plugin.call("bad", function, timeout=0.2)
    assert plugin.call("bad", "fine") == "fine"


def test_one_that_cannot_be_heard_any_more_is_ended(plugin: PluginRuntime) -> None:
    with pytest.raises(PluginCrashed) as caught:
        plugin.call("bad", "close_all_and_stay")
    assert isinstance(caught.value.end, ends.Killed)
    assert "it closed" in caught.value.end.reason
    assert plugin.call("bad", "fine") == "fine"


def test_shared_memory_is_bounded_by_descriptors_and_their_size(plugin: PluginRuntime) -> None:
    with pytest.raises((Timeout, PluginRaised), match="Too many open files|within"):
        plugin.call("bad", "shared_memory", timeout=1)
    assert plugin.call("bad", "fine") == "fine"


def test_a_stack_that_overflows_in_c_is_its_own(plugin: PluginRuntime) -> None:
    with pytest.raises((PluginCrashed, PluginRaised)):  # from Python 3.12 on, C counts too
        plugin.call("bad", "deep_c")
    assert plugin.call("bad", "fine") == "fine"


def test_a_program_is_not_started(plugin: PluginRuntime) -> None:
    with pytest.raises((ProcessLimit, PluginCrashed)):
        plugin.call("bad", "program")
    assert plugin.call("bad", "fine") == "fine"


def test_it_cannot_end_its_zygote(plugin: PluginRuntime) -> None:
    with pytest.raises((PluginRaised, PluginCrashed)):
        plugin.call("bad", "parent")
    assert plugin.call("bad", "fine") == "fine"


def test_killing_itself_is_a_crash(plugin: PluginRuntime) -> None:
    with pytest.raises(PluginCrashed) as caught:
        plugin.call("bad", "kill")
    assert caught.value.signal in (signal.SIGKILL, signal.SIGSYS)


def test_a_large_result_is_refused_and_the_process_stays(plugin: PluginRuntime) -> None:
    assert len(plugin.call("bad", "nearly", 2**20 - 100)) == 2**20 - 100
    before = plugin.get("bad")._process
    with pytest.raises(ResultLimit, match="takes 1048581 bytes"):
        plugin.call("bad", "nearly", 2**20)
    with pytest.raises(ResultLimit, match="file_size"):
        plugin.call("bad", "many_bytes", 20 * 2**20)
    assert len(plugin.call("bad", "many_bytes", 15 * 2**20)) == 15 * 2**20
    assert plugin.get("bad")._process is before


def test_processor_time_is_counted_for_each_call(runtime: PluginRuntime) -> None:
    code = """
import host, time
def spin():
    while True: pass
def chatter():
    while True: host.one()
def rest(): time.sleep(0.3); return 1
def work(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end: pass
"""
    limits = Limits(cpu_time=0.2, timeout=30)
    runtime.load_source(code, "busy", limits=limits, functions={"one": lambda: 1}, grants={"sys:time": []})
    for _ in range(3):
        runtime.call("busy", "work", 0.1)
    assert runtime.call("busy", "rest") == 1
    for function in ("spin", "chatter"):
        with pytest.raises(CpuLimit):
            runtime.call("busy", function)
    assert runtime.call("busy", "rest") == 1


def test_a_cgroup_counts_shared_memory_too() -> None:
    parent = CgroupParent.find()
    if parent is None or "memory" not in parent.controllers:
        pytest.skip("this user may not make cgroups here, or they have no memory controller")
    parent.close()
    limits = Limits(memory="32 MiB", file_size="16 MiB", cpu_percent=200)
    with PluginRuntime(limits=limits, cgroups=True) as runtime:
        runtime.load_source(CODE, "bad")
        assert len(runtime.call("bad", "many_bytes", 15 * 2**20)) == 15 * 2**20
        with pytest.raises(MemoryLimit):
            runtime.call("bad", "shared_memory")
        assert runtime.call("bad", "fine") == "fine"


def test_a_cgroup_of_its_own_where_there_may_be_any() -> None:
    parent = CgroupParent.find()
    if parent is None:
        pytest.skip("this user may not make cgroups here")
    parent.close()
    with PluginRuntime(cgroups=True, limits=Limits(cpu_percent=150)) as runtime:
        plugin = runtime.load_source(CODE, "bad")
        assert plugin.call("fine") == "fine"
        assert "/cloister-" in Path(f"/proc/{plugin.pid}/cgroup").read_text()
        before = plugin.pid
        plugin.restart()
        assert plugin.pid != before


def test_threads_run_where_they_are_allowed(runtime: PluginRuntime) -> None:
    code = """
import threading
def parallel(n):
    found = []
    threads = [threading.Thread(target=found.append, args=(i,)) for i in range(n)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return sorted(found)
"""
    plugin = runtime.load_source(code, "threads", limits=Limits(threads=True))
    assert plugin.call("parallel", 8) == [*range(8)]


def test_the_host_has_no_memory_of_what_it_was_sent(plugin: PluginRuntime) -> None:
    """Descriptors and mappings of refused and of dropped results are gone: conftest looks at the descriptors."""
    for _ in range(20):
        plugin.call("bad", "many_bytes", 2**20)
    maps = Path("/proc/self/maps").read_text()
    assert maps.count("memfd:cloister") <= 2
