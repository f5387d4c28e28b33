"""``python -m cloister.sandbox.describe MODULE``: what the policy in MODULE lets a process do, as JSON.

In a process of its own, as a policy stands in its child's directory, whose code the privileged side never imports.
"""

from __future__ import annotations

import importlib
import sys

import msgspec

from .files import Programs
from .groups import GROUPS, on
from .limits import Limits
from .policy import Policy
from .syscalls import X86_64, native

__all__ = ["Description", "Purpose", "Reason", "describe", "main"]


class Reason(msgspec.Struct, frozen=True):
    """System calls and what they are there for."""

    calls: tuple[str, ...]
    why: str


class Purpose(msgspec.Struct, frozen=True):
    """One group of a policy. A call that an earlier one has too is in each of them."""

    group: str
    reasons: tuple[Reason, ...]


class Description(msgspec.Struct, frozen=True):
    """What a process may do on this machine's architecture."""

    kind: str
    architecture: str
    calls_of_the_kernel: int
    """How many system calls the architecture has, as far as Cloister knows them."""
    calls: tuple[str, ...]
    """Those that it may make."""
    calls_by_arguments: tuple[str, ...]
    """Those of them that it may make with some arguments only."""
    fail_quietly: tuple[str, ...]
    """Calls that fail instead of ending the process, with all arguments or with those that it may not use."""
    others_fail: bool
    """Whether a call that is not listed fails; else it ends the process."""
    purposes: tuple[Purpose, ...]
    read_paths: tuple[str, ...]
    programs: Programs
    connects: bool
    namespaces: tuple[str, ...]
    limits: Limits


def describe(policy: Policy) -> Description:
    """What ``policy`` means on this machine; on a machine that Cloister has no table for, on x86-64."""
    architecture = native() or X86_64
    rules = policy.rules()
    return Description(
        kind=policy.kind,
        architecture=architecture.name,
        calls_of_the_kernel=len(architecture.numbers),
        calls=tuple(name for name, rule in rules.items() if rule.alternatives),
        calls_by_arguments=tuple(
            name for name, rule in rules.items() if rule.alternatives and not rule.unconditional
        ),
        fail_quietly=tuple(name for name in rules if policy.denial(name, *[2**64 - 1] * 6)),
        purposes=tuple(
            Purpose(
                group,
                tuple(
                    Reason(tuple(calls), grant.why)
                    for grant in GROUPS[group]
                    if (calls := on(architecture, grant.calls))
                ),
            )
            for group in policy.groups
        ),
        others_fail=policy.denies_quietly,
        read_paths=policy.read_paths,
        programs=policy.programs,
        connects=policy.connects,
        namespaces=tuple(sorted(policy.namespaces)),
        limits=policy.limits,
    )


def main(module: str) -> None:
    """Write the :class:`Description` of ``module``'s policy on standard output."""
    policy: Policy = importlib.import_module(module).POLICY
    sys.stdout.buffer.write(msgspec.json.encode(describe(policy)))


if __name__ == "__main__":
    main(sys.argv[1])
