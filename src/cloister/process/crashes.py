"""Where crash reports are kept: one JSON file for each, in a folder of the user's that does not grow without end.

The files are read back as if anybody had written them.
"""

from __future__ import annotations

import builtins
import contextlib
import logging
import os
import re
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from ..errors import CloisterError, InvalidArgument, printable
from .crash_report import ID, MAX_REPORT, CrashReport, ResourceUse, SeenMessage

__all__ = ["CrashReport", "CrashStore", "ResourceUse", "SeenMessage"]

log = logging.getLogger("cloister.process.crashes")

_STALE: Final = 3600.0
"""Seconds after which a temporary file has lost its writer: writing one takes milliseconds."""
_FILE: Final = re.compile(rf"{ID.pattern}\.json")
_TEMPORARY: Final = re.compile(rf"\.{ID.pattern}\.tmp")


class CrashStore:
    """The folder of the reports: no more than ``max_reports``, and no more than ``max_bytes`` together.

    ``folder`` is ``$XDG_STATE_HOME/cloister/crashes`` if None, and ``~/.local/state/cloister/crashes`` where that
    variable is unset or relative (XDG Base Directory Specification 0.8). It is made for its user alone, and used
    only if nobody else can write to it. Several programs may use it at once.
    """

    def __init__(
        self, folder: Path | None = None, max_reports: int = 100, max_bytes: int = 8 * 1024 * 1024
    ) -> None:
        """Raises :class:`InvalidArgument` for bounds that would not hold a single report."""
        if max_reports < 1 or max_bytes < MAX_REPORT:
            raise InvalidArgument(
                f"max_reports={max_reports}, max_bytes={max_bytes}: at least 1 report and {MAX_REPORT} bytes"
            )
        self._chosen = folder
        self._max_reports = max_reports
        self._max_bytes = max_bytes

    def write(self, report: CrashReport) -> Path | None:
        """Keep ``report``, and delete the oldest that are too many; the new file.

        A program whose child crashed must not fail for its report: what cannot be written is logged as one warning,
        and the result is None.
        """
        try:
            path = self._folder()
            _make(path)
            folder = _open(path)
            try:
                _write(folder, report)
                self._prune(folder)
            finally:
                os.close(folder)
        except (CloisterError, OSError) as error:
            log.warning("no crash report of %s %d was kept: %s", report.kind, report.pid, error)
            return None
        return path / f"{report.id}.json"

    def list(self) -> builtins.list[CrashReport]:
        """The reports, the newest first. One that cannot be read is logged as a warning and left out.

        Raises :class:`CloisterError` when the folder cannot be used; where there is none, there are no reports.
        """
        found = []
        with contextlib.suppress(FileNotFoundError), self._existing() as folder:
            for entry in _entries(folder)[: self._max_reports]:
                try:
                    found.append(_read(folder, entry.id))
                except FileNotFoundError:
                    continue  # another program has deleted it meanwhile
                except CloisterError as error:
                    log.warning("a crash report was left out: %s", error)
        return found

    def read(self, id: str) -> CrashReport:
        """The report of that ``id``. Raises :class:`CloisterError` if there is none, or none that can be read."""
        if ID.fullmatch(id):
            with contextlib.suppress(FileNotFoundError), self._existing() as folder:
                return _read(folder, id)
        raise CloisterError(f"{printable(id, 60)}: there is no such crash report")

    def clear(self, ids: Iterable[str] | None = None) -> int:
        """Delete the reports of these ``ids``, or all, unreadable ones too; how many were deleted.

        What is not there, or not an id, is not counted. Raises :class:`CloisterError` when the folder cannot be used.
        """
        wanted = None if ids is None else [id for id in dict.fromkeys(ids) if ID.fullmatch(id)]
        with contextlib.suppress(FileNotFoundError), self._existing() as folder:
            if wanted is None:
                wanted = [entry.id for entry in _entries(folder)]
                _delete_stale(folder)
            return sum(_delete(folder, f"{id}.json") for id in wanted)
        return 0

    def _folder(self) -> Path:
        if self._chosen is not None:
            return self._chosen
        state = os.environ.get("XDG_STATE_HOME", "")
        if state.startswith("/"):
            return Path(state, "cloister", "crashes")
        home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path's own raises where it finds none
        if not home.is_absolute() or not home.is_dir():
            raise CloisterError(
                "there is no home folder to keep crash reports in; XDG_STATE_HOME names another"
            )
        return home / ".local" / "state" / "cloister" / "crashes"

    @contextlib.contextmanager
    def _existing(self) -> Iterator[int]:
        """The folder as a descriptor. Raises FileNotFoundError, and CloisterError for what else the kernel refuses."""
        path = self._folder()
        try:
            folder = _open(path)
            try:
                yield folder
            finally:
                os.close(folder)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise CloisterError(f"{path}: {error.strerror}") from error

    def _prune(self, folder: int) -> None:
        size = 0
        try:
            for newer, entry in enumerate(_entries(folder)):
                size += entry.size
                if newer >= self._max_reports or size > self._max_bytes:
                    _delete(folder, f"{entry.id}.json")
            _delete_stale(folder)
        except OSError as error:
            log.warning("old crash reports could not be deleted: %s", error)


