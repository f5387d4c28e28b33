"""What one kind of process may do, as data."""

from __future__ import annotations

import functools
import os
from typing import Final

import msgspec

from .bpf import Rule, errno_of
from .files import Files, Programs
from .groups import GROUPS, default, rules_for
from .layers import Layer
from .limits import Limits
from .privileges import CAPABILITIES
from .syscalls import X86_64, native

__all__ = ["NAMESPACES", "REQUIRED", "Policy", "Report"]

NAMESPACES: Final = frozenset(
    {
        Layer.USER_NAMESPACE,
        Layer.NETWORK_NAMESPACE,
        Layer.PID_NAMESPACE,
        Layer.IPC_NAMESPACE,
        Layer.UTS_NAMESPACE,
        Layer.MOUNT_NAMESPACE,
    }
)
"""Every namespace that a process can be put into."""

REQUIRED: Final = frozenset(
    {
        Layer.NO_NEW_PRIVILEGES,
        Layer.CAPABILITIES,
        Layer.LANDLOCK,
        Layer.SECCOMP,
        Layer.LIMITS,
        Layer.DESCRIPTORS,
        Layer.ENVIRONMENT,
        Layer.NOT_DUMPABLE,
        Layer.DIES_WITH_PARENT,
    }
)
"""Layers that every Linux from 5.13 with seccomp and Landlock switched on has. Each of the others has one of
these behind it, so it is used where it can be had and its absence only reported."""


class Policy(msgspec.Struct, frozen=True):
    """What a process of ``kind`` may do once it has called :func:`~cloister.sandbox.enter`."""

    kind: str
    """Its name in reports: ``"web_content"``."""
    groups: tuple[str, ...]
    """System calls, by what they are for (:data:`~cloister.sandbox.groups.GROUPS`)."""
    read_paths: tuple[str, ...] = ()
    """Absolute paths of folders and files that it may read; those that are not there are skipped."""
    files: Files = Files()
    """What of its user's files it was granted. To change any takes the groups ``write_files``, ``delete_files`` and
    ``rename_files`` too."""
    programs: Programs = Programs()
    """What it may run, with the group ``program``."""
    denies_quietly: bool = False
    """Whether what no group allows fails as on a kernel without it, instead of ending the process. For programs that
    are not ours: their libraries try what nobody can list, and a trap would tell nobody once they have replaced the
    process that sets its handler."""
    limits: Limits = msgspec.field(default_factory=Limits)
    connects: bool = False
    """Whether it may connect TCP sockets, as far as Landlock goes; it also needs the group ``sockets``."""
    keep: tuple[str, ...] = ()
    """Capabilities that it keeps (:data:`~cloister.sandbox.privileges.CAPABILITIES`), in its user namespace: without
    one it is not to run, as they would be the machine's."""
    namespaces: frozenset[Layer] = NAMESPACES
    """Those it is meant to be in; :func:`~cloister.sandbox.isolate` puts it there."""
    requires: frozenset[Layer] = REQUIRED
    """Layers without which it is not to run, unless the user allows it."""

    def __post_init__(self) -> None:
        if unknown := set(self.groups) - set(GROUPS):
            raise ValueError(f"no such group: {', '.join(sorted(unknown))}")
        if relative := [p for p in self.read_paths if not p.startswith("/")]:
            raise ValueError(f"not an absolute path: {', '.join(relative)}")
        if unknown := set(self.keep) - set(CAPABILITIES):
            raise ValueError(f"no such capability: {', '.join(sorted(unknown))}")
        if strangers := self.namespaces - NAMESPACES:
            raise ValueError(f"not a namespace: {', '.join(sorted(strangers))}")

    @property
    def wants(self) -> frozenset[Layer]:
        """Every layer that makes sense for it: all, but for namespaces that it is meant to share, and for what a
        process loses that becomes another program (execve(2) makes it dumpable)."""
        # By the group, as to build the rules takes milliseconds, and each child asks.
        return _layers_for(self.namespaces, becomes_another="program" in self.groups)

    def allows(self, call: str) -> bool:
        """Whether it may make the system call ``call``, with some arguments at least."""
        rule = self.rules().get(call)
        return rule is not None and bool(rule.alternatives)

    def denial(self, call: str, *arguments: int) -> int | None:
        """What the filter does with ``call`` and ``arguments`` in this process: ``None`` when it lets it pass, an
        errno when the call fails with it, 0 when it ends the process."""
        rule = self.rules().get(call, Rule(otherwise=self.otherwise))
        return errno_of(rule.action(arguments, os.getpid()))

    def rules(self) -> dict[str, Rule]:
        """What its filter says of each system call on this architecture; any other gets :attr:`otherwise`."""
        return rules_for(self.groups, native() or X86_64, quietly=self.denies_quietly)

    @property
    def otherwise(self) -> int:
        """The action for a system call that it knows nothing of."""
        return default(quietly=self.denies_quietly)


@functools.cache
def _layers_for(namespaces: frozenset[Layer], *, becomes_another: bool) -> frozenset[Layer]:
    left_out = NAMESPACES - namespaces
    if Layer.MOUNT_NAMESPACE in left_out:
        left_out |= {Layer.EMPTY_ROOT}
    if becomes_another:
        left_out |= {Layer.NOT_DUMPABLE}
    return frozenset(Layer) - left_out


class Report(msgspec.Struct, frozen=True):
    """Which layers hold a process: ``missing`` are those that its policy wants and it does not have."""

    layers: tuple[str, ...]
    missing: tuple[str, ...]

    @classmethod
    def of(cls, policy: Policy, held: frozenset[Layer]) -> Report:
        """The report on a process with ``policy`` that has the layers ``held``."""
        wants = policy.wants
        wanted = [layer for layer in Layer if layer in wants]
        return cls(
            layers=tuple(layer.value for layer in wanted if layer in held),
            missing=tuple(layer.value for layer in wanted if layer not in held),
        )
