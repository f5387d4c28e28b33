"""Requests without a page: what a program would else ask an HTTP library of its own for, asked in a sandbox."""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import http
import re
from collections.abc import AsyncIterator, Mapping
from typing import Final, TypedDict, Unpack
from urllib.parse import urlencode

from ..errors import InvalidArgument, NavigationError, TimeoutError, printable
from ..interfaces.base import FailureCode
from .checks import checked_url, deadline_of
from .multipart import Data, FormValue, MultipartValue, body
from .request_servers import RequestServers
from .transfers import Ask, Transfer, open_transfer

__all__ = [
    "AsyncAPIRequestContext",
    "AsyncAPIResponse",
    "AsyncStreamedResponse",
    "FetchOptions",
    "Header",
    "RequestOptions",
    "checked_headers",
    "status_text",
]

DEFAULT_TIMEOUT: Final = 30_000.0
"""Milliseconds, as Playwright's."""
_MOST_REDIRECTS: Final = 100
_MOST_HEADERS: Final = 64

Params = Mapping[str, str | int | float | bool] | str


class RequestOptions(TypedDict, total=False):
    """What :class:`AsyncAPIRequestContext` tells of."""

    params: Params | None
    headers: Mapping[str, str] | None
    data: Data | None
    form: Mapping[str, FormValue] | None
    multipart: Mapping[str, MultipartValue] | None
    timeout: float
    max_redirects: int | None
    fail_on_status_code: bool


class FetchOptions(RequestOptions, total=False):
    """The same, and the method."""

    method: str


def status_text(status: int) -> str:
    """What a status is called; "" for one that has no name."""
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return ""


class Header(TypedDict):
    """One header of an answer, its name in lower case."""

    name: str
    value: str


class _Head:
    """What an answer says before its body."""

    def __init__(self, transfer: Transfer) -> None:
        opened = transfer.opened
        self.url: str = opened.url
        """Where the redirects ended."""
        self.status: int = opened.status
        self._headers = opened.headers

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.status} {printable(self.url, 100)}>"

    @property
    def status_text(self) -> str:
        """What the status is called, or "" for one that has no name. The server's own words are not told."""
        return status_text(self.status)

    @property
    def ok(self) -> bool:
        """Whether the status says success (200 to 299)."""
        return 200 <= self.status <= 299

    @property
    def headers(self) -> dict[str, str]:
        """By their names in lower case; several of one name are joined by commas, cookies by line feeds."""
        joined: dict[str, str] = {}
        for name, value in self._headers:
            between = "\n" if name == "set-cookie" else ", "
            joined[name] = f"{joined[name]}{between}{value}" if name in joined else value
        return joined

    @property
    def headers_array(self) -> list[Header]:
        """All of them, in order."""
        return [{"name": name, "value": value} for name, value in self._headers]


class AsyncAPIResponse(_Head):
    """An answer that is there in whole.

    There is no ``json()``: what it says is foreign, and this process parses nothing that is. ``json.loads(await
    response.text())`` is your program's to decide on.
    """

    def __init__(self, transfer: Transfer, data: bytes) -> None:
        super().__init__(transfer)
        self._body: bytes | None = data

    async def body(self) -> bytes:
        """All of it, decompressed."""
        return self.data()

    def data(self) -> bytes:
        """The same at once, as it is there: for the API without asyncio."""
        if self._body is None:
            raise InvalidArgument("the response was disposed of")
        return self._body

    async def text(self) -> str:
        """The body as UTF-8; what is none of that is replaced."""
        return self.data().decode("utf-8", "replace")

    async def dispose(self) -> None:
        """Let go of the body."""
        self.drop()

    def drop(self) -> None:
        """The same at once."""
        self._body = None


class AsyncStreamedResponse(_Head):
    """An answer that is read piece by piece, while it comes, no faster than it is asked for."""

    def __init__(self, transfer: Transfer) -> None:
        super().__init__(transfer)
        self._transfer = transfer

    async def read(self) -> bytes:
        """More of the body; b"" at its end."""
        return await self._transfer.read()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await self.read():
            yield piece


