"""Where the portal's sockets are: a folder that nobody else can enter, and that one portal holds at a time."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import stat
from pathlib import Path

from ..errors import CloisterError

__all__ = ["PortalFolder"]

log = logging.getLogger("cloister.portal")

_BACKLOG = 64
"""Connections of one socket that the kernel keeps waiting. Past it connect(2) waits, or fails with EAGAIN where
the socket does not block (unix(7))."""


_FALLBACK = Path("/tmp")  # noqa: S108 - whoever else makes our folder in it first is found out
"""The same for every program of this user, so not from TMPDIR."""


class PortalFolder:
    """A folder of this user's alone, made if it is missing. ``path`` is the one meant, or None for the default:
    ``$XDG_RUNTIME_DIR/cloister/portal``, or ``/tmp/cloister-UID/portal`` where that variable names no folder.

    A lock on the folder itself (flock(2)) says that a portal is alive: the kernel takes it away with the process,
    however that ends, and there is no file to be left behind.

    Raises :class:`CloisterError`: the folder is not what it has to be, or another portal holds it.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = _default() if path is None else path.absolute()
        self._names: list[str] = []
        self._fd = _open_own(self.path)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            if isinstance(error, BlockingIOError):
                raise CloisterError(f"{self.path}: another portal serves there") from None
            raise CloisterError(f"{self.path} cannot be locked: {error.strerror}") from None

    def listen(self, name: str) -> socket.socket:
        """A listening SOCK_SEQPACKET socket ``name`` in the folder, in the place of one that a killed portal left.

        Raises :class:`CloisterError`.
        """
        path = self.path / name
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            self._remove_stale(name)
            listener.bind(str(path))
            self._names.append(name)
            # Before anybody can connect. The folder's mode keeps others out; this is the second wall.
            os.chmod(name, 0o600, dir_fd=self._fd)
            listener.listen(_BACKLOG)
        except OSError as error:  # a path of more than 107 bytes, too: then there is no errno
            listener.close()
            raise CloisterError(f"{path}: no socket can be made there: {error.strerror or error}") from None
        except BaseException:
            listener.close()
            raise
        return listener

    def _remove_stale(self, name: str) -> None:
        """Of a portal that is gone: an alive one would hold the lock."""
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_mode):
                raise CloisterError(f"{self.path / name} is not a socket, and is left as it is: move it away")
            os.unlink(name, dir_fd=self._fd)

    def close(self) -> None:
        """Remove the sockets and let the folder go. Closing twice is fine."""
        if self._fd < 0:
            return
        for name in self._names:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=self._fd)
        os.close(self._fd)
        self._fd = -1


def _default() -> Path:
    """By the XDG Base Directory Specification 0.8: a relative path is no path; without one, a warning."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime.startswith("/"):
        os.close(_open_own(Path(runtime), make=False))
        parent = Path(runtime) / "cloister"
    else:
        parent = _FALLBACK / f"cloister-{os.geteuid()}"
        log.warning("XDG_RUNTIME_DIR names no folder: the portal is in %s", parent)
    os.close(_open_own(parent))
    return parent / "portal"


def _open_own(path: Path, *, make: bool = True) -> int:
    """Open a folder that is this user's with mode 0700, and no link to one."""
    try:
        if make:
            with contextlib.suppress(FileExistsError):
                path.mkdir(0o700)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _unfit(path, error.strerror or str(error)) from None
    status = os.fstat(fd)
    mode = stat.S_IMODE(status.st_mode) & 0o777
    if status.st_uid == os.geteuid() and mode == 0o700:
        return fd
    os.close(fd)
    if status.st_uid != os.geteuid():
        raise _unfit(path, f"it belongs to user {status.st_uid}")
    raise _unfit(path, f"its mode is {mode:04o}, and has to be 0700")


def _unfit(path: Path, why: str) -> CloisterError:
    return CloisterError(
        f"{path} cannot hold a portal: {why}. Set XDG_RUNTIME_DIR to a folder that is yours alone (mode 0700), "
        "or name another folder"
    )
