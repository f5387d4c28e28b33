"""The layers of the sandbox: what each is, since which kernel, and which are in force in this process."""

from __future__ import annotations

import enum
import os
from collections.abc import Iterable
from typing import Final

__all__ = ["ABOUT", "Layer", "in_force", "mark", "mark_for_children"]


class Layer(enum.StrEnum):
    """One way in which a process is held. Each stands alone: any one failing leaves the others."""

    NO_NEW_PRIVILEGES = "no_new_privs"
    USER_NAMESPACE = "user_namespace"
    NETWORK_NAMESPACE = "network_namespace"
    PID_NAMESPACE = "pid_namespace"
    IPC_NAMESPACE = "ipc_namespace"
    UTS_NAMESPACE = "uts_namespace"
    MOUNT_NAMESPACE = "mount_namespace"
    EMPTY_ROOT = "empty_root"
    UNPRIVILEGED_USER = "unprivileged_user"
    CAPABILITIES = "capabilities"
    LANDLOCK = "landlock"
    LANDLOCK_NETWORK = "landlock_network"
    LANDLOCK_SCOPE = "landlock_scope"
    SECCOMP = "seccomp"
    NO_EXECUTABLE_MEMORY = "no_executable_memory"
    LIMITS = "limits"
    DESCRIPTORS = "descriptors"
    ENVIRONMENT = "environment"
    OWN_SESSION = "own_session"
    OWN_KEYRING = "own_keyring"
    NOT_DUMPABLE = "not_dumpable"
    DIES_WITH_PARENT = "dies_with_parent"


ABOUT: Final[dict[Layer, tuple[str, str]]] = {
    Layer.NO_NEW_PRIVILEGES: (
        "3.5",
        "no program that it starts gains privileges (setuid, file capabilities)",
    ),
    Layer.USER_NAMESPACE: ("3.8", "its user and its powers mean nothing outside"),
    Layer.NETWORK_NAMESPACE: ("3.0", "it has no network interface at all"),
    Layer.PID_NAMESPACE: ("3.8", "it sees and signals no process outside; all end with their first"),
    Layer.IPC_NAMESPACE: ("3.0", "it shares no System V or POSIX queue, semaphore or segment"),
    Layer.UTS_NAMESPACE: ("3.0", "it does not see the machine's name"),
    Layer.MOUNT_NAMESPACE: ("3.8", "its file tree is its own"),
    Layer.EMPTY_ROOT: (
        "3.8",
        "its file tree holds nothing but what its policy lists, read-only unless that says more",
    ),
    Layer.UNPRIVILEGED_USER: ("2.6", "it is not root; from root it became nobody"),
    Layer.CAPABILITIES: (
        "2.6.25",
        "every capability is gone but those that its policy keeps, and cannot come back",
    ),
    Layer.LANDLOCK: ("5.13", "it opens no file but what its policy lists, and does with it what that says"),
    Layer.LANDLOCK_NETWORK: (
        "6.7",
        "it binds no TCP port, and connects none unless its policy says so; from 7.2 on, no UDP port either",
    ),
    Layer.LANDLOCK_SCOPE: (
        "6.12",
        "it reaches no abstract socket and signals no process outside its sandbox",
    ),
    Layer.SECCOMP: ("3.17", "it makes only the system calls that its policy lists"),
    Layer.NO_EXECUTABLE_MEMORY: ("6.3", "memory once writable never becomes executable"),
    Layer.LIMITS: ("2.6", "memory, open files, processes and file sizes are bounded"),
    Layer.DESCRIPTORS: ("5.9", "it holds no descriptor but those handed to it"),
    Layer.ENVIRONMENT: ("2.6", "its environment is bare"),
    Layer.OWN_SESSION: ("2.6", "it has no controlling terminal to type into"),
    Layer.OWN_KEYRING: ("2.6.10", "it possesses none of the keys of its user's session"),
    Layer.NOT_DUMPABLE: ("2.6", "no process of the same user reads or traces it; it leaves no core"),
    Layer.DIES_WITH_PARENT: ("2.6", "it is killed when the process that started it ends"),
}
"""For each layer: the Linux that first has it, and what it means for the process, in one clause."""

_prepared: set[Layer] = set()
_of_children: dict[Layer, int] = {}
# A child forked later holds whatever descriptors its parent held by then.
os.register_at_fork(after_in_child=lambda: _prepared.discard(Layer.DESCRIPTORS))


def mark(layers: Iterable[Layer]) -> None:
    """Record that ``layers``, which are put up before :func:`~cloister.sandbox.enter`, hold in this process."""
    _prepared.update(layers)


def mark_for_children(layers: Iterable[Layer]) -> None:
    """Record that ``layers`` will hold in what this process forks, though not in itself."""
    _of_children.update(dict.fromkeys(layers, os.getpid()))


def in_force() -> frozenset[Layer]:
    """The layers that were put up in this process so far, or in the one it was forked from and still hold."""
    return frozenset(_prepared | {layer for layer, parent in _of_children.items() if parent != os.getpid()})
