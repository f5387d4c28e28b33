"""Messages of one interface over one channel, on asyncio: requests with deadlines, replies, events.

A connection belongs to the event loop that made it. It ends when the peer is gone, when it is closed, or when
the peer breaks the protocol: then ``on_close`` is told with a :class:`BadMessage`, and whoever owns the peer's
process ends it.
"""

from __future__ import annotations

import asyncio
import collections
import errno
import logging
import math
import select
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeVar, cast

from ..errors import BadMessage, ChannelClosed, OutOfDescriptors, RequestFailed, TimeoutError, printable
from ..interfaces.base import Event, Failure, FailureCode, Interface, Message, Reply, Request, reply_type
from .channel import Channel
from .codec import Packet, codec, failure_code
from .descriptors import NONE, Descriptors
from .trace import Tap, current

__all__ = ["EVENTS_PER_SECOND", "MAX_IN_FLIGHT", "MAX_QUEUED", "Connection"]

log = logging.getLogger("cloister.ipc")

MAX_IN_FLIGHT = 512
"""Requests of the peer that are being worked on at once, and cancelled ones of ours that it still owes an
answer. A peer beyond it is flooding, or has stopped answering."""
MAX_QUEUED = 1024
"""Packets that wait because the peer does not read. Beyond it the peer is taken for dead."""
EVENTS_PER_SECOND = 1000
"""Events and cancellations that the peer may send, on average and at once. Nothing that a user could see changes more
often than the 60 times a second of a screen; a peer beyond it is flooding."""
_REMEMBERED = 32
"""Messages whose names are kept, to say what was going on when a process ended."""
_RETRY_AFTER = 0.01
"""Seconds until a packet for which the system had no room is tried again."""

R = TypeVar("R", bound=Reply)
Handler = Callable[[Any, Descriptors], Any]
Way = Literal["sent", "received"]
CloseHandler = Callable[[Exception | None], None]


class _Asked(NamedTuple):
    """A request of ours without an answer. ``deadline`` is on the loop's clock."""

    message: Message
    expected: type[Reply]
    future: asyncio.Future[tuple[Reply, Descriptors]]
    timeout: float
    deadline: float


