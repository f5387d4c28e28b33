"""One plugin: its code, its process, which is a new one after each that ended, and calls."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import itertools
import logging
import threading
import time
import weakref
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final, NamedTuple

import msgspec

from .. import ends
from ..errors import (
    CapabilityRefused,
    CloisterError,
    InvalidArgument,
    NoSuchFunction,
    NotSendable,
    PluginCrashed,
    PluginError,
    PluginRaised,
    ProcessLost,
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
    Next,
    Outcome,
    Raised,
)
from ..ipc import Descriptors, blob
from ..process.loop_thread import CLOSE_TIMEOUT
from . import program
from .events import EventName, Events
from .host_process import Answer, HostProcess
from .invocation import Invocation
from .manifest import Manifest
from .recovery import Circuit, is_worth_repeating, was_its_own
from .spec import Spec
from .status import Crashed, Running, Status, Terminated, Unresponsive, status_of
from .stream import Stream
from .words import LogLine, Words
from .zygotes import Zygotes

__all__ = [
    "Begun",
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

log = logging.getLogger("cloister.plugins")

_SILENCE: Final = 1.0
"""Seconds without a word, while an answer is due, after which a plugin is unresponsive."""
_MOST_FUNCTIONS: Final = 256
"""Functions of the host's program that one process of a pool keeps; with more it is replaced."""


class Begun(NamedTuple):
    """A call that was sent."""

    process: HostProcess
    deadline: float
    """On the clock of time.monotonic()."""
    timeout: float


