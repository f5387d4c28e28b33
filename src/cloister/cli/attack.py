"""``cloister doctor --attack``: processes of each kind, locked down as ever, try what they must not do.

Everything is tried three times: as it is; without seccomp, to see what stands behind it; and without namespaces, to
see what stands behind those.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import ctypes
import dataclasses
import enum
import errno
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Final, Self

import msgspec

from cloister import ends
from cloister.attack.attempt import KINDS, Attempt, Harm
from cloister.attack.catalogue import CATALOGUE
from cloister.errors import BadMessage, ChannelClosed, CloisterError
from cloister.interfaces import image_decoder, lookup_server, plugin_host, request_server, web_content
from cloister.interfaces.attack import ATTACK, Options, PreloadOptions, Targets, Tried, Try
from cloister.interfaces.control import CONTROL
from cloister.interfaces.zygote import PreloadKind
from cloister.ipc import Channel, Connection
from cloister.process import ChildProcess, Zygote
from cloister.process.kinds import MODULES
from cloister.sandbox import NAMESPACES, Layer, bpf
from cloister.sandbox.kernel import prctl, syscall
from cloister.sandbox.syscalls import native

from .targets import targets

__all__ = ["COLUMNS", "Cell", "Progress", "Rounds", "Row", "Survey", "Verdict", "judge", "survey"]

_INSIDE: Final = "cloister.attack.inside"
_DEADLINE: Final = 10.0  # seconds for one attempt
_SET_NO_NEW_PRIVS: Final = 38
_SET_MODE_FILTER: Final = 1  # include/uapi/linux/seccomp.h
_BEHIND_NAMESPACES: Final = frozenset({*NAMESPACES, Layer.EMPTY_ROOT})

COLUMNS: Final = (*KINDS, "zygote", *(f"zygote of {kind}" for kind in KINDS))
"""The kinds of process. The one that forks is a branch of the zygote for a kind that may do nothing: the zygote's own
policy is that one, and it cannot be asked to make attempts."""

_NOT_THERE: Final = frozenset({errno.ENOSYS, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT})
"""What a kernel says that does not have it."""

_CHANNELS: Final = {
    "web_content": 1,
    "request_server": 2,
    "lookup_server": 1,
    "image_decoder": 1,
    "plugin_host": 1,
}
_CONTROL: Final = {
    "web_content": web_content.WEB_CONTENT_CONTROL,
    "request_server": request_server.REQUEST_CONTROL,
}
_OPTIONS: Final[dict[str, msgspec.Struct]] = {
    "web_content": web_content.Options(),
    "request_server": request_server.Options(user_agent="cloister"),
    "lookup_server": lookup_server.Options(),
    "image_decoder": image_decoder.Options(),
    "plugin_host": plugin_host.Options(),
}


_HARMS: Final = list(Harm)


class Verdict(enum.StrEnum):
    """What came of an attempt."""

    DENIED = "denied"
    THROUGH = "through"
    ALLOWED = "allowed"
    """It is what this kind of process is for."""
    ABSENT = "absent"
    """This kernel does not have what it is about."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """One attempt by one kind of process. ``layers`` are those that were seen to deny it, the first one first; ``call``
    is the system call at which it was, and ``error`` what the kernel said, or the signal that ended the process."""

    verdict: Verdict
    layers: tuple[Layer, ...] = ()
    call: str = ""
    error: str = ""
    alone: bool = False
    """Whether the one layer was seen to be the only one."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One attempt. ``control`` says whether a process of this user that nothing holds can do it here."""

    name: str
    harm: str
    sentence: str
    control: bool
    cells: dict[str, Cell]


@dataclasses.dataclass(frozen=True)
class Survey:
    """All attempts by all kinds of process."""

    rows: tuple[Row, ...]

    def count(self, verdict: Verdict) -> int:
        """How many cells have ``verdict``."""
        return sum(cell.verdict is verdict for row in self.rows for cell in row.cells.values())

    @property
    def alone(self) -> int:
        """How many cells have one layer, and nothing behind it."""
        return sum(cell.alone for row in self.rows for cell in row.cells.values())

    @property
    def through(self) -> list[tuple[str, str]]:
        """What got through: attempt, and kind of process."""
        return [
            (row.name, kind)
            for row in self.rows
            for kind, cell in row.cells.items()
            if cell.verdict is Verdict.THROUGH
        ]


Results = dict[str, dict[str, Cell]]
"""Kind of process, attempt, what came of it."""
Progress = Callable[[int, int], None]


