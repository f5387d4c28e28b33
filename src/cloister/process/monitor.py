"""The monitor: a socket in the user's runtime folder at which ``cloister top`` asks a program what runs: each of its
browsers has one, and each of its runtimes of plugins.

``$XDG_RUNTIME_DIR/cloister/browsers/PID-N.sock``; N tells those of one program apart. Without a runtime folder
(XDG Base Directory Specification 0.8) there is no monitor. Nobody but the user gets at the socket: the folder is
the user's alone, and the kernel says who connects.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import re
import socket
import struct
from typing import TYPE_CHECKING

from ..errors import BadMessage
from ..ipc import Channel

if TYPE_CHECKING:
    from ..ipc import Connection
    from .census import Census, Watched

__all__ = ["MAX_CLIENTS", "Monitor", "connect", "open_folder", "sockets"]

log = logging.getLogger("cloister.process")

MAX_CLIENTS = 8
"""Clients at once. One more is turned away."""
_PAUSE = 1.0
"""Seconds without new clients when the program has no descriptor left for one."""
_numbers = itertools.count(1)


class Monitor:
    """Listens for one of them, from :meth:`start` to :meth:`close`."""

    def __init__(self, watched: Watched, folder: int, name: str, listener: socket.socket) -> None:
        self._watched = watched
        self._folder = folder
        self._name = name
        self._listener = listener
        self._clients: set[Connection] = set()
        self._census: Census | None = None
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._listen()

    @classmethod
    def start(cls, watched: Watched) -> Monitor | None:
        """One that listens; None where that cannot be, which is logged. Removes what dead browsers left."""
        try:
            folder = open_folder(create=True)
        except OSError as error:
            log.debug("no monitor: %s", error)
            return None
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        name = f"{os.getpid()}-{next(_numbers)}.sock"
        try:
            _remove_stale(folder, name)
            listener.bind(_path(folder, name))
            listener.listen(MAX_CLIENTS)
        except OSError as error:
            log.debug("no monitor at %s: %s", name, error)
            listener.close()
            os.close(folder)
            return None
        return cls(watched, folder, name, listener)

    async def close(self) -> None:
        """Remove the socket, and let the clients go."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._name, dir_fd=self._folder)
        os.close(self._folder)
        for client in list(self._clients):
            client.close()
        self._clients.clear()
        if self._census is not None:
            await self._census.close()

    def _listen(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:  # no descriptor left
            log.warning("the monitor takes no clients for %g s: %s", _PAUSE, error.strerror)
            self._loop.remove_reader(self._listener)
            self._pause = self._loop.call_later(_PAUSE, self._listen)
            return
        with client:
            uid = _peer_uid(client)
            if uid != os.geteuid():
                log.warning("the monitor turned a client of the user %d away", uid)
                return
            if len(self._clients) >= MAX_CLIENTS:
                log.debug("the monitor has %d clients, and turned one more away", MAX_CLIENTS)
                return
            self._serve(Channel(client.detach()))

    def _serve(self, channel: Channel) -> None:
        from .census import Census

        if self._census is None:
            self._census = Census(self._watched)

        def gone(error: Exception | None) -> None:
            self._clients.discard(connection)
            if isinstance(error, BadMessage):
                log.warning("the monitor let a client go: %s", error)

        connection = self._census.serve(channel, gone)
        self._clients.add(connection)


def open_folder(*, create: bool) -> int:
    """A descriptor of the folder that has the sockets of this user's programs; it is the caller's.

    Raises FileNotFoundError where there is none, PermissionError where it is not this user's alone.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if not runtime.startswith("/"):
        raise FileNotFoundError("XDG_RUNTIME_DIR is not set")
    folder = _opened(runtime, None, private=False)
    for name in ("cloister", "browsers"):
        if create:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, 0o700, dir_fd=folder)
        try:
            inner = _opened(name, folder, private=True)
        finally:
            os.close(folder)
        folder = inner
    return folder


def _opened(path: str, within: int | None, *, private: bool) -> int:
    """A folder of this user, and if ``private`` of nobody else: whoever may write there could put a socket there."""
    link = os.O_NOFOLLOW if within is not None else 0
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | link, dir_fd=within)
    info = os.fstat(folder)
    if info.st_uid != os.geteuid() or (private and info.st_mode & 0o077):
        os.close(folder)
        raise PermissionError(f"the folder {path} is not its user's alone")
    return folder


def sockets(folder: int) -> dict[str, int]:
    """The sockets in ``folder``: each name, with the pid in it."""
    found = ((name, re.fullmatch(r"([0-9]{1,9})-[0-9]{1,9}\.sock", name)) for name in os.listdir(folder))
    return {name: int(match[1]) for name, match in found if match is not None}


def connect(folder: int, name: str) -> Channel:
    """A channel to what listens at ``name``. Raises OSError; ConnectionRefusedError when none does."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    with client:
        client.connect(_path(folder, name))  # at once, or not at all: BlockingIOError when too many wait
        return Channel(client.detach())


def _path(folder: int, name: str) -> str:
    """Through the descriptor: as long as it likes to be (sun_path has 108 bytes), and no other folder by now."""
    return f"/proc/self/fd/{folder}/{name}"


def _remove_stale(folder: int, mine: str) -> None:
    """Remove the sockets of dead processes, and one in the way of this one. That nobody listens counts too: in a
    container the pids of others look dead."""
    for name, pid in sockets(folder).items():
        if name != mine and _is_alive(pid):
            continue
        try:
            connect(folder, name).close()
        except ConnectionRefusedError:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
        except OSError:
            continue  # somebody listens, or another start removed it


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _peer_uid(client: socket.socket) -> int:
    """Whose process called connect(): ``struct ucred`` of unix(7)."""
    _, uid, _ = struct.unpack("iII", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(uid)
