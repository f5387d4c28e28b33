"""Every error that Cloister raises, in one tree under :class:`CloisterError`.

A message says what was asked, what refused it, and what to do next. Text that came from a child process
is foreign: :func:`printable` takes the terminal's control characters out of it before it gets here.
"""

from __future__ import annotations

import builtins
import errno

TYPE_CHECKING = False  # every start of a process waits for this module, and typing takes 10 ms to load
if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from .ends import End

__all__ = [
    "AddressRefused",
    "BadMessage",
    "BrowserClosed",
    "CapabilityRefused",
    "ChannelClosed",
    "CircuitOpen",
    "CloisterError",
    "ConnectionClosed",
    "CpuLimit",
    "DependencyError",
    "DownloadFailed",
    "HostError",
    "ImageError",
    "InvalidArgument",
    "LaunchError",
    "LimitExceeded",
    "ManifestError",
    "MemoryLimit",
    "NavigationError",
    "NoSuchFunction",
    "NoSuchPlugin",
    "NotSendable",
    "OutOfDescriptors",
    "OutputLimit",
    "PageClosed",
    "PageCrashed",
    "PluginCrashed",
    "PluginError",
    "PluginRaised",
    "ProcessError",
    "ProcessLimit",
    "ProcessLost",
    "RequestFailed",
    "ResultLimit",
    "RuntimeClosed",
    "SandboxUnavailable",
    "Timeout",
    "TimeoutError",
    "descriptors_left",
    "printable",
]


def printable(text: str, limit: int = 500) -> str:
    """``text`` with every control, bidirectional and unassigned character replaced by ``?``, cut at ``limit``.

    A taken-over child could otherwise drive the terminal (escape sequences) or forge a second log line.
    """
    shown = "".join(c if c.isprintable() else "?" for c in text[:limit])
    return shown + "…" if len(text) > limit else shown


class CloisterError(Exception):
    """The root: ``except CloisterError`` catches whatever Cloister raises on purpose."""

    retriable: bool = False
    """Whether the same again may well succeed: what failed was a process, which is replaced."""


class InvalidArgument(CloisterError, ValueError):
    """An argument cannot be what was meant. The message names it, what it is and what it could be."""


class TimeoutError(CloisterError, builtins.TimeoutError):
    """The deadline of an action passed. The page was stopped; ``page.reload()`` starts it anew."""


class SandboxUnavailable(CloisterError):
    """The kernel lacks a layer that a process's policy requires, so the process was not started.

    ``missing`` maps each missing layer to a sentence with the kernel version that has it.
    """

    def __init__(self, kind: str, missing: dict[str, str]) -> None:
        self.kind = kind
        self.missing = dict(missing)
        lines = "; ".join(f"{layer}: {why}" for layer, why in self.missing.items())
        super().__init__(
            f"{kind} was not started: this machine lacks {lines}. "
            "`cloister doctor` shows every layer; --allow-degraded (allow_degraded=True) runs without these."
        )


class ProcessError(CloisterError):
    """Something about a child process itself."""


class LaunchError(ProcessError):
    """A child process could not be started."""


class ProcessLost(ProcessError):
    """A process that this needed has ended, and a new one takes its place: the same again may well succeed."""

    retriable = True


class CircuitOpen(ProcessError):
    """A process that everything needs keeps ending, so for a while it is not started again. The message says for
    how long."""


class OutOfDescriptors(ProcessError):
    """This program has as many files and sockets open as it may (RLIMIT_NOFILE), so nothing could be opened for
    this. Close pages, lower ``max_live_pages``, or raise the limit (``ulimit -n``)."""

    retriable = True

    def __init__(self) -> None:
        super().__init__(
            "no file descriptor is left in this program: close pages, lower max_live_pages, or raise `ulimit -n`"
        )


class _DescriptorsLeft:
    # Not by contextlib, which takes 3 ms to load.
    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise OutOfDescriptors from error


def descriptors_left() -> _DescriptorsLeft:
    """A context that raises :class:`OutOfDescriptors` where the kernel says EMFILE or ENFILE."""
    return _DescriptorsLeft()


class ChannelClosed(ProcessError):
    """The other end of a channel is gone: its process ended, or was ended."""


class BadMessage(ProcessError):
    """A peer sent what its interface does not allow. The sender is ended: it is broken or taken over."""


class RequestFailed(CloisterError):
    """The other side of a channel answered a request with a failure; ``code`` is one of ``FailureCode``."""

    def __init__(self, code: str, detail: str = "") -> None:
        self.code = str(code)
        self.detail = printable(detail)
        super().__init__(self.detail or self.code)


class BrowserClosed(CloisterError):
    """The browser was closed, or its zygote ended, before this could be done."""


class PageClosed(CloisterError):
    """The page was closed before this could be done."""


class NavigationError(CloisterError):
    """A page could not be loaded. ``url`` is what was asked for, ``code`` says what refused it."""

    def __init__(self, url: str, code: str, detail: str) -> None:
        self.url = url
        self.code = str(code)
        self.detail = printable(detail)
        self.retriable = self.code == "no_process"
        super().__init__(f"{printable(url, 200)}: {self.detail or self.code}")


class AddressRefused(NavigationError):
    """The network policy refuses the address that the page would have connected to."""


