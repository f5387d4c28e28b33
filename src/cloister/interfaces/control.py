"""browser ── control ──> every child. The browser is the client."""

from typing import Annotated

from msgspec import Meta

from .base import Detail, Event, Interface, Reply, Request

__all__ = ["CONTROL", "EXIT_NO_MEMORY", "Ping", "Pong", "Ready", "Refused", "Shutdown"]

EXIT_NO_MEMORY = 71
"""The exit code by which a child says that what the system should have given was not there (sysexits(3), EX_OSERR)."""

Nonce = Annotated[int, Meta(ge=0, le=2**63 - 1)]
LayerName = Annotated[str, Meta(pattern=r"^[a-z_]{1,64}\Z")]


class Pong(Reply, frozen=True):
    nonce: Nonce


class Ping(Request[Pong], frozen=True):
    """Are you there? The answer carries the same nonce."""

    nonce: Nonce


class Shutdown(Event, frozen=True):
    """End now, with exit code 0."""


class Ready(Event, frozen=True):
    """Sent once by the child, after lock-down and before it reads anything foreign.

    ``layers`` are the sandbox layers in force; ``missing`` those that the policy asks for and this kernel lacks.
    """

    layers: Annotated[tuple[LayerName, ...], Meta(max_length=32)]
    missing: Annotated[tuple[LayerName, ...], Meta(max_length=32)] = ()


class Refused(Event, frozen=True):
    """Sent instead of Ready: the kernel lacks layers that the policy requires. ``missing``: layer, and why."""

    missing: Annotated[tuple[tuple[LayerName, Detail], ...], Meta(max_length=32)]


CONTROL = Interface("control", client=(Ping, Shutdown), server=(Ready, Refused))
