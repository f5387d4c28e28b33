"""Processes that fail: what is repeated, what is left alone for a while, and what is told of it."""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest

from cloister import ends
from cloister.errors import (
    CircuitOpen,
    InvalidArgument,
    ManifestError,
    MemoryLimit,
    NoSuchFunction,
    PluginCrashed,
    PluginRaised,
    ProcessLimit,
    ProcessLost,
    Timeout,
)
from cloister.plugins.events import PluginEvent
from cloister.plugins.invocation import Invocation
from cloister.plugins.limits import Limits
from cloister.plugins.pool import PluginPool
from cloister.plugins.recovery import Circuit, CircuitBreaker, Retries, is_worth_repeating, was_its_own
from cloister.plugins.runtime import PluginRuntime
from tests.plugins.test_runtime import MANIFEST, manifest, until

QUICK = Retries(attempts=3, first=0.001)

CODE = """
import host, os
def fails(times, *rest):
    "Ends its process so many times, as its host counts."
    if host.count() <= times: os._exit(5)
    return [bytes(each[:2]) for each in rest]
once = fails
def raises(times):
    host.count()
    raise ValueError
def spin(times):
    host.count()
    while True: pass
def large(times):
    host.count()
    return len(bytes(10**9))
def forks(times):
    host.count()
    os.fork()
def fine(): return 1
def leave(): os._exit(3)
"""


class Counter:
    calls = 0

    def count(self) -> int:
        self.calls += 1
        return self.calls


@pytest.fixture
def counter() -> Counter:
    return Counter()


@pytest.fixture(scope="module")
def quick() -> Iterator[PluginRuntime]:
    """One whose plugins are left alone early, and not for long."""
    with PluginRuntime(circuit=CircuitBreaker(ends=3, pause=0.05)) as made:
        yield made


def listen(runtime: PluginRuntime, *names: str) -> queue.Queue[PluginEvent]:
    heard: queue.Queue[PluginEvent] = queue.Queue()
    for name in names:
        runtime.on(name, heard.put)  # type: ignore[arg-type]
    return heard


def load(runtime: PluginRuntime, counter: Counter, *, retries: Retries = QUICK) -> None:
    runtime.load_source(
        CODE, "work", functions={"count": counter.count}, retries=retries, limits=Limits(memory="64 MiB"),
        idempotent=["fails", "raises", "spin", "large", "forks"],
    )  # fmt: skip


# ── calls that are repeated ──────────────────────────────────────────────────────────────────────────────────────


def test_an_idempotent_call_is_repeated_with_all_that_it_was_given(
    runtime: PluginRuntime, counter: Counter
) -> None:
    load(runtime, counter)
    given = [b"in", bytearray(b"in memory of its own" * 10_000), b"a blob" * 20_000]
    assert runtime.call("work", "fails", 2, *given) == [b"in", b"in", b"a "]
    assert counter.calls == 3


def test_after_the_last_attempt_the_failure_is_told(runtime: PluginRuntime, counter: Counter) -> None:
    load(runtime, counter)
    with pytest.raises(PluginCrashed) as caught:
        runtime.call("work", "fails", 9)
    assert (caught.value.exit_code, counter.calls) == (5, 3)


def test_what_is_not_said_to_be_idempotent_is_called_once(runtime: PluginRuntime, counter: Counter) -> None:
    load(runtime, counter)
    with pytest.raises(PluginCrashed):
        runtime.call("work", "once", 1)
    assert counter.calls == 1


@pytest.mark.parametrize(
    ("function", "error"),
    [("raises", PluginRaised), ("large", MemoryLimit), ("forks", ProcessLimit), ("spin", Timeout)],
)
def test_what_would_happen_again_is_not_repeated(
    runtime: PluginRuntime, counter: Counter, function: str, error: type[Exception]
) -> None:
    load(runtime, counter)
    with pytest.raises(error):
        runtime.call("work", function, 0, timeout=0.3 if function == "spin" else None)
    assert counter.calls == 1


def test_no_attempt_is_begun_that_cannot_be_in_time(runtime: PluginRuntime, counter: Counter) -> None:
    load(runtime, counter, retries=Retries(attempts=3, first=20, most=20))
    with pytest.raises(PluginCrashed):
        runtime.call("work", "fails", 1, timeout=5)
    assert counter.calls == 1


