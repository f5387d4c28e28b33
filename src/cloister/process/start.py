"""A process started by exec, from its greeting to its end."""

from __future__ import annotations

import gc
import importlib
import select
from typing import NoReturn

from .. import sandbox
from ..errors import BadMessage
from ..interfaces.base import Message
from ..interfaces.zygote import LAUNCH, Launched
from ..interfaces.zygote import Start as StartMessage
from ..ipc import Channel, Descriptors, blob
from ..ipc.codec import Packet, codec
from ..ipc.start import Start
from .child import leave, run, tell_of_crashes

__all__ = ["greet", "serve"]

_START_TIMEOUT = 30.0
_MAX_OPTIONS = 16 * 1024 * 1024  # bytes; the zygote's hold the extra certificates


def greet(channel: int, pid: int) -> None:
    """Tell the launcher which process it has got."""
    with_descriptor = Channel(channel)
    with_descriptor.send(codec(LAUNCH, "server").encode(Packet.EVENT, 0, Launched(pid)))
    with_descriptor.detach()


def serve(module_name: str, channel: int) -> NoReturn:
    """Receive Start, preload, lock down, serve, exit."""
    control = Channel(channel)
    message, fds = _receive(control)
    if not isinstance(message, StartMessage):
        raise BadMessage("the launcher began with something else than Start")
    options = blob.unpack(message.body, fds, _MAX_OPTIONS)
    channels = tuple(Channel(fd) for fd in fds.release())
    start = Start(control, channels, options, message.allow_degraded)
    module = importlib.import_module(module_name)
    module.preload(b"")  # preload options are for what the zygote forks
    if hasattr(module, "POLICY"):  # the zygote has none yet: it still has to preload what it forks
        sandbox.forget_environment()
        gc.freeze()
        gc.enable()
        sandbox.enter_empty_root(module.POLICY.read_paths)
        tell_of_crashes()
    leave(run(module, start))


def _receive(control: Channel) -> tuple[Message | None, Descriptors]:
    poll = select.poll()
    poll.register(control.fileno(), select.POLLIN)
    if not poll.poll(_START_TIMEOUT * 1000):
        raise BadMessage(f"the launcher sent no Start within {_START_TIMEOUT:g} s")
    data, fds = control.receive()
    _, _, message = codec(LAUNCH, "server").decode(data)
    fds.check(message.expected_descriptors() if message is not None else ())
    return message, fds
