"""One plugin: its code, its process, which is a new one after each that ended, and calls."""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from .. import ends
from ..errors import (
    CapabilityRefused,
    InvalidArgument,
    NoSuchFunction,
    NotSendable,
    PluginCrashed,
    PluginError,
    PluginRaised,
    ResultLimit,
    RuntimeClosed,
    Timeout,
    printable,
)
from ..interfaces.control import Ready
from ..interfaces.plugin_host import (
    Call,
    CloseStream,
    Language,
    Load,
    LoadFunction,
    LoadProgram,
    Logged,
    Next,
    Options,
    Outcome,
    PreloadOptions,
    Printed,
    Raised,
)
from ..interfaces.program_host import PreloadOptions as ProgramPreload
from ..ipc import blob
from . import program
from .broker import Broker
from .capabilities import Held
from .host_process import Answer, HostFunctions, HostProcess
from .invocation import Invocation
from .limits import Limits
from .manifest import Manifest
from .namespaces import Namespaces
from .status import Crashed, Running, Status, Terminated, Unresponsive, status_of
from .stream import Stream
from .zygotes import Zygotes

__all__ = [
    "Crashed",
    "LogLine",
    "Plugin",
    "Running",
    "Spec",
    "Status",
    "Stream",
    "Terminated",
    "Unresponsive",
]

T = TypeVar("T")

_SILENCE: Final = 1.0
"""Seconds without a word, while an answer is due, after which a plugin is unresponsive."""
_OUTPUT_KEPT: Final = 64 * 1024  # characters
_LOGS_KEPT: Final = 1000
_MOST_FUNCTIONS: Final = 256
"""Functions of the host's program that one process of a pool keeps; with more it is replaced."""


class LogLine(NamedTuple):
    """One record of a plugin's logging; its own words."""

    level: int
    logger: str
    text: str


@dataclasses.dataclass(frozen=True)
class Spec:
    """Everything that a process of the plugin is made from."""

    name: str
    code: bytes
    is_function: bool = False
    language: Language = Language.PYTHON
    manifest: Manifest | None = None
    limits: Limits = dataclasses.field(default_factory=lambda: Limits().filled())
    held: Held = dataclasses.field(default_factory=Held)
    modules: tuple[str, ...] = ()
    functions: HostFunctions = dataclasses.field(default_factory=dict)
    broker: Broker | None = dataclasses.field(default=None, compare=False)
    """What stays of the plugin while processes and versions of it come and go; functions of the host's have none."""
    namespaces: Namespaces = dataclasses.field(default_factory=Namespaces)
    keep: tuple[str, ...] = ()
    """Linux capabilities."""
    program: str | None = None
    """The path of the program that it is; then it has no code, and asks for nothing."""

    @functools.cached_property
    def program_preload(self) -> ProgramPreload | None:
        """The file tree of the program that it is, or of those that it may run."""
        if self.program is not None:
            stamp = program.stamp_of(self.program)
            return program.preload([self.program], self.held, self.limits, stamp=stamp)
        runs = [real for _, real in self.held.programs]
        return program.preload(runs, self.held, self.limits) if runs else None

    @property
    def preload(self) -> PreloadOptions:
        if self.program is not None:  # which was granted what its plugin_host does not need
            return PreloadOptions(self.modules)
        return PreloadOptions(
            self.modules if self.language is Language.PYTHON else (),
            self.held.read_paths,
            bool(self.limits.threads),
            bool(self.held.listen),
            language=self.language,
            write_paths=self.held.write_paths,
            delete_paths=self.held.delete_paths,
            metadata_paths=self.held.metadata_paths,
            shares=self.namespaces.shared,
            keep=self.keep,
        )

    @property
    def options(self) -> Options:
        return Options(
            memory=self.limits.bytes_of("memory"),
            open_files=self.limits.open_files or 0,
            file_size=self.limits.bytes_of("file_size"),
            result=self.limits.bytes_of("result"),
            environment=self.held.environment,
            fuel=self.limits.fuel or 0,
            knows_time=self.held.knows_time,
        )


