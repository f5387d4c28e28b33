"""What a plugin prints and logs, as far as it is kept."""

from __future__ import annotations

import collections
import logging
from typing import Final, NamedTuple

from ..errors import printable
from ..interfaces.plugin_host import Logged, Printed

__all__ = ["LogLine", "Words"]

_OUTPUT_KEPT: Final = 64 * 1024  # characters
_LOGS_KEPT: Final = 1000


class LogLine(NamedTuple):
    """One record of a plugin's logging; its own words."""

    level: int
    logger: str
    text: str


class Words:
    """Those of one plugin, of all its processes."""

    def __init__(self, name: str) -> None:
        self._output: collections.deque[str] = collections.deque()
        self._size = 0
        self._logs: collections.deque[LogLine] = collections.deque(maxlen=_LOGS_KEPT)
        self._log = logging.getLogger(f"cloister.plugin.{name}")
        self._output_log = self._log.getChild("output")

    @property
    def output(self) -> str:
        """What it printed last, standard error included: 64 Ki characters at the most, in its own words, without what
        would drive a terminal."""
        return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in "".join(self._output))

    @property
    def logs(self) -> list[LogLine]:
        """What it logged last: a thousand records at the most."""
        return list(self._logs)

    def hear(self, said: Printed | Logged) -> None:
        """Keep it; a record of its logging goes to the logger ``cloister.plugin.NAME`` too."""
        if isinstance(said, Logged):
            text = printable(said.text, 10_000)
            self._logs.append(LogLine(said.level, printable(said.logger, 200), text))
            self._log.log(said.level, "%s", text)
            return
        if self._output_log.isEnabledFor(logging.DEBUG):
            self._output_log.debug("%s", said.text)
        self._output.append(said.text)
        self._size += len(said.text)
        while self._size - len(self._output[0]) > _OUTPUT_KEPT:
            self._size -= len(self._output.popleft())