def survey(
    *,
    without: frozenset[Layer] = frozenset(),
    attempts: Iterable[str] | None = None,
    on_progress: Progress = lambda _done, _of: None,
) -> Survey:
    """Make ``attempts`` (all of them) from inside every kind of process. ``without`` leaves layers out of the first of
    the three rounds, as a test of this very command does. ``on_progress(done, of)`` may come from any thread.

    Raises SandboxUnavailable where a layer that a policy requires is not to be had, and LaunchError.
    """
    chosen = [CATALOGUE[name] for name in (CATALOGUE if attempts is None else attempts)]
    with targets() as at, Rounds(at, chosen, on_progress) as rounds:
        first = rounds.begin(without, allow_degraded=bool(without))
        second = rounds.begin({Layer.SECCOMP, *without})
        plain = first.result()
        # Only what a namespace was the first to stop is worth another look.
        rest = {
            kind: [CATALOGUE[name] for name, cell in cells.items() if _BEHIND_NAMESPACES & {*cell.layers}]
            for kind, cells in plain.items()
        }
        third = rounds.begin({Layer.EMPTY_ROOT, *without}, attempts=rest, isolated=False)
        control = _control(at, chosen)
        no_seccomp, no_namespaces = second.result(), third.result()
    return Survey(
        tuple(
            Row(
                attempt.name,
                attempt.harm.value,
                attempt.sentence,
                control[attempt.name],
                {
                    kind: _judged(attempt, kind, cells[attempt.name], no_seccomp[kind], no_namespaces[kind])
                    for kind, cells in plain.items()
                },
            )
            for attempt in sorted(chosen, key=lambda attempt: _HARMS.index(attempt.harm))
        )
    )


def _judged(
    attempt: Attempt, kind: str, cell: Cell, no_seccomp: Mapping[str, Cell], no_namespaces: Mapping[str, Cell]
) -> Cell:
    if cell.verdict is Verdict.THROUGH and kind in attempt.allowed:
        return dataclasses.replace(cell, verdict=Verdict.ALLOWED)
    if cell.verdict is not Verdict.DENIED:
        return cell
    others = no_seccomp if cell.layers == (Layer.SECCOMP,) else no_namespaces
    behind = others.get(attempt.name)
    layers = tuple(dict.fromkeys((*cell.layers, *(behind.layers if behind is not None else ()))))
    alone = behind is not None and behind.verdict is Verdict.THROUGH
    return dataclasses.replace(cell, layers=layers, alone=alone)


class Rounds:
    """The rounds of one survey, each in a thread of its own: what a thread takes from itself, its zygote has not
    either. To leave the block ends those that still run."""

    def __init__(self, at: Targets, attempts: list[Attempt], on_progress: Progress) -> None:
        self._at = at
        self._attempts = attempts
        self._on_progress = on_progress
        self._done = 0
        self._of = 2 * len(COLUMNS) * len(attempts)
        self._stopped = False
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stopped = True
        for thread in self._threads:
            with contextlib.suppress(RuntimeError):  # Ctrl-C came while it started: it finds nothing to do
                thread.join()

    def begin(
        self,
        without: Iterable[Layer],
        *,
        attempts: Mapping[str, list[Attempt]] | None = None,
        isolated: bool = True,
        allow_degraded: bool = True,
    ) -> Future[Results]:
        """Have every kind make ``attempts`` (all of them)."""
        todo = dict.fromkeys(COLUMNS, self._attempts) if attempts is None else attempts
        self._of += sum(map(len, todo.values())) if attempts is not None else 0

        future: Future[Results] = Future()

        def run() -> None:
            if self._stopped:
                return
            try:
                if not isolated:
                    _refuse_namespaces()
                future.set_result(asyncio.run(self._round(frozenset(without), todo, allow_degraded)))
            except BaseException as error:
                future.set_exception(error)

        thread = threading.Thread(target=run, name="cloister-attack")
        self._threads.append(thread)
        thread.start()
        return future

    async def _round(
        self, without: frozenset[Layer], todo: Mapping[str, list[Attempt]], allow_degraded: bool
    ) -> Results:
        modules = {"zygote": None, **{kind: MODULES[kind] for kind in KINDS}}
        preload = {"request_server": msgspec.msgpack.encode(request_server.PreloadOptions())}
        entries = [
            PreloadKind(
                kind,
                _INSIDE,
                msgspec.msgpack.encode(PreloadOptions(module, preload.get(kind, b""), frozenset(without))),
            )
            for kind, module in modules.items()
        ]
        zygote = await Zygote.start(entries, allow_degraded=allow_degraded)
        try:
            await zygote.ready()
            kinds = [kind for kind, attempts in todo.items() if attempts]
            found = await asyncio.gather(*(self._column(zygote, kind, todo[kind]) for kind in kinds))
        finally:
            await zygote.close()
        return {kind: {} for kind in todo} | dict(zip(kinds, found, strict=True))

    async def _column(self, zygote: Zygote, column: str, attempts: list[Attempt]) -> dict[str, Cell]:
        """One process makes attempts until one of them ends it; then the next one goes on."""
        left = collections.deque(attempts)
        cells: dict[str, Cell] = {}
        while left:
            async with _attacker(zygote, column, self._at) as (process, connection):
                while left and process.is_alive:
                    if self._stopped:
                        raise asyncio.CancelledError
                    attempt = left.popleft()
                    cells[attempt.name] = await _tried(attempt, process, connection)
                    self._on_progress(self._count(), self._of)
        return cells

    def _count(self) -> int:
        self._done += 1  # from several threads: one too few is shown then
        return self._done


