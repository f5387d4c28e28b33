"""Request servers of the program's own: nothing but the program speaks to them, no page is in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec

from ..ends import BadMessage as EndedBadly
from ..errors import (
    BadMessage,
    ChannelClosed,
    CloisterError,
    InvalidArgument,
    ProcessLost,
    RequestFailed,
    printable,
)
from ..interfaces import request_server
from ..interfaces.base import Message, Reply, Request
from ..ipc import Descriptors
from .checks import navigation_error, site_of
from .cookies import CookieStore
from .request_servers import CredentialsOf, Fork, RequestServer

__all__ = ["Headers", "OwnRequestServer", "checked", "checked_headers"]

_EXIT_TIMEOUT = 5.0
_PAIRS = tuple[tuple[str, str], ...]
_MAX_HEADERS = 64
_MAX_HEADERS_SIZE = 16 * 1024  # characters

M = TypeVar("M", bound=Message)
R = TypeVar("R", bound=Reply)
Headers = Mapping[str, str] | Sequence[tuple[str, str]]


def checked(message: M) -> M:
    """``message`` as its interface allows it. Raises :class:`InvalidArgument`."""
    try:
        return msgspec.msgpack.decode(msgspec.msgpack.encode(message), type=type(message))
    except (msgspec.ValidationError, TypeError) as error:
        raise InvalidArgument(f"{type(message).__name__}: {error}") from None


def checked_headers(headers: Headers | None) -> tuple[tuple[str, str], ...]:
    """``headers`` as a message has them. Raises :class:`InvalidArgument` where they are too many."""
    try:
        made = msgspec.convert(
            tuple(headers.items() if isinstance(headers, Mapping) else headers or ()), _PAIRS
        )
    except (msgspec.ValidationError, TypeError) as error:
        raise InvalidArgument(f"headers: {error}") from None
    if len(made) > _MAX_HEADERS or sum(len(name) + len(value) for name, value in made) > _MAX_HEADERS_SIZE:
        raise InvalidArgument(
            f"headers: {_MAX_HEADERS} of them, and {_MAX_HEADERS_SIZE >> 10} KiB, are the most"
        )
    return made


class OwnRequestServer(RequestServer):
    """One that a single connection has for as long as it lasts. Where a redirect led out of its origin it is of no more
    use, and :attr:`led_to` is for another."""

    def __init__(
        self, url: str, fork: Fork, credentials_of: CredentialsOf, options: request_server.Options
    ) -> None:
        super().__init__(site_of(url), fork, credentials_of, CookieStore())
        self.url = url
        self.options = options
        self._expected = 1  # until it ends

    async def ask(
        self, message: Request[R], fds: Sequence[int] = (), *, timeout: float
    ) -> tuple[R, Descriptors]:
        """As :meth:`Connection.request`, with the failures that a program knows."""
        try:
            return await self._connection.request(message, fds, timeout=timeout)
        except RequestFailed as error:
            raise navigation_error(self.url, error) from None
        except ChannelClosed:
            raise await self._why_gone() from None

    async def _why_gone(self) -> CloisterError:
        process = self.process
        if process is None:
            return ProcessLost(f"{printable(self.url, 200)}: there is no process that speaks to its server")
        try:
            await process.wait(_EXIT_TIMEOUT)
        except TimeoutError:
            pass
        what = f"{printable(self.url, 200)}: the process that spoke to its server {process.ending}"
        return BadMessage(what) if isinstance(process.ending, EndedBadly) else ProcessLost(what)
