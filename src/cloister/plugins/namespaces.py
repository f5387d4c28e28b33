"""What of the kernel's isolation a host may leave out for a plugin, on its own responsibility."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from ..errors import InvalidArgument
from ..interfaces.plugin_host import NamespaceName

__all__ = ["Namespaces", "check_capabilities"]


class Namespaces(msgspec.Struct, frozen=True, kw_only=True):
    """Which namespaces a plugin has of its own, where this machine allows any. One that it has not is the host's; its
    user namespace is always its own. What is behind each (Landlock, seccomp) stays; what is given up is said with each.
    """

    pid: bool = True
    """Without: it outlives its zygote for a moment, and what signals it may send rests on Landlock (Linux 6.12) and the
    filter."""
    net: bool = True
    """Without: a hole in the filter, by which it makes a socket, leads to the host's network."""
    mnt: bool = True
    """Without: it has no file tree of its own. It may ask for sizes and times of any file that its user may see;
    reading and writing rest on Landlock alone."""
    ipc: bool = True
    """Without: System V and POSIX queues of its user's are kept from it by the filter alone."""
    uts: bool = True
    """Without: it may learn the machine's name."""

    @property
    def shared(self) -> tuple[NamespaceName, ...]:
        """Those that it stays in, by the sandbox's names."""
        return tuple(layer for name, layer in _LAYERS.items() if not getattr(self, name))


_LAYERS: Final[dict[str, NamespaceName]] = {
    "pid": "pid_namespace",
    "net": "network_namespace",
    "mnt": "mount_namespace",
    "ipc": "ipc_namespace",
    "uts": "uts_namespace",
}


def check_capabilities(keep: Iterable[str]) -> tuple[str, ...]:
    """The Linux capabilities ``keep``, each once. Raises :class:`InvalidArgument` for a name that is none."""
    from ..sandbox.privileges import CAPABILITIES

    names = tuple(sorted({*keep}))
    if unknown := [name for name in names if name not in CAPABILITIES]:
        raise InvalidArgument(f"no Linux capability: {', '.join(unknown)}; capabilities(7) has their names")
    return names
