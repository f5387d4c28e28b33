"""Grants and limits that go together, by a name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from ..errors import InvalidArgument
from .limits import Limits
from .namespaces import Namespaces

__all__ = ["PROFILES", "Profile", "find"]

Grants = Mapping[str, Iterable[str]]
_MIB: Final = 2**20


class Profile(msgspec.Struct, frozen=True):
    """What a host gives to a kind of plugin: pass one, or the name of one of Cloister's, as ``profile=``. What is
    granted and limited besides comes on top: grants join, and a limit that ``load`` is given goes before the profile's,
    which goes before the runtime's.
    """

    name: str
    grants: Grants = {}
    limits: Limits = Limits()
    namespaces: Namespaces = Namespaces()
    """Those that the plugin has of its own; all, unless something is given up."""
    keep: tuple[str, ...] = ()
    """Linux capabilities (``"CAP_DAC_OVERRIDE"``) that it keeps, in its user namespace; where there is none it is not
    started. What they allow besides what the filter denies, it may do: to files, within those that were granted."""

    def with_grants(self, more: Grants | None) -> dict[str, list[str]]:
        """Of both."""
        joined: dict[str, list[str]] = {}
        for grants in (self.grants, more or {}):
            for capability, about in grants.items():
                joined.setdefault(capability, []).extend(about)
        return joined


NONE: Final = Profile("none")

_ALL: Final = (
    Profile(
        # A filter: text goes in, text comes out, now, on somebody's screen.
        "terminal",
        {
            "sys:env": ("LANG", "LC_ALL", "TERM", "COLORTERM", "COLUMNS", "LINES", "NO_COLOR", "TZ"),
            "sys:time": (),
        },
        Limits(memory=64 * _MIB, timeout=10.0, output=4 * _MIB, disk=64 * _MIB),
    ),
    Profile(
        # It looks on for days, and what it looks at must not notice.
        "observability",
        {"sys:env": ("HOSTNAME", "TZ"), "sys:time": ()},
        Limits(
            memory=64 * _MIB,
            timeout=10.0,
            cpu_percent=10.0,
            cpu_weight=20,
            io_weight=20,
            output=_MIB // 4,
            disk=16 * _MIB,
        ),
    ),
    Profile(
        # It has others work, waits for them, and touches nothing itself.
        "orchestration",
        {"plugin:call": ("*",), "plugin:message": ("*",), "sys:time": ()},
        Limits(memory=128 * _MIB, timeout=300.0, cpu_time=60.0, disk=16 * _MIB),
    ),
)
PROFILES: Final[Mapping[str, Profile]] = {profile.name: profile for profile in _ALL}
"""Cloister's own. None grants a path or a host: those are for whoever knows the machine."""


def find(profile: Profile | str | None) -> Profile:
    """The profile itself, or that of the name. Raises :class:`InvalidArgument` for a name that none has."""
    if profile is None:
        return NONE
    if isinstance(profile, Profile):
        return profile
    if profile not in PROFILES:
        raise InvalidArgument(
            f"there is no profile {profile!r}; there are {', '.join(PROFILES)}, and Profile(...)"
        )
    return PROFILES[profile]
