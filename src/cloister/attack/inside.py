"""The attack in the place of a child: a module that the zygote can fork like any kind's own.

The real child starts, with everything it is given, and locks itself down. The first thing that it then says is what
lets the attack begin: from there on it is another program, with the same powers, as after a hole in a library. So what
is tried is what the real lock-down leaves, and nothing here has to follow it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any, Final, NoReturn

import msgspec

from .. import sandbox
from ..interfaces.attack import ATTACK, Options, PreloadOptions, Targets
from ..ipc import Channel
from ..ipc.codec import codec
from ..ipc.start import Start
from ..sandbox import Layer, Limits, Policy, landlock, privileges, seccomp
from . import calls, held, memory
from .serve import serve, serve_by_forking

__all__ = ["POLICY", "main", "preload"]

POLICY = Policy("zygote", groups=())
"""That of the kind whose place is taken, once preloaded. With none a branch is what the zygote itself is."""

_module: ModuleType | None = None
_filtered = False


def _nothing(*_arguments: Any) -> None:
    return


_SWITCHES: Final[dict[str, tuple[Any, str, Callable[..., Any]]]] = {
    Layer.SECCOMP: (seccomp, "available", lambda: False),
    Layer.LANDLOCK: (landlock, "abi", lambda: 0),
    Layer.EMPTY_ROOT: (sandbox, "enter_empty_root", lambda *_paths: False),
    Layer.LIMITS: (Limits, "apply", _nothing),
    Layer.NO_EXECUTABLE_MEMORY: (privileges, "refuse_executable_memory", lambda: False),
}
"""How this process, and no other, is put up without a layer: to see what stands behind it."""


def preload(options: bytes) -> None:
    """Preload as the kind does. ``options`` is the msgpack of :class:`PreloadOptions`."""
    global POLICY, _module, _filtered  # noqa: PLW0603 - a branch is of one kind for good
    wanted = msgspec.msgpack.decode(options, type=PreloadOptions)
    _leave_out(wanted.without)
    _filtered = seccomp.available()  # which cannot be asked once there is a filter
    calls.remember_parent(os.getpid())
    held.prepare()
    memory.prepare()
    codec(ATTACK, "server")
    if wanted.module is not None:
        _module = importlib.import_module(wanted.module)
        _module.preload(wanted.options)
        POLICY = _module.POLICY


def _leave_out(layers: Iterable[str]) -> None:
    for layer in layers:
        setattr(*_SWITCHES[layer])


def main(start: Start) -> None:
    """Lock down as the kind does, then make attempts on the last channel. A branch is locked down already."""
    options = msgspec.msgpack.decode(start.options, type=Options)
    *channels, work = start.channels
    held.hand_over(start.control.fileno(), *(channel.fileno() for channel in start.channels))
    if options.child is None:
        held.hand_over(start.control.fileno(), work.fileno(), *landlock.descriptors())
        serve_by_forking(work, options.targets, _filter(sandbox.zygote_policy([POLICY])))
        return
    if _module is None:
        raise RuntimeError("inside.main needs a kind's module to be preloaded")
    control = _TakenOver(start.control.detach(), work, options.targets)
    _module.main(Start(control, tuple(channels), options.child, start.allow_degraded))


def _filter(policy: Policy) -> Policy | None:
    return policy if _filtered else None


class _TakenOver(Channel):
    """The control channel of a child. What the child says first on it is that it is locked down."""

    __slots__ = ("_targets", "_work")

    def __init__(self, fd: int, work: Channel, targets: Targets) -> None:
        super().__init__(fd)
        self._work = work
        self._targets = targets

    def send(self, data: bytes, fds: list[int] | tuple[int, ...] = ()) -> NoReturn:
        super().send(data, fds)
        serve(self._work, self._targets, _filter(POLICY))
        os._exit(0)
