"""A zygote that begins before the command that will need it has been imported: it loads its libraries meanwhile."""

from __future__ import annotations

import os

from . import spawn as spawning

TYPE_CHECKING = False  # typing takes 10 ms to load: process/spawn.py
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..ipc import Channel
    from .spawn import Spawned

__all__ = ["Early", "abandon", "end", "start", "take", "tell"]

_END_TIMEOUT = 2.0  # seconds
_SIGKILL = 9


class Early:
    """One that begins. All descriptors are the holder's to close.

    ``options`` are the zygote's start options as it was told them; nothing: it was told nothing yet. ``channels`` are
    this side's ends of its branches' channels, in the options' order.
    """

    def __init__(self, spawned: Spawned, options: bytes = b"", channels: Sequence[Channel] = ()) -> None:
        self.spawned = spawned
        self.options = options
        self.channels = channels


_begun: list[Early] = []  # one at most


def start() -> None:
    """Start a zygote that :func:`take` will hand out. One that nobody takes ends with this program. What hinders it
    will hinder the launch, where it is known what for."""
    if _begun:
        return
    try:
        _begun.append(Early(spawning.spawn("zygote")))
    except Exception as error:
        _check(error)


def tell(kinds: Sequence[str], preload: Mapping[str, bytes]) -> None:
    """Have it load ``kinds``, with their options in ``preload``. Else who takes it tells it what to load."""
    if not _begun or _begun[0].options:
        return
    try:
        _begun[0] = _told(_begun[0].spawned, kinds, preload)
    except Exception as error:
        _check(error)


def _check(error: Exception) -> None:
    from ..errors import CloisterError

    if not isinstance(error, CloisterError):
        raise error


def _told(spawned: Spawned, kinds: Sequence[str], preload: Mapping[str, bytes]) -> Early:
    # Only now: it runs already while this is imported.
    import contextlib

    from .lean import load_msgspec

    load_msgspec()
    import msgspec

    from ..errors import descriptors_left
    from ..interfaces.zygote import Options, PreloadKind
    from ..ipc import Channel
    from . import start_message
    from .kinds import MODULES

    entries = tuple(PreloadKind(kind, MODULES[kind], preload.get(kind, b"")) for kind in kinds)
    options = msgspec.msgpack.encode(Options(entries))
    with contextlib.ExitStack() as ours, contextlib.ExitStack() as theirs:
        with descriptors_left():
            control = Channel(os.dup(spawned.control))
        theirs.callback(control.close)
        pairs = []
        for _ in kinds:
            here, there = Channel.pair()
            ours.callback(here.close)
            theirs.callback(there.close)
            pairs.append((here, there))
        start_message.send(control, options, [there for _, there in pairs], allow_degraded=False)
        ours.pop_all()
    return Early(spawned, options, [here for here, _ in pairs])


def take() -> Early | None:
    """The zygote that has begun; None where none has."""
    return _begun.pop() if _begun else None


def abandon() -> None:
    """End what was started and never taken."""
    if (early := take()) is not None:
        end(early)


def end(early: Early) -> None:
    """End one that is not wanted, whatever it has become by now, and wait for it."""
    import contextlib
    import time

    for channel in early.channels:
        channel.close()
    os.close(early.spawned.control)
    os.close(early.spawned.errors)
    # It leads a session, which the process that it makes in a pid namespace of its own does not leave.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(early.spawned.pid, _SIGKILL)
    deadline = time.monotonic() + _END_TIMEOUT
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitid(os.P_PGID, early.spawned.pid, os.WEXITED | os.WNOHANG) is None:
                time.sleep(0.005)
