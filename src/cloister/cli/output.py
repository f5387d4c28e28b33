"""Where a result goes: to standard output, or into a file that is either the whole result or not there."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

from .failure import USAGE, CommandError

__all__ = ["check", "without_controls", "write"]


def check(output: str, *, binary: bool) -> None:
    """Refuse before any work what could only fail after it. Raises CommandError with the code for usage."""
    if output == "-":
        if binary and sys.stdout.isatty():
            raise CommandError(
                "standard output: not writing binary data to a terminal; name a file with -o OUT", 2
            )
        return
    path = Path(output)
    if path.is_dir():
        raise CommandError(f"{output}: is a folder; name a file in it", USAGE)
    if not path.parent.is_dir():
        raise CommandError(f"{output}: there is no folder {path.parent}", USAGE)


def write(output: str, data: bytes) -> None:
    """Put ``data`` into the file ``output``, or on standard output if that is ``-``. Raises CommandError."""
    if output == "-":
        if sys.stdout.isatty():  # text: check() turned anything else away
            data = without_controls(data.decode()).encode()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        _replace(Path(output).resolve(), data)
    except OSError as error:
        raise CommandError(f"{output}: {error.strerror}") from error


def without_controls(text: str) -> str:
    """``text`` without the characters that would drive a terminal: a page's text is foreign."""
    import unicodedata  # for terminals only

    return "".join(
        c if c in "\n\t" or unicodedata.category(c) != "Cc" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def _replace(path: Path, data: bytes) -> None:
    """Write beside ``path`` and rename: a reader never sees half a file, and a failure leaves the old one."""
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        path.write_bytes(data)  # a device or a pipe (/dev/null, /dev/fd/3) is written to, never replaced
        return
    beside = path.parent / f".{path.name[:200]}.{os.urandom(6).hex()}"
    try:
        with beside.open("xb") as file:
            file.write(data)
        beside.replace(path)
    except BaseException:  # Ctrl-C too
        beside.unlink(missing_ok=True)
        raise
