"""What a message is, and what an interface is."""

import enum
import functools
from typing import Annotated, Any, ClassVar, Generic, TypeVar, get_args

import msgspec
from msgspec import Meta

__all__ = [
    "INLINE_LIMIT",
    "MAX_PACKET",
    "Blob",
    "ByteCount",
    "Descriptor",
    "Detail",
    "Event",
    "Failure",
    "FailureCode",
    "HeaderName",
    "HeaderValue",
    "Interface",
    "Message",
    "Milliseconds",
    "Pixels",
    "Port",
    "ProcessId",
    "Reply",
    "Request",
    "RequestId",
    "Url",
]

MAX_PACKET = 64 * 1024
"""Bytes in one packet, header included. A SOCK_SEQPACKET socketpair takes 208 KiB by default
(net.core.wmem_default); 64 KiB leaves room for three in flight."""

INLINE_LIMIT = 40 * 1024
"""Bytes of a :class:`Blob` that travel inside the packet; more go in a sealed memfd. The rest of the packet
is for the other fields: one URL (8 KiB), the headers (8 KiB)."""

RequestId = Annotated[int, Meta(ge=1, le=2**32 - 1)]
ProcessId = Annotated[int, Meta(ge=1, le=2**22)]  # PID_MAX_LIMIT, include/linux/threads.h
ByteCount = Annotated[int, Meta(ge=0, le=2**40)]
Milliseconds = Annotated[int, Meta(ge=0, le=24 * 3600 * 1000)]
Pixels = Annotated[int, Meta(ge=0, le=2**24)]
Port = Annotated[int, Meta(ge=1, le=65535)]
Url = Annotated[str, Meta(min_length=1, max_length=8192)]
Detail = Annotated[str, Meta(max_length=500)]
HeaderName = Annotated[str, Meta(min_length=1, max_length=128)]
HeaderValue = Annotated[str, Meta(max_length=4096)]


class Descriptor(enum.Enum):
    """What a descriptor that travels with a message must be; the receiver checks it with the kernel."""

    SEALED_MEMFD = "a memfd sealed against writing, growing and shrinking"
    BITMAP = "a memfd sealed against growing and shrinking; both sides may write it"
    SOCKET = "a connected socket"
    PIDFD = "a pidfd"
    FILE = "a regular file opened for reading"
    PIPE = "the writing end of a pipe"
    READING_PIPE = "the reading end of a pipe"


class Message(msgspec.Struct, frozen=True, tag=True, array_like=True, forbid_unknown_fields=True):
    """One message. ``descriptors`` lists what comes with it, in order."""

    descriptors: ClassVar[tuple[Descriptor, ...]] = ()

    def expected_descriptors(self) -> tuple[Descriptor, ...]:
        """What must come with this very message: ``descriptors``, and the memfd of a large ``body``."""
        body = getattr(self, "body", None)
        large = isinstance(body, Blob) and body.inline is None
        return (*self.descriptors, Descriptor.SEALED_MEMFD) if large else self.descriptors


class Reply(Message, frozen=True):
    """The answer to a request."""


class Event(Message, frozen=True):
    """A message that nobody answers."""


R = TypeVar("R", bound=Reply)


class Request(Message, Generic[R], frozen=True):
    """A message that is answered by a ``R``, or by a :class:`Failure`."""


