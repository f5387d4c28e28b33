"""One plugin_host as the host sees it: what is asked of it, and how everything that it sends is judged.

A thread that calls a plugin talks to it by itself, on a channel of its own: an event loop in between would double what
a call costs. Starting and ending processes is the event loop's.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import select
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec

from .. import ends
from ..errors import (
    BadMessage,
    ChannelClosed,
    CloisterError,
    CpuLimit,
    DiskLimit,
    HostError,
    MemoryLimit,
    NotSendable,
    OutOfDescriptors,
    OutputLimit,
    PluginCrashed,
    ProcessLimit,
    Timeout,
    printable,
)
from ..interfaces.base import Message, Request
from ..interfaces.plugin_host import (
    PLUGIN,
    CallHost,
    HostReturned,
    Logged,
    Outcome,
    Printed,
    Raised,
    Returned,
)
from ..ipc import Channel, Descriptors, blob, values
from ..ipc.codec import Packet, codec, decoded
from ..process import ChildProcess
from ..process.usage import cpu_seconds
from .broker import RESERVED, Asked, Broker, Denied
from .capabilities import Held
from .disk import Growth
from .limits import Limits
from .program import Running

__all__ = ["Answer", "HostFunctions", "HostProcess"]

log = logging.getLogger("cloister.plugins")

HostFunctions = Mapping[str, Callable[..., Any]]

# None: glibc blocks every signal while it starts a thread, or a program, so the process dies before it can tell.
_STARTS_PROCESSES: Final = frozenset({"clone", "clone3", "fork", "vfork", None})
_END_TIMEOUT: Final = 2.0
"""Seconds that a process has between closing its channel and its end; then it is ended."""
_LOOK: Final = 0.05
"""Seconds between two looks at what a call used of processor time, or of a disk, if that is limited."""
_EACH: Final = 64
"""Bytes that one message counts for besides its text: taking it in costs something too."""
_raised_decoder: Final = msgspec.msgpack.Decoder(Raised)


class Answer(NamedTuple):
    """What came of a request: a value (of VALUE), a stream's number, or a Raised."""

    outcome: Outcome
    value: Any
    stream: int