class ConnectionClosed(CloisterError):
    """A WebSocket is closed. ``code`` and ``reason`` are what its server said goodbye with (RFC 6455, 7.4); 1005 is a
    goodbye without a code, 1006 none at all, and ``reason`` says what went wrong then."""

    def __init__(self, url: str, code: int, reason: str) -> None:
        self.url = url
        self.code = code
        self.reason = printable(reason)
        self.is_ok = code in (1000, 1001, 1005)
        super().__init__(f"{printable(url, 200)}: closed with {code}: {self.reason or 'no reason given'}")


class DownloadFailed(NavigationError):
    """A download did not become a file. ``part`` is what there is of it, from which the same download goes on; None
    where nothing is left."""

    def __init__(self, url: str, code: str, detail: str, part: Path | None = None) -> None:
        self.part = part
        super().__init__(url, code, detail)


class ImageError(CloisterError):
    """An image could not be decoded."""


class PageCrashed(CloisterError):
    """The page's process ended. ``end`` says how (:mod:`cloister.ends`), ``signal`` and ``exit_code`` are what the
    kernel said; ``page.reload()`` starts anew."""

    retriable = True

    def __init__(self, url: str, end: End | None = None) -> None:
        from .ends import Exited  # later, as every start of a process waits for this module

        self.url = url
        self.end = end or Exited(None)
        self.signal, self.exit_code = _as_the_kernel_said(self.end)
        super().__init__(f"{printable(url, 200)}: the page's process {self.end}. page.reload() starts anew")


def _as_the_kernel_said(end: End) -> tuple[int | None, int | None]:
    """The signal that ended a process, and its exit code."""
    from signal import SIGSYS

    from . import ends

    stopped = SIGSYS if isinstance(end, ends.SandboxViolation) else None
    return (
        end.signal if isinstance(end, ends.Crashed) else stopped,
        end.code if isinstance(end, ends.Exited) else None,
    )


# ── plugins ──────────────────────────────────────────────────────────────────────────────────────────────────────


class PluginError(CloisterError):
    """Something about a plugin."""


class RuntimeClosed(PluginError, RuntimeError):
    """The runtime, or the pool, was closed before this could be done."""


class ManifestError(PluginError, ValueError):
    """A manifest cannot be what was meant. ``key`` is which one ("limits.memory"), ``line`` where it is in the file;
    None where that is not known."""

    def __init__(self, source: str, key: str | None, line: int | None, why: str) -> None:
        self.key = key
        self.line = line
        self.why = printable(why)
        where = printable(source, 200) + (f", line {line}" if line is not None else "")
        super().__init__(f"{where}: {f'{printable(key, 80)}: ' if key else ''}{self.why}")


class DependencyError(PluginError):
    """A plugin that another one needs is not there, is of another version, or needs that one itself."""


class CapabilityRefused(PluginError):
    """A capability that does not exist, that this version cannot hold, or that was granted without what it needs."""


class NoSuchPlugin(PluginError, LookupError):
    """No plugin of that name is loaded."""


class NoSuchFunction(PluginError, LookupError):
    """The plugin does not export a function of that name."""


class NotSendable(PluginError, TypeError):
    """A value that does not travel between processes. The message says where it is: ``args[0]["x"]``."""


class HostError(PluginError):
    """For host functions to raise: its message reaches the plugin. Of any other exception only the type does."""


class PluginRaised(PluginError):
    """The plugin raised an exception. ``type_name``, ``message`` and ``traceback`` are the plugin's own words: the last
    two may have several lines, with no other control character in them."""

    def __init__(self, plugin: str, type_name: str, message: str, traceback: str) -> None:
        self.plugin = plugin
        self.type_name = printable(type_name, 200)
        self.message = _lines(message)
        self.traceback = _lines(traceback)
        super().__init__(f"{plugin} raised {self.type_name}: {printable(message)}")


def _lines(text: str) -> str:
    return "\n".join(printable(line, 10_000) for line in text.split("\n"))


class PluginCrashed(PluginError):
    """The plugin's process ended. ``end`` says how (:mod:`cloister.ends`); the next call starts a new process."""

    retriable = True

    def __init__(self, plugin: str, end: End) -> None:
        self.plugin = plugin
        self.end = end
        self.signal, self.exit_code = _as_the_kernel_said(end)
        super().__init__(f"{plugin}: its process {end}. The next call starts a new one")


class LimitExceeded(PluginError):
    """A plugin went beyond one of its limits. Its process was ended, but for :class:`ResultLimit`, and the next call
    gets a new one."""


class Timeout(LimitExceeded, TimeoutError):
    """The call took longer than it might (``timeout``)."""


class MemoryLimit(LimitExceeded):
    """It needed more memory than it may have (``memory``)."""


class CpuLimit(LimitExceeded):
    """The call used more processor time than it might (``cpu_time``)."""


class OutputLimit(LimitExceeded):
    """It wrote and logged more in one call than it might (``output``)."""


class ResultLimit(LimitExceeded):
    """The result is larger than it may be (``result``, or ``file_size`` for a buffer)."""


class DiskLimit(LimitExceeded):
    """It wrote more in one call, into folders that it was granted, than it might (``disk``). What it wrote is there."""


class ProcessLimit(LimitExceeded):
    """It started a process or a thread, and may not (``threads``; processes are never allowed)."""
