"""``import host``: what Cloister does for a plugin, and the functions that the host registered, as its code sees
them."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, cast

__all__ = ["Denied", "HostFunctionError", "install"]


class HostFunctionError(Exception):
    """A host function failed, or there is none of that name."""


class Denied(PermissionError):
    """That was not granted to this plugin."""


class _Host(ModuleType):
    """``host.lookup(1, 2)`` calls the function that the host registered as ``lookup``. What is written out below is
    Cloister's own: the host's end of it judges what it is asked for, so nothing here does."""

    def __init__(self, call: Callable[[str, list[Any]], Any], listening: Mapping[str, socket.socket]) -> None:
        super().__init__("host", "What the host does for this plugin.")
        self.Denied = Denied
        self.HostFunctionError = HostFunctionError
        self._call = call
        self._listening = listening

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *arguments: self._call(name, list(arguments))

    def request(
        self,
        url: str,
        method: str = "GET",
        headers: Mapping[str, str] | None = None,
        body: bytes | str | None = None,
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Ask a server (``net:request``): a dict with ``status``, ``headers`` (a list of names and values), ``body``
        and ``url``, which is where redirects led. ``timeout`` is in seconds."""
        answer = self._call("request", [url, method, headers, body, timeout])
        return cast("dict[str, Any]", answer)

    def resolve(self, name: str) -> list[str]:
        """The addresses of a name (``net:dns``)."""
        return cast("list[str]", self._call("resolve", [name]))

    def listener(self, address: str) -> socket.socket:
        """The socket that listens at ``address``, as that was granted (``net:listen``)."""
        found = self._listening.get(address)
        return cast("socket.socket", self._call("listener", [address])) if found is None else found

    def run(
        self,
        program: str,
        *arguments: str | bytes,
        input: str | bytes = b"",
        timeout: float | None = None,
    ) -> dict[str, Any]:
        """Run a program (``sys:exec``) that reads ``input``: a dict with ``returncode`` (minus a signal), and the bytes
        of ``stdout`` and ``stderr``. ``timeout`` is in seconds."""
        return cast("dict[str, Any]", self._call("run", [program, list(arguments), input, timeout]))

    def receive(self, timeout: float = 0) -> tuple[str | None, Any] | None:
        """Who sent the oldest message that waits, and its value; None if none came within ``timeout`` seconds. The
        sender is the name of a plugin, or None for the host's program."""
        found = self._call("receive", [timeout])
        return None if found is None else (found[0], found[1])


def install(
    call: Callable[[str, list[Any]], Any], listening: Mapping[str, socket.socket] | None = None
) -> ModuleType:
    """``call(name, arguments)`` asks the host. ``listening`` are sockets by their addresses. What was installed."""
    sys.modules["host"] = made = _Host(call, listening or {})
    return made
