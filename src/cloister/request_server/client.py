"""One page load's HTTP client: redirects, limits, deadlines, and every way to fail by its name."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import ada_url
import h2.connection
import h2.errors
import h2.exceptions
import httpcore
import msgspec

from ..errors import BadMessage, ChannelClosed, RequestFailed
from ..interfaces.base import FailureCode
from ..interfaces.request_server import Destination, Fetch, Options
from . import decoding, headers, urls

__all__ = ["Client", "Response"]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MAX_CONNECTIONS = 32
_MAX_PER_HTTP_ORIGIN = 6  # as browsers do; https is left to HTTP/2, and to the total
_MAX_DISCARDED = 64 * 1024  # bytes of a redirect's body that are read to keep its connection
_GOODBYE = 1.0  # seconds


class Response(msgspec.Struct, frozen=True):
    """What a fetch came to. ``url`` is where the redirects ended, ``body`` is decoded."""

    url: str
    status: int
    content_type: str
    headers: tuple[tuple[str, str], ...]
    body: bytearray
    requests: int


class Client:
    """Fetches for one page, within ``options``'s limits, over connections from ``backend``.

    ``announce(url, redirects)`` is awaited before a document is asked for anywhere, and may fail the fetch.
    """

    def __init__(
        self,
        options: Options,
        backend: httpcore.AsyncNetworkBackend,
        ssl_context: ssl.SSLContext,
        announce: Callable[[str, int], Awaitable[None]],
    ) -> None:
        self._options = options
        self._announce = announce
        self._requests_left = options.max_requests
        self._bytes_left = options.max_total_bytes
        self._slots: dict[str, asyncio.Semaphore] = collections.defaultdict(
            lambda: asyncio.Semaphore(_MAX_PER_HTTP_ORIGIN)
        )
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context, max_connections=_MAX_CONNECTIONS, http2=True, network_backend=backend
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.aclose()

    async def fetch(self, fetch: Fetch) -> Response:
        """GET ``fetch.url`` and follow where it leads. Cancelling this closes what it had under way.

        Raises :class:`RequestFailed`; any HTTP status is a response.
        """
        seconds = self._options.request_timeout / 1000
        url = urls.parse(fetch.url)
        redirects = 0
        try:
            async with asyncio.timeout(seconds):
                while isinstance(found := await self._get(url, fetch, redirects), ada_url.URL):
                    url = found
                    redirects += 1
            return found
        except TimeoutError:
            failure = RequestFailed(
                FailureCode.TIMED_OUT, f"{url.host} had not answered in full after {seconds:g} s"
            )
        except (ChannelClosed, BadMessage):  # of the lookup_server: the page has done nothing wrong
            failure = RequestFailed(FailureCode.NO_PROCESS, "the lookup server is gone")
        except RequestFailed as error:
            failure = error
        if redirects:
            raise RequestFailed(failure.code, f"redirected to {urls.shown(url.href)}: {failure.detail}")
        raise failure

    async def _get(self, url: ada_url.URL, fetch: Fetch, redirects: int) -> Response | ada_url.URL:
        """One request: its response, or the URL that it redirects to."""
        if not self._requests_left:
            raise RequestFailed(
                FailureCode.TOO_MANY_REQUESTS, f"this page made {self._options.max_requests} requests already"
            )
        self._requests_left -= 1
        if fetch.destination is Destination.DOCUMENT:
            await self._announce(url.href, redirects)
        asked = headers.request(url, fetch.destination, fetch.referrer, self._options.user_agent)
        slot = self._slots[urls.origin(url)] if url.protocol == "http:" else contextlib.nullcontext()
        try:
            async with slot, self._open(url, asked) as response:
                if (target := _redirect(url, response)) is None:
                    return await self._receive(url, response, redirects + 1)
                if redirects == self._options.max_redirects:
                    raise RequestFailed(
                        FailureCode.TOO_MANY_REDIRECTS,
                        f"{url.host} redirects on, after {redirects} redirects; that is the limit",
                    )
                await _discard(response)
                return target
        except httpcore.NetworkError as error:
            raise RequestFailed(
                FailureCode.CONNECTION_RESET, f"the connection to {url.host} broke: {error}"
            ) from error
        except (httpcore.ProtocolError, h2.exceptions.H2Error, ValueError) as error:
            raise RequestFailed(
                FailureCode.BAD_RESPONSE, f"{url.host} sent a response that cannot be read: {error}"
            ) from error

    @contextlib.asynccontextmanager
    async def _open(self, url: ada_url.URL, asked: headers.Headers) -> AsyncIterator[httpcore.Response]:
        """The response once its headers are there. Leaving with an exception abandons the rest of it."""
        response = await self._send(url, asked)
        try:
            yield response
        except BaseException:
            await _reset(response)
            raise
        finally:
            await response.aclose()

    async def _send(self, url: ada_url.URL, asked: headers.Headers) -> httpcore.Response:
        fresh = False

        async def trace(event: str, _info: object) -> None:
            nonlocal fresh
            fresh = fresh or event == "connection.connect_tcp.complete"

        request = httpcore.Request(
            "GET",
            httpcore.URL(
                scheme=url.protocol.removesuffix(":").encode(),
                host=url.hostname.encode(),
                port=urls.port(url),
                target=(url.pathname + url.search).encode(),
            ),
            headers=asked,
            # A host's trailing dot is for DNS; certificates and SNI have none (RFC 6066, 3).
            extensions={"trace": trace, "sni_hostname": url.hostname.strip("[]").removesuffix(".")},
        )
        try:
            return await self._pool.handle_async_request(request)
        except (httpcore.NetworkError, httpcore.RemoteProtocolError):
            # A server may close a kept connection just when it is used again (RFC 9112, 9.3.1).
            if fresh:
                raise
            return await self._pool.handle_async_request(request)

    async def _receive(self, url: ada_url.URL, response: httpcore.Response, requests: int) -> Response:
        if not 200 <= response.status <= 999:  # 101: nobody asked to switch protocols
            raise ValueError(f"status {response.status} answers no request of ours")
        return Response(
            url=url.href,
            status=response.status,
            content_type=headers.content_type(response.headers),
            headers=headers.forwarded(response.headers),
            body=await self._body(url, response),
            requests=requests,
        )

    async def _body(self, url: ada_url.URL, response: httpcore.Response) -> bytearray:
        body = bytearray()
        limit = self._options.max_response_bytes
        too_large = RequestFailed(
            FailureCode.TOO_LARGE,
            f"{url.host} sent more than {limit:,} bytes; that is the limit of a response",
        )

        def take(piece: bytes) -> None:
            nonlocal body
            if len(body) + len(piece) > limit:
                raise too_large
            if len(piece) > self._bytes_left:
                raise RequestFailed(
                    FailureCode.TOO_LARGE,
                    f"all that this page fetched exceeds {self._options.max_total_bytes:,} bytes; that is its limit",
                )
            self._bytes_left -= len(piece)
            body += piece

        decoder = decoding.decoder(
            decoding.encodings(headers.values(response.headers, "content-encoding")), take
        )
        received = 0  # counted too: a stream of empty blocks decodes to nothing, without an end
        async with _pieces(response) as pieces:
            async for piece in pieces:
                received += len(piece)
                if received > limit:
                    raise too_large
                decoder.feed(piece)
        decoder.finish()
        return body


def _redirect(url: ada_url.URL, response: httpcore.Response) -> ada_url.URL | None:
    if response.status not in _REDIRECTS:
        return None
    locations = [value for name, value in response.headers if name.lower() == b"location"]
    if not locations:
        return None  # the response itself is all there is (Fetch standard, "location URL")
    try:
        return urls.redirect(url, locations[0])
    except RequestFailed as error:
        raise RequestFailed(error.code, f"{url.host} redirected to {error.detail}") from error


@contextlib.asynccontextmanager
async def _pieces(response: httpcore.Response) -> AsyncIterator[AsyncIterator[bytes]]:
    """The body as it comes; the generator behind it ends here, and not when it is collected."""
    pieces = response.aiter_stream()
    try:
        yield pieces
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()


async def _discard(response: httpcore.Response) -> None:
    """Read a short body to its end, so that the connection can be used again; abandon a long one."""
    size = 0
    async with _pieces(response) as pieces:
        async for piece in pieces:
            size += len(piece)
            if size > _MAX_DISCARDED:
                await _reset(response)
                return


async def _reset(response: httpcore.Response) -> None:
    """Tell an HTTP/2 server to stop (HTTP/1.1 is told by the close).

    httpcore forgets an abandoned stream: the server goes on, nobody acknowledges what it sends, and 16 MiB later
    the window that all streams of the connection share is used up. h2 does both once it knows, but httpcore 1.0
    has no way to tell it other than these private names.
    """
    if "stream_id" not in response.extensions:
        return
    stream: Any = response.stream
    state: h2.connection.H2Connection = stream._stream._connection._h2_state
    try:
        state.reset_stream(response.extensions["stream_id"], h2.errors.ErrorCodes.CANCEL)
        async with asyncio.timeout(_GOODBYE):
            await response.extensions["network_stream"].write(state.data_to_send())
    except (h2.exceptions.ProtocolError, httpcore.NetworkError, TimeoutError):
        pass  # the stream or its connection is over already
