"""What is said on the channels: the host's requests one after the other, and in between what the plugin asks back.

Nothing here can be relied on by the host: the plugin's code runs in this very process, and may say what it likes.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from cloister.errors import BadMessage, ChannelClosed, NotSendable
from cloister.interfaces.base import INLINE_LIMIT, Blob, Event, Message
from cloister.interfaces.control import CONTROL, Ping, Pong, Shutdown
from cloister.interfaces.plugin_host import (
    PLUGIN,
    Call,
    CallHost,
    CloseStream,
    HostReturned,
    Language,
    Load,
    LoadFunction,
    LoadProgram,
    Next,
    Options,
    Outcome,
    Raised,
    Returned,
)
from cloister.ipc import Channel, Descriptors, blob, values
from cloister.ipc.codec import Packet, codec
from cloister.sandbox.kernel import libc

from . import output
from .clock import FrozenClock
from .engine import Engine, made
from .execution import Finished, Plugin, Streaming, raised
from .host_module import Denied, HostFunctionError, install
from .json_lines import Program

__all__ = ["Conversation"]

_SEND_TIMEOUT: Final = (
    60_000  # milliseconds: the host reads while it waits for an answer, and it always waits for one
)


class Conversation:
    """Until the host asks to end, or is gone."""

    def __init__(
        self,
        control: Channel,
        work: Channel,
        options: Options,
        *,
        refusal: str = "",
        clock: FrozenClock | None = None,
        listening: Mapping[str, socket.socket] | None = None,
        language: Language = Language.PYTHON,
    ) -> None:
        """``refusal``: why nothing is to be loaded. ``clock`` is moved with each thing that the host asks.
        ``listening`` are sockets by their addresses."""
        self._refusal = refusal
        self._control = control
        self._work = work
        self._options = options
        self._clock = clock
        self._codec = codec(PLUGIN, "server")
        self._asked = 0
        self._thread = threading.get_ident()
        self._printer = output.capture(self._tell)
        host = install(self._ask_host, listening)
        self._plugin: Engine | Program = made(
            language, lambda name, arguments: getattr(host, name)(*arguments), options
        )

    def serve(self) -> None:
        poll = select.poll()
        poll.register(self._control.fileno(), select.POLLIN)
        poll.register(self._work.fileno(), select.POLLIN)
        try:
            while True:
                for fd, _ in poll.poll():
                    if fd == self._work.fileno():
                        self._answer()
                    elif self._controlled():
                        return
        except (ChannelClosed, BadMessage):
            return

    def _controlled(self) -> bool:
        """Whether it is to end."""
        told = codec(CONTROL, "server")
        _, request_id, message = told.decode(self._control.receive()[0])
        if isinstance(message, Ping):
            self._control.send(told.encode(Packet.REPLY, request_id, Pong(message.nonce)))
        return isinstance(message, Shutdown)

    # ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _answer(self) -> None:
        data, fds = self._work.receive()
        packet, request_id, message = self._codec.decode(data)
        if packet is not Packet.REQUEST or message is None:
            fds.close()
            return
        fds.check(message.expected_descriptors())
        outcome: Finished | Streaming | Outcome
        try:
            outcome = self._do(message, fds)
        except MemoryError as error:
            outcome = Finished(Outcome.NO_MEMORY, raised(error))
        except NotSendable as error:
            outcome = Finished(Outcome.NOT_SENDABLE, Raised("NotSendable", str(error)[:4000]))
        except BaseException as error:
            outcome = Finished(Outcome.RAISED, raised(error))
        self._printer.flush()
        self._give(request_id, outcome)

    def _do(self, message: Message, fds: Descriptors) -> Finished | Streaming | Outcome:
        if self._clock is not None:
            self._clock.move()
        match message:
            case Load() | LoadFunction() | LoadProgram() if self._refusal:
                return Finished(Outcome.REFUSED, Raised("CapabilityRefused", self._refusal[:4000]))
            case Load() | LoadFunction() | LoadProgram():
                return Finished(Outcome.VALUE, self._load(message, fds))
            case Call():
                arguments, named = values.unpack(_bytes(message.body, fds), fds, trusted=True)
                return self._plugin.call(message.function, arguments, named)
            case Next():
                return self._plugin.next(message.stream)
            case CloseStream():
                self._plugin.close(message.stream)
        return Outcome.END

    def _load(self, message: Load | LoadFunction | LoadProgram, fds: Descriptors) -> list[str]:
        """The names of what can be called."""
        if isinstance(message, LoadProgram):
            longest = self._options.result
            self._plugin = Program(message.name, fds.release(), self._printer, self._tell, longest)
            return [*message.functions]
        if isinstance(self._plugin, Program):
            raise BadMessage("source came for a program")
        if isinstance(message, Load):
            return self._plugin.load(message.name, _bytes(message.body, fds))
        if not isinstance(self._plugin, Plugin):
            raise BadMessage("a function in Python came for a plugin in another language")
        bundle = values.unpack(_bytes(message.body, fds), fds, trusted=True)
        return self._plugin.load_function(message.name, bundle)

    def _give(self, request_id: int, outcome: Finished | Streaming | Outcome) -> None:
        kind, value, stream, name = Outcome.END, None, 0, "result"
        if isinstance(outcome, Finished):
            kind, value = outcome.kind, outcome.value
        elif isinstance(outcome, Streaming):
            kind, stream = Outcome.STREAM, outcome.number
        try:
            body, memfds = values.pack(value, name) if kind is Outcome.VALUE else (_text(value), [])
            most = min(self._options.result, self._options.file_size)
            if len(body) > most:
                for fd in memfds:
                    os.close(fd)
                what = f"the result takes {len(body)} bytes, and may take {most}"
                kind, body, memfds = Outcome.TOO_LARGE, _text(Raised("ResultLimit", what)), []
        except NotSendable as error:
            kind, body, memfds = Outcome.NOT_SENDABLE, _text(Raised("NotSendable", str(error)[:4000])), []
        except MemoryError as error:
            kind, body, memfds = Outcome.NO_MEMORY, _text(raised(error)), []
        except OSError as error:
            if error.errno not in (errno.EFBIG, errno.EMFILE):
                raise
            what = f"a buffer of the result is larger than file_size ({self._options.file_size} bytes)"
            kind, body, memfds = Outcome.TOO_LARGE, _text(Raised("ResultLimit", what)), []
        self._send(Packet.REPLY, request_id, body, memfds, lambda b: Returned(kind, b, len(memfds), stream))
        del value, outcome
        _trim(len(body))

    # ── what the plugin asks and tells ───────────────────────────────────────────────────────────────────────────

    def _ask_host(self, function: str, arguments: list[Any]) -> Any:
        """Called by the plugin, while the host waits for its answer."""
        if threading.get_ident() != self._thread:
            raise RuntimeError("host functions can be called from the plugin's first thread only")
        body, memfds = values.pack(arguments, "args")
        self._asked = self._asked % (2**32 - 1) + 1
        self._printer.flush()
        self._send(
            Packet.REQUEST, self._asked, body, memfds, lambda b: CallHost(function[:128], b, len(memfds))
        )
        poll = select.poll()
        poll.register(self._work.fileno(), select.POLLIN)
        poll.poll()
        data, fds = self._work.receive()
        _, _, message = self._codec.decode(data)
        if not isinstance(message, HostReturned):
            raise BadMessage("the host answered something else")
        fds.check(message.expected_descriptors())
        answer = _bytes(message.body, fds)
        if message.outcome is Outcome.VALUE:
            return values.unpack(answer, fds, trusted=True)
        told = msgspec.msgpack.decode(answer, type=Raised)
        if told.type_name == "Denied":
            raise Denied(told.message)
        raise HostFunctionError(f"{told.type_name}: {told.message}" if told.message else told.type_name)

    def _tell(self, event: Event) -> None:
        self._packet(self._codec.encode(Packet.EVENT, 0, event), ())

    def _send(
        self,
        packet: Packet,
        request_id: int,
        body: bytes,
        memfds: list[int],
        message: Callable[[Blob], Message],
    ) -> None:
        field, large = blob.pack(body)
        try:
            data = self._codec.encode(packet, request_id, message(field))
            self._packet(data, (*memfds, *large))
        finally:
            for fd in (*memfds, *large):
                os.close(fd)

    def _packet(self, data: bytes, fds: tuple[int, ...]) -> None:
        while True:
            try:
                self._work.send(data, fds)
                return
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._work.fileno(), select.POLLOUT)
                if not poll.poll(_SEND_TIMEOUT):
                    raise ChannelClosed("the host does not read") from None
            except ChannelClosed:
                os._exit(0)  # the plugin's code may be on the stack, and would go on


def _bytes(body: Blob, fds: Descriptors) -> bytes:
    """From the host, which is trusted with any size: the limit is this process's memory."""
    return blob.unpack(body, fds, body.size)


def _text(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


def _trim(size: int) -> None:
    """Give freed memory back after a large result: an idle plugin should be small."""
    if size > INLINE_LIMIT and hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
