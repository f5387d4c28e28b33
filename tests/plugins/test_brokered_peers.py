"""Plugins call one another and send one another messages as they were granted, and never wait for ever."""

from __future__ import annotations

import threading
from random import Random
from typing import Any

import pytest

from cloister.errors import HostError, NotSendable, PluginCrashed
from cloister.plugins.events import PluginEvent
from cloister.plugins.limits import Limits
from cloister.plugins.plugin import Plugin
from cloister.plugins.runtime import PluginRuntime

CODE = """
import host, time

def ask(name, *x):
    try: return host._call(name, list(x))  # so that nothing but the host judges
    except host.Denied as error: return 'denied: ' + str(error)
    except host.HostFunctionError as error: return 'failed: ' + str(error)

def double(x): return 2 * x
def fails(): raise KeyError('x' * 100_000)
def count():
    yield 1
def wait(): time.sleep(60)
def around(name, *way): return ask('call', name, 'around', *way) if way else ask('call', name, 'double', 1)
def meet(name): return [host.both(), ask('call', name, 'double', 1)][1]
def flood(name, value, times): return [ask('send', name, value) for _ in range(times)]
def _hidden(): return 'secret'
def caught():
    try: host.call('other', 'double', 1)
    except PermissionError as error: return type(error).__name__
def forbidden():
    import os
    os.sched_setscheduler(0, 0, os.sched_param(0))
"""


@pytest.fixture
def denied(runtime: PluginRuntime) -> list[PluginEvent]:
    heard: list[PluginEvent] = []
    runtime.on("denied", heard.append)
    return heard


def loaded(runtime: PluginRuntime, name: str, **given: Any) -> Plugin:
    grants = {key.replace("_", ":"): value for key, value in given.items() if isinstance(value, list)}
    return runtime.load_source(
        CODE, name, grants=grants, limits=given.get("limits"), functions=given.get("functions")
    )


def test_a_plugin_calls_the_plugins_that_it_was_granted(
    runtime: PluginRuntime, denied: list[PluginEvent]
) -> None:
    plugin = loaded(runtime, "one", plugin_call=["other", "gone"])
    loaded(runtime, "other")
    loaded(runtime, "third")
    assert plugin.call("ask", "call", "other", "double", [1, b"x"]) == [1, b"x", 1, b"x"]
    assert plugin.call("ask", "call", "other", "fails").startswith(
        "failed: HostError: other raised KeyError: 'xxx"
    )
    assert "no function" in plugin.call("ask", "call", "other", "_hidden")
    assert "no function" in plugin.call("ask", "call", "other", ["double"])
    assert "stream" in plugin.call("ask", "call", "other", "count")
    assert "no plugin 'gone'" in plugin.call("ask", "call", "gone", "double", 1)
    assert denied == []
    for name in ("third", "one", "Other", "", None, 3, ["other"]):
        assert plugin.call("ask", "call", name, "double", 1).startswith("denied: plugin:call"), name
    assert runtime.call("third", "caught") == "Denied"
    assert [event.plugin for event in denied] == ["one"] * 7 + ["third"]


def test_who_was_called_too_long_is_ended_and_the_caller_told(runtime: PluginRuntime) -> None:
    plugin = loaded(runtime, "one", plugin_call=["other"], limits=Limits(timeout=1))
    loaded(runtime, "other")
    assert "did not answer" in plugin.call("ask", "call", "other", "wait")
    assert plugin.call("ask", "call", "other", "double", 1) == 2


def test_a_circle_of_calls_ends(runtime: PluginRuntime) -> None:
    one = loaded(runtime, "one", plugin_call=["*"])
    loaded(runtime, "two", plugin_call=["*"])
    assert "itself waiting for" in one.call("around", "two", "one", "two")
    assert "itself waiting for" in one.call("around", "one")
    for number in range(18):
        loaded(runtime, f"next-{number}", plugin_call=["*"])
    assert "wait for one another already" in one.call("around", *(f"next-{number}" for number in range(18)))


