"""Runs a function in a real process that has locked itself down, and tells how it ended."""

from __future__ import annotations

import json
import os
import select
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from cloister import sandbox
from cloister.errors import SandboxUnavailable
from cloister.sandbox import Layer, Policy, privileges
from cloister.sandbox.kernel import prctl

BASIC = Policy("tested", groups=("stdio", "memory", "ipc", "event_loop", "identity"))
DEADLINE = 20.0  # seconds
FAILED = 70  # exit code of a process that broke outside of the attempt

_SET_PDEATHSIG = 1
_SET_DUMPABLE = 4


@dataclass
class Outcome:
    """What came of an attempt: what it returned, its errno, or the signal that ended its process."""

    status: int = FAILED
    """0, or minus a signal."""
    stderr: str = ""
    value: Any = None
    errno: int | None = None
    layers: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    refused: dict[str, str] | None = None
    """What SandboxUnavailable named; then nothing was attempted."""

    @property
    def denied(self) -> bool:
        return self.errno is not None or self.status == -signal.SIGSYS


@dataclass(frozen=True)
class Sandbox:
    """How the process is locked down; ``before`` runs in it first of all, ``switch_off`` just before ``enter``."""

    policy: Policy = BASIC
    isolated: bool = True
    as_nobody: bool = False
    allow_degraded: bool = False
    keep: Sequence[int] = ()
    before: Callable[[], None] = lambda: None
    switch_off: Callable[[], None] = lambda: None

    def run(self, attempt: Callable[[], object]) -> Outcome:
        """``attempt`` in a process of its own. What it returns must be JSON. Nothing of it is left afterwards."""
        answers, answer = os.pipe()
        errors, error = os.pipe()
        child = os.fork()
        if child == 0:
            _end(lambda: self._start(attempt, answer, error))
        os.close(answer)
        os.close(error)
        try:
            said, complained = _read(answers, errors)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            os.close(answers)
            os.close(errors)
        outcome = Outcome(stderr=complained)
        for line in said.splitlines():
            for name, value in json.loads(line).items():
                setattr(outcome, name, value)
        assert outcome.status != FAILED, f"the process failed outside of the attempt:\n{complained}"
        return outcome

    def _start(self, attempt: Callable[[], object], answer: int, error: int) -> None:
        prctl(_SET_PDEATHSIG, signal.SIGKILL)
        os.dup2(error, 2)
        os.close(error)
        if self.as_nobody and os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(*[privileges.NOBODY] * 3)
            os.setresuid(*[privileges.NOBODY] * 3)
            prctl(_SET_DUMPABLE, 1)  # like a program that nobody had started: its /proc entries are its own
            prctl(_SET_PDEATHSIG, signal.SIGKILL)
        self.before()
        got = sandbox.isolate(self.policy.namespaces) if self.isolated else frozenset[Layer]()
        if Layer.PID_NAMESPACE in got:
            first = os.fork()
            if first == 0:
                _end(lambda: self._fork_and_tell(attempt, answer))
            os.waitpid(first, 0)
        else:
            self._fork_and_tell(attempt, answer)

    def _fork_and_tell(self, attempt: Callable[[], object], answer: int) -> None:
        """As in a zygote, the attempt is not the first process of its namespace, which has its own rules."""
        prctl(_SET_PDEATHSIG, signal.SIGKILL)
        child = os.fork()
        if child == 0:
            _end(lambda: self._lock_down_and_try(attempt, answer))
        _tell(answer, status=os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    def _lock_down_and_try(self, attempt: Callable[[], object], answer: int) -> None:
        sandbox.shed([answer, *self.keep])
        if self.isolated:
            sandbox.enter_empty_root(self.policy.read_paths, self.policy.files)
        self.switch_off()
        try:
            report = sandbox.enter(self.policy, allow_degraded=self.allow_degraded)
        except SandboxUnavailable as refusal:
            _tell(answer, refused=refusal.missing)
            return
        _tell(answer, layers=report.layers, missing=report.missing)
        try:
            _tell(answer, value=attempt())
        except OSError as denial:
            _tell(answer, errno=denial.errno)


@contextmanager
def open_folder() -> Iterator[Path]:
    """An empty folder that every user may read; pytest's own are for its user only."""
    with tempfile.TemporaryDirectory(prefix="cloister-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def _tell(answer: int, **what: object) -> None:
    os.write(answer, json.dumps(what).encode() + b"\n")


def _end(work: Callable[[], None]) -> NoReturn:
    """Nothing of a forked copy of the test process may return into it."""
    status = FAILED
    try:
        work()
        status = 0
    except BaseException:
        with suppress(OSError):
            os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)


def _read(answers: int, errors: int) -> tuple[str, str]:
    read = {answers: b"", errors: b""}
    poller = select.poll()
    for fd in read:
        poller.register(fd, select.POLLIN)
    left = len(read)
    while left:
        ready = poller.poll(DEADLINE * 1000)
        assert ready, f"the sandboxed process hangs; so far: {read}"
        for fd, _ in ready:
            data = os.read(fd, 65536)
            read[fd] += data
            if not data:
                poller.unregister(fd)
                left -= 1
    return read[answers].decode(), read[errors].decode(errors="replace")
