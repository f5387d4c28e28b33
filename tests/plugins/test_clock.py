"""Without sys:time a plugin's clock stands while it works; the functions of the host's own program have a real one."""

from __future__ import annotations

import datetime
import time

from cloister import isolated
from cloister.plugins.pool import PluginPool
from cloister.plugins.runtime import PluginRuntime
from cloister.plugins.shared_runtime import close_shared

CODE = """
import copy, datetime, os, pickle, queue, threading, time

loaded = time.time_ns()

def read():
    return [
        time.time(), time.time_ns(), time.monotonic(), time.perf_counter_ns(), time.process_time(), time.thread_time(),
        time.clock_gettime(time.CLOCK_REALTIME), time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.ctime(),
        time.asctime(), time.strftime("%c"), list(time.localtime()), list(time.gmtime()), list(os.times()),
        datetime.datetime.now(), datetime.datetime.now(datetime.UTC), datetime.datetime.utcnow(),
        datetime.datetime.today(), datetime.date.today().isoformat(),
    ]

def stands():
    before = read()
    time.sleep(0.01)
    sum(range(100_000))
    return [str(a) for a, b in zip(before, read()) if a != b]

def now(): return [time.time_ns(), time.monotonic_ns(), datetime.datetime.now(datetime.UTC)]
def at_load(): return loaded

class Mine(datetime.datetime): pass

def kinds():
    found = datetime.datetime.now()
    return [
        type(found) is datetime.datetime, isinstance(found, datetime.date), type(Mine.now()) is Mine,
        type(Mine.utcnow()) is Mine, pickle.loads(pickle.dumps(found)) == found, copy.deepcopy(found) == found,
        isinstance(datetime.datetime.fromisoformat("2020-02-03"), datetime.datetime),
    ]

def waits():
    try:
        queue.Queue().get(timeout=0.01)
    except queue.Empty:
        return not threading.Event().wait(0.01)

def stream():
    while True: yield time.time_ns()
"""


def test_every_clock_stands_during_a_call(runtime: PluginRuntime) -> None:
    plugin = runtime.load_source(CODE, "watch")
    assert plugin.call("stands") == []
    assert plugin.call("kinds") == [True] * 7
    assert plugin.call("waits"), "what waits with a timeout still ends"


def test_the_clock_is_set_by_each_call(runtime: PluginRuntime) -> None:
    plugin = runtime.load_source(CODE, "watch")
    before = time.time_ns()
    first, second = plugin.call("now"), plugin.call("now")
    assert plugin.call("at_load") <= before <= first[0] < second[0] <= time.time_ns()
    assert first[1] < second[1]
    assert second[2] - datetime.datetime.now(datetime.UTC) < datetime.timedelta(seconds=30)
    stream = plugin.call("stream")
    assert next(stream) < next(stream)


def test_sys_time_is_a_clock_that_goes_on(runtime: PluginRuntime) -> None:
    plugin = runtime.load_source(CODE, "watch", grants={"sys:time": []})
    assert len(plugin.call("stands")) >= 8


def elapsed() -> int:
    began = time.monotonic_ns()
    time.sleep(0.01)
    return time.monotonic_ns() - began


def test_functions_of_the_host_have_the_real_clock() -> None:
    try:
        assert isolated(elapsed)() >= 10_000_000
        with PluginPool(size=1) as pool:
            assert pool.submit(elapsed).result() >= 10_000_000
    finally:
        close_shared()
