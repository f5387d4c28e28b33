"""A file that is being downloaded: beside where it will be, under a name of its own until all of it is there.

What comes is written by this process, which looks at none of it: so no process that reads foreign bytes ever holds a
descriptor that it could write to the disk by, during or after a download.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import stat
from pathlib import Path
from typing import Annotated, Final, Self

import msgspec
from msgspec import Meta

from ..errors import descriptors_left
from ..interfaces.base import ByteCount, Url
from .quarantine import beside, numbered

__all__ = ["PartFile", "Rest"]

_MOST_NAMES: Final = 1000
_REST: Final = "user.cloister.rest"
_OPEN: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
_LINKS_NOT: Final = frozenset(
    (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOENT, errno.EXDEV)
)
"""How file systems say that they have no hard links, or /proc that it is not there."""


class Rest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """By what the rest of a file can be had later; kept with it, in an extended attribute."""

    url: Url
    validator: Annotated[str, Meta(min_length=1, max_length=512)]
    total: ByteCount | None


class PartFile:
    """``folder`` is a descriptor of the folder (O_PATH will do), ``name`` what it is called there for now. ``rest`` is
    what was kept with it."""

    def __init__(self, folder: int, name: str, fd: int, rest: Rest | None) -> None:
        self.name = name
        self.rest = rest
        self._folder = folder
        self._fd = fd
        self.size = os.fstat(fd).st_size if rest is not None else 0

    @classmethod
    def open(cls, folder: int, base: str, url: str, *, resume: bool) -> Self:
        """A new file for ``url``, or one that an earlier download of it left and nobody uses. Raises OSError.

        What is there and is not known to be ours is left alone.
        """
        key = hashlib.sha256(url.encode()).hexdigest()[:8]
        for number in range(_MOST_NAMES):
            name = beside(base, f".{key}{f'-{number}' if number else ''}.part")
            with descriptors_left():
                try:
                    fd = os.open(name, _OPEN | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
                except FileExistsError:
                    found = _earlier(folder, name)
                    if found is None:
                        continue
                    fd, rest = found
                    part = cls(folder, name, fd, rest)
                    if not resume or rest.url != url or part.size > (rest.total or 2**62):
                        part.start_over()
                    return part
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return cls(folder, name, fd, None)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), base)

    def start_over(self) -> None:
        """Nothing of it is wanted."""
        os.ftruncate(self._fd, 0)
        self.size = 0
        self.remember(None)

    def remember(self, rest: Rest | None) -> None:
        """Keep ``rest`` with the file, in place of what was. Where the file system cannot, it cannot be gone on with by
        another program."""
        self.rest = None
        with contextlib.suppress(OSError):
            if rest is None:
                os.removexattr(self._fd, _REST)
            else:
                os.setxattr(self._fd, _REST, msgspec.msgpack.encode(rest))
                self.rest = rest

    def write(self, data: bytes) -> None:
        """Append. Raises OSError; what was written before it is there."""
        left = memoryview(data)
        while left:
            written = os.pwrite(self._fd, left, self.size)
            self.size += written
            left = left[written:]

    def room(self) -> int:
        """Bytes that are free where it is."""
        found = os.fstatvfs(self._fd)
        return found.f_bavail * found.f_frsize

    def sha256(self) -> str:
        """Of what is there."""
        digest = hashlib.sha256()
        at = 0
        while data := os.pread(self._fd, 1024 * 1024, at):
            digest.update(data)
            at += len(data)
        return digest.hexdigest()

    def finish(self, name: str, *, only: bool, origin: str, referrer: str) -> str:
        """Give it ``name``, or the next one like it that is free unless ``only`` this will do; which it got. Nothing is
        overwritten, and nothing that is a link is followed. Raises OSError (FileExistsError)."""
        for key, value in (("user.xdg.origin.url", origin), ("user.xdg.referrer.url", referrer)):
            if value:
                with contextlib.suppress(OSError):
                    os.setxattr(self._fd, key, value.encode())
        os.fchmod(self._fd, 0o644 & ~_umask())
        for number in range(1 if only else _MOST_NAMES):
            wanted = numbered(name, number)
            try:
                self._name(wanted)
            except FileExistsError:
                continue
            self.remember(None)
            return wanted
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)

    def discard(self) -> None:
        """Delete it, if it is still what has its name."""
        with contextlib.suppress(OSError):
            if _is_same(self._folder, self.name, self._fd):
                os.unlink(self.name, dir_fd=self._folder)

    def close(self) -> None:
        os.close(self._fd)

    def _name(self, wanted: str) -> None:
        try:
            # The file itself, whatever has its name by now.
            os.link(f"/proc/self/fd/{self._fd}", wanted, dst_dir_fd=self._folder, follow_symlinks=True)
        except OSError as error:
            if error.errno not in _LINKS_NOT:
                raise
            # The name is taken first, so that the renaming replaces nothing but that.
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            os.close(os.open(wanted, flags, 0o600, dir_fd=self._folder))
            os.rename(self.name, wanted, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        else:
            self.discard()


def _earlier(folder: int, name: str) -> tuple[int, Rest] | None:
    """The file ``name``, if an earlier download left it: a regular one of this user's, with one name, with what is to
    be known of its rest, and nobody at work on it."""
    try:
        fd = os.open(name, _OPEN, dir_fd=folder)
    except OSError:
        return None
    try:
        info = os.fstat(fd)
        if stat.S_ISREG(info.st_mode) and info.st_uid == os.geteuid() and info.st_nlink == 1:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            rest = msgspec.msgpack.decode(os.getxattr(fd, _REST), type=Rest)
            if _is_same(folder, name, fd):  # it may have been finished meanwhile
                return fd, rest
    except (OSError, msgspec.DecodeError):
        pass
    os.close(fd)
    return None


def _is_same(folder: int, name: str, fd: int) -> bool:
    try:
        there, here = os.stat(name, dir_fd=folder, follow_symlinks=False), os.fstat(fd)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _umask() -> int:
    """Of this process. os.umask() can only ask by changing it, for all threads."""
    try:
        found = re.search(r"^Umask:\s*([0-7]+)$", Path("/proc/self/status").read_text(), re.M)
    except OSError:
        found = None
    return int(found[1], 8) if found else 0o077