class HostProcess:
    """For one thread at a time. ``tell`` hears of what the plugin prints and logs."""

    def __init__(
        self,
        name: str,
        child: ChildProcess,
        channel: Channel,
        limits: Limits,
        *,
        functions: HostFunctions,
        tell: Callable[[Printed | Logged], None],
        held: Held,
        broker: Broker | None = None,
        program: Running | None = None,
    ) -> None:
        """In the event loop's thread. ``broker`` does what ``held`` lets it do; without one, nothing of that can be
        asked. ``program`` is what runs beside it, where the plugin is one."""
        self.name = name
        self.child = child
        self.runs = program.process if program is not None else child
        """The process that runs the plugin's code."""
        self._program = program
        self.heard = time.monotonic()
        """When something was last asked, or came."""
        self.asked: float | None = None
        """Since when it owes an answer."""
        self.functions: set[str] = set()
        """Names of functions of the host's program that it was given."""
        self.is_candidate = False
        """Whether it only may come to serve: its end is then told by whoever tries it."""
        self._channel = channel
        self._limits = limits
        self._functions = functions
        self._held = held
        self._broker = broker
        self._tell = tell
        self._codec = codec(PLUGIN, "client")
        self._number = 0
        self._came: tuple[bytes, Descriptors] | Exception | None = None  # taken in, and still to be judged
        self._doomed = self._noticed = self._told_violation = False
        self._owner = os.getpid()
        self._ended = threading.Event()
        self._gone = threading.Event()  # what runs its code: the same process, unless the plugin is a program
        self.runs.when_ended(self._gone.set)
        # The channel is closed by the thread that reads it, or while none does: a number that is closed elsewhere may
        # be another plugin's by the time it is read.
        self._guard = threading.Lock()
        self._busy = self._released = False
        self._finalizer = weakref.finalize(self, channel.close)
        self._finalizer.atexit = False  # the runtime ends first
        self._loop = asyncio.get_running_loop()
        self._poll = select.poll()
        self._poll.register(channel.fileno(), select.POLLIN)
        child.when_ended(self._ended.set)
        if program is not None:
            child.when_ended(lambda: program.process.kill(_without_its_host(child)))
            # It answers for what the program said last; of the end itself it may not know.
            program.process.when_ended(self._end_soon)

    @property
    def is_alive(self) -> bool:
        """Also for this process: a copy that the program forked must not speak on the same channel."""
        has_ended = self._ended.is_set() or self.runs.has_ended
        return not self._doomed and not has_ended and os.getpid() == self._owner

    def fileno(self) -> int:
        """Of its channel, to wait on."""
        return self._channel.fileno()

    @property
    def end(self) -> ends.End | None:
        """How it ended; None while it lives."""
        return self.runs.ending or self.child.ending

    def ask(self, message: Request[Returned], fds: list[int], timeout: float) -> Answer:
        """Send ``message`` with ``fds``, which are closed, and wait for the answer.

        Whatever this raises but OutOfDescriptors, the process is ended, or about to be: :class:`Timeout` and the other
        limits, :class:`PluginCrashed`.
        """
        if not self._enter():
            Descriptors(fds).close()
            raise PluginCrashed(self.name, self.end or ends.Killed("it was let go"))
        deadline = time.monotonic() + timeout

        def send() -> Growth | None:
            growth = self._begin_growth(fds)
            self._send(Packet.REQUEST, self._number, message, fds, deadline)
            return growth

        return self._until_answered(send, deadline, timeout)

    def begin(self, message: Request[Returned], fds: Sequence[int]) -> bool:
        """Send ``message`` with ``fds``, which stay the caller's, if that can be done without waiting; whether it was.
        Then :meth:`take` or :meth:`finish` must follow."""
        if not self._enter():
            return False
        try:
            self._channel.send(self._codec.encode(Packet.REQUEST, self._number, message), [*fds])
        except (BlockingIOError, ChannelClosed):
            self._leave()
            return False
        except BaseException:
            self._leave()
            raise
        return True

    def take(self) -> Answer | None:
        """The answer to what was begun, when something has come. None if that is anything else, and then :meth:`finish`
        is for it. Waits for nothing."""
        try:
            data, fds = self._channel.receive()
        except BlockingIOError:
            return None
        except (ChannelClosed, BadMessage) as error:
            self._came = error
            return None
        self.heard = time.monotonic()
        try:
            packet, number, message = self._codec.decode(data)
            if not isinstance(message, Returned) or packet is not Packet.REPLY or number != self._number:
                self._came = data, fds
                return None
            fds.check(message.expected_descriptors())
            answer = self._judged(message, fds)
        except Exception as error:
            self._came = error
            return None
        self._leave()
        return answer

    def finish(self, deadline: float, timeout: float) -> Answer:
        """Wait for the answer to what was begun. Raises as :meth:`ask`."""
        return self._until_answered(lambda: None, deadline, timeout)

    def _until_answered(self, send: Callable[[], Growth | None], deadline: float, timeout: float) -> Answer:
        try:
            return self._answer(deadline, timeout, send())
        except ChannelClosed:
            raise self._why_gone() from None
        except BadMessage as error:
            self.kill(ends.BadMessage(str(error)[:400]))
            raise self._why_gone() from error
        except CloisterError as error:
            if not isinstance(error, OutOfDescriptors):
                self.kill(ends.Killed(str(error)[:400], quiet=True))
            if isinstance(error, DiskLimit):
                self._ended.wait(_END_TIMEOUT)  # whoever tidies up now shall find that nothing is added
            raise
        except BaseException:  # Ctrl-C: nobody will take the answer
            self.kill(ends.Killed("nobody waits for its answer any more", quiet=True))
            raise
        finally:
            self._leave()

    def _enter(self) -> bool:
        """Whether there is a channel to speak on: it stays until :meth:`_leave`."""
        with self._guard:
            if self._released:
                return False
            self._busy = True
        self._number = self._number % (2**32 - 1) + 1
        self.asked = self.heard = time.monotonic()
        return True

    def _leave(self) -> None:
        self.asked = None
        with self._guard:
            self._busy = False
            if self._released:
                self._finalizer()

    def notice(self) -> ends.End | None:
        """How it ended, for the first who asks since it has and is to tell of it; None for all others, and when it was
        let go before, as it may then end by itself. From any thread."""
        with self._guard:
            end = None if self._noticed or self._released or self.is_candidate else self.end
            self._noticed = self._noticed or end is not None
            return end

    def take_pipes(self) -> list[int]:
        """The ends of its program's pipes, which are the caller's to close."""
        return self._program.pipes.release() if self._program is not None else []

    def kill(self, why: ends.End) -> None:
        """End the process soon. From any thread."""
        self._doomed = True
        self._in_loop(lambda: self._kill(why))

    def _kill(self, why: ends.End) -> None:
        self.runs.kill(why)
        self.child.kill(why)

    def release(self, why: ends.End) -> concurrent.futures.Future[None] | None:
        """End it and let go of all that it has. From any thread; done when that is done."""
        self._doomed = True
        with self._guard:
            self._released = True
            if not self._busy:
                self._finalizer()
        leaving = self._end(why)
        try:
            return asyncio.run_coroutine_threadsafe(leaving, self._loop)
        except RuntimeError:  # the loop is closed, and with it everything
            leaving.close()
            return None

    async def _end(self, why: ends.End) -> None:
        await asyncio.gather(*(each.end(why) for each in {self.child, self.runs}))

    def _end_soon(self) -> None:
        self._loop.call_later(_END_TIMEOUT, self.child.kill)

    def _in_loop(self, work: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(work)
        except RuntimeError:
            return  # the loop is closed: every process is ended

    # ── what comes ───────────────────────────────────────────────────────────────────────────────────────────────

    def _begin_growth(self, fds: list[int]) -> Growth | None:
        if not self._held.write_paths:
            return None
        try:
            return Growth(self.name, self._held.write_paths, self._limits.bytes_of("disk"))
        except BaseException:
            Descriptors(fds).close()
            raise

    def _answer(self, deadline: float, timeout: float, growth: Growth | None) -> Answer:
        wait = self._waiting(deadline, timeout, growth)
        told = 0
        while True:
            data, fds = self._next(wait)
            self.heard = time.monotonic()
            packet, number, message = self._codec.decode(data)
            if message is None:
                raise BadMessage("a plugin cancelled what it had not asked")
            fds.check(message.expected_descriptors())
            match message:
                case Returned() if packet is Packet.REPLY:
                    if number != self._number:
                        raise BadMessage("an answer came to what was not asked")
                    if growth is not None:
                        growth.check()
                    return self._judged(message, fds)
                case CallHost():
                    self._call_host(number, message, fds, deadline)
                case Printed() | Logged():
                    told += len(message.text) + _EACH
                    if told > self._limits.bytes_of("output"):
                        raise OutputLimit(
                            f"{self.name} printed and logged more than {self._limits.output} bytes in one call"
                        )
                    self._tell(message)
                case _:
                    raise BadMessage(f"{type(message).__name__} came where an answer was due")

    def _next(self, wait: Callable[[], None]) -> tuple[bytes, Descriptors]:
        came, self._came = self._came, None
        if isinstance(came, Exception):
            raise came
        if came is not None:
            return came
        wait()
        return self._channel.receive()

    def _waiting(self, deadline: float, timeout: float, growth: Growth | None) -> Callable[[], None]:
        """What waits for one packet. Raises :class:`Timeout`, :class:`CpuLimit` or :class:`DiskLimit`."""
        limit = self._limits.cpu_time
        began = self._cpu_seconds() if limit is not None else None
        is_watched = limit is not None or growth is not None
        look = time.monotonic() + _LOOK

        def wait() -> None:
            nonlocal look
            while True:
                now = time.monotonic()
                if now >= deadline:
                    raise Timeout(
                        f"{self.name} did not answer within {round(timeout, 3):g} s, and its process was ended"
                    )
                pause = deadline - now
                if is_watched:
                    # Also while it sends one packet after the other.
                    if now >= look:
                        if limit is not None:
                            self._check_cpu(limit, began)
                        if growth is not None:
                            growth.check()
                        # A look at many files takes long: a tenth of the time at most goes into looking.
                        look = time.monotonic() + max(_LOOK, 9 * (time.monotonic() - now))
                    pause = min(pause, max(0.0, look - now))
                if self._poll.poll(pause * 1000 + 1):
                    return

        return wait

    def _check_cpu(self, limit: float, began: float | None) -> None:
        used = self._cpu_seconds()
        if used is not None and began is not None and used - began > limit:
            raise CpuLimit(f"{self.name} used more than {limit:g} s of processor time in one call")

    def _cpu_seconds(self) -> float | None:
        used = [cpu_seconds(each.pid) for each in {self.child, self.runs}]
        return None if None in used else sum(each or 0.0 for each in used)

    def _judged(self, message: Returned, fds: Descriptors) -> Answer:
        body = blob.unpack(message.body, fds, max(self._limits.bytes_of("result"), _LARGEST_RAISED))
        match message.outcome:
            case Outcome.VALUE:
                if len(body) > self._limits.bytes_of("result"):
                    raise BadMessage(f"a result of {len(body)} bytes came")
                self._check_buffers(fds)
                return Answer(Outcome.VALUE, values.unpack(body, fds), 0)
            case Outcome.STREAM | Outcome.END:
                return Answer(message.outcome, None, message.stream)
            case Outcome.NO_FUEL:
                raise CpuLimit(
                    f"{self.name} used all the fuel of one call (fuel: {self._limits.fuel}), and its process was ended"
                )
            case Outcome.NO_MEMORY:
                raise MemoryLimit(
                    f"{self.name} needed more memory than it may have (memory: {self._limits.memory} bytes), and its "
                    "process was ended"
                )
            case _:
                told = decoded(_raised_decoder, body, "an exception came that")
                if message.outcome is Outcome.BROKEN:
                    raise BadMessage(printable(told.message, 300))
                return Answer(message.outcome, told, 0)

    def _check_buffers(self, fds: Descriptors) -> None:
        for fd in fds.borrow():
            if (size := os.fstat(fd).st_size) > self._limits.bytes_of("file_size"):
                raise BadMessage(f"a buffer of {size} bytes came")

    # ── what it asks of the host ─────────────────────────────────────────────────────────────────────────────────

    def _call_host(self, number: int, message: CallHost, fds: Descriptors, deadline: float) -> None:
        body = blob.unpack(message.body, fds, self._limits.bytes_of("result"))
        self._check_buffers(fds)
        arguments = values.unpack(body, fds)
        if not isinstance(arguments, list):
            raise BadMessage("arguments came that are not a list")
        outcome, answer, memfds = self._run(message.function, arguments, deadline)
        field, large = blob.pack(answer)
        reply = HostReturned(outcome, field, len(memfds))
        self._send(Packet.REPLY, number, reply, [*memfds, *large], deadline)

    def _run(self, name: str, arguments: list[Any], deadline: float) -> tuple[Outcome, bytes, list[int]]:
        function = self._functions.get(name)
        try:
            if self._broker is not None and name in RESERVED:
                asked = Asked(self._held, self._limits, deadline, lambda: self.is_alive)
                result = self._broker.ask(name, arguments, asked)
            elif function is None:
                return Outcome.RAISED, _told("NoSuchFunction", "the host has no function of that name"), []
            else:
                result = function(*arguments)
            return Outcome.VALUE, *values.pack(result, "result", writable=self._held.shares_memory)
        except Denied as error:
            return Outcome.RAISED, _told("Denied", str(error)), []
        except HostError as error:
            return Outcome.RAISED, _told("HostError", str(error)), []
        except NotSendable as error:
            log.warning("host function %s: %s", name, error)
            return Outcome.RAISED, _told("NotSendable", "its result does not travel"), []
        except Exception as error:
            # Its message may hold a path, or a password: that is for the host to read.
            log.exception("host function %s failed, called by %s", name, self.name)
            return Outcome.RAISED, _told(type(error).__name__, ""), []

    def _send(self, packet: Packet, number: int, message: Message, fds: list[int], deadline: float) -> None:
        try:
            data = self._codec.encode(packet, number, message)
            while True:
                try:
                    self._channel.send(data, fds)
                    return
                except BlockingIOError:
                    self._until_writable(deadline)
        finally:
            for fd in fds:
                os.close(fd)

    def _until_writable(self, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Timeout(f"{self.name} did not take what was sent to it, and its process was ended")
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLOUT)
        poll.poll(min(left, 0.1) * 1000 + 1)  # the system may lack room, and then says nothing

    # ── how it ended ─────────────────────────────────────────────────────────────────────────────────────────────

    def tell_violation(self) -> None:
        """Once, if it ended because it was denied a system call: have the host hear of it."""
        if (
            isinstance(self.end, ends.SandboxViolation)
            and self._broker is not None
            and not self._told_violation
        ):
            self._told_violation = True
            self._broker.tell_denied(f"it {self.end}")

    def _why_gone(self) -> CloisterError:
        if not self._ended.wait(_END_TIMEOUT):
            self.kill(ends.Killed("it closed its channel, and went on"))
            self._ended.wait(_END_TIMEOUT)
        self._gone.wait(_END_TIMEOUT)
        end = self.end or ends.Exited(None)
        self.tell_violation()
        if isinstance(end, ends.OutOfMemory):
            return MemoryLimit(f"{self.name} ran out of memory (memory: {self._limits.memory} bytes)")
        if isinstance(end, ends.SandboxViolation) and end.syscall in _STARTS_PROCESSES:
            return ProcessLimit(
                f"{self.name} tried to start a process or a thread, and its process was ended"
            )
        return PluginCrashed(self.name, end)


def _without_its_host(child: ChildProcess) -> ends.End:
    """How a program ends whose plugin_host has."""
    if child.ending in (None, ends.Exited(0)):
        return ends.Killed("it closed its standard output, and went on")
    return ends.Killed(f"its plugin_host {child.ending}", quiet=True)


_LARGEST_RAISED: Final = 256 * 1024
"""Bytes of an exception: what Raised allows, four to a character, and more."""


def _told(kind: str, message: str) -> bytes:
    return msgspec.msgpack.encode(Raised(kind[:200], message[:4000]))
