"""browser ── zygote. The browser is the client; neither side is foreign, but the rules are the same."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from .base import Descriptor, Event, Interface, ProcessId, Reply, Request

__all__ = ["ZYGOTE", "Exited", "Fork", "Forked", "Kind", "Options"]

Kind = Annotated[str, Meta(pattern=r"^[a-z][a-z_]{0,31}$")]
Options = Annotated[bytes, Meta(max_length=32 * 1024)]
"""A child's start options: the msgpack of its interface module's ``Options`` struct."""


class Forked(Reply, frozen=True):
    descriptors = (Descriptor.PIDFD,)

    pid: ProcessId  # in the zygote's own pid namespace; a name for Exited, never given to kill()


class Fork(Request[Forked], frozen=True):
    """Fork a child of ``kind``. ``channels`` sockets come with it: the control channel first."""

    kind: Kind
    options: Options
    channels: Annotated[int, Meta(ge=1, le=8)]


class Exited(Event, frozen=True):
    """A child ended; the zygote reaped it. ``status`` is as :func:`os.waitstatus_to_exitcode` gives it."""

    pid: ProcessId
    status: Annotated[int, Meta(ge=-64, le=255)]


ZYGOTE = Interface("zygote", client=(Fork,), server=(Exited,))
