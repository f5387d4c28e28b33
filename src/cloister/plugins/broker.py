"""What Cloister itself does for a plugin that asks: what the kernel cannot hold a process to, so that the process may
not do it at all.

Each argument is a stranger's, and may be of any type that travels. What was not granted is denied, and told.
"""

from __future__ import annotations

import contextlib
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..errors import (
    AddressRefused,
    CloisterError,
    HostError,
    PluginRaised,
    printable,
)
from . import hosts
from .capabilities import Held, covers
from .events import Events
from .listeners import Listeners
from .mailbox import Mailbox
from .network import Network

if TYPE_CHECKING:
    from ..browser.requests import AsyncAPIRequestContext, AsyncAPIResponse
    from .limits import Limits
    from .programs import Programs
    from .registry import Registry

__all__ = ["RESERVED", "Asked", "Broker", "Denied", "Services"]

RESERVED: Final = frozenset({"call", "listener", "receive", "request", "resolve", "run", "send"})
"""Names that a host's own functions cannot have."""

_DEEPEST: Final = 16
"""Plugins that call one another, one waiting for the next."""
_NAME: Final = re.compile(r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?", re.ASCII)
_chain: Final = threading.local()


_ARGUMENTS: Final = {
    "call": (2, 1000),
    "receive": (0, 1),
    "request": (1, 5),
    "resolve": (1, 1),
    "run": (1, 4),
    "send": (2, 2),
}
"""How many each takes."""


class Denied(Exception):
    """It was not granted. The plugin is told the message; the host the ``detail``, if there is any that is not for the
    plugin."""

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail or message


class Services(NamedTuple):
    """What all brokers of a runtime have in common."""

    registry: Registry
    network: Network
    events: Events
    programs: Programs


class Asked(NamedTuple):
    """Who asks, with what: as it is at this moment, since a plugin may be loaded anew with other grants."""

    held: Held
    limits: Limits
    deadline: float
    """Of the call that it works on, on the clock of time.monotonic()."""
    is_waiting: Callable[[], bool] = lambda: True
    """Whether it is still there to be answered."""


class Broker:
    """One plugin's, for all of its processes and any number of threads."""

    def __init__(self, plugin: str, services: Services) -> None:
        self.mailbox = Mailbox(plugin)
        self.outbox = Mailbox("the host's program")
        """What it sent to the host's program."""
        self.listeners = Listeners()
        self._plugin = plugin
        self._services = services
        self._requests: tuple[tuple[str, ...], int, AsyncAPIRequestContext] | None = None
        self._does: Mapping[str, Callable[..., Any]] = {
            "call": self._call,
            "receive": self._receive,
            "request": self._request,
            "resolve": self._resolve,
            "run": self._run,
            "send": self._send,
        }

    def ask(self, name: str, arguments: list[Any], asked: Asked) -> Any:
        """Do what one of the :data:`RESERVED` names says. Raises :class:`Denied`, and :class:`HostError` for the plugin
        to read."""
        try:
            return self._do(name, arguments, asked)
        except Denied as error:
            self.tell_denied(error.detail)
            raise

    def _do(self, name: str, arguments: list[Any], asked: Asked) -> Any:
        does = self._does.get(name)
        if does is None:
            raise Denied(f"{name} was not granted")
        least, most = _ARGUMENTS[name]
        if not least <= len(arguments) <= most:
            raise HostError(f"{name} takes {least} to {most} arguments, not {len(arguments)}")
        try:
            return does(asked, *arguments)
        except HostError:
            raise
        except AddressRefused as error:  # it may say which address a name has here
            raise Denied("net:request: that address is refused", str(error)) from None
        except CloisterError as error:
            raise HostError(str(error)) from None

    def tell_denied(self, what: str) -> None:
        """Have the host hear of it."""
        self._services.events.tell("denied", self._plugin, printable(what, 300))

    def close(self) -> None:
        """It is unloaded: nothing waits for it, or listens, any more."""
        self.mailbox.close()
        self.outbox.close()
        self.listeners.close()

    def end_requests(self) -> None:
        """End the processes that ask for it."""
        if self._requests is not None:
            with contextlib.suppress(CloisterError):  # then they end with the runtime
                self._services.network.run(self._forget_requests(), 30.0)

    # ── the network ──────────────────────────────────────────────────────────────────────────────────────────────

    def _request(self, asked: Asked, url: Any, *rest: Any) -> dict[str, Any]:
        given: list[Any] = [*rest, *("GET", None, None, None)[len(rest) :]]
        method, headers, body, timeout = given
        within = _within(asked.deadline, timeout, 30.0)
        if not isinstance(url, str) or not hosts.allows(asked.held.hosts, url):
            raise Denied(f"net:request of {printable(str(url), 200)} was not granted")
        if not isinstance(method, str) or not isinstance(headers, dict | None):
            raise HostError("method is a str, and headers are a dict")
        if any(isinstance(each, str) and each.lower() == "host" for each in headers or ()):
            raise Denied(
                "net:request: the header Host names the granted host, and no other at the same address"
            )
        if not isinstance(body, str | bytes | memoryview | None):
            raise HostError("body is a str or bytes")
        sent = bytes(body) if isinstance(body, memoryview) else body
        response = self._services.network.run(
            self._fetch(asked, url, {"method": method, "headers": headers, "data": sent}, within), within
        )
        return {
            "status": response.status,
            "headers": [[each["name"], each["value"]] for each in response.headers_array],
            "body": response.data(),
            "url": response.url,
        }

    async def _fetch(
        self, asked: Asked, url: str, options: Mapping[str, Any], within: float
    ) -> AsyncAPIResponse:
        requests = await self._own_requests(asked.held.hosts, asked.limits.bytes_of("result"))
        return await requests.fetch(url, **options, timeout=within * 1000)

    async def _own_requests(self, granted: tuple[str, ...], most: int) -> AsyncAPIRequestContext:
        from ..browser.cookies import CookieStore
        from ..browser.without_pages import RequestBounds

        class NoCookies(CookieStore):
            """Nothing is kept from one request to the next."""

            def put(self, *_given: object) -> None:
                return

        browser = await self._services.network.browser()
        if self._requests is not None and self._requests[:2] == (granted, most):
            return self._requests[2]
        await self._forget_requests()
        policy = self._services.network.policy
        bounds = RequestBounds(hosts.rules(granted, policy), lambda url: hosts.allows(granted, url), most)
        made = browser.requests_with(NoCookies(), bounds)
        self._requests = granted, most, made
        return made

    async def _forget_requests(self) -> None:
        before, self._requests = self._requests, None
        if before is not None:
            browser = await self._services.network.browser()
            await browser.end_requests(before[2])

    def _resolve(self, asked: Asked, name: Any) -> list[str]:
        wanted = name.lower() if isinstance(name, str) else ""
        if not _NAME.fullmatch(wanted) or len(wanted) > 253:
            raise HostError("that is no name of a host")
        wanted = wanted.removesuffix(".")
        if not any(covers(pattern, wanted) for pattern in asked.held.names):
            raise Denied(f"net:dns of {wanted} was not granted")
        within = _within(asked.deadline, None, 30.0)

        async def look_up() -> tuple[str, ...]:
            browser = await self._services.network.browser()
            return await browser.look_up(wanted, named=wanted in asked.held.names, timeout=within)

        return list(self._services.network.run(look_up(), within))

    # ── programs ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _run(
        self, asked: Asked, name: Any, arguments: Any = (), given: Any = b"", timeout: Any = None
    ) -> Mapping[str, Any]:
        if not isinstance(name, str) or name not in dict(asked.held.programs):
            raise Denied(f"sys:exec of {printable(str(name), 200)} was not granted")
        if not isinstance(arguments, list | tuple):
            raise HostError("arguments are a list")
        return self._services.programs.run(
            name,
            [*arguments],
            given,
            held=asked.held,
            limits=asked.limits,
            seconds=_within(asked.deadline, timeout, math.inf),
            wanted=asked.is_waiting,
        )

    # ── other plugins ────────────────────────────────────────────────────────────────────────────────────────────

    def _call(self, asked: Asked, plugin: Any, function: Any, *arguments: Any) -> Any:
        if not isinstance(plugin, str) or not any(covers(each, plugin) for each in asked.held.calls):
            raise Denied(f"plugin:call of {printable(str(plugin), 80)} was not granted")
        within = _within(asked.deadline, None, math.inf)
        called = self._services.registry.get(plugin)
        if function not in called.exports:
            raise HostError(f"{plugin} has no function {printable(str(function), 80)}")
        try:
            with _one_deeper():
                result = called.call(function, *arguments, timeout=within)
        except PluginRaised as error:
            raise HostError(f"{plugin} raised {error.type_name}: {error.message}") from None
        if hasattr(result, "close") and hasattr(result, "next"):
            result.close()
            raise HostError(f"{function} of {plugin} gives a stream, which does not travel on")
        return result

    def _send(self, asked: Asked, plugin: Any, value: Any) -> None:
        may = asked.held.messages
        if plugin is None and may:
            self.outbox.put(self._plugin, value)
            return
        if not isinstance(plugin, str) or not any(covers(each, plugin) for each in may):
            raise Denied(f"plugin:message to {printable(str(plugin), 80)} was not granted")
        broker = self._services.registry.get(plugin).spec.broker
        if broker is None:
            raise HostError(f"{plugin} has no mailbox")
        broker.mailbox.put(self._plugin, value)

    def _receive(self, asked: Asked, timeout: Any = 0) -> tuple[str | None, Any] | None:
        return self.mailbox.take(0.0 if timeout == 0 else _within(asked.deadline, timeout, 0.0))


def _within(deadline: float, wanted: Any, default: float) -> float:
    """Seconds that something may take which a plugin waits for: ``wanted`` at the most, and so that a little is left
    for the plugin to go on with."""
    if wanted is None:
        wanted = default
    if isinstance(wanted, bool) or not isinstance(wanted, int | float) or not wanted > 0:
        raise HostError("timeout is a number of seconds, more than 0")
    left = max(0.0, deadline - time.monotonic())
    return max(0.001, min(wanted, left - min(0.5, left / 10)))


@contextlib.contextmanager
def _one_deeper() -> Iterator[None]:
    depth = getattr(_chain, "depth", 0)
    if depth >= _DEEPEST:
        raise HostError(f"{_DEEPEST} plugins wait for one another already")
    _chain.depth = depth + 1
    try:
        yield
    finally:
        _chain.depth = depth
