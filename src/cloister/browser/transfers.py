"""One request without a page, wherever its redirects lead: what is sent, and its answer piece by piece."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec

from ..errors import BadMessage, InvalidArgument, NavigationError, descriptors_left
from ..interfaces.base import FailureCode
from ..interfaces.fetch import MAX_REQUEST_BODY
from ..interfaces.transfers import (
    MAX_FILES,
    MAX_PIECE,
    MAX_SEGMENTS,
    CloseTransfer,
    HoldFile,
    NextPiece,
    Onward,
    OpenTransfer,
    Segment,
    TransferOpened,
)
from ..ipc import blob
from .checks import is_normalised, left
from .request_servers import RequestServer, RequestServers

__all__ = ["Ask", "OpenFile", "Outgoing", "Transfer", "open_transfer"]

_FOR_ONE_ORIGIN: Final = frozenset({"authorization", "cookie", "host"})
_ABOUT_THE_BODY: Final = frozenset(
    {"content-encoding", "content-language", "content-location", "content-type"}
)
_GRACE: Final = 5.0
"""Seconds in which a request_server says that a server took too long, beside the time that the server has."""


class OpenFile(msgspec.Struct, frozen=True):
    """A file that was opened for reading, to be sent: ``size`` bytes from its start."""

    fd: int
    size: int


class Outgoing:
    """What is sent: bytes and files in turn. The files belong to it."""

    def __init__(self, parts: Sequence[bytes | OpenFile] = ()) -> None:
        """Raises InvalidArgument for what is too much."""
        self._parts = [part for part in parts if not isinstance(part, bytes) or part]
        files = sum(isinstance(part, OpenFile) for part in parts)
        literal = sum(len(part) for part in parts if isinstance(part, bytes))
        if files > MAX_FILES or len(self._parts) > MAX_SEGMENTS or literal > MAX_REQUEST_BODY:
            self.close()
            raise InvalidArgument(
                f"a request has {MAX_FILES} files and {MAX_REQUEST_BODY >> 20} MiB beside them at most"
            )

    async def hand_over(
        self, server: RequestServer, url: str, timeout: float
    ) -> tuple[tuple[Segment, ...], bytes]:
        """Give ``server`` copies of the files; what to say of them, and the bytes between them."""
        segments: list[Segment] = []
        literal: list[bytes] = []
        for part in self._parts:
            if isinstance(part, bytes):
                literal.append(part)
                segments.append(Segment(len(part)))
            else:
                with descriptors_left():
                    copy = os.dup(part.fd)
                held, _ = await server.request(HoldFile(), [copy], timeout=timeout, url=url)
                segments.append(Segment(part.size, held.file))
        return tuple(segments), b"".join(literal)

    def close(self) -> None:
        """Close the files."""
        while self._parts:
            part = self._parts.pop()
            if isinstance(part, OpenFile):
                os.close(part.fd)


class Ask(msgspec.Struct, frozen=True):
    """One request. ``max_redirects`` is None where none is followed; ``idle`` are seconds in which nothing may move."""

    url: str
    method: str
    headers: tuple[tuple[str, str], ...]
    body: Outgoing
    max_redirects: int | None
    max_bytes: int
    idle: float

    def onward(self, onward: Onward, redirects: int) -> Ask:
        """The same, where a redirect leads. Raises :class:`NavigationError` after too many."""
        redirects = max(1, redirects)
        if self.max_redirects is None or redirects > self.max_redirects:
            raise NavigationError(
                self.url,
                FailureCode.TOO_MANY_REDIRECTS,
                f"it redirects on, after {self.max_redirects} redirects",
            )
        dropped = _FOR_ONE_ORIGIN if onward.keeps_body else _FOR_ONE_ORIGIN | _ABOUT_THE_BODY
        return msgspec.structs.replace(
            self,
            url=onward.url,
            method=onward.method,
            headers=tuple((name, value) for name, value in self.headers if name.lower() not in dropped),
            body=self.body if onward.keeps_body else Outgoing(),
            max_redirects=self.max_redirects - redirects,
        )


class Transfer:
    """An answer whose head is there."""

    def __init__(self, server: RequestServer, opened: TransferOpened, ask: Ask) -> None:
        self.opened = opened
        self._server = server
        self._ask = ask
        self._left = ask.max_bytes
        self._is_over = False

    async def read(self, timeout: float | None = None) -> bytes:
        """More of the body, b"" at its end; at most ``timeout`` seconds are waited."""
        if self._is_over:
            return b""
        url = self._ask.url
        within = self._ask.idle + _GRACE if timeout is None else timeout
        piece, fds = await self._server.request(NextPiece(self.opened.id), timeout=within, url=url)
        data = self._server.unpack(piece.body, fds, MAX_PIECE)
        if len(data) > self._left:
            raise self._server.punish(BadMessage("a request_server sent more than it may"))
        self._left -= len(data)
        self._is_over = not data
        return data

    def close(self) -> None:
        """What is left of it is not wanted."""
        if not self._is_over:
            self._is_over = True
            self._server.tell(CloseTransfer(self.opened.id))


@contextlib.asynccontextmanager
async def open_transfer(
    servers: RequestServers, ask: Ask, deadline: float | None = None
) -> AsyncIterator[Transfer]:
    """Ask, and go on where redirects lead. ``deadline`` is on the monotonic clock, and the caller's to hold as well.

    Raises :class:`NavigationError` and its like.
    """
    first = ask
    while True:
        async with servers.use(ask.url) as server:
            within = ask.idle + _GRACE if deadline is None else left(deadline) + _GRACE
            with server.expecting():
                opened = await _open(server, ask, within)
            if opened.onward is None:
                transfer = Transfer(server, opened, ask)
                try:
                    yield transfer
                finally:
                    transfer.close()
                return
        ask = ask.onward(opened.onward, opened.redirects)
        if not is_normalised(ask.url) or ask.method not in ("GET", first.method):
            raise server.punish(BadMessage("a request_server says that a redirect leads where none can"))


async def _open(server: RequestServer, ask: Ask, timeout: float) -> TransferOpened:
    segments, literal = await ask.body.hand_over(server, ask.url, timeout)
    body, fds = blob.pack(literal)
    message = OpenTransfer(ask.url, ask.method, ask.headers, ask.max_redirects, ask.max_bytes, segments, body)
    opened, _ = await server.request(message, fds, timeout=timeout, url=ask.url)
    if not is_normalised(opened.url) and opened.onward is None:
        raise server.punish(BadMessage("a request_server says that an answer came from nowhere"))
    return opened
