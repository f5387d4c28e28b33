"""What the request_server may do: talk over sockets that it was handed. It cannot make one, nor open a file."""

from __future__ import annotations

from ..sandbox import Policy
from ..sandbox.limits import Limits

__all__ = ["POLICY"]

_MIB = 1024 * 1024

POLICY = Policy(
    kind="request_server",
    groups=("stdio", "memory", "large_memory", "ipc", "event_loop", "clock", "inherited_sockets"),
    # Bodies are in memfds; what is on its way there is bounded by HTTP/2's windows, 15 MiB a connection.
    limits=Limits(address_space=2048 * _MIB, data=1024 * _MIB),
)
