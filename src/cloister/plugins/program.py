"""A program that is a plugin, or that a plugin runs: what it is given."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Final

from ..errors import InvalidArgument, descriptors_left
from ..interfaces.program_host import MAX_ARGUMENTS, MAX_COMMAND, SYSTEM, Options, PreloadOptions, Run
from ..ipc import Descriptors
from ..process import ChildProcess
from .capabilities import Held
from .limits import Limits
from .zygotes import Zygotes

__all__ = ["Running", "pipes", "preload", "run", "stamp_of", "start"]

_ENVIRONMENT: Final = (("PATH", "/usr/local/bin:/usr/bin:/bin"), ("LANG", "C.UTF-8"), ("HOME", "/"))


def preload(programs: Iterable[str], held: Held, limits: Limits, *, stamp: str = "") -> PreloadOptions:
    """The file tree of ``programs``, each an absolute path without symlinks. The system's are in every one."""
    files = tuple(path for path in programs if not any(map(PurePosixPath(path).is_relative_to, SYSTEM)))
    return PreloadOptions(
        files,
        held.read_paths,
        held.write_paths,
        held.delete_paths,
        held.metadata_paths,
        starts_processes=bool(limits.processes),
        threads=bool(limits.threads),
        stamp=stamp,
    )


def stamp_of(path: str) -> str:
    """Another one once the file at ``path`` is another. For who looks once: a plugin may write it, and each tree takes
    a zygote."""
    try:
        found = Path(path).stat()
    except OSError:  # the kernel will say so when it is run
        return ""
    return f"{found.st_dev:x}:{found.st_ino:x}:{found.st_mtime_ns:x}"


async def run(
    zygotes: Zygotes,
    tree: PreloadOptions,
    path: str,
    arguments: Iterable[bytes],
    *,
    pipes: Descriptors,
    name: str,
    held: Held,
    limits: Limits,
) -> ChildProcess:
    """Run ``path``, which is in ``tree``, under ``name`` and with ``pipes``, which are closed.

    Raises as :meth:`Zygotes.run`, and :class:`InvalidArgument` for arguments that are too many or too long.
    """
    given = tuple(arguments)
    environment = tuple((dict(_ENVIRONMENT) | dict(held.environment)).items())
    size = (
        len(path)
        + len(name)
        + sum(map(len, given))
        + sum(len(n.encode()) + len(v.encode()) for n, v in environment)
    )
    if len(given) > MAX_ARGUMENTS or size > MAX_COMMAND:
        pipes.close()
        raise InvalidArgument(
            f"{len(given)} arguments of {size} bytes with its environment: {MAX_ARGUMENTS} and {MAX_COMMAND} at most"
        )
    options = Options(limits.bytes_of("memory"), limits.open_files or 0, limits.bytes_of("file_size"))
    return await zygotes.run(tree, options, Run(path, name, given, environment), pipes, limits)


class Running:
    """A program that is a plugin, and this side's ends of its pipes until they are given to its plugin_host."""

    def __init__(self, process: ChildProcess, pipes: Descriptors) -> None:
        self.process = process
        self.pipes = pipes

    async def end(self) -> None:
        self.pipes.close()
        await self.process.end()


async def start(zygotes: Zygotes, tree: PreloadOptions, path: str, held: Held, limits: Limits) -> Running:
    """Run the program that is a plugin. Raises as :func:`run`."""
    theirs, mine = pipes()
    try:
        process = await run(zygotes, tree, path, (), pipes=theirs, name=path, held=held, limits=limits)
    except BaseException:
        mine.close()
        raise
    return Running(process, mine)


def pipes() -> tuple[Descriptors, Descriptors]:
    """Three pipes: the ends of a program (standard input, output, error), and those of whoever talks to it, which do
    not block. Raises OutOfDescriptors."""
    theirs, mine = Descriptors(), Descriptors()
    ends: list[tuple[int, int]] = []
    try:
        with descriptors_left():
            for _ in range(3):
                ends.append(os.pipe2(os.O_CLOEXEC))  # one after the other, so that none is lost if one fails
    except BaseException:
        Descriptors([fd for pair in ends for fd in pair]).close()
        raise
    (read, write), *outputs = ends
    theirs = Descriptors([read, *(writer for _, writer in outputs)])
    mine = Descriptors([write, *(reader for reader, _ in outputs)])
    for fd in mine.borrow():
        os.set_blocking(fd, False)
    return theirs, mine
