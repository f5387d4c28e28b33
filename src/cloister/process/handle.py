"""A handle: one child process, from its start to its reaped end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import itertools
import logging
import os
import select
import signal
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Literal, Self

from .. import ends
from ..ends import End
from ..errors import BadMessage, ChannelClosed, LaunchError, SandboxUnavailable, printable
from ..interfaces.base import Interface, Message
from ..interfaces.control import CONTROL, EXIT_NO_MEMORY, Ping, Ready, Refused, Shutdown
from ..interfaces.zygote import Exited
from ..ipc import Channel, Connection
from .last_words import LastWords

__all__ = ["UNWANTED", "ChildProcess", "ExitStatus"]

log = logging.getLogger("cloister.process")
_nonces = itertools.count(1)

SHUTDOWN_TIMEOUT = 5.0
_CLOSING_TIMEOUT = 1.0
"""Seconds that a child has between closing its control channel and its end."""
_KILL_TIMEOUT = 5.0
"""Seconds in which the kernel has a killed process gone. SIGKILL cannot be refused, but a process inside the
kernel (a slow disk, a core dump of another) is not gone at once."""
_TOLD_TIMEOUT = 1.0
"""Seconds that the zygote has to say how a process ended that the kernel says is gone. It may hang, or be gone too."""

UNWANTED: Final[End] = ends.Killed("nobody needed it any more", quiet=True)


@dataclasses.dataclass(frozen=True)
class ExitStatus:
    """How the kernel says a process ended: an exit ``code``, or a ``signal``, or neither when nobody could tell.
    ``max_rss`` (bytes, shared pages counted in full) and ``cpu_seconds`` are what it had used, where known."""

    code: int | None = None
    signal: int | None = None
    max_rss: int | None = dataclasses.field(default=None, compare=False)
    cpu_seconds: float | None = dataclasses.field(default=None, compare=False)

    def __str__(self) -> str:
        if self.signal is not None:
            return f"ended by signal {self.signal}"
        return "gone" if self.code is None else f"exit code {self.code}"

    @classmethod
    def from_wait(cls, exited: Exited) -> ExitStatus:
        """From what the zygote says of a child that it reaped."""
        used = (exited.max_rss, exited.cpu_time / 1000)
        return cls(None, -exited.status, *used) if exited.status < 0 else cls(exited.status, None, *used)


class ChildProcess:
    """A sandboxed child: its control connection, its work ``channel``, its life.

    Leave the ``async with`` block, drop the last reference, or lose the whole program: the process ends with it.
    """

    def __init__(
        self,
        kind: str,
        pid: int,
        pidfd: int,
        control: Channel,
        channels: Sequence[Channel] = (),
        *,
        interface: Interface = CONTROL,
        handlers: Mapping[type[Message], Any] | None = None,
        ours: bool,
        on_release: Callable[[], None] | None = None,
        last_words: LastWords | None = None,
    ) -> None:
        """``ours``: whether this process is its parent, and so reaps it; the zygote reaps what it forked.
        ``on_release`` is called when everything else of the handle has been let go; ``last_words`` is what the
        process writes on its standard error."""
        self.kind = kind
        self.pid = pid
        self.channels = tuple(channels)
        self.site: str | None = None
        """What it works for: scheme, host and port of a page, the name of a plugin, or None."""
        self.is_foreign = False
        """Whether it becomes a program that knows of no channel: it closes them when it begins, and is not asked."""
        self.why_killed: Callable[[], End | None] = lambda: None
        """Asked when SIGKILL ended it that this process did not send: a cgroup's limit may have."""
        self.started = time.monotonic()
        self.is_unresponsive = False
        self._fate: End | None = None
        self._ending: End | None = None
        self._pidfd = pidfd
        self._ours = ours
        self._on_release = on_release
        self.last_words = last_words
        self._loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[Ready] = self._loop.create_future()
        self._exit: asyncio.Future[ExitStatus] = self._loop.create_future()
        # The loop holds the callbacks, so they must not hold the handle: a dropped one has to end its process.
        me = weakref.ref(self)
        for each in (control, *self.channels):
            each.peer = f"{kind}:{pid}"
        self.control = Connection(
            control,
            interface,
            "client",
            {
                Ready: lambda message, _fds: _call(me, "_on_ready", message),
                Refused: lambda message, _fds: _call(me, "_on_refused", message),
                **(handlers or {}),
            },
            on_close=lambda error: _call(me, "_on_control_closed", error),
        )
        self.connections = [self.control]
        """Every connection to it that this process has: they are counted, and reports name their last messages."""
        self._finalizer = weakref.finalize(self, _abandon, os.getpid(), self._loop, pidfd, ours, on_release)
        # When the program ends, whoever has processes ends them in order; if nobody does, they end with their channels.
        self._finalizer.atexit = False
        self._loop.add_reader(pidfd, _call, me, "_on_pidfd")

    def __repr__(self) -> str:
        return f"<ChildProcess {self.kind} {self.pid} {self.state}>"

    @property
    def channel(self) -> Channel:
        """The first work channel: this side's end of it."""
        return self.channels[0]

    @property
    def pidfd(self) -> int:
        """It stays the handle's."""
        return self._pidfd

    @property
    def is_alive(self) -> bool:
        """Whether the process runs, as the kernel says now."""
        if not self._finalizer.alive:
            return False
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return not poll.poll(0)

    @property
    def is_doomed(self) -> bool:
        """Whether its end was ordered; the kernel may need a moment for it."""
        return self._fate is not None

    @property
    def has_ended(self) -> bool:
        """Whether its end was reported; the kernel may know of it a moment before."""
        return self._exit.done()

    @property
    def state(self) -> Literal["starting", "running", "unresponsive", "ended"]:
        """``unresponsive`` while it owes an answer to a ping for longer than the supervisor waits."""
        if self.has_ended:
            return "ended"
        if self.report is None:
            return "starting"
        return "unresponsive" if self.is_unresponsive else "running"

    @property
    def ending(self) -> End | None:
        """How it ended, and why; None while it lives."""
        return self._ending

    @property
    def ended_badly(self) -> bool:
        """Whether its end is to be told. The exit code of a foreign program is for whoever runs it."""
        ending = self._ending
        return (
            ending is not None
            and ending.is_abnormal
            and not (self.is_foreign and isinstance(ending, ends.Exited))
        )

    @property
    def status(self) -> ExitStatus | None:
        """What the kernel said of its end; None while it lives."""
        return self._exit.result() if self._exit.done() else None

    @property
    def report(self) -> Ready | None:
        """What the child said of its lock-down; None before it has, and when it never could."""
        if not self._ready.done() or self._ready.cancelled() or self._ready.exception() is not None:
            return None
        return self._ready.result()

    async def ready(self, timeout: float = 10.0) -> Ready:
        """Wait until the child is locked down; its report.

        Raises :class:`SandboxUnavailable` when the kernel lacks a required layer, :class:`LaunchError` when it ended.
        """
        done, _ = await asyncio.wait({self._ready}, timeout=timeout)
        if not done:
            raise LaunchError(f"{self.kind} was not ready within {timeout:g} s")
        return self._ready.result()

    async def ping(self, timeout: float = 5.0) -> None:
        """Raise unless the child answers within ``timeout`` seconds."""
        nonce = next(_nonces)
        pong, _ = await self.control.request(Ping(nonce), timeout=timeout)
        if pong.nonce != nonce:
            raise self._answered_wrongly()

    async def wait(self, timeout: float | None = None) -> ExitStatus:
        """Wait for the end. Raises the builtin TimeoutError after ``timeout`` seconds."""
        async with asyncio.timeout(timeout):  # wait_for() may swallow a cancellation before Python 3.12
            return await asyncio.shield(self._exit)

    def probe(self) -> asyncio.Future[object]:
        """Send a ping, and do not wait: done when the child has answered, or when it has gone."""
        nonce, me = next(_nonces), weakref.ref(self)
        asked = self.control.ask(Ping(nonce))
        asked.add_done_callback(lambda answer: _call(me, "_on_pong", nonce, answer))
        return asked

    def when_ended(self, callback: Callable[[], None]) -> None:
        """Have ``callback()`` called from the event loop once the process has ended."""
        self._exit.add_done_callback(lambda _exit: callback())

    async def shutdown(self, timeout: float = SHUTDOWN_TIMEOUT) -> ExitStatus:
        """Ask the child to end, wait ``timeout`` seconds, then kill it. Logs which of the two it was."""
        if not self._exit.done():
            if self.is_foreign:
                timeout = 0.0
            with contextlib.suppress(ChannelClosed, BadMessage):
                self.control.send(Shutdown())
            try:
                status = await self.wait(timeout)
            except TimeoutError:
                self.kill(ends.Killed(f"it did not shut down within {timeout:g} s"))
                status = await self.wait(_KILL_TIMEOUT)
        else:
            status = self._exit.result()
        self._close()
        return status

    async def end(self, why: End = UNWANTED) -> None:
        """Kill, wait, release. A process that the kernel does not let go is logged: nobody can do more about it."""
        self.kill(why)
        try:
            await self.wait(_KILL_TIMEOUT)
        except TimeoutError:
            log.warning("%r was killed, and is not gone after %g s", self, _KILL_TIMEOUT)
        finally:
            self._close()

    def kill(self, why: End = UNWANTED) -> None:
        """End the process now; ``why`` is how it will have ended. Killing an ended one is fine."""
        if self._finalizer.alive:
            self._fate = self._fate or why
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def punish(self, error: Exception) -> None:
        """End a child that broke the protocol."""
        self.kill(ends.BadMessage(printable(str(error), 400)))

    def give_up(self, error: Exception) -> None:
        """End a child that this process cannot use for no fault of the child's: :meth:`ready` raises ``error``."""
        self._fail_ready(error)
        self.kill(ends.Killed(str(error)))

    def lost_channel(self, error: Exception | None) -> None:
        """A channel of the child is closed: by what it sent (``error``), or it is ending, and a process that ends
        closes its channels first; if it is not, it cannot be asked any more."""
        if error is not None:
            self.punish(error)
        elif not self.is_foreign:
            late = ends.Killed("it closed a channel that it needs")
            self._loop.call_later(_CLOSING_TIMEOUT, _call, weakref.ref(self), "kill", late)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.shutdown()

    # ── what the kernel, the child and the zygote report ─────────────────────────────────────────────────────

    def _on_ready(self, message: Ready) -> None:
        if self._ready.done():
            raise BadMessage(f"{self.kind} said Ready twice")
        self._ready.set_result(message)

    def _on_refused(self, message: Refused) -> None:
        if self._ready.done():
            raise BadMessage(f"{self.kind} said Refused after Ready")
        missing = {layer: printable(why) for layer, why in message.missing}
        self._fail_ready(SandboxUnavailable(self.kind, missing))

    def _on_pong(self, nonce: int, answer: asyncio.Future[Any]) -> None:
        if answer.cancelled() or isinstance(answer.exception(), ChannelClosed | BadMessage):
            return
        if answer.exception() is not None or answer.result()[0].nonce != nonce:
            self._answered_wrongly()

    def _answered_wrongly(self) -> BadMessage:
        error = BadMessage(f"{self.kind} answered another ping than it was sent")
        self.punish(error)
        return error

    def _on_control_closed(self, error: Exception | None) -> None:
        self.lost_channel(error)

    def _on_pidfd(self) -> None:
        self._loop.remove_reader(self._pidfd)
        if self._ours:
            self.set_ended(_reap(self._pidfd, os.WNOHANG))
        else:
            self._loop.call_later(_TOLD_TIMEOUT, _call, weakref.ref(self), "set_ended", ExitStatus())

    def set_ended(self, status: ExitStatus) -> None:
        """The end, as the kernel told it of our own child, or the zygote of one that it forked."""
        if self._exit.done():
            return
        for connection in list(self.connections):
            connection.drain()  # what it said before its end counts
        fate = self._fate or (self.why_killed() if status.signal == signal.SIGKILL else None)
        self._ending = _ending(status, fate, self.last_words)
        self._exit.set_result(status)
        said = self.last_words.tail() if self.last_words else ""
        self._fail_ready(LaunchError(f"{self.kind} ended before it was ready: {status}{said}"))
        self.control.close()
        level = logging.WARNING if self.ended_badly else logging.DEBUG
        log.log(level, "%s %d %s", self.kind, self.pid, self._ending)

    def _fail_ready(self, error: Exception) -> None:
        if not self._ready.done():
            self._ready.set_exception(error)
            self._ready.exception()  # nobody may be waiting for it

    def _close(self) -> None:
        if self._finalizer.detach() is None:
            return
        self.control.close()
        for channel in self.channels:
            channel.close()
        self._loop.remove_reader(self._pidfd)
        _kill(self._pidfd, self._ours)
        os.close(self._pidfd)
        if self._on_release is not None:
            self._on_release()


