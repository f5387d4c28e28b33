"""How much a plugin writes into the folders that it was granted: by how much they grow during one call.

The kernel counts what a process writes too (/proc/PID/io), but tells of a process that nobody may read root alone.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Iterable
from typing import Final

from ..errors import DiskLimit

__all__ = ["Growth", "taken"]

_MOST_ENTRIES: Final = 100_000
"""Files and folders that are looked at: 0.2 s."""
_LEAST: Final = 4096
"""Bytes that each file and folder counts for: an empty one takes room as well."""


class Growth:
    """Of ``paths``, from now on. Whoever else writes there meanwhile counts too; a file that is deleted counts no more,
    one that is deleted while it is open included."""

    def __init__(self, name: str, paths: Iterable[str], limit: int) -> None:
        """``name`` is the plugin's, for errors; ``limit`` is in bytes. Raises :class:`DiskLimit` as :func:`taken`."""
        self._name = name
        self._paths = [*paths]
        self._limit = limit
        self._before = taken(name, self._paths)

    def check(self) -> None:
        """Raise :class:`DiskLimit` when they have grown by more than the limit."""
        if taken(self._name, self._paths) - self._before > self._limit:
            raise DiskLimit(
                f"{self._name} wrote more than it may in one call (disk: {self._limit} bytes), and its process was "
                "ended"
            )


def taken(name: str, paths: Iterable[str]) -> int:
    """Bytes of all that is in ``paths``, as long as files say they are; links are not followed.

    Raises :class:`DiskLimit` where that cannot be said: more than 100,000 files, a folder that this program may not
    look into, or one whose path is too long to be named.
    """
    total = seen = 0
    waiting = [path for path in paths if os.path.lexists(path)]
    while waiting:
        path = waiting.pop()
        try:
            status = os.lstat(path)
            total += max(status.st_size, status.st_blocks * 512, _LEAST)
            if stat.S_ISDIR(status.st_mode):
                with os.scandir(path) as entries:
                    # Not all of a folder that has millions: one more than the most is enough to say so.
                    waiting += [entry.path for entry in itertools.islice(entries, _MOST_ENTRIES)]
        except FileNotFoundError:
            continue  # deleted meanwhile
        except OSError as error:
            raise DiskLimit(f"what {name} wrote cannot be counted: {error.strerror}") from None
        seen += 1
        if seen + len(waiting) > _MOST_ENTRIES:
            raise DiskLimit(
                f"{name} may write where there are more than {_MOST_ENTRIES} files: too many to be counted"
            )
    return total
