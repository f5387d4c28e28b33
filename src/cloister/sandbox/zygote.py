"""The policy of the zygote: a process that parses nothing, opens nothing, and forks the children that do."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable

from .files import Files, Programs
from .limits import Limits
from .policy import NAMESPACES, Policy

__all__ = ["POLICY", "zygote_policy"]


def zygote_policy(children: Iterable[Policy]) -> Policy:
    """What a process may do that forks processes of the policies ``children``.

    A filter, a Landlock ruleset and a limit hold for all that is forked, so it may do what any child may, and
    fork and lock down besides.
    """
    policies = tuple(children)
    groups = [group for policy in policies for group in policy.groups]
    paths = [path for policy in policies for path in policy.read_paths]
    return Policy(
        kind="zygote",
        groups=tuple(dict.fromkeys([*_OWN_GROUPS, *groups])),
        read_paths=tuple(dict.fromkeys(paths)),
        files=functools.reduce(operator.or_, (policy.files for policy in policies), Files()),
        programs=functools.reduce(operator.or_, (policy.programs for policy in policies), Programs()),
        denies_quietly=any(policy.denies_quietly for policy in policies),
        limits=Limits(address_space=None, data=None, file_size=None, open_files=4096, processes=None),
        connects=any(policy.connects for policy in policies),
        keep=tuple(dict.fromkeys(name for policy in policies for name in policy.keep)),
        namespaces=NAMESPACES.intersection(*(policy.namespaces for policy in policies)),
    )


_OWN_GROUPS = ("stdio", "memory", "ipc", "event_loop", "fork", "lockdown")

POLICY = zygote_policy(())
"""Of the first process; what it forks and keeps, one for each kind of child, may do what that kind may as well."""