def _ending(status: ExitStatus, fate: End | None, said: LastWords | None) -> End:
    """What the kernel says goes before what was meant to be done to the process, and both before its own words."""
    if isinstance(fate, ends.BadMessage):
        return fate
    if status.signal == signal.SIGSYS:
        return ends.SandboxViolation(*(said.violation if said and said.violation else ()))
    nobody_told = status.code is None and status.signal is None
    if fate is not None and (nobody_told or status.signal == signal.SIGKILL):
        return fate
    no_memory = said is not None and said.no_memory
    if status.code == EXIT_NO_MEMORY or (status.signal == signal.SIGABRT and no_memory):
        return ends.OutOfMemory("it reached the limit of its kind of process")
    return ends.Exited(status.code) if status.signal is None else ends.Crashed(status.signal)


def _call(me: weakref.ref[ChildProcess], method: str, *arguments: object) -> None:
    child = me()
    if child is not None:
        getattr(child, method)(*arguments)


def _reap(pidfd: int, flags: int = 0) -> ExitStatus:
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | flags)
    except ChildProcessError:  # the program reaps every child itself, or ignores SIGCHLD
        return ExitStatus()
    if result is None:
        return ExitStatus()
    if result.si_code == os.CLD_EXITED:
        return ExitStatus(code=result.si_status)
    return ExitStatus(signal=result.si_status)


def _kill(pidfd: int, ours: bool) -> None:
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    if ours:
        _reap(pidfd)


def _abandon(
    owner: int, loop: asyncio.AbstractEventLoop, pidfd: int, ours: bool, on_release: Callable[[], None] | None
) -> None:
    """The handle is gone, so the process goes, and leaves no zombie. May run in any thread, as finalizers do; and in a
    process that the program forked, which has a copy of the handle, and ends: that is not ``owner``'s business."""
    if os.getpid() != owner:
        return
    _kill(pidfd, ours)

    def release() -> None:
        if not loop.is_closed():
            loop.remove_reader(pidfd)
        os.close(pidfd)
        if on_release is not None:
            on_release()

    try:
        loop.call_soon_threadsafe(release)
    except RuntimeError:  # the loop is closed
        release()