class Blob(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Bytes in a message: in the packet (``inline``), or ``size`` bytes of one sealed memfd that comes *after*
    the message's own descriptors. ``ipc.blob`` packs and unpacks it. A message has one ``Blob`` field at most,
    and that field is named ``body``."""

    size: ByteCount
    inline: Annotated[bytes, Meta(max_length=INLINE_LIMIT)] | None = None


class FailureCode(enum.StrEnum):
    """Why a request was not done. The browser turns each into an exception and one clear line."""

    # names and addresses
    UNKNOWN_HOST = "unknown_host"
    DNS_FAILED = "dns_failed"
    ADDRESS_REFUSED = "address_refused"
    CONNECTION_REFUSED = "connection_refused"
    CONNECTION_RESET = "connection_reset"
    UNREACHABLE = "unreachable"
    PROXY_FAILED = "proxy_failed"
    # HTTP and TLS
    TIMED_OUT = "timed_out"
    TLS_FAILED = "tls_failed"
    CERTIFICATE_EXPIRED = "certificate_expired"
    CERTIFICATE_WRONG_HOST = "certificate_wrong_host"
    CERTIFICATE_UNTRUSTED = "certificate_untrusted"
    CERTIFICATE_REVOKED = "certificate_revoked"  # says what the server stapled to it
    CERTIFICATE_WEAK = "certificate_weak"  # its key or its signature, or an authority's
    CLIENT_CERTIFICATE_REQUIRED = "client_certificate_required"
    TLS_WEAK = "tls_weak"  # a version, a cipher or a key exchange that is not safe any more
    TOO_MANY_REDIRECTS = "too_many_redirects"
    TOO_MANY_REQUESTS = "too_many_requests"
    TOO_LARGE = "too_large"
    BAD_RESPONSE = "bad_response"
    BAD_REQUEST = "bad_request"  # a method or a header that no page may use
    HTTP_STATUS = "http_status"  # one that was not wanted
    BAD_URL = "bad_url"
    MIXED_CONTENT = "mixed_content"  # over http, for a page that came by https
    CORS_REFUSED = "cors_refused"  # another origin, which did not agree that this page reads it
    CROSS_ORIGIN_BLOCKED = "cross_origin_blocked"  # another origin's, and not what a page may show unasked
    UNSUPPORTED_SCHEME = "unsupported_scheme"
    UNSUPPORTED_TYPE = "unsupported_type"
    NOT_OPEN = "not_open"  # a WebSocket or a stream of events that has ended
    # files that are sent or saved
    FILE_CHANGED = "file_changed"  # while it was sent
    FILE_EXISTS = "file_exists"
    NO_ROOM = "no_room"
    WRONG_DIGEST = "wrong_digest"
    # images and pages
    IMAGE_BROKEN = "image_broken"
    IMAGE_TOO_LARGE = "image_too_large"
    LAYOUT_FAILED = "layout_failed"
    NOT_LOADED = "not_loaded"
    OTHER_SITE = "other_site"  # where a process has documents of one site only
    # processes
    NO_PROCESS = "no_process"  # for now
    CIRCUIT_OPEN = "circuit_open"  # one that is needed keeps ending, and is not started for a while
    OUT_OF_DESCRIPTORS = "out_of_descriptors"  # the browser has none left to make a channel of
    SANDBOX = "sandbox"
    OUT_OF_MEMORY = "out_of_memory"
    CANCELLED = "cancelled"
    INTERNAL = "internal"


class Failure(Reply, frozen=True):
    """The request was understood and not done."""

    code: FailureCode
    detail: Detail = ""


class Interface:
    """One boundary: what each side of one channel may send.

    ``client`` is the side that asked for the channel (it mostly sends requests), ``server`` the other. The two
    tuples list message classes; the replies of each request are found from its type and need not be listed.
    """

    def __init__(
        self, name: str, *, client: tuple[type[Message], ...], server: tuple[type[Message], ...] = ()
    ) -> None:
        self.name = name
        self.client = client
        self.server = server

    def sent_by(self, side: str) -> tuple[type[Message], ...]:
        """Every message class that ``side`` (``"client"`` or ``"server"``) may send, its replies included."""
        mine, other = (self.client, self.server) if side == "client" else (self.server, self.client)
        replies = tuple(dict.fromkeys(reply_type(m) for m in other if issubclass(m, Request)))
        return (*mine, *replies, *((Failure,) if replies else ()))

    def __repr__(self) -> str:
        return f"Interface({self.name!r})"


@functools.cache
def reply_type(request: type[Request[Any]]) -> type[Reply]:
    """The class of the reply to ``request``: the argument of its ``Request[...]`` base."""
    for base in getattr(request, "__orig_bases__", ()):
        for argument in get_args(base):
            if isinstance(argument, type) and issubclass(argument, Reply):
                return argument
    raise TypeError(f"{request.__name__} does not say what answers it: derive it from Request[ReplyClass]")
