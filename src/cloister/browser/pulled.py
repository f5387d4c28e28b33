"""What is pulled from a child piece by piece, by a program that does not wait for ever."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from ..errors import InvalidArgument, TimeoutError

__all__ = ["Pulled"]

T = TypeVar("T")


class Pulled(Generic[T]):
    """``pull()`` asks for the next. One question is under way at a time; who gives up leaves it to the next who asks,
    so that no answer is lost."""

    def __init__(self, pull: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._pull = pull
        self._turn = asyncio.Lock()
        self._asking: asyncio.Task[T] | None = None

    async def get(self, timeout: float | None, what: str) -> T:
        """The next, after ``timeout`` milliseconds at most; None is for ever. Raises :class:`TimeoutError`, which says
        ``what`` did not come, and whatever ``pull`` raises."""
        if timeout is not None and timeout <= 0:
            raise InvalidArgument(f"timeout is {timeout:g} ms; give a positive number, or None")
        try:
            async with asyncio.timeout(None if timeout is None else timeout / 1000), self._turn:
                asking = self._asking = self._asking or asyncio.create_task(self._pull())
                await asyncio.wait({asking})
                self._asking = None
        except builtins.TimeoutError:
            raise TimeoutError(f"{what} within {timeout:g} ms") from None
        return asking.result()

    async def close(self) -> None:
        """Nobody asks any more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)