class AsyncAPIRequestContext:
    """Requests without a page; ``browser.request`` is one. The names are Playwright's.

    Each origin has a ``request_server`` of its own, which speaks HTTP and TLS and reads what comes. Each method raises
    :class:`AddressRefused` when the network policy refuses the address, :class:`NavigationError` with a ``code`` for
    every other reason, :class:`TimeoutError`, and InvalidArgument. Any status is an answer, unless
    ``fail_on_status_code``.

    ``params`` are added to the URL; ``data`` is sent as it is (bytes, text, the file at a ``Path``), or as JSON;
    ``form`` as a form; ``multipart`` as one with files: ``{"name": "value", "file": Path("photo.jpg")}``, or a
    ``{"name", "mimeType", "buffer"}`` for one that is not on a disk. Files are read by the process that sends them.
    ``timeout`` is in milliseconds, for all of it. ``max_redirects=0`` gives the redirect itself.
    """

    def __init__(
        self, servers: RequestServers, *, max_response_bytes: int, max_redirects: int, idle: float
    ) -> None:
        self.servers = servers
        """For the browser: who asks."""
        self._max_response_bytes = max_response_bytes
        self._max_redirects = max_redirects
        self._idle = idle

    async def fetch(self, url: str, **options: Unpack[FetchOptions]) -> AsyncAPIResponse:
        """Ask, and read all of the answer: ``NetworkPolicy.max_response_bytes`` at most."""
        timeout = options.get("timeout", DEFAULT_TIMEOUT)
        try:
            async with asyncio.timeout(timeout / 1000):
                async with self._open(url, self._max_response_bytes, options) as transfer:
                    pieces = []
                    while piece := await transfer.read(timeout / 1000):
                        pieces.append(piece)
                    response = AsyncAPIResponse(transfer, b"".join(pieces))
        except TimeoutError:
            raise
        except builtins.TimeoutError:
            raise _late(url, timeout) from None
        _check_status(response, options)
        return response

    @contextlib.asynccontextmanager
    async def stream(
        self, method: str, url: str, **options: Unpack[RequestOptions]
    ) -> AsyncIterator[AsyncStreamedResponse]:
        """Ask, and read the answer piece by piece, however long it is::

            async with browser.request.stream("GET", url) as response:
                async for piece in response:
                    ...

        ``timeout`` is for the answer's head; then no piece may take longer than ``NetworkPolicy.request_timeout``.
        """
        timeout = options.get("timeout", DEFAULT_TIMEOUT)
        given: FetchOptions = {**options, "method": method}
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(timeout / 1000):
                    transfer = await stack.enter_async_context(self._open(url, 2**40, given))
            except TimeoutError:
                raise
            except builtins.TimeoutError:
                raise _late(url, timeout) from None
            response = AsyncStreamedResponse(transfer)
            _check_status(response, options)
            yield response

    async def get(self, url: str, **options: Unpack[RequestOptions]) -> AsyncAPIResponse:
        return await self.fetch(url, method="GET", **options)

    async def post(self, url: str, **options: Unpack[RequestOptions]) -> AsyncAPIResponse:
        return await self.fetch(url, method="POST", **options)

    async def put(self, url: str, **options: Unpack[RequestOptions]) -> AsyncAPIResponse:
        return await self.fetch(url, method="PUT", **options)

    async def patch(self, url: str, **options: Unpack[RequestOptions]) -> AsyncAPIResponse:
        return await self.fetch(url, method="PATCH", **options)

    async def delete(self, url: str, **options: Unpack[RequestOptions]) -> AsyncAPIResponse:
        return await self.fetch(url, method="DELETE", **options)

    async def head(self, url: str, **options: Unpack[RequestOptions]) -> AsyncAPIResponse:
        return await self.fetch(url, method="HEAD", **options)

    @contextlib.asynccontextmanager
    async def _open(self, url: str, max_bytes: int, options: FetchOptions) -> AsyncIterator[Transfer]:
        """Refuses an option that there is not, as a signature would."""
        if (
            unknown := options.keys()
            - FetchOptions.__annotations__.keys()
            - RequestOptions.__annotations__.keys()
        ):
            raise InvalidArgument(f"a request has no {', '.join(sorted(unknown))}")
        deadline = deadline_of(options.get("timeout", DEFAULT_TIMEOUT))
        headers = checked_headers(options.get("headers"))
        method = options.get("method", "GET")
        redirects = options.get("max_redirects")
        redirects = self._max_redirects if redirects is None else redirects
        address = checked_url(_with_params(url, options.get("params")))
        if not isinstance(method, str) or not _METHOD.fullmatch(method):
            raise InvalidArgument(f"{method!r} is not a method")
        if not 0 <= redirects <= _MOST_REDIRECTS:
            raise InvalidArgument(f"max_redirects is {redirects}: from 0 to {_MOST_REDIRECTS}")
        outgoing, kind = body(options.get("data"), options.get("form"), options.get("multipart"))
        try:
            if kind is not None and not any(name.lower() == "content-type" for name, _ in headers):
                headers = (*headers, ("Content-Type", kind))
            ask = Ask(address, method.upper(), headers, outgoing, redirects or None, max_bytes, self._idle)
            async with open_transfer(self.servers, ask, deadline) as transfer:
                yield transfer
        finally:
            outgoing.close()


_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}")  # RFC 9110, 5.6.2: token
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_VALUE = re.compile(r"[\t\x20-\x7e]{0,4096}")


def checked_headers(given: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    """Headers to be sent. Raises InvalidArgument for what is none."""
    headers = tuple((given or {}).items())
    if len(headers) > _MOST_HEADERS:
        raise InvalidArgument(f"headers: {len(headers)} are given; {_MOST_HEADERS} is the most")
    for name, value in headers:
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidArgument(f"headers: {name!r}: {value!r} is not a text and its value")
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise InvalidArgument(
                f"headers: {name!r} is no name of one, or its value has other letters than ASCII"
            )
    return headers


def _with_params(url: str, params: Params | None) -> str:
    if not params:
        return url
    query = params.removeprefix("?") if isinstance(params, str) else urlencode(params)
    address, found, fragment = url.partition("#")
    return f"{address}{'&' if '?' in address else '?'}{query}{found}{fragment}"


def _check_status(response: _Head, options: RequestOptions | FetchOptions) -> None:
    if options.get("fail_on_status_code") and not response.ok:
        raise NavigationError(
            response.url, FailureCode.HTTP_STATUS, f"{response.status} {response.status_text}".strip()
        )


def _late(url: str, timeout: float) -> TimeoutError:
    return TimeoutError(f"{printable(url, 200)}: not answered in full within {timeout:g} ms")
