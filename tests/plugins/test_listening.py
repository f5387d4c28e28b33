"""A plugin that was granted it takes connections where its host listens for it, and does nothing else with sockets."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from cloister import ends
from cloister.errors import CapabilityRefused, PluginCrashed, PluginError, PluginRaised
from cloister.plugins.plugin import Plugin
from cloister.plugins.runtime import PluginRuntime

CODE = """
import ctypes, host, os, socket, struct

def serve(address, times=1):
    for _ in range(times):
        connection, peer = host.listener(address).accept()
        with connection:
            connection.sendall(connection.recv(100).upper())
    return peer

def later(address):
    listener = host.listener(address)
    listener.settimeout(0.05)
    try: listener.accept()
    except TimeoutError: return 'nobody came'

def lines(address):
    connection, _ = host.listener(address).accept()
    with connection, connection.makefile('rwb') as file:
        file.write(file.readline())

def shut(address): host.listener(address).shutdown(socket.SHUT_RDWR)

def options(address):
    denied = 0
    for option in ((1, 2), (6, 30), (6, 31), (0, 10)):
        try: host.listener(address).setsockopt(*option, 1)
        except PermissionError: denied += 1
    return denied

def make():
    try: socket.socket()
    except PermissionError: return 'denied'

def bind(address): host.listener(address).bind(('127.0.0.1', 0))
def listen(address): host.listener(address).listen()
def connect(address): host.listener(address).connect(('127.0.0.1', 1))

def connect_by_sending(address, port, call):
    'TCP Fast Open, on a socket that does not listen any more.'
    listener = host.listener(address)
    listener.shutdown(socket.SHUT_RDWR)
    fast_open = 0x20000000
    if call == 'sendto': return listener.sendto(b'out', fast_open, ('127.0.0.1', port))
    return listener.sendmsg([b'out'], [], fast_open, ('127.0.0.1', port))
"""
ANY = "127.0.0.1:0"


@pytest.fixture
def plugin(runtime: PluginRuntime) -> Plugin:
    return runtime.load_source(CODE, "server", grants={"net:listen": [ANY]})


@pytest.fixture(scope="module", autouse=True)
def warm(runtime: PluginRuntime) -> Iterator[None]:
    """Those that listen have a zygote, which lives as long as one of them."""
    spec = runtime.load_source("", "warm", grants={"net:listen": [ANY]}).spec
    keeper = runtime.plugin(spec)
    keeper.load()
    yield
    keeper.close()


def ask(address: str, said: bytes = b"hello") -> bytes:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=10) as connection:
        connection.sendall(said)
        return connection.recv(100)


def asked(plugin: Plugin, function: str = "serve", **given: Any) -> bytes:
    """While the plugin serves."""
    (address,) = plugin.listening
    thread = threading.Thread(target=plugin.call, args=(function, ANY), kwargs=given)
    thread.start()
    try:
        return ask(address, b"hello\n")
    finally:
        thread.join()


def test_it_answers_whoever_connects(plugin: Plugin) -> None:
    assert plugin.listening[0].startswith("127.0.0.1:")
    assert asked(plugin) == b"HELLO\n"
    assert asked(plugin, "lines") == b"hello\n"
    assert plugin.call("later", ANY) == "nobody came"
    assert asked(plugin) == b"HELLO\n", "a timeout is not for good"


def test_who_waits_is_served_by_the_next_process(plugin: Plugin) -> None:
    (address,) = plugin.listening
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), timeout=10) as waiting:
        plugin.restart()
        assert plugin.listening == (address,)
        waiting.sendall(b"still here")
        plugin.call("serve", address)
        assert waiting.recv(100) == b"STILL HERE"


def test_what_it_shut_down_listens_again_for_its_next_process(plugin: Plugin) -> None:
    (address,) = plugin.listening
    plugin.call("shut", ANY)
    with pytest.raises(ConnectionRefusedError):
        ask(address)
    plugin.restart()
    assert asked(plugin) == b"HELLO\n"
    assert plugin.listening == (address,)


def test_what_is_unloaded_listens_no_more(runtime: PluginRuntime, plugin: Plugin) -> None:
    (address,) = plugin.listening
    runtime.unload("server")
    with pytest.raises(ConnectionRefusedError):
        ask(address)


def test_it_makes_no_socket_and_changes_none(plugin: Plugin) -> None:
    assert plugin.call("make") == "denied"
    assert plugin.call("options", ANY) == 4
    for function, call in (("bind", "bind"), ("listen", "listen"), ("connect", "connect")):
        with pytest.raises(PluginCrashed) as caught:
            plugin.call(function, ANY)
        assert isinstance(caught.value.end, ends.SandboxViolation)
        assert caught.value.end.syscall == call


@pytest.mark.parametrize("call", ["sendto", "sendmsg"])
def test_it_connects_nowhere_by_sending(plugin: Plugin, call: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as canary:
        canary.settimeout(0.05)
        with pytest.raises(PluginCrashed) as caught:
            plugin.call("connect_by_sending", ANY, canary.getsockname()[1], call)
        assert isinstance(caught.value.end, ends.SandboxViolation)
        assert caught.value.end.syscall == call
        with pytest.raises(TimeoutError):
            canary.accept()


def test_only_what_is_granted_is_listened_at(runtime: PluginRuntime, plugin: Plugin) -> None:
    heard: list[str] = []
    runtime.on("denied", lambda event: heard.append(event.what))
    with pytest.raises(PluginRaised) as caught:
        plugin.call("serve", "127.0.0.1:9")
    assert caught.value.type_name.endswith("Denied")
    assert len(heard) == 1
    for wrong in (
        "localhost:80",
        "127.0.0.1",
        "127.0.0.1:65536",
        "1.2.3.4.5:1",
        "::1:80",
        "*",
        "[127.0.0.1]:80x",
        "",
    ):
        with pytest.raises(CapabilityRefused):
            runtime.load_source("", "wrong", grants={"net:listen": [wrong]})
    with pytest.raises(CapabilityRefused, match="4 is the most"):
        runtime.load_source("", "wrong", grants={"net:listen": [f"127.0.0.1:{n}" for n in range(1, 6)]})


def test_an_address_that_is_taken_is_told(runtime: PluginRuntime) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(PluginError, match=f"nothing can listen at {address}: Address already in use"):
            runtime.load_source(CODE, "other", grants={"net:listen": [address]})
    assert "other" not in [plugin.name for plugin in runtime.plugins]