class Plugin:
    """A plugin that is loaded. Any thread may call it; it does one thing at a time, and who comes meanwhile waits.

    Each call has a deadline, and a plugin that misses it is ended. A plugin whose process has ended gets a new one with
    the next call, in which its source has been run anew.
    """

    def __init__(
        self,
        spec: Spec,
        zygotes: Zygotes,
        run: Callable[[Coroutine[Any, Any, Any]], Any],
        events: Events,
        circuit: Circuit | None = None,
    ) -> None:
        """``run`` runs a coroutine in the event loop of ``zygotes``."""
        self.circuit = circuit
        self.spec = spec
        self.name = spec.name
        self.exports: tuple[str, ...] = ()
        """The functions that can be called."""
        self._zygotes = zygotes
        self._run = run
        self._lock = threading.Lock()
        self._holder: int | None = None
        self._process: HostProcess | None = None
        self._events = events
        self._news: list[
            tuple[EventName, str]
        ] = []  # told when its turn is over: a handler may want to call it
        self._closed = False
        self._words = Words(spec.name)

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
        """As :attr:`Words.output`."""
        return self._words.output

    @property
    def logs(self) -> list[LogLine]:
        """As :attr:`Words.logs`."""
        return self._words.logs

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

    def run(self, invocation: Invocation, begun: Begun | None = None) -> Any:
        """As :meth:`call`; ``begun`` is what :meth:`begin` gave for it. Raises concurrent.futures.CancelledError when
        it was cancelled."""
        try:
            if invocation.function in self.spec.idempotent:
                return self._call_again(invocation, begun)
            if begun is not None:
                return self._finish(begun)
            return self._call(invocation, self._timeout(invocation.timeout))
        except PluginError:
            if invocation.cancelled:
                raise concurrent.futures.CancelledError from None
            raise
        finally:
            invocation.end()

    def begin(self, invocation: Invocation) -> Begun | None:
        """Have a call under way without waiting for anything; None where there is something to wait for, and then
        :meth:`run` is for it. It is this plugin's turn until :meth:`take` or :meth:`run` has the answer.

        Raises concurrent.futures.CancelledError, :class:`OutOfDescriptors`.
        """
        process, function = self._process, invocation.function
        if process is None or not self._is_ready_for(invocation, process):
            return None
        timeout = self._timeout(invocation.timeout)
        if not self._lock.acquire(blocking=False):
            return None
        is_begun = False
        try:
            invocation.begin(process)
            field, large = blob.pack(invocation.body)
            fds = invocation.fds.borrow()
            try:
                is_begun = process.begin(Call(function, field, len(fds)), (*fds, *large))
            finally:
                Descriptors(large).close()
        finally:
            if not is_begun:
                self._lock.release()
        if not is_begun:
            return None
        if function not in self.spec.idempotent:
            invocation.fds.close()
        return Begun(process, time.monotonic() + timeout, timeout)

    def _is_ready_for(self, invocation: Invocation, process: HostProcess) -> bool:
        if not process.is_alive or len(process.functions) > _MOST_FUNCTIONS:
            return False
        if self.spec.limits.cpu_time is not None or self.spec.held.write_paths:
            return False  # somebody has to look at what it uses
        return invocation.function in (self.exports if invocation.code is None else process.functions)

    def take(self, begun: Begun, invocation: Invocation) -> Answer | None:
        """The answer, when something has come; None where that is anything else, and then :meth:`run` is for it."""
        answer = begun.process.take()
        if answer is not None:
            self._lock.release()
            invocation.end()
        return answer

    def result(self, process: HostProcess, answer: Answer) -> Any:
        """What the answer of a call says. Raises as :meth:`call`."""
        if self.is_strained:
            self._close_circuit()
        return self._result(process, answer)

    @property
    def is_strained(self) -> bool:
        """Whether an answer is news, as a process of it ended since the last one."""
        return self.circuit is not None and self.circuit.is_strained

    def restart(self) -> None:
        """End its process, and start another, also where it was left alone because it kept ending. What it kept in
        variables is lost."""
        with self._turn(self._timeout(None)) as deadline:
            self._let_go("it was restarted")
            self._close_circuit()
            self._ensure(deadline)
            self._tell("restarted", "somebody asked for it")

    def replace(self, spec: Spec) -> None:
        """Have ``spec`` in the place of its own. A new process is started and loaded beside the one that serves, and
        given the state of that; the next call goes to it. Whatever this raises, all stays as it was.

        Raises as :meth:`load`, and what ``save_state`` and ``restore_state`` raise.
        """
        new: HostProcess = self._run(self._fork(spec, is_candidate=True))
        try:
            exports = self._load(new, spec, time.monotonic() + (spec.limits.timeout or 0.0))
            with self._turn(self._timeout(None)):
                self._carry_over(new, spec)
                old, self._process = self._process, new
                before, self.spec, self.exports = self.spec, spec, exports
                new.is_candidate = False
                self._close_circuit()
        except BaseException:
            self._retire(new, spec, "it was not to take the place of another")
            raise
        self._retire(old, before, "a newer version took its place")
        if self._closed:  # meanwhile
            self.close()
            raise RuntimeClosed(f"{self.name} was unloaded")

    def follow(self, spec: Spec) -> None:
        """Be of ``spec`` from the next call on, in a new process."""
        with self._turn(self._timeout(None)):
            old, self._process = self._process, None
            before, self.spec, self.exports = self.spec, spec, ()
        self._retire(old, before, "a newer version took its place")

    def _carry_over(self, new: HostProcess, spec: Spec) -> None:
        """Ask the process that serves for its state, if it has one and both sides know of such a thing."""
        old = self._process
        if old is None or not old.is_alive:
            return
        has_state, state = self._of_state(old, self.spec, "save_state")
        if has_state:
            self._of_state(new, spec, "restore_state", state)

    def _of_state(self, process: HostProcess, spec: Spec, function: str, *arguments: Any) -> tuple[bool, Any]:
        """Whether it has that function, and what that gave."""
        if spec.language is Language.EXECUTABLE and function not in self.exports:
            return False, None  # it has no list of its functions to look into
        invocation = Invocation(function, arguments, {})
        field, large = blob.pack(invocation.body)
        fds = invocation.fds.release()
        deadline = time.monotonic() + (spec.limits.timeout or 0.0)
        answer = self._ask(process, Call(function, field, len(fds)), [*fds, *large], deadline)
        if answer.outcome is Outcome.NO_FUNCTION:
            return False, None
        if answer.outcome is Outcome.STREAM:
            raise PluginError(f"{self.name}: {function} gave a stream, which is no state")
        return True, self._result(process, answer)

    def _retire(self, process: HostProcess | None, spec: Spec, reason: str) -> None:
        """End a process that is of ``spec`` and does not serve, and the zygote that was for it alone."""
        leaving = None if process is None else process.release(ends.Killed(reason, quiet=True))
        if (spec.preload, spec.program_preload) == (self.spec.preload, self.spec.program_preload):
            return
        if leaving is not None:
            with contextlib.suppress(concurrent.futures.TimeoutError, concurrent.futures.CancelledError):
                leaving.result(CLOSE_TIMEOUT)
        with contextlib.suppress(RuntimeClosed):
            for preload in (spec.preload, spec.program_preload):
                if preload not in (None, self.spec.preload, self.spec.program_preload):
                    self._run(self._zygotes.spare(preload))

    def renew(self, *, keep_process: bool) -> None:
        """Forget what calls left behind: run the source again, in the same process or a new one. What that raises, the
        next call raises."""
        with contextlib.suppress(CloisterError), self._turn(self._timeout(None)) as deadline:
            process = self._process
            keep_process = keep_process and self.spec.program is None
            if not keep_process or process is None or len(process.functions) > _MOST_FUNCTIONS:
                self._let_go("it is to be a fresh one")
                self._ensure(deadline)
            elif process.is_alive:
                process.functions.clear()
                try:
                    self.exports = self._load(process, self.spec, deadline)
                except BaseException:
                    self._let_go("it could not be loaded")
                    raise

    def close(self) -> concurrent.futures.Future[None] | None:
        """Unload it: end its process, and let every further call raise :class:`RuntimeClosed`."""
        self._closed = True
        process = self._process
        return None if process is None else process.release(ends.Killed("it was unloaded", quiet=True))

    def _call(self, invocation: Invocation, seconds: float, *, again: bool = False) -> Any:
        function, code, spec = invocation.function, invocation.code, self.spec
        if code is None:
            self._check_exported(function)
        with self._turn(seconds) as deadline:
            process = self._ensure(deadline)
            if self.spec is not spec and code is None:
                self._check_exported(function)
            invocation.begin(process)
            if code is not None and function not in process.functions:
                self._load_function(process, function, code, deadline)
            fds = invocation.descriptors(again=again)
            field, large = blob.pack(invocation.body)
            message = Call(function, field, len(fds))
            return self.result(process, self._ask(process, message, [*fds, *large], deadline))

    def _finish(self, begun: Begun) -> Any:
        """The rest of a call that was begun, in the turn that it has."""
        process = begun.process
        self._holder = threading.get_ident()
        try:
            try:
                answer = process.finish(begun.deadline, begun.timeout)
            finally:
                if process.end is not None:
                    self._notice(process)
            return self.result(process, answer)
        finally:
            self._end_turn()

    def _call_again(self, invocation: Invocation, begun: Begun | None) -> Any:
        """The same as a call, and again while its process fails, within the same time."""
        retries = self.spec.retries
        deadline = begun.deadline if begun else time.monotonic() + self._timeout(invocation.timeout)
        for attempt in itertools.count(1):
            is_last = attempt >= retries.attempts
            try:
                if begun is not None:
                    mine, begun = begun, None
                    return self._finish(mine)
                return self._call(invocation, deadline - time.monotonic(), again=not is_last)
            except (PluginCrashed, ProcessLost) as error:
                pause = retries.pause(attempt)
                if is_last or not is_worth_repeating(error) or time.monotonic() + pause >= deadline:
                    raise
                log.info("%s: %s is tried again: %s", self.name, invocation.function, error)
            invocation.pause(pause)
        return None

    def _check_exported(self, function: str) -> None:
        if self.exports and function not in self.exports:
            what = f"{self.name} exports {', '.join(self.exports)}, and not {printable(function, 80)}"
            raise NoSuchFunction(what)

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
            self._end_turn()

    def _end_turn(self) -> None:
        news: list[tuple[EventName, str]] = []
        if self._news:
            news, self._news = self._news, []
        self._holder = None
        self._lock.release()
        for name, what in news:
            self._events.tell(name, self.name, what)

    def _ensure(self, deadline: float) -> HostProcess:
        """The process, loaded. A new one if there is none that lives."""
        if self._closed:
            raise RuntimeClosed(f"{self.name} was unloaded")
        there = self._process
        if there is not None and there.is_alive and len(there.functions) <= _MOST_FUNCTIONS:
            return there
        if there is not None:
            there.tell_violation()
            self._notice(there)
        if self.circuit is not None:
            self.circuit.check()
        self._let_go("another one takes its place")
        process: HostProcess = self._run(self._fork(self.spec))
        self._process = process
        if self._closed:  # meanwhile
            self.close()
            raise RuntimeClosed(f"{self.name} was unloaded")
        try:
            self.exports = self._load(process, self.spec, deadline)
        except BaseException:
            self._let_go("it could not be loaded")
            raise
        if there is not None:
            self._tell("restarted", f"its process {there.end or 'was to end'}")
        return process

    def _load(self, process: HostProcess, spec: Spec, deadline: float) -> tuple[str, ...]:
        """Run the source; what it exports."""
        message: Load | LoadFunction | LoadProgram
        if spec.program is not None and spec.manifest is not None:
            message, large = LoadProgram(spec.name, spec.manifest.exports), process.take_pipes()
        else:
            field, large = blob.pack(spec.code)
            message = (LoadFunction if spec.is_function else Load)(spec.name, field)
        answer = self._ask(process, message, large, deadline)
        return self._exported(self._result(process, answer), spec)

    def _load_function(self, process: HostProcess, name: str, code: bytes, deadline: float) -> None:
        field, large = blob.pack(code)
        self._result(process, self._ask(process, LoadFunction(name, field), large, deadline))
        process.functions.add(name)

    async def _fork(self, spec: Spec, *, is_candidate: bool = False) -> HostProcess:
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
        process = HostProcess(
            self.name,
            child,
            channel,
            spec.limits,
            functions=spec.functions,
            tell=self._words.hear,
            held=spec.held,
            broker=spec.broker,
            program=running,
        )
        process.is_candidate = is_candidate
        process.runs.when_ended(functools.partial(_ended, weakref.ref(self), weakref.ref(process)))
        return process

    def _exported(self, names: Any, spec: Spec) -> tuple[str, ...]:
        if (
            not isinstance(names, list)
            or not all(isinstance(name, str) for name in names)
            or len(names) > 10_000
        ):
            raise PluginError(f"{self.name} gave no list of its functions")
        if missing := sorted(spec.idempotent.difference(names)):
            raise NoSuchFunction(f"{self.name} does not have what may be called again: {', '.join(missing)}")
        if spec.manifest is None:
            return tuple(printable(name, 200) for name in names)
        if missing := [name for name in spec.manifest.exports if name not in names]:
            raise NoSuchFunction(f"{self.name} does not have what its manifest exports: {', '.join(missing)}")
        return spec.manifest.exports

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
        try:
            return process.ask(message, fds, max(0.0, deadline - time.monotonic()))
        finally:
            if process.end is not None:
                self._notice(process)

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

    # ── what happens to it ───────────────────────────────────────────────────────────────────────────────────────

    def _notice(self, process: HostProcess) -> None:
        """Tell that the process has ended, if it has and nobody did. From any thread."""
        end = process.notice()
        if end is None or _is_ordinary(end):
            return
        self._tell("crashed", f"its process {printable(str(end))}")
        if self.circuit is not None and was_its_own(end) and (why := self.circuit.ended()) is not None:
            self._tell("circuit_opened", why)

    def _close_circuit(self) -> None:
        if self.circuit is not None and self.circuit.close():
            self._tell("circuit_closed", "it answers again, or was restarted")

    def _tell(self, name: EventName, what: str) -> None:
        if self._holder == threading.get_ident():
            self._news.append((name, what))
        else:
            self._events.tell(name, self.name, what)

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


def _is_ordinary(end: ends.End) -> bool:
    """Whether Cloister ended it, and whoever that was for was told."""
    return isinstance(end, ends.Killed) and end.quiet


def _ended(plugin: weakref.ref[Plugin], process: weakref.ref[HostProcess]) -> None:
    """In the event loop, which a handler must not keep. Whoever waits for an answer notices without this."""
    mine, its = plugin(), process()
    if mine is None or its is None or its.asked is not None or its.end is None or _is_ordinary(its.end):
        return
    with contextlib.suppress(RuntimeError):  # the loop is ending, and everything with it
        asyncio.get_running_loop().run_in_executor(None, mine._notice, its)
