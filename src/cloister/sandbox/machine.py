"""What this machine offers, found out by doing it: a process locks itself down and tells how far it got."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

from cloister.errors import LaunchError, printable

from . import landlock, privileges
from .layers import ABOUT, Layer
from .policy import NAMESPACES, Policy, Report

__all__ = ["LayerStatus", "Machine", "machine"]

_DEADLINE: Final = 10.0  # seconds; it takes about 0.2

# What switches user namespaces off: for whom, by which value of which file, in which words, and how it is undone.
_SWITCHES: Final = (
    (
        "everybody",
        "/proc/sys/user/max_user_namespaces",
        "0",
        "sysctl user.max_user_namespaces is 0; `sysctl -w user.max_user_namespaces=15000` allows them",
    ),
    (
        "users",
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "sysctl kernel.unprivileged_userns_clone is 0; `sysctl -w kernel.unprivileged_userns_clone=1` allows them",
    ),
    (
        "users",
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl kernel.apparmor_restrict_unprivileged_userns is 1; an AppArmor profile for this Python with `userns,` "
        "in it, or `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, allows them",
    ),
)
_FILTERED: Final = (
    "a seccomp filter that this program was started under (a container's, as a rule) refuses them; Docker takes one "
    "that allows unshare, clone, mount, umount2, pivot_root, mount_setattr, sethostname and setdomainname by "
    "`--security-opt seccomp=FILE`"
)
_MOUNTS_REFUSED: Final = (
    "mounts are refused, by AppArmor or by a seccomp filter; in Docker, `--security-opt apparmor=unconfined` may "
    "allow them"
)
_NAMES_REFUSED: Final = (
    "a seccomp filter refuses sethostname; Podman takes another by `--security-opt seccomp=FILE`"
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
        held = self.available
        if policy.read_paths and Layer.MOUNT_NAMESPACE not in held:
            held -= {Layer.EMPTY_ROOT}  # without mounts a root can be empty and hold nothing
        return Report.of(policy, held)

    def _sentence(self, layer: Layer) -> str:
        since, meaning = ABOUT[layer]
        if layer in self.available:
            return f"{meaning}."
        return f"not here: {self._reason(layer)} (Linux has it from {since} on)."

    def _reason(self, layer: Layer) -> str:
        if layer in NAMESPACES or layer is Layer.EMPTY_ROOT:
            return self._why_no_namespace(layer)
        own = {
            Layer.LANDLOCK: landlock.why_none(),
            Layer.LANDLOCK_NETWORK: f"Landlock is of version {self.landlock_abi}",
            Layer.LANDLOCK_SCOPE: f"Landlock is of version {self.landlock_abi}",
            Layer.SECCOMP: f"there are no filters, or Cloister can write none for {self.architecture}",
            Layer.UNPRIVILEGED_USER: "this root may not become another user (CAP_SETUID, CAP_SETGID)",
            Layer.OWN_KEYRING: "there are no keys (CONFIG_KEYS), or a container refuses keyctl(2)",
        }
        return own.get(layer, f"Linux {self.kernel} refused it")

    def _why_no_namespace(self, layer: Layer) -> str:
        some = Layer.IPC_NAMESPACE in self.available
        reasons = (
            (not Path("/proc/self/ns").exists(), "/proc is not mounted"),
            (
                layer is Layer.NETWORK_NAMESPACE and _read("/proc/sys/user/max_net_namespaces") == "0",
                "sysctl user.max_net_namespaces is 0; `sysctl -w user.max_net_namespaces=15000` allows them",
            ),
            (some and layer in (Layer.MOUNT_NAMESPACE, Layer.EMPTY_ROOT), _MOUNTS_REFUSED),
            (some and layer is Layer.UTS_NAMESPACE, _NAMES_REFUSED),
            *(
                (_read(switch) == off and (whom == "everybody" or os.geteuid() != 0), sentence)
                for whom, switch, off, sentence in _SWITCHES
            ),
            (privileges.filtered(), _FILTERED),
            (True, "the kernel, or the container that this runs in, refuses new namespaces to this user"),
        )
        return next(sentence for holds, sentence in reasons if holds)


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
    return Machine(os.uname().release, os.uname().machine, landlock.abi(), available)


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