class Connection:
    """One side of an interface.

    ``handlers`` maps each message that the peer may send to what is done about it: for a request a coroutine
    function ``(message, fds)`` that returns the reply, or ``(reply, fds)`` with descriptors to give away, or
    raises :class:`RequestFailed`, or a plain function that has the reply at once and raises nothing; for an event
    a plain function. A message of the interface without a handler is as bad as one outside of it. An event whose
    descriptors this process had no room for comes with ``fds.lost``. ``sent`` and ``received`` count messages of
    every sort.
    """

    def __init__(
        self,
        channel: Channel,
        interface: Interface,
        side: Literal["client", "server"],
        handlers: Mapping[type[Message], Handler] | None = None,
        on_close: CloseHandler | None = None,
    ) -> None:
        self._channel = channel
        self._codec = codec(interface, side)
        self._interface = interface
        self._handlers = dict(handlers or {})
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._next_id = 0
        self._waiting: dict[int, _Asked] = {}
        self._alarm: asyncio.TimerHandle | None = None
        """One timer for all requests, as nearly every one is answered long before its deadline. It rings at the
        earliest one, or before it where what it was set for was answered, and is set again if others wait."""
        self._abandoned: set[int] = set()
        self._working: dict[int, asyncio.Task[None]] = {}
        self._queue: collections.deque[tuple[bytes, Descriptors]] = collections.deque()
        self._is_blocked = False
        """Whether the loop tells when the peer reads again."""
        self._retry: asyncio.TimerHandle | None = None
        self._is_deaf = False
        """Whether the peer takes no more; what it sent before is still to be read."""
        self._error: Exception | None = None
        self._events_left = float(EVENTS_PER_SECOND)
        self._events_at = self._loop.time()
        self._recent: collections.deque[tuple[Literal["sent", "received"], type]] = collections.deque(
            maxlen=_REMEMBERED
        )
        trace = current.get()
        self._tap = Tap(trace, interface.name, channel) if trace is not None else None
        self.sent = 0
        self.received = 0
        self.closed = False
        self._loop.add_reader(channel.fileno(), self._on_readable)

    def __repr__(self) -> str:
        return f"<Connection {self._interface.name}{' closed' if self.closed else ''}>"

    def recent(self) -> tuple[tuple[Way, str], ...]:
        """The names of the last messages, oldest first."""
        return tuple(
            (way, "Cancel" if message is type(None) else message.__name__) for way, message in self._recent
        )

    # ── sending ──────────────────────────────────────────────────────────────────────────────────────────────

    async def request(
        self, message: Request[R], fds: Sequence[int] = (), *, timeout: float
    ) -> tuple[R, Descriptors]:
        """Ask, and wait for the answer at most ``timeout`` seconds. ``fds`` are given away, whatever happens.

        Raises :class:`RequestFailed` when the peer says no, :class:`TimeoutError`, :class:`ChannelClosed`, or
        :class:`BadMessage` when this very connection ended for one. When the wait is cancelled, or its time is
        over, the peer is told, and what it still answers is dropped.
        """
        request_id, asked = self._begin(message, fds, timeout)
        if self._alarm is None or asked.deadline < self._alarm.when():
            self._set_alarm(asked.deadline)
        try:
            return cast("tuple[R, Descriptors]", await asked.future)
        except asyncio.CancelledError:
            # The answer may have come in the same turn of the loop. Its descriptors are closed now: whoever keeps the
            # error keeps this frame.
            if asked.future.done() and not asked.future.cancelled() and asked.future.exception() is None:
                asked.future.result()[1].close()
            raise
        finally:
            self._abandon(request_id)

    def ask(self, message: Request[R]) -> asyncio.Future[Any]:
        """Ask, and wait for nothing: the caller minds what it does not get. The future ends as :meth:`request` does,
        and with the connection at the latest. Raises :class:`ChannelClosed`."""
        _, asked = self._begin(message, (), math.inf)
        return asked.future

    def request_blocking(
        self, message: Request[R], fds: Sequence[int] = (), *, timeout: float
    ) -> tuple[R, Descriptors]:
        """As :meth:`request`, for a callback of a C library in the loop's own thread: no other task runs meanwhile,
        but every message that arrives on this connection is taken in."""
        request_id, asked = self._begin(message, fds, timeout)
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLIN)
        try:
            while not asked.future.done():
                left = asked.deadline - self._loop.time()
                if left <= 0:
                    raise self._late(asked)
                if self._queue:
                    self._flush()
                    left = min(left, 0.01)
                poll.poll(left * 1000)
                self._on_readable()
            return cast("tuple[R, Descriptors]", asked.future.result())
        finally:
            self._abandon(request_id)

    def send(self, event: Event, fds: Sequence[int] = ()) -> None:
        """Send an event; ``fds`` are given away. Raises :class:`ChannelClosed` when nobody can get it."""
        self._post(Packet.EVENT, 0, event, fds)

    def _begin(self, message: Request[R], fds: Sequence[int], timeout: float) -> tuple[int, _Asked]:
        self._next_id = self._next_id % (2**32 - 1) + 1
        self._post(Packet.REQUEST, self._next_id, message, fds)
        future, deadline = self._loop.create_future(), self._loop.time() + timeout
        asked = _Asked(message, reply_type(type(message)), future, timeout, deadline)
        self._waiting[self._next_id] = asked
        return self._next_id, asked

    def _abandon(self, request_id: int) -> None:
        """Tell the peer that nobody waits for this any more, unless it has answered."""
        if self._waiting.pop(request_id, None) is None or self.closed:
            return
        self._abandoned.add(request_id)
        if len(self._abandoned) > MAX_IN_FLIGHT:
            self._end(BadMessage(f"the peer on {self._interface.name} no longer answers"))
            return
        try:
            self._post(Packet.CANCEL, request_id, None, ())
        except ChannelClosed:
            log.debug("%r: gone before it could be told of a cancellation", self)

    def _set_alarm(self, deadline: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_at(deadline, self._on_alarm, deadline)

    def _on_alarm(self, deadline: float) -> None:
        self._alarm = None
        now = max(deadline, self._loop.time())  # a timer may be early by as much as the clock's resolution
        waiting = [asked for asked in self._waiting.values() if not asked.future.done()]
        for asked in waiting:
            if asked.deadline <= now:
                asked.future.set_exception(self._late(asked))
        later = min((asked.deadline for asked in waiting if asked.deadline > now), default=math.inf)
        if later < math.inf:
            self._set_alarm(later)

    def _late(self, asked: _Asked) -> TimeoutError:
        name = type(asked.message).__name__
        return TimeoutError(f"{name} was not answered on {self._interface.name} within {asked.timeout:g} s")

    def _post(self, packet: Packet, request_id: int, message: Message | None, fds: Sequence[int]) -> None:
        # Closed when the kernel has its own references, or on the way out.
        owned = Descriptors(fds) if fds else NONE
        try:
            self._enqueue(packet, request_id, message, owned)
        except BaseException:
            owned.close()  # now: whoever keeps the error keeps this frame
            raise

    def _enqueue(self, packet: Packet, request_id: int, message: Message | None, owned: Descriptors) -> None:
        if self.closed:
            raise self._gone()
        data = self._codec.encode(packet, request_id, message)
        self.sent += 1
        self._recent.append(("sent", type(message)))
        if self._tap is not None:
            self._tap.record(True, packet, request_id, message, size=len(data), descriptors=len(owned))
        self._queue.append((data, owned))
        if len(self._queue) == 1:
            self._flush()
        elif len(self._queue) > MAX_QUEUED:
            self._end(BadMessage(f"the peer on {self._interface.name} does not read"))
        if self.closed:
            raise self._gone()

    def _flush(self) -> None:
        while self._queue:
            data, owned = self._queue[0]
            try:
                self._channel.send(data, owned.borrow())
            except BlockingIOError as error:
                if error.errno == errno.EAGAIN:
                    self._loop.add_writer(self._channel.fileno(), self._flush)
                    self._is_blocked = True
                elif self._retry is None:
                    self._retry = self._loop.call_later(_RETRY_AFTER, self._flush_again)
                return
            except ChannelClosed:
                # What the peer sent before it went is still to be read; the reader ends the connection, also when
                # the peer has only ended its reading (shutdown(2)).
                self._queue.clear()
                self._is_deaf = True
                self._loop.call_soon(self._on_readable)
                break
            self._queue.popleft()
            owned.close()
        if self._is_blocked and not self.closed:
            self._loop.remove_writer(self._channel.fileno())
            self._is_blocked = False

    def _flush_again(self) -> None:
        self._retry = None
        self._flush()

    # ── receiving ────────────────────────────────────────────────────────────────────────────────────────────

    def drain(self) -> None:
        """Take in what has come and waits for its turn: for whoever knows that the peer has ended."""
        for _ in range(MAX_QUEUED):  # more than a socket holds
            if self.closed or not self._on_readable():
                return

    def _on_readable(self) -> bool:
        """Take in one packet, and say whether there was one. The loop calls again if there are more, which mostly
        costs less than to look for one that is not there, and lets others have their turn."""
        try:
            if self.closed:
                return False
            data, fds = self._channel.receive()
            try:
                self._take(data, fds)
            except BaseException:
                fds.close()  # now: whoever keeps the error keeps the frames that hold them
                raise
            if self._is_deaf:
                self._loop.call_soon(self._on_readable)  # as nobody else may call
        except BlockingIOError:
            if self._is_deaf:
                self._end(None)
            return False
        except ChannelClosed:
            self._end(None)
        except BadMessage as error:
            # Without its frames, which hold the descriptors that came, and may be kept for as long as the error is.
            self._end(error.with_traceback(None))
        return True

    def _take(self, data: bytes, fds: Descriptors) -> None:
        packet, request_id, message = self._codec.decode(data)
        self.received += 1
        self._recent.append(("received", type(message)))
        if self._tap is not None:
            self._tap.record(False, packet, request_id, message, size=len(data), descriptors=len(fds))
        expected = message.expected_descriptors() if message is not None else ()
        try:
            if expected or fds is not NONE:
                fds.check(expected)
        except OutOfDescriptors as error:
            if packet is not Packet.EVENT:
                self._took_no_descriptors(packet, request_id, error)
                return
        if packet is Packet.EVENT and message is not None:
            self._count_event()
            self._handler(message)(message, fds)
        elif packet is Packet.REQUEST and message is not None:
            self._work(request_id, message, fds)
        elif packet is Packet.REPLY and message is not None:
            self._answered(request_id, cast("Reply", message), fds)
        else:
            self._count_event()
            if request_id in self._working:
                self._working[request_id].cancel()

    def _took_no_descriptors(self, packet: Packet, request_id: int, error: OutOfDescriptors) -> None:
        """A message without its descriptors is worth nothing; whoever waits for it is told why."""
        if packet is Packet.REQUEST:
            self._answer(request_id, Failure(FailureCode.OUT_OF_DESCRIPTORS, str(error)), ())
        elif request_id in self._abandoned:
            self._abandoned.discard(request_id)
        elif request_id not in self._waiting:
            raise BadMessage(f"a reply came on {self._interface.name} though nobody asked")
        else:
            future = self._waiting.pop(request_id).future
            if not future.done():
                future.set_exception(error)

    def _count_event(self) -> None:
        now = self._loop.time()
        refill = (now - self._events_at) * EVENTS_PER_SECOND
        self._events_left = min(EVENTS_PER_SECOND, self._events_left + refill) - 1
        self._events_at = now
        if self._events_left < 0:
            raise BadMessage(f"more than {EVENTS_PER_SECOND} events a second came on {self._interface.name}")

    def _handler(self, message: Message) -> Handler:
        try:
            return self._handlers[type(message)]
        except KeyError:
            raise BadMessage(
                f"{type(message).__name__} is not expected on {self._interface.name} here"
            ) from None

    def _answered(self, request_id: int, reply: Reply, fds: Descriptors) -> None:
        if request_id in self._abandoned:
            self._abandoned.discard(request_id)
            return
        if request_id not in self._waiting:
            raise BadMessage(f"{type(reply).__name__} came on {self._interface.name} though nobody asked")
        _, expected, future, _, _ = self._waiting.pop(request_id)
        if isinstance(reply, Failure):
            if not future.done():
                future.set_exception(RequestFailed(reply.code, reply.detail))
        elif type(reply) is not expected:
            error = BadMessage(f"{type(reply).__name__} answered where {expected.__name__} was asked for")
            if not future.done():
                future.set_exception(error)
            raise error
        elif not future.done():
            future.set_result((reply, fds))

    def _work(self, request_id: int, message: Message, fds: Descriptors) -> None:
        if request_id in self._working:
            raise BadMessage(f"request {request_id} came twice on {self._interface.name}")
        if len(self._working) >= MAX_IN_FLIGHT:
            raise BadMessage(f"more than {MAX_IN_FLIGHT} requests came at once on {self._interface.name}")
        work = self._handler(message)(message, fds)
        if isinstance(work, Reply):
            self._answer(request_id, work, ())
            return
        task = self._loop.create_task(self._reply(request_id, message, work))
        self._working[request_id] = task
        task.add_done_callback(lambda _task: self._never_began(request_id, work))

    def _never_began(self, request_id: int, work: Any) -> None:
        """A task that is cancelled before its first step runs none of its code, its reply included."""
        if self._working.pop(request_id, None) is not None:
            work.close()
            self._answer(request_id, Failure(FailureCode.CANCELLED), ())

    async def _reply(self, request_id: int, message: Message, work: Awaitable[Any]) -> None:
        give: Sequence[int] = ()
        reply: Reply
        try:
            result = await work
            reply, give = result if isinstance(result, tuple) else (result, ())
        except RequestFailed as error:
            reply = Failure(failure_code(error.code), error.detail[:500])
        except asyncio.CancelledError:
            reply = Failure(FailureCode.CANCELLED)
        except BadMessage as error:
            self._working.pop(request_id, None)
            self._end(error)
            return
        except MemoryError:
            reply = Failure(FailureCode.OUT_OF_MEMORY, f"no memory for {type(message).__name__}")
        except ChannelClosed as error:
            reply = Failure(FailureCode.INTERNAL, printable(str(error), 400))
        except Exception as error:
            # The asker gets a failure and the operator a trace: a bug here must not look like a lost reply.
            log.exception("%s: %s failed", self._interface.name, type(message).__name__)
            reply = Failure(FailureCode.INTERNAL, printable(f"{type(error).__name__}: {error}", 400))
        self._working.pop(request_id, None)
        self._answer(request_id, reply, give)

    def _answer(self, request_id: int, reply: Reply, give: Sequence[int]) -> None:
        if self.closed:
            Descriptors(give).close()
            return
        try:
            self._post(Packet.REPLY, request_id, reply, give)
        except (ChannelClosed, BadMessage):  # the latter was told to whoever owns the peer
            log.debug("%r: gone before its reply", self)

    # ── the end ──────────────────────────────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """End the connection and everything that waits on it. Closing twice is fine."""
        self._end(None, told=False)

    def _gone(self) -> Exception:
        if isinstance(self._error, BadMessage):
            return BadMessage(str(self._error))
        return ChannelClosed(f"the other end of {self._interface.name} is gone")

    def _end(self, error: Exception | None, *, told: bool = True) -> None:
        if self.closed:
            return
        self.closed = True
        self._error = error
        fd = self._channel.fileno()
        self._loop.remove_reader(fd)
        self._loop.remove_writer(fd)
        self._channel.close()
        self._queue.clear()
        if self._retry is not None:
            self._retry.cancel()
        for asked in self._waiting.values():
            if not asked.future.done():
                asked.future.set_exception(self._gone())
                asked.future.exception()  # whoever asked may be gone too: then nobody need hear of it
        self._waiting.clear()
        if self._alarm is not None:
            self._alarm.cancel()
        for task in self._working.values():
            if task is not _current_task(self._loop):
                task.cancel()
        if told and self._on_close is not None:
            self._on_close(error)


def _current_task(loop: asyncio.AbstractEventLoop) -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task(loop)
    except RuntimeError:
        return None