class Plugin:
    """A plugin that is loaded. Any thread may call it; it does one thing at a time, and who comes meanwhile waits.

    Each call has a deadline, and a plugin that misses it is ended. A plugin whose process has ended gets a new one with
    the next call, in which its source has been run anew.
    """

    def __init__(self, spec: Spec, zygotes: Zygotes, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        """``run`` runs a coroutine in the event loop of ``zygotes``."""
        self.spec = spec
        self.name = spec.name
        self.exports: tuple[str, ...] = ()
        """The functions that can be called."""
        self._zygotes = zygotes
        self._run = run
        self._lock = threading.Lock()
        self._holder: int | None = None
        self._process: HostProcess | None = None
        self._closed = False
        self._output: collections.deque[str] = collections.deque()
        self._output_size = 0
        self._logs: collections.deque[LogLine] = collections.deque(maxlen=_LOGS_KEPT)
        self._log = logging.getLogger(f"cloister.plugin.{spec.name}")
        self._output_log = self._log.getChild("output")

    def __repr__(self) -> str:
        return f"<Plugin {self.name} {self.status}>"

    @property
    def manifest(self) -> Manifest | None:
        return self.spec.manifest

    @property
    def status(self) -> Status:
        process = self._process
        if self._closed or process is None:
            return Terminated("it was unloaded" if self._closed else "it has no process yet")
        asked = process.asked
        if process.is_alive:
            silent = time.monotonic() - process.heard
            return Unresponsive(silent) if asked is not None and silent > _SILENCE else Running()
        return status_of(process.end)

    @property
    def pid(self) -> int | None:
        """That of its process; None when it has none."""
        process = self._process
        return process.runs.pid if process is not None and process.is_alive else None

    @property
    def report(self) -> Ready:
        """The layers that hold its process, as that said when it had locked itself down. Raises :class:`PluginError`
        when it has none."""
        process = self._process
        if process is None or not process.is_alive:
            raise PluginError(f"{self.name} has no process")
        report: Ready = self._run(
            process.runs.ready()
        )  # it has said so, though the event loop may not have heard it yet
        return report

    @property
    def output(self) -> str:
        """What it printed last, standard error included: 64 Ki characters at the most, in its own words, without what
        would drive a terminal."""
        return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in "".join(self._output))

    @property
    def logs(self) -> list[LogLine]:
        """What it logged last: a thousand records at the most."""
        return list(self._logs)

    @property
    def listening(self) -> tuple[str, ...]:
        """Where it listens: what it was granted of that, with the port that it got where it was granted port 0."""
        return self.spec.broker.listeners.addresses if self.spec.broker is not None else ()

    def send(self, value: Any) -> None:
        """Put ``value`` into its mailbox, as None. Raises :class:`HostError` when that is full, and
        :class:`NotSendable`."""
        if self.spec.broker is not None:
            self.spec.broker.mailbox.put(None, value)

    def receive(self, timeout: float = 0.0) -> Any:
        """The oldest value that it sent to None, which is this program; None if there is none within ``timeout``
        seconds."""
        message = self.spec.broker.outbox.take(timeout) if self.spec.broker is not None else None
        return None if message is None else message[1]

    def load(self) -> None:
        """Start its process and run its source. Raises :class:`PluginRaised` when that raises, a limit, and as
        :meth:`Zygotes.fork`."""
        with self._turn(self._timeout(None)) as deadline:
            self._ensure(deadline)

    def call(self, function: str, /, *arguments: Any, timeout: float | None = None, **named: Any) -> Any:
        """What ``function`` returns; a :class:`Stream` if it returns a generator.

        ``timeout`` is in seconds, and no longer than the limit. Raises :class:`PluginRaised` when the function does,
        :class:`NotSendable` before anything is sent, :class:`NoSuchFunction`, :class:`PluginCrashed`, and the limits.
        """
        writable = self.spec.held.shares_memory
        return self.run(Invocation(function, arguments, named, timeout=timeout, writable=writable))

    def run(self, invocation: Invocation) -> Any:
        """As :meth:`call`. Raises concurrent.futures.CancelledError when it was cancelled."""
        try:
            return self._call(invocation)
        except PluginError:
            if invocation.cancelled:
                raise concurrent.futures.CancelledError from None
            raise
        finally:
            invocation.end()

    def restart(self) -> None:
        """End its process, and start another."""
        with self._turn(self._timeout(None)) as deadline:
            self._let_go("it was restarted")
            self._ensure(deadline)

    def renew(self, *, keep_process: bool) -> None:
        """Forget what calls left behind: run the source again, in the same process or a new one. What that raises, the
        next call raises."""
        with contextlib.suppress(PluginError), self._turn(self._timeout(None)) as deadline:
            process = self._process
            keep_process = keep_process and self.spec.program is None
            if not keep_process or process is None or len(process.functions) > _MOST_FUNCTIONS:
                self._let_go("it is to be a fresh one")
                self._ensure(deadline)
            elif process.is_alive:
                process.functions.clear()
                self._load(process, deadline)

    def close(self) -> concurrent.futures.Future[None] | None:
        """Unload it: end its process, and let every further call raise :class:`RuntimeClosed`."""
        self._closed = True
        process = self._process
        return None if process is None else process.release(ends.Killed("it was unloaded", quiet=True))

    def _call(self, invocation: Invocation) -> Any:
        function, code = invocation.function, invocation.code
        if code is None and self.exports and function not in self.exports:
            what = f"{self.name} exports {', '.join(self.exports)}, and not {printable(function, 80)}"
            raise NoSuchFunction(what)
        with self._turn(self._timeout(invocation.timeout)) as deadline:
            process = self._ensure(deadline)
            invocation.begin(process)
            if code is not None and function not in process.functions:
                self._load_function(process, function, code, deadline)
            fds = invocation.fds.release()
            field, large = blob.pack(invocation.body)
            message = Call(function, field, len(fds))
            return self._result(process, self._ask(process, message, [*fds, *large], deadline))

    # ── one thing at a time ──────────────────────────────────────────────────────────────────────────────────────

    def _timeout(self, timeout: float | None) -> float:
        most = self.spec.limits.timeout or 0.0
        if timeout is None:
            return most
        if not timeout > 0:
            raise InvalidArgument(f"timeout is {timeout!r}: seconds, more than 0")
        return min(timeout, most)

    @contextlib.contextmanager
    def _turn(self, seconds: float) -> Iterator[float]:
        """Wait until it is this thread's turn; the deadline, on the clock of time.monotonic()."""
        deadline = time.monotonic() + seconds
        if self._holder == threading.get_ident():
            raise PluginError(f"{self.name} is called by a host function that it is itself waiting for")
        if not self._lock.acquire(timeout=seconds):
            raise Timeout(f"{self.name} was busy for {seconds:g} s")
        self._holder = threading.get_ident()
        try:
            yield deadline
        finally:
            self._holder = None
            self._lock.release()

    def _ensure(self, deadline: float) -> HostProcess:
        """The process, loaded. A new one if there is none that lives."""
        if self._closed:
            raise RuntimeClosed(f"{self.name} was unloaded")
        there = self._process
        if there is not None and there.is_alive and len(there.functions) <= _MOST_FUNCTIONS:
            return there
        if there is not None:
            there.tell_violation()
        self._let_go("another one takes its place")
        process: HostProcess = self._run(self._fork())
        self._process = process
        if self._closed:  # meanwhile
            self.close()
            raise RuntimeClosed(f"{self.name} was unloaded")
        self._load(process, deadline)
        return process

    def _load(self, process: HostProcess, deadline: float) -> None:
        message: Load | LoadFunction | LoadProgram
        if self.spec.program is not None and self.manifest is not None:
            message, large = LoadProgram(self.name, self.manifest.exports), process.take_pipes()
        else:
            field, large = blob.pack(self.spec.code)
            message = (LoadFunction if self.spec.is_function else Load)(self.name, field)
        try:
            answer = self._ask(process, message, large, deadline)
            self.exports = self._exported(self._result(process, answer))
        except BaseException:
            self._let_go("it could not be loaded")
            raise

    def _load_function(self, process: HostProcess, name: str, code: bytes, deadline: float) -> None:
        field, large = blob.pack(code)
        self._result(process, self._ask(process, LoadFunction(name, field), large, deadline))
        process.functions.add(name)

    async def _fork(self) -> HostProcess:
        spec = self.spec
        running, asks = None, spec.broker is not None and spec.program is None
        if spec.program is not None and (tree := spec.program_preload) is not None:
            running = await program.start(self._zygotes, tree, spec.program, spec.held, spec.limits)
            running.process.site = self.name
        listening = spec.broker.listeners.ready(spec.held.listen) if spec.broker is not None and asks else []
        options = msgspec.structs.replace(
            spec.options, listening=tuple((each.granted, each.address) for each in listening)
        )
        try:
            child, channel = await self._zygotes.fork(
                spec.preload, options, spec.limits, [each.socket for each in listening]
            )
        except BaseException:
            if running is not None:
                await running.end()
            raise
        child.site = self.name
        return HostProcess(
            self.name,
            child,
            channel,
            spec.limits,
            functions=spec.functions,
            tell=self._hear,
            held=spec.held,
            broker=spec.broker,
            program=running,
        )

    def _exported(self, names: Any) -> tuple[str, ...]:
        if (
            not isinstance(names, list)
            or not all(isinstance(name, str) for name in names)
            or len(names) > 10_000
        ):
            raise PluginError(f"{self.name} gave no list of its functions")
        if self.spec.manifest is None:
            return tuple(printable(name, 200) for name in names)
        if missing := [name for name in self.spec.manifest.exports if name not in names]:
            raise NoSuchFunction(f"{self.name} does not have what its manifest exports: {', '.join(missing)}")
        return self.spec.manifest.exports

    def _let_go(self, reason: str) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.release(ends.Killed(reason, quiet=True))

    def _ask(
        self,
        process: HostProcess,
        message: Load | LoadFunction | LoadProgram | Call | Next | CloseStream,
        fds: list[int],
        deadline: float,
    ) -> Answer:
        return process.ask(message, fds, max(0.0, deadline - time.monotonic()))

    def _result(self, process: HostProcess, answer: Answer) -> Any:
        match answer.outcome:
            case Outcome.VALUE:
                return answer.value
            case Outcome.STREAM:
                return Stream(self, process, answer.stream)
            case Outcome.END:
                raise PluginError(f"{self.name} ended a stream that it had not begun")
        told: Raised = answer.value
        match answer.outcome:
            case Outcome.NOT_SENDABLE:
                raise NotSendable(f"{self.name}: {printable(told.message)}")
            case Outcome.TOO_LARGE:
                raise ResultLimit(f"{self.name}: {printable(told.message)}")
            case Outcome.REFUSED:
                raise CapabilityRefused(f"{self.name}: {printable(told.message)}")
            case Outcome.NO_FUNCTION:
                raise NoSuchFunction(f"{self.name} has no function {printable(told.message, 80)}")
        raise PluginRaised(self.name, told.type_name, told.message, told.traceback)

    # ── streams, and what it says besides ────────────────────────────────────────────────────────────────────────

    def next_of(self, process: HostProcess, number: int, timeout: float | None) -> Any:
        """The next value of a stream of ``process``. Raises StopIteration at its end, and as :meth:`call`."""
        with self._turn(self._timeout(timeout)) as deadline:
            if process is not self._process or not process.is_alive:
                raise PluginCrashed(self.name, process.end or ends.Exited(None))
            answer = self._ask(process, Next(number), [], deadline)
            if answer.outcome is Outcome.END:
                raise StopIteration
            return self._result(process, answer)

    def close_stream(self, process: HostProcess, number: int) -> None:
        with self._turn(self._timeout(None)) as deadline:
            if process is self._process and process.is_alive:
                self._ask(process, CloseStream(number), [], deadline)

    def _hear(self, said: Printed | Logged) -> None:
        if isinstance(said, Logged):
            text = printable(said.text, 10_000)
            self._logs.append(LogLine(said.level, printable(said.logger, 200), text))
            self._log.log(said.level, "%s", text)
            return
        if self._output_log.isEnabledFor(logging.DEBUG):
            self._output_log.debug("%s", said.text)
        self._output.append(said.text)
        self._output_size += len(said.text)
        while self._output_size - len(self._output[0]) > _OUTPUT_KEPT:
            self._output_size -= len(self._output.popleft())
