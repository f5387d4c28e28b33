"""Where a plugin comes from, to read it again."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Mapping
from pathlib import Path

from .host_process import HostFunctions
from .limits import Limits
from .profiles import Profile
from .recovery import Retries

__all__ = ["Origin"]


@dataclasses.dataclass
class Origin:
    """A manifest, and what its host allowed when it was loaded. That stays as it is: a new manifest may ask for other
    things, and gets of them what was granted then."""

    manifest: Path
    grants: Mapping[str, tuple[str, ...]]
    limits: Limits
    functions: HostFunctions
    profile: Profile
    retries: Retries

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        """Held by whoever reads it again, so that the newest one wins."""
        self.read_from: tuple[Path, ...] = (self.manifest,)
        """The files that it was read from last."""
        self.marks: tuple[tuple[int, ...] | None, ...] = ()
        """What they were then."""
        real = self.manifest.resolve()
        # Where a symlink led then counts; where one leads later does not.
        self.folders = (self.manifest.parent.resolve(), real.parent)
        """Of the manifest, beyond which none of it is looked for."""
