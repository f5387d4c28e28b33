"""plugins ── program_host: a program that nobody vouches for is run. The client is the host.

What the program reads and writes goes through three pipes that the host gives it; of the channel it knows nothing. Once
it runs, the channel is closed, as every other descriptor is.
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from .base import ByteCount, Descriptor, Detail, Event, Interface
from .plugin_host import Path, Paths, Variable

__all__ = [
    "MAX_ARGUMENTS",
    "MAX_COMMAND",
    "PROGRAM",
    "SYSTEM",
    "NotStarted",
    "Options",
    "PreloadOptions",
    "Run",
]

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/alternatives")
"""Programs, interpreters and their libraries, wherever they are looked for by name: every program has them."""
MAX_ARGUMENTS = 256
MAX_COMMAND = 32 * 1024
"""Bytes of a program's path, arguments and environment together, so that they fit in a packet."""

Argument = Annotated[bytes, Meta(max_length=MAX_COMMAND)]


class PreloadOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """For all that one branch of the zygote forks."""

    programs: Paths = ()
    """Can be run besides the system's."""
    read_paths: Paths = ()
    write_paths: Paths = ()
    delete_paths: Paths = ()
    metadata_paths: Paths = ()
    starts_processes: bool = False
    """Whether a program may start others."""
    threads: bool = False
    stamp: Annotated[str, Meta(max_length=200)] = ""
    """Another one for other files under the same names: a branch has those that were there when it began."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Start options: the limits of one program."""

    memory: ByteCount = 256 * 2**20
    """Bytes of data of each of its processes."""
    open_files: Annotated[int, Meta(ge=16, le=4096)] = 32
    file_size: ByteCount = 64 * 2**20


class Run(Event, frozen=True):
    """Become the program at ``path``. With it come what it reads as standard input, and what it writes standard output
    and standard error to."""

    descriptors = (Descriptor.READING_PIPE, Descriptor.PIPE, Descriptor.PIPE)

    path: Path
    name: Path
    """By which it was asked for: a symlink's, as a rule, and what it knows itself by."""
    arguments: Annotated[tuple[Argument, ...], Meta(max_length=MAX_ARGUMENTS)] = ()
    """Those that follow its own name."""
    environment: Annotated[tuple[tuple[Variable, Variable], ...], Meta(max_length=64)] = ()


class NotStarted(Event, frozen=True):
    """The kernel did not run the program. When it did, the channel is closed without a word."""

    why: Detail


PROGRAM = Interface("program_host", client=(Run,), server=(NotStarted,))