@contextlib.asynccontextmanager
async def _attacker(
    zygote: Zygote, column: str, at: Targets
) -> AsyncIterator[tuple[ChildProcess, Connection]]:
    """A process in the place of a child, or of a branch, and the channel that it takes orders on."""
    kind = column.removeprefix("zygote of ")
    is_child = kind == column and kind in KINDS
    options = Options(at, msgspec.msgpack.encode(_OPTIONS[kind]) if is_child else None)
    pairs = [Channel.pair() for _ in range(_CHANNELS[kind] if is_child else 0)]
    here, there = Channel.pair()
    process = await zygote.fork(
        kind,
        msgspec.msgpack.encode(options),
        [*(theirs for _, theirs in pairs), there],
        keep=[ours for ours, _ in pairs],
        interface=_CONTROL.get(column, CONTROL),
    )
    connection = Connection(here, ATTACK, "client")
    try:
        yield process, connection
    finally:
        connection.close()
        await process.end()


async def _tried(attempt: Attempt, process: ChildProcess, connection: Connection) -> Cell:
    try:
        tried, _ = await connection.request(Try(attempt.name), timeout=_DEADLINE)
    except ChannelClosed:
        try:
            status = await process.wait(_DEADLINE)
        except TimeoutError:
            return Cell(Verdict.THROUGH, error="it closed its channel and went on")
        tried = Tried(0, "", filtered=False, signal=status.signal or 0)
    except BadMessage:
        return Cell(Verdict.THROUGH, error="it answered something else")
    except TimeoutError:
        process.kill()
        return Cell(Verdict.THROUGH, error="it did not come back")
    if tried.signal == signal.SIGSYS:
        said = process.last_words.violation if process.last_words is not None else None
        return Cell(Verdict.DENIED, (Layer.SECCOMP,), said[0] if said else "", "SIGSYS")
    return judge(attempt, tried)


def judge(attempt: Attempt, tried: Tried) -> Cell:
    """What an answer means. Whatever is not a denial by a known layer got through."""
    if tried.signal:
        return Cell(Verdict.THROUGH, error=ends.signal_name(tried.signal))
    if tried.errno == 0:
        return Cell(Verdict.THROUGH, call=tried.call)
    error = errno.errorcode.get(tried.errno, str(tried.errno))
    if tried.filtered:
        return Cell(Verdict.DENIED, (Layer.SECCOMP,), tried.call, error)
    if tried.errno in _NOT_THERE:
        return Cell(Verdict.ABSENT, call=tried.call, error=error)
    layer = attempt.stopped_by(tried.errno)
    if layer is None:
        return Cell(Verdict.THROUGH, call=tried.call, error=error)
    return Cell(Verdict.DENIED, (layer,), tried.call, error)


def _refuse_namespaces() -> None:
    """From now on this thread, and what it starts, is on a machine that gives it no namespaces."""
    architecture = native()
    if architecture is None:
        return
    rules = {"unshare": bpf.Rule((), bpf.deny(errno.EPERM))}
    code = bpf.assemble(architecture, rules, default=bpf.ALLOW).code(os.getpid())

    class Filter(ctypes.Structure):
        """struct sock_fprog."""

        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    prctl(_SET_NO_NEW_PRIVS, 1)
    syscall("seccomp", _SET_MODE_FILTER, 0, ctypes.byref(Filter(len(code) // 8, code)))


# ── a process that nothing holds ─────────────────────────────────────────────────────────────────────────────────


def _control(at: Targets, attempts: Iterable[Attempt]) -> dict[str, bool]:
    """Whether a process of this user that nothing holds can make each attempt here."""
    return asyncio.run(_control_of(at, attempts))


async def _control_of(at: Targets, attempts: Iterable[Attempt]) -> dict[str, bool]:
    here, there = Channel.pair()
    controller, terminal = pty.openpty()
    command = [sys.executable, "-I", "-m", "cloister.attack.plain", str(there.fileno())]
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, controller)
        os.write(controller, b"typed\n")
        stack.callback(os.close, terminal)
        stack.callback(there.close)
        process = stack.enter_context(
            subprocess.Popen(  # noqa: ASYNC220, S603 - this very Python, and nobody else waits
                command,
                stdin=terminal,
                stdout=terminal,
                stderr=subprocess.DEVNULL,
                pass_fds=[there.fileno()],
                start_new_session=True,
            )
        )
        stack.callback(process.kill)
        there.close()
        here.send(msgspec.msgpack.encode(at))
        connection = Connection(here, ATTACK, "client")
        stack.callback(connection.close)
        could = {}
        for attempt in attempts:
            try:
                tried, _ = await connection.request(Try(attempt.name), timeout=_DEADLINE)
            except CloisterError:
                could[attempt.name] = False
                continue
            could[attempt.name] = not tried.signal and judge(attempt, tried).verdict is Verdict.THROUGH
        return could
