"""Downloads: what a server sends becomes a file with a harmless name, gone on with where it broke off.

The request_server reads the answer and gives its body piece by piece; this process counts the bytes and writes them.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import dataclasses
import errno
import mimetypes
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final, TypeVar

from ..errors import (
    AddressRefused,
    DownloadFailed,
    InvalidArgument,
    NavigationError,
    TimeoutError,
    descriptors_left,
    printable,
)
from ..interfaces.base import FailureCode
from ..interfaces.transfers import TransferOpened
from .checks import checked_url, deadline_of
from .part_file import PartFile, Rest
from .quarantine import safe_name
from .request_servers import RequestServers
from .requests import checked_headers, status_text
from .transfers import Ask, Outgoing, Transfer, open_transfer

__all__ = ["Download", "DownloadOptions", "DownloadProgress", "Progress", "download", "download_options"]

T = TypeVar("T")

MAX_BYTES: Final = 64 * 2**30
"""Of one download, unless another limit is given."""
_TOLD_EVERY: Final = 0.016
"""Seconds between two calls of who wants to know how far it is: no screen shows more."""
_ATTEMPTS: Final = 5
"""Failures in a row after which it is given up. One that brought something is the first of another row."""
_SOMETHING: Final = 256 * 1024
_START_OVERS: Final = 2
"""Times that it is begun anew, because what came before cannot be gone on with."""
DELAY = 0.25
"""Seconds before another attempt, and twice as many before each further one."""
_AGAIN: Final = frozenset(
    {
        FailureCode.CONNECTION_RESET,
        FailureCode.CONNECTION_REFUSED,
        FailureCode.UNREACHABLE,
        FailureCode.DNS_FAILED,
        FailureCode.TIMED_OUT,
        FailureCode.BAD_RESPONSE,
        FailureCode.NO_PROCESS,
    }
)
"""What may be another way in a moment, once something has come."""


@dataclasses.dataclass(frozen=True)
class DownloadProgress:
    """``received`` bytes are in the file ``part``; ``total`` is None where the server does not say."""

    received: int
    total: int | None
    part: Path


@dataclasses.dataclass(frozen=True)
class Download:
    """A file that is there in whole. ``url`` is where the redirects ended; ``suggested_filename`` is what the server
    calls it, made harmless; ``sha256`` is known where it was asked for."""

    path: Path
    url: str
    size: int
    content_type: str
    suggested_filename: str
    sha256: str | None = None


Progress = Callable[[DownloadProgress], object]


@dataclasses.dataclass(frozen=True)
class DownloadOptions:
    """See :meth:`AsyncBrowser.download`."""

    resume: bool
    progress: Progress | None
    headers: tuple[tuple[str, str], ...]
    max_bytes: int
    sha256: str | None
    max_redirects: int
    idle: float


async def download(
    servers: RequestServers,
    url: str,
    path: str | os.PathLike[str] | None,
    options: DownloadOptions,
    timeout: float | None,
) -> Download:
    """See :meth:`AsyncBrowser.download`."""
    url = checked_url(url)
    seconds = None if timeout is None else deadline_of(timeout) - time.monotonic()
    try:
        async with asyncio.timeout(seconds):
            with _target(url, path) as target:
                return await _Downloading(servers, url, target, options).run()
    except TimeoutError:
        raise
    except builtins.TimeoutError:
        raise TimeoutError(f"{printable(url, 200)}: not downloaded within {timeout:g} ms") from None


class _Target:
    """Where it goes: a folder, and a name there if the user gave one."""

    def __init__(self, folder: Path, name: str | None, fd: int) -> None:
        self.folder = folder
        self.name = name
        self.fd = fd


@contextlib.contextmanager
def _target(url: str, path: str | os.PathLike[str] | None) -> Iterator[_Target]:
    given = Path.cwd() if path is None else Path(path)
    is_folder = path is None or given.is_dir() or os.fspath(path).endswith("/")
    folder, name = (given, None) if is_folder else (given.parent, given.name)
    if name is not None and os.path.lexists(given):
        raise DownloadFailed(
            url, FailureCode.FILE_EXISTS, f"{given} is there already: nothing is overwritten"
        )
    try:
        with descriptors_left():
            fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidArgument(f"{folder}: {error.strerror}") from None
    try:
        yield _Target(folder, name, fd)
    finally:
        os.close(fd)


class _StartOver(Exception):
    """What came before is not the beginning of what comes now."""


class _Downloading:
    """One download, however many requests it takes."""

    def __init__(self, servers: RequestServers, url: str, target: _Target, options: DownloadOptions) -> None:
        self._servers = servers
        self._url = url
        self._target = target
        self._options = options
        self._part: PartFile
        self._rest: Rest | None = None
        """By what it can be gone on with, in this run or a later one."""
        self._total: int | None = None
        self._answer: TransferOpened | None = None
        self._told_at = 0.0
        self._attempts = _ATTEMPTS
        self._start_overs = _START_OVERS

    async def run(self) -> Download:
        base = self._target.name or safe_name(re.split(r"[?#]", self._url)[0].rpartition("/")[2])
        try:
            self._part = PartFile.open(self._target.fd, base, self._url, resume=self._options.resume)
        except OSError as error:
            raise _cannot_write(self._url, self._target.folder, error) from None
        self._rest = self._part.rest
        is_kept = False
        try:
            await self._fetch()
            return await self._finish()
        except DownloadFailed as error:
            is_kept = self._can_go_on and error.code not in (FailureCode.TOO_LARGE, FailureCode.WRONG_DIGEST)
            if not is_kept:
                raise
            hint = f"{error.detail}; what has come is in {self._path}, and the same again goes on from there"
            raise DownloadFailed(self._url, error.code, hint, self._path) from None
        except BaseException:  # of a deadline, of whoever gave it up, of its caller's own code
            is_kept = self._can_go_on
            raise
        finally:
            if not is_kept:
                self._part.discard()  # where it has its name by now, nothing
            self._part.close()

    @property
    def _path(self) -> Path:
        return self._target.folder / self._part.name

    @property
    def _can_go_on(self) -> bool:
        return self._options.resume and self._part.rest is not None and self._part.size > 0

    # ── asking ───────────────────────────────────────────────────────────────────────────────────────────────

    async def _fetch(self) -> None:
        """Have all of it in the file."""
        while True:
            before = self._part.size
            try:
                if await self._attempt():
                    return
                raise DownloadFailed(self._url, FailureCode.BAD_RESPONSE, "it sends less than there is")
            except _StartOver as why:
                self._start_over(DownloadFailed(self._url, FailureCode.BAD_RESPONSE, str(why)))
            except (NavigationError, TimeoutError) as error:
                await self._after(error, self._part.size - before)

    async def _after(self, error: NavigationError | TimeoutError, gained: int) -> None:
        """Return if it is worth another attempt, after a moment. Raises :class:`DownloadFailed` if not."""
        if isinstance(error, AddressRefused):
            raise error
        timed_out = isinstance(error, TimeoutError)
        code = FailureCode.TIMED_OUT if timed_out else error.code  # type: ignore[union-attr]
        detail = str(error).removeprefix(f"{printable(self._url, 200)}: ")
        failed = DownloadFailed(self._url, code, detail)
        if self._answer is None or code not in _AGAIN:
            raise failed from None
        if self._rest is None or not self._options.resume:
            self._start_over(failed)
            return
        self._attempts = _ATTEMPTS if gained >= _SOMETHING else self._attempts - 1
        if not self._attempts:
            raise failed from None
        failures = _ATTEMPTS - self._attempts
        await asyncio.sleep(DELAY * 2 ** (failures - 1) if failures else 0)

    def _start_over(self, failed: DownloadFailed) -> None:
        if not self._start_overs:
            raise failed
        self._start_overs -= 1
        self._rest = None
        self._part.start_over()

    async def _attempt(self) -> bool:
        """One request; whether all of it is there then. Raises :class:`_StartOver`."""
        offset = self._part.size
        headers = (*self._options.headers, ("Accept-Encoding", "identity"))
        if offset and self._rest is not None:
            headers = (*headers, ("Range", f"bytes={offset}-"), ("If-Range", self._rest.validator))
        options = self._options
        ask = Ask(
            self._url, "GET", headers, Outgoing(), options.max_redirects, options.max_bytes, options.idle
        )
        async with open_transfer(self._servers, ask) as transfer:
            answer = self._answer = transfer.opened
            if offset and answer.status == 416:
                return self._had_all(answer, offset)
            end = self._begin(answer, offset)
            await self._read(transfer, end)
        return self._total is None or self._part.size == self._total

    def _had_all(self, answer: TransferOpened, offset: int) -> bool:
        """It has no bytes behind those that are there."""
        if answer.range is None or answer.range.total != offset:
            raise _StartOver("it has no such part")
        return True

    def _begin(self, answer: TransferOpened, offset: int) -> int | None:
        """Where what comes now ends, if that is known; it goes behind ``offset``, or to the start."""
        end: int | None = None
        if answer.status == 206:
            end = self._part_of(answer, offset)
        elif 200 <= answer.status <= 299:
            if offset:
                self._part.start_over()  # it is another file by now, or there are no parts of it
            self._total = answer.length
            has_rest = bool(answer.validator)
            self._rest = Rest(self._url, answer.validator, self._total) if has_rest else None
            self._part.remember(self._rest if self._options.resume else None)
        else:
            raise DownloadFailed(
                self._url, FailureCode.HTTP_STATUS, f"{answer.status} {status_text(answer.status)}".strip()
            )
        self._check_size(self._total or 0)
        room = self._part.room()
        if self._total is not None and self._total - self._part.size > room:
            raise DownloadFailed(
                self._url,
                FailureCode.NO_ROOM,
                f"it has {self._total:,} bytes, and {room:,} are free in {self._target.folder}",
            )
        return end

    def _part_of(self, answer: TransferOpened, offset: int) -> int:
        """Judge an answer that says that it is a part. Raises :class:`_StartOver` unless it is the one that was asked
        for, of the same file."""
        part, rest = answer.range, self._rest
        if part is None or part.first is None or part.last is None or rest is None or not offset:
            raise _StartOver("it sends a part that was not asked for")
        total = part.total if rest.total is None else rest.total
        is_right = (
            part.first == offset <= part.last
            and part.total in (None, total)
            and (total is None or part.last < total)
            and answer.validator in ("", rest.validator)
        )
        if not is_right:
            raise _StartOver("it sends another part than was asked for")
        self._total = total
        return part.last + 1

    # ── what comes ───────────────────────────────────────────────────────────────────────────────────────────

    async def _read(self, transfer: Transfer, end: int | None) -> None:
        while data := await transfer.read():
            self._check_size(self._part.size + len(data))
            if end is not None and self._part.size + len(data) > end:
                raise _StartOver("it sends more than it says")
            try:
                await _in_thread(self._part.write, data)
            except OSError as error:
                raise _cannot_write(self._url, self._path, error) from None
            self._tell()

    def _check_size(self, size: int) -> None:
        if size > self._options.max_bytes:
            limit = f"it has more than {self._options.max_bytes:,} bytes; that is the limit (max_bytes)"
            raise DownloadFailed(self._url, FailureCode.TOO_LARGE, limit)

    def _tell(self, *, is_last: bool = False) -> None:
        now = time.monotonic()
        if self._options.progress is not None and (is_last or now - self._told_at >= _TOLD_EVERY):
            self._told_at = now
            self._options.progress(DownloadProgress(self._part.size, self._total, self._path))

    async def _finish(self) -> Download:
        """Give it its name."""
        answer, part = self._answer, self._part
        assert answer is not None  # noqa: S101 - for the type checker
        digest = None
        if self._options.sha256 is not None:
            digest = await _in_thread(part.sha256)
            if digest != self._options.sha256:
                raise DownloadFailed(self._url, FailureCode.WRONG_DIGEST, f"its SHA-256 is {digest}")
        self._tell(is_last=True)
        kind = next((value for name, value in answer.headers if name == "content-type"), "")
        kind = "" if answer.status == 416 else kind
        suggested = safe_name(answer.name, mimetypes.guess_extension(kind.partition(";")[0].strip()) or "")
        referrer = next((value for name, value in self._options.headers if name.lower() == "referer"), "")
        try:
            name = part.finish(
                self._target.name or suggested,
                only=self._target.name is not None,
                origin=answer.url,
                referrer=referrer,
            )
        except FileExistsError as error:
            there = f"{self._target.folder / error.filename} is there already: nothing is overwritten"
            raise DownloadFailed(self._url, FailureCode.FILE_EXISTS, there) from None
        except OSError as error:
            raise _cannot_write(self._url, self._path, error) from None
        return Download(self._target.folder / name, answer.url, part.size, kind, suggested, digest)


def _cannot_write(url: str, path: Path, error: OSError) -> DownloadFailed:
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return DownloadFailed(
        url, FailureCode.NO_ROOM if is_full else FailureCode.INTERNAL, f"{path}: {error.strerror}"
    )


async def _in_thread(work: Callable[..., T], *arguments: object) -> T:
    """A slow disk is not to stop everything else. Not left before it is done: what it works on is closed then."""
    working = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        await asyncio.wait({working})
        raise


def download_options(
    *,
    resume: bool,
    progress: Progress | None,
    headers: Mapping[str, str] | None,
    max_bytes: int | None,
    sha256: str | None,
    max_redirects: int,
    idle: float,
) -> DownloadOptions:
    """Checked. Raises InvalidArgument."""
    own = checked_headers(headers)
    ours = {"accept-encoding", "if-range", "range"} & {name.lower() for name, _ in own}
    if ours:
        raise InvalidArgument(f"headers: {', '.join(sorted(ours))}: a download says that itself")
    if max_bytes is not None and not 0 < max_bytes <= 2**40:
        raise InvalidArgument(f"max_bytes is {max_bytes}: from 1 to {2**40}")
    if sha256 is not None and not re.fullmatch(r"[0-9a-f]{64}", sha256 := sha256.lower()):
        raise InvalidArgument(f"sha256: {sha256!r} is not 64 hexadecimal digits")
    return DownloadOptions(resume, progress, own, max_bytes or MAX_BYTES, sha256, max_redirects, idle)
