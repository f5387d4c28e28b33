"""The portal: how another program gets a sandboxed process without having the browser in it.

Each connection to one of its sockets is a fresh process of that socket's kind, which ends with the connection. The
accepted socket itself becomes the process's work channel: the portal never reads a byte of what a client and a
process have to say to one another, and so neither can reach it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import socket
import struct
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Never, Self

import msgspec

from ..errors import BrowserClosed, InvalidArgument
from ..interfaces import image_decoder, web_content
from ..interfaces.zygote import PreloadKind
from ..ipc import Channel, Descriptors
from ..process import ChildProcess, Zygote
from ..process.kinds import MODULES
from .portal_folder import PortalFolder
from .renderer import DECODER_LIFETIME

__all__ = ["KINDS", "MAX_PROCESSES", "Portal"]

log = logging.getLogger("cloister.portal")


class Kind(NamedTuple):
    """``lifetime``: seconds from a connection on. A page may stay open for as long as its client does."""

    options: bytes
    lifetime: float | None


KINDS = {
    "web_content": Kind(msgspec.msgpack.encode(web_content.Options()), None),
    "image_decoder": Kind(msgspec.msgpack.encode(image_decoder.Options()), DECODER_LIFETIME),
}
"""What can be had: processes that need nothing but the channel to whoever asked for them."""
MAX_PROCESSES = 128
"""Of each kind at once, at the most: each takes three of the portal's descriptors, of which 1024 are usual."""
_GRACE = 5.0
"""Seconds that a process has to end by itself once its client is gone."""
_PAUSE = 1.0
"""Seconds without a look at a socket whose connection could not be accepted: the system is out of something."""
_CREDENTIALS = struct.Struct("iII")  # struct ucred, unix(7): pid, uid, gid


class Portal:
    """Serves processes to this user's other programs::

        async with Portal() as portal:
            await portal.serve_forever()

    ``folder``: where the sockets are, one for each of ``KINDS``; :class:`PortalFolder` says which is the default,
    and what a folder has to be. ``max_processes``: how many of each kind live at once; further connections wait
    their turn. It is a number for each kind, so that pages which wait for their images cannot keep out the very
    decoders that they wait for. ``allow_degraded``: as the browser's.
    """

    def __init__(
        self, folder: Path | None = None, *, max_processes: int = 16, allow_degraded: bool = False
    ) -> None:
        if not 1 <= max_processes <= MAX_PROCESSES:
            raise InvalidArgument(
                f"max_processes: {max_processes} is not a number between 1 and {MAX_PROCESSES}"
            )
        self._wanted_folder = folder
        self._max_processes = max_processes
        self._allow_degraded = allow_degraded
        self._folder: PortalFolder | None = None
        self._zygote: Zygote | None = None
        self._doors: list[_Door] = []

    async def start(self) -> Self:
        """Start what forks, then listen; ``async with`` does it.

        Raises :class:`CloisterError` when there is no place for the sockets or another portal is alive there,
        :class:`SandboxUnavailable` when the kernel lacks a required layer, :class:`LaunchError`.
        """
        if self._folder is not None:
            return self
        try:
            self._folder = PortalFolder(self._wanted_folder)
            self._zygote = await Zygote.start(
                [PreloadKind(kind, MODULES[kind]) for kind in KINDS], allow_degraded=self._allow_degraded
            )
            await self._zygote.ready()
            for kind in KINDS:
                self._doors.append(_Door(self._zygote, kind, self._max_processes))
                self._doors[-1].open(self._folder.listen(kind))
        except BaseException:
            await self.close()
            raise
        return self

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def sockets(self) -> dict[str, Path]:
        """Each kind that can be had, and the socket to connect to."""
        if self._folder is None:
            return {}
        return {door.kind: self._folder.path / door.kind for door in self._doors}

    @property
    def processes(self) -> list[ChildProcess]:
        """Those that serve a client now, oldest first within each kind."""
        return [child for door in self._doors for child in door.processes]

    async def serve_forever(self) -> Never:
        """Until this is cancelled. Raises :class:`BrowserClosed` when the portal can fork no more: start another."""
        if self._zygote is None:
            raise BrowserClosed("the portal is not started: use `async with Portal()`, or await start()")
        await self._zygote.process.wait()
        raise BrowserClosed("the portal's zygote has ended, and every process with it")

    async def close(self) -> None:
        """Remove the sockets and end every process. Closing twice is fine."""
        doors, self._doors = self._doors, []
        zygote, self._zygote = self._zygote, None
        folder, self._folder = self._folder, None
        try:
            await asyncio.gather(*(door.close() for door in doors))
        finally:
            try:
                if zygote is not None:
                    await zygote.close()
            finally:
                if folder is not None:
                    folder.close()


