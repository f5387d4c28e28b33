"""What this machine offers, found out by doing it: a process locks itself down and tells how far it got."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

from cloister.errors import LaunchError, printable

from . import landlock
from .layers import ABOUT, Layer
from .policy import NAMESPACES, Policy, Report

__all__ = ["LayerStatus", "Machine", "machine"]

_DEADLINE: Final = 10.0  # seconds; it takes about 0.2

# What switches user namespaces, and with them the others, off for an unprivileged user.
_SWITCHES: Final = (
    ("/proc/sys/user/max_user_namespaces", "0", "sysctl user.max_user_namespaces is 0"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone is 0"),
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl kernel.apparmor_restrict_unprivileged_userns is 1, and AppArmor has no profile for this program",
    ),
)


class LayerStatus(msgspec.Struct, frozen=True):
    """One layer on this machine."""

    layer: Layer
    available: bool
    since: str
    """The Linux that first has it: ``"5.13"``."""
    sentence: str
    """What it does for a process, or why it cannot be had here."""


class Machine(msgspec.Struct, frozen=True):
    """What a process that Cloister starts can be held by on this machine, by this user."""

    kernel: str
    architecture: str
    landlock_abi: int
    """The version of Landlock; 0 when there is none."""
    available: frozenset[Layer]

    @property
    def layers(self) -> tuple[LayerStatus, ...]:
        """Every layer, available or not."""
        return tuple(
            LayerStatus(layer, layer in self.available, ABOUT[layer][0], self._sentence(layer))
            for layer in Layer
        )

    def expects(self, policy: Policy) -> Report:
        """The report that a process with ``policy`` would make here."""
        return Report.of(policy, self.available)

    def _sentence(self, layer: Layer) -> str:
        since, meaning = ABOUT[layer]
        if layer in self.available:
            return f"{meaning}."
        return f"not here: {self._reason(layer)} (Linux has it from {since} on)."

    def _reason(self, layer: Layer) -> str:
        if layer in NAMESPACES or layer is Layer.EMPTY_ROOT:
            for switch, off, sentence in _SWITCHES:
                if _read(switch) == off:
                    return sentence
            return "the kernel, or the container that this runs in, refuses new namespaces to this user"
        own = {
            Layer.LANDLOCK: "it is not built in, or not in the `lsm=` list, or a container hides it",
            Layer.LANDLOCK_NETWORK: f"Landlock is of version {self.landlock_abi}",
            Layer.LANDLOCK_SCOPE: f"Landlock is of version {self.landlock_abi}",
            Layer.SECCOMP: f"there are no filters, or Cloister can write none for {self.architecture}",
            Layer.UNPRIVILEGED_USER: "this root may not become another user (CAP_SETUID, CAP_SETGID)",
        }
        return own.get(layer, f"Linux {self.kernel} refused it")


def machine() -> Machine:
    """Find out, in a process started for it (about 0.2 s; safe in a program with threads).

    Raises:
        LaunchError: that process could not be started, or did not answer.
    """
    command = [sys.executable, "-P", "-m", "cloister.sandbox.probe"]
    try:
        probe = subprocess.run(  # noqa: S603 - this very Python
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_DEADLINE, check=True
        )
        available = msgspec.json.decode(probe.stdout, type=frozenset[Layer])
    except subprocess.CalledProcessError as error:
        said = printable(error.stderr.decode(errors="replace").strip().rpartition("\n")[2])
        raise LaunchError(
            f"the process that tries the sandbox ended with {error.returncode}: {said}"
        ) from error
    except (OSError, subprocess.TimeoutExpired, msgspec.DecodeError) as error:
        raise LaunchError(f"the process that tries the sandbox did not answer: {error}") from error
    return Machine(platform.release(), platform.machine(), landlock.abi(), available)


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
