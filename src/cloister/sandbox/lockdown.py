"""Giving up every power, in the order that works."""

from __future__ import annotations

from typing import Final

from cloister.errors import SandboxUnavailable

from . import callbacks, landlock, privileges, seccomp
from .kernel import prctl
from .layers import ABOUT, Layer, in_force
from .policy import Policy, Report

__all__ = ["enter", "prepare", "why_missing"]

_SET_NO_NEW_PRIVS: Final = 38


def enter(policy: Policy, *, allow_degraded: bool = False) -> Report:
    """Hold this process by every layer that the kernel offers, for good. Call it before anything foreign is read,
    after everything is imported and the event loop is made: nothing can be loaded or opened afterwards but what
    ``policy`` allows.

    Expects :func:`shed` to have been called in this process, and :func:`isolate` and :func:`enter_empty_root`
    in it or in the one that forked it; a layer that was not put up is in ``Report.missing``.

    Raises:
        SandboxUnavailable: a layer in ``policy.requires`` cannot be had, and not ``allow_degraded``. The process
            is of no use then; let it end.
    """
    held = set(in_force())
    version = landlock.abi()
    # First, and before Landlock and seccomp, which an unprivileged process may only use with it.
    prctl(_SET_NO_NEW_PRIVS, 1)
    held.add(Layer.NO_NEW_PRIVILEGES)
    # The bounding set and securebits while there is CAP_SETPCAP, the user while there is CAP_SETUID, then the rest.
    keep = privileges.capability_bits(policy.keep)
    privileges.close_ways_back(keep=keep)
    if privileges.drop_user():
        held.add(Layer.UNPRIVILEGED_USER)
    left = privileges.drop_capabilities(keep=keep)
    if left & ~keep == 0:
        held.add(Layer.CAPABILITIES)
    if keep and (left != keep or Layer.USER_NAMESPACE not in held):
        why = f"{', '.join(policy.keep)} cannot be kept without a user namespace: they would be the machine's"
        raise SandboxUnavailable(policy.kind, {Layer.USER_NAMESPACE: why})
    # Both are reset by the change of user.
    privileges.refuse_to_be_read()
    privileges.die_with_parent()
    held |= {Layer.NOT_DUMPABLE, Layer.DIES_WITH_PARENT}
    if privileges.refuse_executable_memory():
        held.add(Layer.NO_EXECUTABLE_MEMORY)
    callbacks.seal()
    # After the user: the kernel counts processes per user.
    policy.limits.apply()
    held.add(Layer.LIMITS)
    if version:
        landlock.restrict(version, policy.read_paths, policy.files, policy.programs, connects=policy.connects)
        held |= landlock.layers(version)
    if "fork" not in policy.groups:
        landlock.forget()
    if seccomp.available():
        held.add(Layer.SECCOMP)
    report = Report.of(policy, frozenset(held))
    _refuse_without(policy, report, allow_degraded)
    # Last: it takes away the calls that all of the above make.
    if Layer.SECCOMP in held:
        seccomp.install(policy.kind, policy.groups, policy.denies_quietly)
    return report


def prepare(policy: Policy) -> None:
    """Do ahead of time what :func:`enter` would do for ``policy``: in a zygote, once for all that it forks."""
    callbacks.look()
    if version := landlock.abi():
        landlock.prepare(version, policy.read_paths, policy.files, policy.programs, connects=policy.connects)
    if seccomp.available():
        seccomp.program(policy.groups, policy.denies_quietly)


def _refuse_without(policy: Policy, report: Report, allow_degraded: bool) -> None:
    lacking = [layer for layer in report.missing if layer in policy.requires]
    if lacking and not allow_degraded:
        raise SandboxUnavailable(policy.kind, {layer: why_missing(Layer(layer)) for layer in lacking})


def why_missing(layer: Layer) -> str:
    """What to tell somebody whose machine, or program, does not put up ``layer``."""
    since, meaning = ABOUT[layer]
    if layer in (Layer.DESCRIPTORS, Layer.ENVIRONMENT, Layer.OWN_SESSION):
        return f"{meaning}: shed() was not called in this process"
    hint = ""
    if layer is Layer.LANDLOCK and (reason := landlock.why_none()):
        hint = f"; here {reason}"
    elif layer is Layer.SECCOMP:
        hint = ", where it is built in (CONFIG_SECCOMP_FILTER); Cloister knows x86_64 and aarch64"
    return f"{meaning}: Linux has it from {since} on{hint}"
