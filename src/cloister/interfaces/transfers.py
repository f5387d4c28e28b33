"""browser ── request_server, for what is fetched without a page: the answer comes piece by piece, as it is asked for.

These are part of ``REQUESTS``, and only a request_server whose client is the browser (``Options.for_browser``) takes
them. All that is foreign text in them (a name, a range, a validator) was taken apart by the request_server.
"""

from typing import Annotated, ClassVar, Final

import msgspec
from msgspec import Meta

from .base import Blob, ByteCount, Descriptor, Event, Reply, Request, Url

__all__ = [
    "MAX_FILES",
    "MAX_HEADERS",
    "MAX_HEADERS_BYTES",
    "MAX_PIECE",
    "MAX_SEGMENTS",
    "CloseTransfer",
    "ContentRange",
    "FileHeld",
    "HeaderName",
    "HeaderValue",
    "HoldFile",
    "Method",
    "NextPiece",
    "Onward",
    "OpenTransfer",
    "Piece",
    "Segment",
    "TransferOpened",
]

HeaderName = Annotated[str, Meta(min_length=1, max_length=128)]
HeaderValue = Annotated[str, Meta(max_length=4096)]
Method = Annotated[
    str, Meta(max_length=32, pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
]  # RFC 9110, 5.6.2: token
Number = Annotated[int, Meta(ge=1, le=2**32 - 1)]

MAX_PIECE: Final = 1024 * 1024
"""Bytes of one :class:`Piece`."""
MAX_FILES: Final = 64
"""Files that a request_server holds for requests that are about to be made."""
MAX_SEGMENTS: Final = 512
MAX_HEADERS: Final = 200
MAX_HEADERS_BYTES: Final = 24 * 1024
"""Names and values of an answer, as UTF-8: a packet has room for them, for a URL and for a name."""


class FileHeld(Reply, frozen=True):
    """``file`` stands for it in a :class:`Segment`, once."""

    file: Number


class HoldFile(Request[FileHeld], frozen=True):
    """Keep a file that the next request sends."""

    descriptors: ClassVar[tuple[Descriptor, ...]] = (Descriptor.FILE,)


class Segment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """So many bytes of what is sent: the next ones of the message's ``body``, or the first ones of a held ``file``."""

    size: ByteCount
    file: Number | None = None


class ContentRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``Content-Range`` (RFC 9110, 14.4): which bytes these are, and of how many; None where it does not say."""

    first: ByteCount | None
    last: ByteCount | None
    total: ByteCount | None


class Onward(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a redirect leads that leaves the origin: another request_server is to go on there."""

    url: Url
    method: Method
    keeps_body: bool


class TransferOpened(Reply, frozen=True):
    """An answer's head. Its body is read by ``id``, and the connection waits meanwhile.

    ``headers`` are lower-case. ``length`` is what the server says that the body has, None where it is compressed.
    ``name`` is what it would be called: as the server says, or as the end of the URL does. ``validator`` goes into
    If-Range: a strong ETag, or a date; "" where what comes now cannot be gone on with later. With ``onward`` there is
    no more to it, and ``id`` stands for nothing.
    """

    id: Number
    url: Url
    status: Annotated[int, Meta(ge=100, le=999)]
    headers: Annotated[tuple[tuple[HeaderName, HeaderValue], ...], Meta(max_length=MAX_HEADERS)]
    length: ByteCount | None = None
    name: Annotated[str, Meta(max_length=1024)] = ""
    validator: Annotated[str, Meta(max_length=512)] = ""
    range: ContentRange | None = None
    redirects: Annotated[int, Meta(ge=0, le=100)] = 0
    onward: Onward | None = None


class OpenTransfer(Request[TransferOpened], frozen=True):
    """Ask for ``url``, and follow where it leads within its origin: ``max_redirects`` times, or not at all (None).

    Fails with FILE_CHANGED where a file has fewer bytes than its segment. ``max_bytes`` are the most that may come.
    """

    url: Url
    method: Method
    headers: Annotated[tuple[tuple[HeaderName, HeaderValue], ...], Meta(max_length=100)]
    max_redirects: Annotated[int, Meta(ge=0, le=100)] | None
    max_bytes: ByteCount
    segments: Annotated[tuple[Segment, ...], Meta(max_length=MAX_SEGMENTS)] = ()
    body: Blob = Blob(0, b"")


class Piece(Reply, frozen=True):
    """More of the body; nothing at its end."""

    body: Blob


class NextPiece(Request[Piece], frozen=True):
    """Fails with whatever became of the answer."""

    id: Number


class CloseTransfer(Event, frozen=True):
    """No more of it is wanted."""

    id: Number
