"""What a plugin's processes are made from."""

from __future__ import annotations

import dataclasses
import functools

from ..interfaces.plugin_host import Language, Options, PreloadOptions
from ..interfaces.program_host import PreloadOptions as ProgramPreload
from . import program
from .broker import Broker
from .capabilities import Held
from .host_process import HostFunctions
from .limits import Limits
from .manifest import Manifest
from .namespaces import Namespaces
from .recovery import Retries

__all__ = ["Spec"]


@dataclasses.dataclass(frozen=True)
class Spec:
    """Everything that a process of the plugin is made from."""

    name: str
    code: bytes
    is_function: bool = False
    language: Language = Language.PYTHON
    manifest: Manifest | None = None
    limits: Limits = dataclasses.field(default_factory=lambda: Limits().filled())
    held: Held = dataclasses.field(default_factory=Held)
    modules: tuple[str, ...] = ()
    functions: HostFunctions = dataclasses.field(default_factory=dict)
    idempotent: frozenset[str] = frozenset()
    """Functions that may be called again when their process fails."""
    retries: Retries = dataclasses.field(default_factory=Retries)
    broker: Broker | None = dataclasses.field(default=None, compare=False)
    """What stays of the plugin while processes and versions of it come and go; functions of the host's have none."""
    namespaces: Namespaces = dataclasses.field(default_factory=Namespaces)
    keep: tuple[str, ...] = ()
    """Linux capabilities."""
    program: str | None = None
    """The path of the program that it is; then it has no code, and asks for nothing."""

    @functools.cached_property
    def program_preload(self) -> ProgramPreload | None:
        """The file tree of the program that it is, or of those that it may run."""
        if self.program is not None:
            stamp = program.stamp_of(self.program)
            return program.preload([self.program], self.held, self.limits, stamp=stamp)
        runs = [real for _, real in self.held.programs]
        return program.preload(runs, self.held, self.limits) if runs else None

    @property
    def preload(self) -> PreloadOptions:
        if self.program is not None:  # which was granted what its plugin_host does not need
            return PreloadOptions(self.modules)
        return PreloadOptions(
            self.modules if self.language is Language.PYTHON else (),
            self.held.read_paths,
            bool(self.limits.threads),
            bool(self.held.listen),
            language=self.language,
            write_paths=self.held.write_paths,
            delete_paths=self.held.delete_paths,
            metadata_paths=self.held.metadata_paths,
            shares=self.namespaces.shared,
            keep=self.keep,
        )

    @property
    def options(self) -> Options:
        return Options(
            memory=self.limits.bytes_of("memory"),
            open_files=self.limits.open_files or 0,
            file_size=self.limits.bytes_of("file_size"),
            result=self.limits.bytes_of("result"),
            environment=self.held.environment,
            fuel=self.limits.fuel or 0,
            knows_time=self.held.knows_time,
        )