def test_two_that_wait_for_each_other_are_told_by_the_deadline(runtime: PluginRuntime) -> None:
    found: dict[str, Any] = {}
    both = threading.Barrier(2)
    for name in ("one", "two"):
        loaded(
            runtime,
            name,
            plugin_call=["*"],
            limits=Limits(timeout=2),
            functions={"both": lambda: both.wait(10) and None},
        )

    def run(name: str, other: str) -> None:
        found[name] = runtime.call(name, "meet", other)

    threads = [threading.Thread(target=run, args=pair) for pair in (("one", "two"), ("two", "one"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert any("was busy" in str(each) for each in found.values())
    assert runtime.call("one", "double", 1) == 2


def test_messages_wait_for_whoever_they_were_sent_to(
    runtime: PluginRuntime, denied: list[PluginEvent]
) -> None:
    one = loaded(runtime, "one", plugin_message=["two"])
    two = loaded(runtime, "two")
    assert one.call("ask", "send", "two", {"x": [1, 2**70]}) is None
    two.restart()
    assert two.call("ask", "receive") == ["one", {"x": [1, 2**70]}]
    assert two.call("ask", "receive") is None
    assert two.call("ask", "receive", 0.01) is None
    two.send("from the program")
    assert two.call("ask", "receive", 5) == [None, "from the program"]
    assert one.call("ask", "send", None, b"to the program") is None
    assert (one.receive(), one.receive()) == (b"to the program", None)
    assert two.call("ask", "send", None, 1).startswith("denied: plugin:message")
    assert two.call("ask", "send", "one", 1).startswith("denied: plugin:message")
    assert one.call("ask", "send", "one", 1).startswith("denied: plugin:message")
    assert len(denied) == 3


def test_a_mailbox_has_an_end(runtime: PluginRuntime) -> None:
    one = loaded(runtime, "one", plugin_message=["two"])
    two = loaded(runtime, "two")
    answers = one.call("flood", "two", "x", 300)
    assert [each is None for each in answers] == [True] * 256 + [False] * 44
    assert "the mailbox of two is full" in answers[-1]
    with pytest.raises(HostError, match="full"):
        two.send(1)
    assert two.call("ask", "receive") == ["one", "x"]
    two.send(1)
    one.call("flood", None, "x" * 1_000_000, 6)
    assert sum(one.receive() is not None for _ in range(10)) == 4
    assert "large buffer" in one.call("ask", "send", None, bytearray(100_000))
    with pytest.raises(NotSendable):
        two.send(object())


def test_what_is_asked_for_wrongly_is_told(runtime: PluginRuntime) -> None:
    plugin = loaded(runtime, "one", plugin_call=["*"], plugin_message=["*"])
    for name, *arguments in (("call",), ("call", "one"), ("send", "one"), ("receive", 1, 2), ("receive", "x"),
                             ("receive", -1), ("receive", float("nan")), ("send", "gone", 1)):  # fmt: skip
        assert plugin.call("ask", name, *arguments).startswith("failed: HostError"), name
    assert plugin.call("ask", "run", "/bin/true").startswith("denied: ")


def test_whatever_is_asked_for_is_answered(runtime: PluginRuntime) -> None:
    """In words that the plugin reads, and by nothing else: no argument of any type gets at the host."""
    random = Random(7)
    everything = {name: ["*"] for name in ("plugin_call", "plugin_message", "net_dns")}
    plugin = loaded(runtime, "one", **everything, net_request=["127.0.0.1:1"])
    values: list[Any] = [None, True, -1, 2**70, 1e308, float("nan"), "", "one", "a" * 5000, b"\0", [], {}, [[]],
                         {"a": {}}, "http://127.0.0.1:1/", "localhost", {1: 2}, [None] * 9,
                         memoryview(b"x" * 70_000)]  # fmt: skip
    for name in ("call", "send", "receive", "request", "resolve", "listener", "run"):
        for _ in range(12):
            arguments = [random.choice(values) for _ in range(random.randrange(5))]
            if name == "receive":
                arguments = [
                    each for each in arguments if each not in (1e308, 2**70)
                ]  # a wait, as long as it may be
            answer = plugin.call("ask", name, *arguments)
            assert (
                answer is None
                or isinstance(answer, list)
                or answer.startswith(("denied: ", "failed: HostError"))
            ), (
                name,
                arguments,
                answer,
            )
    assert plugin.call("double", 1) == 2


def test_a_denied_system_call_is_told_too(runtime: PluginRuntime, denied: list[PluginEvent]) -> None:
    plugin = loaded(runtime, "one")
    with pytest.raises(PluginCrashed):
        plugin.call("forbidden")
    (event,) = denied
    assert (event.plugin, event.what) == (
        "one",
        "it was stopped by the sandbox at a forbidden system call (sched_setscheduler)",
    )
    assert plugin.call("double", 1) == 2
