"""Requests without a page, for programs without asyncio."""

from __future__ import annotations

import contextlib
from collections.abc import Coroutine, Iterator
from typing import Any, Protocol, TypeVar, Unpack

from .requests import (
    AsyncAPIRequestContext,
    AsyncAPIResponse,
    AsyncStreamedResponse,
    FetchOptions,
    Header,
    RequestOptions,
)

__all__ = ["APIRequestContext", "APIResponse", "StreamedResponse"]

T = TypeVar("T")


class Runs(Protocol):
    """Where the coroutines run."""

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T: ...


class _Head:
    def __init__(self, response: AsyncAPIResponse | AsyncStreamedResponse) -> None:
        self._head = response

    def __repr__(self) -> str:
        return repr(self._head).replace("Async", "")

    @property
    def url(self) -> str:
        """Where the redirects ended."""
        return self._head.url

    @property
    def status(self) -> int:
        return self._head.status

    @property
    def status_text(self) -> str:
        """As :attr:`AsyncAPIResponse.status_text`."""
        return self._head.status_text

    @property
    def ok(self) -> bool:
        """Whether the status says success (200 to 299)."""
        return self._head.ok

    @property
    def headers(self) -> dict[str, str]:
        """As :attr:`AsyncAPIResponse.headers`."""
        return self._head.headers

    @property
    def headers_array(self) -> list[Header]:
        """All of them, in order."""
        return self._head.headers_array


class APIResponse(_Head):
    """As :class:`AsyncAPIResponse`; there for as long as it is wanted, the browser may be closed by then."""

    def __init__(self, response: AsyncAPIResponse) -> None:
        super().__init__(response)
        self._response = response

    def body(self) -> bytes:
        """All of it, decompressed."""
        return self._response.data()

    def text(self) -> str:
        """The body as UTF-8; what is none of that is replaced."""
        return self._response.data().decode("utf-8", "replace")

    def dispose(self) -> None:
        """Let go of the body."""
        self._response.drop()


class StreamedResponse(_Head):
    """As :class:`AsyncStreamedResponse`."""

    def __init__(self, response: AsyncStreamedResponse, thread: Runs) -> None:
        super().__init__(response)
        self._response = response
        self._thread = thread

    def __iter__(self) -> Iterator[bytes]:
        while piece := self._thread.run(self._response.read()):
            yield piece


class APIRequestContext:
    """As :class:`AsyncAPIRequestContext`; each method is done when it returns."""

    def __init__(self, context: AsyncAPIRequestContext, thread: Runs) -> None:
        self._context = context
        self._thread = thread

    def fetch(self, url: str, **options: Unpack[FetchOptions]) -> APIResponse:
        """As :meth:`AsyncAPIRequestContext.fetch`."""
        return APIResponse(self._thread.run(self._context.fetch(url, **options)))

    @contextlib.contextmanager
    def stream(self, method: str, url: str, **options: Unpack[RequestOptions]) -> Iterator[StreamedResponse]:
        """As :meth:`AsyncAPIRequestContext.stream`, with ``with`` and ``for``."""
        with _entered(self._thread, self._context.stream(method, url, **options)) as response:
            yield StreamedResponse(response, self._thread)

    def get(self, url: str, **options: Unpack[RequestOptions]) -> APIResponse:
        return self.fetch(url, method="GET", **options)

    def post(self, url: str, **options: Unpack[RequestOptions]) -> APIResponse:
        return self.fetch(url, method="POST", **options)

    def put(self, url: str, **options: Unpack[RequestOptions]) -> APIResponse:
        return self.fetch(url, method="PUT", **options)

    def patch(self, url: str, **options: Unpack[RequestOptions]) -> APIResponse:
        return self.fetch(url, method="PATCH", **options)

    def delete(self, url: str, **options: Unpack[RequestOptions]) -> APIResponse:
        return self.fetch(url, method="DELETE", **options)

    def head(self, url: str, **options: Unpack[RequestOptions]) -> APIResponse:
        return self.fetch(url, method="HEAD", **options)


@contextlib.contextmanager
def _entered(thread: Runs, manager: contextlib.AbstractAsyncContextManager[T]) -> Iterator[T]:
    """``async with`` from another thread."""
    entered = thread.run(manager.__aenter__())
    try:
        yield entered
    except BaseException as error:
        thread.run(manager.__aexit__(type(error), error, error.__traceback__))
        raise
    else:
        thread.run(manager.__aexit__(None, None, None))
