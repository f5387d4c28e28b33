"""What a generator of a plugin yields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from .host_process import HostProcess

if TYPE_CHECKING:
    from .plugin import Plugin

__all__ = ["Stream"]


class Stream(Iterator[Any]):
    """What a generator of a plugin yields, as it is asked for: the plugin works on the next value only then.

    Its process ends it, as does :meth:`close`, and leaving the ``with`` block.
    """

    def __init__(self, plugin: Plugin, process: HostProcess, number: int) -> None:
        self._plugin = plugin
        self._process = process
        self._number = number
        self._done = False

    def __next__(self) -> Any:
        return self.next()

    def next(self, timeout: float | None = None) -> Any:
        """The next value, within ``timeout`` seconds. Raises StopIteration at the end."""
        if self._done:
            raise StopIteration
        try:
            return self._plugin.next_of(self._process, self._number, timeout)
        except BaseException:
            self._done = True
            raise

    def close(self) -> None:
        """Have the plugin close its generator. Closing twice is fine."""
        if not self._done:
            self._done = True
            self._plugin.close_stream(self._process, self._number)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()