# ── the folder: everything below a descriptor of it, so that no path can be swapped on the way ───────────────────


class _Entry(NamedTuple):
    id: str
    changed: int
    """Nanoseconds since 1970: what orders the reports of one second."""
    size: int


def _make(path: Path) -> None:
    """Make the folder, and those above it, for this user alone (as the XDG specification has it)."""
    with contextlib.suppress(FileExistsError):
        try:
            path.mkdir(mode=0o700)
        except FileNotFoundError:
            _make(path.parent)
            path.mkdir(mode=0o700)


def _open(path: Path) -> int:
    """A descriptor of the folder. Raises OSError, and CloisterError unless it is this user's alone to write to."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    status = os.fstat(folder)
    if status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return folder
    os.close(folder)
    raise CloisterError(f"{path}: other users can write to this folder, so no crash reports are kept in it")


def _write(folder: int, report: CrashReport) -> None:
    """Write under another name, then rename: who reads sees all of it or nothing."""
    temporary = f".{report.id}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(temporary, flags, 0o600, dir_fd=folder)
    try:
        with open(file, "wb") as opened:  # noqa: PTH123 - a descriptor
            opened.write(msgspec.json.encode(report))
        os.rename(temporary, f"{report.id}.json", src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:  # Ctrl-C too
        _delete(folder, temporary)
        raise


def _read(folder: int, id: str) -> CrashReport:
    """Raises FileNotFoundError, and CloisterError for what is not a report of that id."""
    # O_NONBLOCK: a pipe of that name would otherwise be waited for.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        file = os.open(f"{id}.json", flags, dir_fd=folder)
    except FileNotFoundError:
        raise
    except OSError as error:  # a link, a socket
        raise CloisterError(f"{id}: this is not a crash report: {error.strerror}") from error
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise CloisterError(f"{id}: this is not a crash report: not a file")
        with open(file, "rb", closefd=False) as opened:
            data = opened.read(MAX_REPORT + 1)
    finally:
        os.close(file)
    if len(data) > MAX_REPORT:
        raise CloisterError(f"{id}: this is not a crash report: more than {MAX_REPORT} bytes")
    try:
        report = msgspec.json.decode(data, type=CrashReport)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CloisterError(f"{id}: this is not a crash report: {printable(str(error))}") from error
    if report.id != id:
        raise CloisterError(f"{id}: this is not a crash report: it says that it is {report.id}")
    return report


def _entries(folder: int) -> list[_Entry]:
    """Whatever has a report's name, the newest first."""
    found = [
        _Entry(name.removesuffix(".json"), status.st_mtime_ns, status.st_size)
        for name, status in _files(folder, _FILE)
    ]
    # An id orders by its second; its digits are random, so those of one second go by the kernel's clock.
    return sorted(found, key=lambda entry: (entry.id[:16], entry.changed), reverse=True)


def _delete_stale(folder: int) -> None:
    now = time.time()
    for name, status in _files(folder, _TEMPORARY):
        if abs(now - status.st_mtime) > _STALE:  # one from the future is no better
            _delete(folder, name)


def _files(folder: int, pattern: re.Pattern[str]) -> Iterator[tuple[str, os.stat_result]]:
    for name in os.listdir(folder):
        if pattern.fullmatch(name):
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if not stat.S_ISDIR(status.st_mode):  # nothing of ours, and not to be deleted like a file
                    yield name, status


def _delete(folder: int, name: str) -> bool:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:  # another program was faster
        return False
    return True
