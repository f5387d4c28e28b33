"""browser ── zygote, and browser ── each of its branches: the control interface, and forks. The browser is the client.

The zygote branches once for each kind of child, into a process that loads what that kind needs and nothing else;
a branch forks the children. So they load side by side, and a child has no other kind's libraries in its memory.

Neither side is foreign, but the rules are the same for every channel. ``Start`` is how a process that was
started by exec (the zygote, the lookup_server) gets what a forked one gets with its fork.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from .base import Blob, ByteCount, Descriptor, Event, Interface, Milliseconds, ProcessId, Reply, Request
from .control import CONTROL

__all__ = [
    "LAUNCH",
    "ZYGOTE",
    "Exited",
    "Fork",
    "Forked",
    "Kind",
    "Launched",
    "Options",
    "PreloadKind",
    "Start",
]

# \Z, as $ would allow a line feed at the end.
Kind = Annotated[str, Meta(pattern=r"^[a-z][a-z_]{0,31}\Z")]
ModuleName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_.]{0,127}\Z")]
StartOptions = Annotated[bytes, Meta(max_length=32 * 1024)]
ChannelCount = Annotated[int, Meta(ge=0, le=6)]


class PreloadKind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A kind that the zygote can fork: the module whose ``preload`` and ``main`` it calls."""

    kind: Kind
    module: ModuleName
    options: bytes = b""  # for preload(): what only files have must be read before lock-down
    shares_network: bool = False  # with the host


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Start options of the zygote. A channel for each kind comes with them, in the same order."""

    kinds: Annotated[tuple[PreloadKind, ...], Meta(min_length=1, max_length=7)]


class Launched(Event, frozen=True):
    """First message of a process started by exec: its pid, as the launcher sees it."""

    pid: ProcessId


class Start(Event, frozen=True):
    """The launcher's answer: the kind's start options, and its further channels."""

    body: Blob
    channels: ChannelCount = 0
    allow_degraded: bool = False

    def expected_descriptors(self) -> tuple[Descriptor, ...]:
        return (Descriptor.SOCKET,) * self.channels + super().expected_descriptors()


LAUNCH = Interface("launch", client=(Start,), server=(Launched,))


class Forked(Reply, frozen=True):
    descriptors = (Descriptor.PIDFD,)

    pid: ProcessId  # in the zygote's pid namespace; a name for Exited, never given to kill()


class Fork(Request[Forked], frozen=True):
    """Fork a child. Its control channel comes with this, then ``channels`` more sockets, then its standard error."""

    options: StartOptions
    channels: ChannelCount
    allow_degraded: bool = False

    def expected_descriptors(self) -> tuple[Descriptor, ...]:
        return (Descriptor.SOCKET,) * (1 + self.channels) + (Descriptor.PIPE,)


class Exited(Event, frozen=True):
    """A child ended, and was reaped. ``status`` is as :func:`os.waitstatus_to_exitcode` gives it."""

    pid: ProcessId
    status: Annotated[int, Meta(ge=-64, le=255)]
    max_rss: ByteCount = 0  # the most that was resident, shared pages counted in full (getrusage(2))
    cpu_time: Milliseconds = 0


class Branched(Event, frozen=True):
    """The zygote has a branch that will fork children of ``kind``, once it has said Ready on its own channel."""

    descriptors = (Descriptor.PIDFD,)

    kind: Kind
    pid: ProcessId


ZYGOTE = Interface("zygote", client=CONTROL.client, server=(*CONTROL.server, Branched, Exited))
BRANCH = Interface("zygote.branch", client=(*CONTROL.client, Fork), server=(*CONTROL.server, Exited))