def test_who_cancels_between_two_attempts_does_not_wait_for_the_next(
    runtime: PluginRuntime, counter: Counter
) -> None:
    load(runtime, counter, retries=Retries(attempts=3, first=20, most=20))
    plugin, invocation = runtime.get("work"), Invocation("fails", [9], {})
    caught: list[type[BaseException]] = []

    def call() -> None:
        try:
            plugin.run(invocation)
        except BaseException as error:
            caught.append(type(error))

    thread = threading.Thread(target=call)
    thread.start()
    until(lambda: invocation._wake is not None)
    invocation.cancel()
    thread.join(10)
    assert caught == [CancelledError]
    assert counter.calls == 1


def test_a_pool_repeats_too(runtime: PluginRuntime, counter: Counter) -> None:
    load(runtime, counter)
    with PluginPool("work", size=2, runtime=runtime) as pool:
        assert pool.submit("fails", 2, bytearray(100_000)).result(20) == [b"\0\0"]
    assert counter.calls == 3


def test_a_manifest_names_what_may_be_repeated_among_its_exports(
    runtime: PluginRuntime, tmp_path: Path, counter: Counter
) -> None:
    code = "import host, os\ndef greet():\n if host.count() < 2: os._exit(1)\n return 1\n"
    path = manifest(tmp_path, MANIFEST + 'idempotent = ["greet"]\n', code)
    runtime.load(path, functions={"count": counter.count}, retries=QUICK)
    assert runtime.call("greeter", "greet") == 1
    with pytest.raises(ManifestError, match="other: not among its exports") as caught:
        runtime.load(manifest(tmp_path, MANIFEST + 'idempotent = ["other"]\n'))
    assert (caught.value.key, caught.value.line) == ("idempotent", 7)
    with pytest.raises(NoSuchFunction, match="may be called again: g"):
        runtime.load_source("def f(): pass", "example", idempotent=["f", "g"])


def test_pauses_grow_and_have_jitter() -> None:
    retries = Retries(first=1, factor=3, most=5)
    for failed, longest in ((1, 1.0), (2, 3.0), (3, 5.0), (99, 5.0)):
        pauses = {retries.pause(failed) for _ in range(50)}
        assert len(pauses) > 1
        assert all(longest / 2 <= pause <= longest for pause in pauses)
    for wrong in (lambda: Retries(attempts=0), lambda: Retries(first=3), lambda: Retries(factor=0.5),
                  lambda: CircuitBreaker(ends=0), lambda: CircuitBreaker(pause=0)):  # fmt: skip
        with pytest.raises(InvalidArgument):
            wrong()


def test_which_ends_are_worth_another_try_and_which_count() -> None:
    for end, again, counts in (
        (ends.Crashed(signal.SIGSEGV), True, True),
        (ends.Exited(0), True, True),
        (ends.SandboxViolation("execve"), False, True),
        (ends.BadMessage("x"), False, True),
        (ends.OutOfMemory("x"), False, False),
        (ends.Killed("x", quiet=True), False, False),
    ):
        assert is_worth_repeating(PluginCrashed("work", end)) is again, end
        assert was_its_own(end) is counts, end
    assert is_worth_repeating(ProcessLost("its zygote is started again"))


# ── the circuit ──────────────────────────────────────────────────────────────────────────────────────────────────


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_one_is_tried_after_each_pause_and_an_answer_closes_it() -> None:
    clock = Clock()
    circuit = Circuit("it", CircuitBreaker(ends=2, window=60, pause=30), clock)
    assert circuit.ended() is None
    circuit.check()
    why = circuit.ended()
    assert why is not None
    assert why.startswith(
        "it ended 2 times within 60 s, and answered nothing in between, so no process of it"
    )
    clock.now += 20
    with pytest.raises(CircuitOpen, match="for 10 s"):
        circuit.check()
    clock.now += 11
    circuit.check()
    with pytest.raises(CircuitOpen):
        circuit.check()
    assert circuit.ended() is None, "that is known already"
    clock.now += 31
    circuit.check()
    assert circuit.close()
    circuit.check()
    assert not circuit.close()


