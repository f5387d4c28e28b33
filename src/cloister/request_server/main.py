"""The request_server's entry: channels[0] is the page that asks, channels[1] the lookup server that connects."""

from __future__ import annotations

import contextlib

import msgspec

from .. import sites, trust
from ..interfaces.base import Message
from ..interfaces.cookies import (
    MAX_COOKIES_BYTES,
    Cookie,
    CookieList,
    ForgetCookies,
    GetCookies,
    StoreCookies,
)
from ..interfaces.fetch import FETCHES, MAX_REQUEST_BODY, Fetch, Fetched
from ..interfaces.lookup_server import LOOKUP
from ..interfaces.request_server import (
    REQUEST_CONTROL,
    DocumentAllowed,
    DocumentFrom,
    Options,
    PreloadOptions,
)
from ..ipc import Connection, Descriptors, blob
from ..ipc.codec import codec
from ..ipc.connection import Handler
from ..ipc.service import Service, Start
from ..sandbox import enter
from . import stapled, tls, warmup
from .body import Spool
from .client import Client
from .cookies import DocumentCookies
from .dial import Dialer
from .sandbox import POLICY
from .shelf import BrowsersShelf

__all__ = ["main", "preload", "settle"]

_context: trust.Context | None = None
_is_for_programs = False
_COOKIES: msgspec.msgpack.Decoder[tuple[Cookie, ...]] = msgspec.msgpack.Decoder(CookieList)


def preload(options: bytes) -> None:
    """Read the trust anchors, and make every library do once what it will do after lock-down.

    ``options`` is the msgpack of ``PreloadOptions``, or nothing. Raises OSError if a root cannot be read.
    """
    global _context, _is_for_programs  # noqa: PLW0603 - made once in the zygote, shared with every child
    wanted = msgspec.msgpack.decode(options, type=PreloadOptions) if options else PreloadOptions()
    _context = tls.context(wanted.extra_roots)
    sites.read()
    stapled.load()
    warmup.run(_context)
    if not wanted.pages_only:
        from . import programs

        programs.rehearse()
        _is_for_programs = True
    # Half a millisecond of each child, were it left to them.
    codec(REQUEST_CONTROL, "server")
    codec(FETCHES, "server")
    codec(LOOKUP, "client")
    msgspec.msgpack.decode(msgspec.msgpack.encode(Options(user_agent="")), type=Options)


def settle() -> None:
    """In the zygote, once it has nothing else to do: parse the roots and the list of public suffixes for those who are
    forked from now on. Those before do it themselves, if they need them."""
    if _context is not None:
        _context.read_roots()
    sites.load()


def main(start: Start) -> None:
    """Serve one page load until its channel closes."""
    if _context is None:
        raise RuntimeError("request_server.main needs preload: no root can be read after lock-down")
    context = _context
    options = msgspec.msgpack.decode(start.options, type=Options)
    page, lookup = start.channels
    timeout = options.request_timeout / 1000

    async def announce(url: str, redirects: int) -> DocumentAllowed:
        allowed, _ = await service.control.request(DocumentFrom(url, redirects), timeout=timeout)
        return allowed

    async def get_cookies() -> tuple[str, tuple[Cookie, ...]]:
        reply, fds = await service.control.request(GetCookies(), timeout=timeout)
        return reply.site, _COOKIES.decode(blob.unpack(reply.body, fds, MAX_COOKIES_BYTES))

    async def store_cookies(cookies: tuple[Cookie, ...]) -> None:
        body, fds = blob.pack(msgspec.msgpack.encode(cookies))
        await service.control.request(StoreCookies(body), fds, timeout=timeout)

    cookies = DocumentCookies(get_cookies, store_cookies)
    service = Service(REQUEST_CONTROL, {ForgetCookies: lambda _message, _fds: cookies.forget()})
    report = enter(POLICY, allow_degraded=start.allow_degraded)

    async def serve() -> None:
        dialer = Dialer(Connection(lookup, LOOKUP, "client"), context, timeout)
        client = Client(options, dialer.dial, announce, BrowsersShelf(service.control), cookies)

        async def fetch(message: Fetch, fds: Descriptors) -> tuple[Fetched, list[int]]:
            sent = blob.unpack(message.body, fds, MAX_REQUEST_BODY)
            with contextlib.closing(Spool()) as spool:
                async with client.open(message, sent) as response:
                    async for piece in response.body:
                        spool.write(piece)
                body, given = spool.finish()
            reply = Fetched(
                url=response.url,
                status=response.status,
                content_type=response.content_type,
                headers=response.headers,
                body=body,
                requests=response.requests,
                kind=response.kind,
            )
            return reply, given

        handlers: dict[type[Message], Handler] = {
            Fetch: fetch,
        }
        interface = FETCHES
        if _is_for_programs:
            from . import programs  # it was loaded before lock-down

            interface = programs.REQUESTS
            handlers |= programs.handlers(client, options, dialer)
        Connection(page, interface, "server", handlers, on_close=lambda _error: service.stop())

    service.run(start.control, report, serve)
