"""What the lookup_server may do: make TCP and UDP sockets and connect them. It cannot open a file."""

from __future__ import annotations

from cloister.sandbox import Policy
from cloister.sandbox.layers import Layer
from cloister.sandbox.limits import Limits
from cloister.sandbox.policy import NAMESPACES

__all__ = ["POLICY"]

_MIB = 1024 * 1024

POLICY = Policy(
    kind="lookup_server",
    groups=("stdio", "memory", "large_memory", "ipc", "event_loop", "clock", "sockets"),
    connects=True,
    namespaces=NAMESPACES - {Layer.NETWORK_NAMESPACE},  # its connections are the host's
    # Sockets of all clients together: one makes 16 connections at once, each of at most 8 addresses.
    limits=Limits(address_space=1024 * _MIB, data=256 * _MIB, open_files=4096),
)