def test_ends_that_are_long_ago_and_ends_before_an_answer_do_not_count() -> None:
    clock = Clock()
    circuit = Circuit("it", CircuitBreaker(ends=2, window=60), clock)
    for _ in range(5):
        assert circuit.ended() is None
        clock.now += 61
    for _ in range(5):
        assert circuit.ended() is None
        circuit.close()


def test_a_plugin_that_keeps_ending_is_left_alone_and_then_tried(quick: PluginRuntime) -> None:
    heard = listen(quick, "crashed", "circuit_opened", "circuit_closed", "restarted")
    quick.load_source(CODE, "work")
    for _ in range(3):
        with pytest.raises(PluginCrashed):
            quick.call("work", "leave")
    with pytest.raises(CircuitOpen, match="work ended 3 times"):
        quick.call("work", "fine")
    assert until_called(lambda: quick.call("work", "fine")) == 1
    names = [heard.get(timeout=10).name for _ in range(8)]
    assert names == [
        *["crashed", "restarted"] * 2,
        "crashed",
        "circuit_opened",
        "restarted",
        "circuit_closed",
    ]
    quick.unload("work")


def until_called(call: Callable[[], object]) -> object:
    while True:
        try:
            return call()
        except CircuitOpen:
            threading.Event().wait(0.01)


def test_restart_starts_one_at_once(runtime: PluginRuntime) -> None:
    heard = listen(runtime, "circuit_opened", "circuit_closed", "restarted")
    runtime.load_source(CODE, "work")
    for _ in range(6):
        with pytest.raises(PluginCrashed):
            runtime.call("work", "leave")
    with pytest.raises(CircuitOpen):
        runtime.call("work", "fine")
    runtime.restart("work")
    assert runtime.call("work", "fine") == 1
    names = [heard.get(timeout=10).name for _ in range(8)]
    assert names[-3:] == ["circuit_opened", "circuit_closed", "restarted"]


def test_deadlines_and_cancelled_calls_lock_nobody_out(quick: PluginRuntime, counter: Counter) -> None:
    quick.load_source(CODE, "patient", functions={"count": counter.count})
    plugin = quick.get("patient")
    for _ in range(4):
        with pytest.raises(Timeout):
            plugin.call("spin", 0, timeout=0.02)
        assert plugin.circuit is not None
        assert not plugin.circuit.is_strained
    assert plugin.call("fine") == 1
    quick.unload("patient")


def test_a_pool_is_left_alone_as_one(quick: PluginRuntime) -> None:
    quick.load_source(CODE, "pooled")
    with PluginPool("pooled", size=3, runtime=quick) as pool:
        for _ in range(3):
            assert isinstance(pool.submit("leave").exception(20), PluginCrashed)
        assert isinstance(pool.submit("fine").exception(20), CircuitOpen)
        assert until_called(lambda: pool.submit("fine").result(20)) == 1
    quick.unload("pooled")


# ── events ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_end_between_two_calls_is_told_when_it_happens(runtime: PluginRuntime) -> None:
    heard = listen(runtime, "crashed", "restarted")
    plugin = runtime.load_source(CODE, "work")
    assert plugin.pid is not None
    os.kill(plugin.pid, signal.SIGKILL)
    event = heard.get(timeout=10)
    assert event == PluginEvent("crashed", "work", "its process was ended by SIGKILL")
    assert plugin.call("fine") == 1
    event = heard.get(timeout=10)
    assert event == PluginEvent("restarted", "work", "its process was ended by SIGKILL")
    assert heard.empty(), "each is told once"


def test_a_handler_may_call_the_plugin_that_it_hears_of(runtime: PluginRuntime) -> None:
    answers: queue.Queue[object] = queue.Queue()
    runtime.load_source(CODE, "work")
    runtime.on("crashed", lambda event: answers.put(runtime.call(event.plugin, "fine")))
    with pytest.raises(PluginCrashed):
        runtime.call("work", "leave")
    assert answers.get(timeout=10) == 1


def test_what_was_to_end_is_not_told_as_a_crash(runtime: PluginRuntime) -> None:
    heard = listen(runtime, "crashed")
    plugin = runtime.load_source(CODE, "work")
    runtime.restart("work")
    with pytest.raises(Timeout):
        plugin.call("raises", 1, timeout=1e-9)
    runtime.unload("work")
    assert heard.empty()
