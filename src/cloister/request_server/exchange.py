"""What is asked of a server and what it answers, whichever version of HTTP carries it; and how that may fail."""

from __future__ import annotations

from typing import Final, Protocol

import ada_url
import msgspec

from .upload import Outgoing

__all__ = [
    "MAX_HEADERS",
    "MAX_HEADERS_BYTES",
    "MAX_INTERIM",
    "Answer",
    "Asked",
    "BadResponse",
    "Broken",
    "Effort",
    "Headers",
    "Unanswered",
    "Unprocessed",
    "Unwelcome",
    "WantsHttp1",
]

Headers = list[tuple[bytes, bytes]]

MAX_HEADERS: Final = 500
MAX_HEADERS_BYTES: Final = 96 * 1024
"""Of one response. Chromium allows 256 KiB; real ones stay below 16."""
MAX_INTERIM: Final = 16
"""Responses with a status of 1xx before the one that counts (RFC 9110, 15.2)."""


class Broken(Exception):
    """The connection ended, or failed, under what was asked over it."""


class Unanswered(Broken):
    """The same, before a byte of the answer had come."""


class Unprocessed(Broken):
    """The server says that it has not begun with the request: it may be sent again, whatever its method
    (RFC 9113, 8.7)."""


class Unwelcome(Broken):
    """The server closed it, because we did not say who we are: it wants a certificate."""


class WantsHttp1(Unprocessed):
    """It will, over HTTP/1.1 (RFC 9113, 7, HTTP_1_1_REQUIRED)."""


class BadResponse(ValueError):
    """What the server sent is not HTTP, or is more than anybody needs."""


class Asked(msgspec.Struct, frozen=True):
    """One request. ``headers`` has Host, and no header that frames the body."""

    method: str
    url: ada_url.URL
    headers: Headers
    body: Outgoing = b""

    @property
    def target(self) -> str:
        """Path and query."""
        return str(self.url.pathname + self.url.search)

    @property
    def has_length(self) -> bool:
        """Whether it says how long its body is, 0 included (RFC 9110, 8.6)."""
        return bool(self.body) or self.method not in {"GET", "HEAD", "OPTIONS", "DELETE"}


class Answer(Protocol):
    """A response whose head is there. ``close`` is to be called, early or late; what is left then is abandoned."""

    status: int
    headers: Headers

    async def receive(self) -> bytes:
        """More of the body; b"" at its end. Raises :class:`Broken` and :class:`BadResponse`."""

    def close(self) -> None:
        """Let the connection go on without it."""


class Effort:
    """How much work a server may cause beside what it delivers.

    Each frame or chunk is work, however little is in it: one of a single byte costs as much as one of 16 KiB. So
    a server has so many for nothing, some more for each request, and one for each few bytes of a body. Floods of
    pings, of settings, of resets, of empty frames (CVE-2019-9512 to -9518) and of one-byte chunks end here.
    """

    FREE: Final = 10_000
    """A second of processor time, about."""
    BYTES_FOR_ONE: Final = 16
    BYTES_OF_ONE: Final = 64
    """Of what is no body: a long piece of it is more work than a short one."""
    FOR_A_REQUEST: Final = 500
    """So many that 32 KiB of headers cost nothing."""

    def __init__(self) -> None:
        self._left = self.FREE * self.BYTES_FOR_ONE

    def spend(self, size: int = 0) -> None:
        """One frame or chunk, with ``size`` bytes that are no body. Raises :class:`BadResponse`."""
        self._left -= (1 + size // self.BYTES_OF_ONE) * self.BYTES_FOR_ONE
        if self._left < 0:
            raise BadResponse("it keeps us busy with what is no answer")

    def asked(self) -> None:
        """A request was sent: what answers it is no flood."""
        self._left += self.FOR_A_REQUEST * self.BYTES_FOR_ONE

    def earn(self, size: int) -> None:
        """``size`` bytes of a body that is wanted."""
        self._left += size
