"""Looks at the files of plugins that are being written, and has them reloaded when they have changed and rest."""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from ..errors import CloisterError, InvalidArgument, PluginError

__all__ = ["Debounce", "FileWatcher", "mark"]

log = logging.getLogger("cloister.plugins")

_TICK: Final = 1000
"""Milliseconds between two looks where no change was told: file systems of other machines tell of none."""
_GROUPED: Final = 50
"""Milliseconds for which changes are taken together."""
_STEP: Final = 0.05
"""Seconds between two looks at files that change."""
_PATIENCE: Final = 10
"""Times the longest wait, after which a file that never rests is read as it is."""


@dataclasses.dataclass(frozen=True)
class Debounce:
    """How long files must rest before they are read again: ``first`` seconds, twice as long for each change that comes
    meanwhile, ``most`` at the most. An editor saves in steps, and a build in many."""

    first: float
    most: float

    def __post_init__(self) -> None:
        if not 0 < self.first <= self.most < 3600:
            raise InvalidArgument(f"{self}: seconds of more than 0, and most not below first")

    @classmethod
    def fixed(cls, seconds: float) -> Debounce:
        """Always the same."""
        return cls(seconds, seconds)

    @classmethod
    def adaptive(cls, first: float = 0.1, most: float = 2.0) -> Debounce:
        """Longer while changes keep coming."""
        return cls(first, most)

    def rest(self, changes: int) -> float:
        """Seconds to wait after so many ``changes`` in a row."""
        return min(self.most, math.ldexp(self.first, min(changes - 1, 64)))


_Seen = tuple[tuple[int, ...] | None, ...]


class _Watched:
    """One plugin. ``files`` says which they are; that may change with each manifest."""

    def __init__(self, files: Callable[[], Iterable[Path]], debounce: Debounce) -> None:
        self.files = files
        self._debounce = debounce
        # What is there at first may be newer than what was loaded.
        self._seen: _Seen | None = None
        self._began = 0.0
        self._changes = 0
        self.due: float | None = None

    def look(self) -> None:
        seen = tuple(map(mark, self.files()))
        if seen == self._seen:
            return
        self._seen, now = seen, time.monotonic()
        if self.due is None:
            self._began, self._changes = now, 0
        self._changes += 1
        longest = self._began + _PATIENCE * self._debounce.most
        self.due = min(now + self._debounce.rest(self._changes), longest)


class FileWatcher:
    """One thread, from the first plugin on until :meth:`stop`."""

    def __init__(self, reload: Callable[[str], None]) -> None:
        """``reload`` is called with a plugin's name; what it raises was told to whoever wants to hear of it."""
        self._reload = reload
        self._lock = threading.Lock()
        self._watched: dict[str, _Watched] = {}
        self._wake = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None

    def add(self, name: str, files: Callable[[], Iterable[Path]], debounce: Debounce) -> None:
        """Have the plugin ``name`` reloaded when one of its ``files`` has changed. Raises :class:`PluginError` where
        watchfiles is not installed."""
        try:
            import watchfiles  # noqa: F401 - before the thread needs it
        except ImportError as error:
            raise PluginError('to watch files takes a library: pip install "cloister[watch]"') from error
        with self._lock:
            self._watched = {**self._watched, name: _Watched(files, debounce)}
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(target=self._run, name="cloister-watch", daemon=True)
                self._thread.start()
        self._wake.set()

    def remove(self, name: str) -> None:
        """Leave the plugin as it is. One that is not watched is fine."""
        with self._lock:
            self._watched = {key: each for key, each in self._watched.items() if key != name}
        self._wake.set()

    def stop(self, timeout: float) -> None:
        """End the thread, and wait ``timeout`` seconds for what it is doing."""
        with self._lock:
            self._stopped = True
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    # ── in the thread ────────────────────────────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        from watchfiles import watch

        while not self._stopped:
            self._wake.clear()
            folders = self._folders()
            self._settle()
            if not folders:
                self._wake.wait(_TICK / 1000)
                continue
            try:
                # Folders, as editors put a new file in the place of the old one, and not what is below them.
                for _ in watch(*folders, watch_filter=None, debounce=_GROUPED, step=_GROUPED, stop_event=self._wake,
                               rust_timeout=_TICK, yield_on_timeout=True, recursive=False, raise_interrupt=False,
                ):  # fmt: skip
                    self._settle()
                    if self._wake.is_set() or self._folders() != folders:
                        break
            except (OSError, RuntimeError) as error:  # no more inotify instances, or a folder that has gone
                log.debug("no changes are told: %s", error)
                self._wake.wait(_TICK / 1000)

    def _folders(self) -> dict[str, tuple[int, ...]]:
        """Those that the files are in, by what they are now: another one may take the name."""
        names = {str(file.parent) for each in self._watched.values() for file in each.files()}
        return {name: seen[:2] for name in sorted(names) if (seen := mark(Path(name))) is not None}

    def _settle(self) -> None:
        """Look, and go on while anything changes or is due."""
        while not self._stopped:
            for name, each in self._watched.items():
                each.look()
                if each.due is not None and each.due <= time.monotonic():
                    each.due = None
                    self._reload_one(name)
            due = [*self._due()]
            if not due:
                return
            self._wake.wait(min(_STEP, max(0.0, min(due) - time.monotonic())))
            self._wake.clear()

    def _due(self) -> Iterator[float]:
        for each in self._watched.values():
            if each.due is not None:
                yield each.due

    def _reload_one(self, name: str) -> None:
        try:
            self._reload(name)
        except (CloisterError, OSError) as error:
            log.debug("%s was not reloaded: %s", name, error)
        except Exception:  # ours, and no reason to look no more
            log.exception("%s could not be reloaded", name)


def mark(file: Path) -> tuple[int, ...] | None:
    """What another content changes, of what is at the end of symlinks; None where nothing is."""
    try:
        found = os.stat(file)  # noqa: PTH116 - a descriptor and a Path object less
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