class _Door:
    """One socket, and the processes of those who came through it."""

    def __init__(self, zygote: Zygote, kind: str, max_processes: int) -> None:
        self.kind = kind
        self.processes: list[ChildProcess] = []
        self._zygote = zygote
        self._max_processes = max_processes
        self._loop = asyncio.get_running_loop()
        self._listener: socket.socket | None = None
        self._served: set[asyncio.Task[None]] = set()
        self._clients = _Clients()

    def open(self, listener: socket.socket) -> None:
        """Serve who connects to ``listener``, which is closed with this."""
        self._listener = listener
        self._admit()

    def _admit(self) -> None:
        """Look at the socket while there is a place; the kernel keeps in order whoever waits for one."""
        if self._listener is None:
            return
        if len(self._served) < self._max_processes:
            self._loop.add_reader(self._listener, self._accept, self._listener)
        else:
            self._loop.remove_reader(self._listener)

    def _accept(self, listener: socket.socket) -> None:
        try:
            accepted, _ = listener.accept()
        except BlockingIOError:
            return  # whoever it was is gone again
        except OSError as error:
            log.warning("%s: a connection could not be accepted: %s", self.kind, error.strerror)
            self._loop.remove_reader(listener)
            self._loop.call_later(_PAUSE, self._admit)
            return
        with accepted:
            credentials = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            pid, uid, _ = _CREDENTIALS.unpack(credentials)
            if uid != os.geteuid():
                log.warning("%s: process %d of user %d was turned away", self.kind, pid, uid)
                return
            task = self._loop.create_task(self._serve(Descriptors([accepted.detach()])))
        self._served.add(task)
        task.add_done_callback(self._on_served)
        self._admit()

    def _on_served(self, task: asyncio.Task[None]) -> None:
        self._served.discard(task)
        self._admit()
        if not task.cancelled() and (error := task.exception()) is not None:
            words = f"{type(error).__name__}: {error}"  # the error itself keeps what its frames hold
            log.error("%s: a connection ended badly: %s", self.kind, words)

    async def _serve(self, given: Descriptors) -> None:
        """One connection: from its fork to the end of its process."""
        with contextlib.ExitStack() as held:
            # Not to read from, but to see the client go; the process has the only other one.
            client = os.dup(given.borrow()[0])
            held.callback(os.close, client)
            gone = self._clients.watch(client)
            held.callback(self._clients.forget, client)
            kind = KINDS[self.kind]
            child = await self._zygote.fork(self.kind, kind.options, [Channel(given.take())])
            self.processes.append(child)
            held.callback(self.processes.remove, child)
            ended = asyncio.ensure_future(child.wait())
            either: set[asyncio.Future[Any]] = {ended, gone}
            try:
                await asyncio.wait(either, timeout=kind.lifetime, return_when=asyncio.FIRST_COMPLETED)
                if gone.done():
                    await asyncio.wait({ended}, timeout=_GRACE)
                if not ended.done():
                    why = "its client had gone" if gone.done() else "its time was over"
                    log.warning("%s %d was killed: %s", self.kind, child.pid, why)
            finally:
                ended.cancel()
                await asyncio.shield(child.end())

    async def close(self) -> None:
        """Let nobody in any more, and end every process."""
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for task in self._served:
            task.cancel()
        await asyncio.gather(*self._served, return_exceptions=True)  # _on_served has told what went wrong
        self._clients.close()


class _Clients:
    """Tells when the other end of a socket is gone, or has ended its sending, without reading from the socket: what
    is in there is for the process, and would keep the event loop's own watch awake."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._gone: dict[int, asyncio.Future[None]] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._epoll.fileno(), self._on_events)

    def watch(self, fd: int) -> asyncio.Future[None]:
        """Done when the client behind ``fd`` is gone. End it with :meth:`forget`, before ``fd`` is closed."""
        self._gone[fd] = self._loop.create_future()
        # EPOLLHUP comes unasked (epoll_ctl(2)). One time is enough; a second would come at once.
        self._epoll.register(fd, select.EPOLLRDHUP | select.EPOLLONESHOT)
        return self._gone[fd]

    def forget(self, fd: int) -> None:
        self._epoll.unregister(fd)  # closing does not do it while the process has the socket open, too
        self._gone.pop(fd).cancel()

    def _on_events(self) -> None:
        for fd, _ in self._epoll.poll(0):
            if not self._gone[fd].done():
                self._gone[fd].set_result(None)

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()
