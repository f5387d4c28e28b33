"""The plugin_host's entry: channels[0] loads a plugin and calls it, until nobody asks any more."""

from __future__ import annotations

import os
import site
import socket
from pathlib import Path

import msgspec

from cloister.interfaces.control import CONTROL, Ready
from cloister.interfaces.plugin_host import PLUGIN, Language, Options, PreloadOptions, Raised
from cloister.ipc import Channel
from cloister.ipc.codec import Packet, codec
from cloister.ipc.start import Start
from cloister.sandbox import enter

from . import engine, library
from .clock import FrozenClock
from .conversation import Conversation
from .sandbox import POLICY as _DEFAULT
from .sandbox import policy, unusable, with_limits

__all__ = ["POLICY", "main", "preload"]

POLICY = _DEFAULT
"""Once preloaded, that of what this branch forks."""

_used = (0, 0)
_language = Language.PYTHON
_MIB = 1024 * 1024


def preload(options: bytes) -> None:
    """Import what cannot be imported after lock-down. ``options`` are none, or the msgpack of PreloadOptions."""
    global POLICY, _language, _used  # noqa: PLW0603 - a branch is of one kind for good
    wanted = msgspec.msgpack.decode(options, type=PreloadOptions) if options else PreloadOptions()
    site.main()  # left out so far (process/begin.py): what a plugin uses may have a part in it
    library.import_all(wanted.modules)
    _language = wanted.language
    engine.preload(_language)
    POLICY = policy(wanted, library.folders_of(wanted.modules))
    library.Finder.of(library.paths()).install()
    codec(PLUGIN, "server")
    codec(CONTROL, "server")
    for kind in (Options, Raised):
        msgspec.msgpack.Decoder(kind)
    _used = _memory_in_use()


def main(start: Start) -> None:
    """Lock down, then serve."""
    options = msgspec.msgpack.decode(start.options, type=Options)
    mine = with_limits(POLICY, options, _used)
    report = enter(mine, allow_degraded=start.allow_degraded)
    ready = Ready(tuple(report.layers), tuple(report.missing))
    start.control.send(codec(CONTROL, "server").encode(Packet.EVENT, 0, ready))
    os.environ.update(options.environment)
    refusal = unusable(mine, report)
    clock = None if options.knows_time else FrozenClock()
    work, *sockets = start.channels
    listening = _listening(options, sockets)
    Conversation(
        start.control,
        work,
        options,
        refusal=refusal,
        clock=clock,
        listening=listening,
        language=_language,
    ).serve()


def _listening(options: Options, channels: list[Channel]) -> dict[str, socket.socket]:
    found = {}
    for addresses, channel in zip(options.listening, channels, strict=True):
        family = socket.AF_INET6 if addresses[0].startswith("[") else socket.AF_INET
        # Family and type are given so that Python need not ask the kernel.
        listener = socket.socket(family, socket.SOCK_STREAM, 0, fileno=channel.detach())
        listener.setblocking(True)
        found.update(dict.fromkeys(addresses, listener))
    return found


def _memory_in_use() -> tuple[int, int]:
    """Bytes of private writable memory, and of addresses, as RLIMIT_DATA and RLIMIT_AS count them."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:  # no /proc; what it would say is about half of this
        return 64 * _MIB, 512 * _MIB
    fields = dict(line.split(":", 1) for line in lines)
    data, addresses = (int(fields[name].split()[0]) * 1024 for name in ("VmData", "VmSize"))
    return data, addresses
