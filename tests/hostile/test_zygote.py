"""A zygote that was taken over, and its branches: what they say of pids is checked with the kernel, so that the browser
never ends, watches or measures a process that is not theirs."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from cloister import ends
from cloister.errors import BadMessage, LaunchError, ProcessLost
from cloister.interfaces import image_decoder
from cloister.interfaces.base import Message
from cloister.interfaces.control import Ready
from cloister.interfaces.zygote import LAUNCH, Branched, Exited, Forked, Launched, PreloadKind
from cloister.ipc import Channel, Descriptors
from cloister.ipc.codec import codec
from cloister.process import ChildProcess, Zygote, handle, launcher
from cloister.process.kinds import MODULES
from cloister.process.spawn import Spawned
from tests.faults.before import back_to_before, holdings
from tests.hostile.impostor import begin, packet

KINDS = [PreloadKind(kind, "nowhere") for kind in ("web_content", "image_decoder")]


class Liar:
    """The zygote's end of its channel, and its branches' ends, all in one process."""

    def __init__(self, control: socket.socket, branches: list[socket.socket]) -> None:
        self.control = control
        self.branches = branches
        for branch in branches:
            branch.setblocking(True)

    def branch(self, number: int = 0) -> int:
        """Branch as a zygote does; the branch does nothing but live. Its pid."""
        pid = _sleeper()
        self.say(Branched(KINDS[number].kind, pid), [os.pidfd_open(pid)])
        self.branches[number].send(packet(Ready(())))
        return pid

    def say(self, message: Message, fds: list[int] | None = None) -> None:
        socket.send_fds(self.control, [packet(message)], fds or [])

    def asked(self, number: int = 0) -> int:
        """The number of the next fork that is asked for."""
        while True:
            data = socket.recv_fds(self.branches[number], 65536, 16)[0]
            if b"Fork" in data:
                return int(struct.unpack_from("<BI", data)[1])

    def fork(self, pidfd: int, pid: int = 100, number: int = 0) -> None:
        """Answer the next fork with this."""
        asked = self.asked(number)
        socket.send_fds(self.branches[number], [packet(Forked(pid), asked)], [pidfd])


def _sleeper() -> int:
    """A child of whoever calls, which ends with the test."""
    pid = os.fork()
    if pid == 0:
        import ctypes
        import signal
        import time

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        os.closerange(0, 4096)
        time.sleep(20)
        os._exit(0)
    return pid


@contextmanager
def lying(
    lie: Callable[[Liar], object], patch: pytest.MonkeyPatch, name: int | None = None
) -> Iterator[None]:
    """Inside, a zygote that is started is this one; it says that its pid is ``name``."""

    def spawn(_kind: str, _shares: tuple[str, ...] = ()) -> Spawned:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

        def do() -> None:
            there.send(packet(Launched(name or os.getpid())))
            data, fds, _, _ = socket.recv_fds(there, 65536, 16)
            codec(LAUNCH, "server").decode(data)
            there.send(packet(Ready(())))
            lie(Liar(there, [socket.socket(fileno=fd) for fd in fds]))

        pid = begin(do, [there.fileno()])
        there.close()
        os.close(writer)
        return Spawned(pid, here.detach(), reader)

    with patch.context() as here:
        here.setattr(launcher, "spawn", spawn)
        yield


@pytest.fixture
def stranger() -> Iterator[int]:
    """A process that is none of the zygote's. It is to live."""
    pid = _sleeper()
    yield pid
    alive = os.waitpid(pid, os.WNOHANG) == (0, 0)
    if alive:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    assert alive, "a process was ended that nobody in this test had started for that"


def run(work: Coroutine[Any, Any, None]) -> None:
    async def go() -> None:
        before = holdings()
        await work
        await back_to_before(before)

    asyncio.run(go())


def test_a_process_that_names_another_as_itself_is_not_started(
    stranger: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def go() -> None:
        for other in (os.getpid(), os.getppid(), 1, 2**22):
            with (
                lying(lambda _liar: None, monkeypatch, other),
                pytest.raises(BadMessage, match="did not start"),
            ):
                await Zygote.start(KINDS)

    run(go())


BRANCHES: dict[str, Callable[[Liar, int], object]] = {
    "of a process of somebody else": lambda liar, other: liar.say(
        Branched("web_content", 5), [os.pidfd_open(other)]
    ),
    "of the program": lambda liar, _other: liar.say(
        Branched("web_content", 5), [os.pidfd_open(os.getppid())]
    ),
    "of itself": lambda liar, _other: liar.say(Branched("web_content", 5), [os.pidfd_open(os.getpid())]),
    "of what is no process": lambda liar, _other: liar.say(
        Branched("web_content", 5), [os.open("/proc/self", os.O_RDONLY)]
    ),
    "for what nobody wants": lambda liar, _other: liar.say(
        Branched("lookup_server", 5), [os.pidfd_open(_sleeper())]
    ),
    "for something with a line feed": lambda liar, _other: liar.say(
        Branched("web_content\n", 5), [os.pidfd_open(_sleeper())]
    ),
    "twice": lambda liar, _other: (liar.branch(), liar.branch()),
    "twice with one process": lambda liar, _other: liar.say(
        Branched("image_decoder", 7), [os.pidfd_open(liar.branch())]
    ),
    "and says that it ended": lambda liar, _other: liar.say(Exited(liar.branch(), 0)),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_a_zygote_that_lies_of_a_branch_is_ended(
    name: str, stranger: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def go() -> None:
        with lying(lambda liar: BRANCHES[name](liar, stranger), monkeypatch):
            zygote = await Zygote.start(KINDS)
        await zygote.process.wait(5)
        assert isinstance(zygote.process.ending, ends.BadMessage), zygote.process.ending
        with pytest.raises((LaunchError, ProcessLost)):
            await zygote.fork("image_decoder")
        await zygote.close()

    run(go())


def _forks(pidfd: Callable[[int], int]) -> Callable[[Liar, int], object]:
    def lie(liar: Liar, other: int) -> None:
        liar.branch()
        liar.fork(pidfd(other))

    return lie


FORKS: dict[str, Callable[[Liar, int], object]] = {
    "of a process of somebody else": _forks(os.pidfd_open),
    "of the program": _forks(lambda _other: os.pidfd_open(os.getppid())),
    "of itself": _forks(lambda _other: os.pidfd_open(os.getpid())),
    "of a folder of /proc": _forks(lambda _other: os.open("/proc/self", os.O_RDONLY)),
}


@pytest.mark.parametrize("name", FORKS)
def test_a_branch_that_lies_of_what_it_forked_is_ended(
    name: str, stranger: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def go() -> None:
        monkeypatch.setattr(handle, "_TOLD_TIMEOUT", 0.05)  # and reaps nobody
        with lying(lambda liar: FORKS[name](liar, stranger), monkeypatch):
            zygote = await Zygote.start(KINDS)
        with pytest.raises(ProcessLost):
            await zygote.fork("web_content", timeout=5)
        (branch,) = zygote.branches
        await branch.wait(5)
        assert isinstance(branch.ending, ends.BadMessage), branch.ending
        zygote.process.kill()  # this one knows no Shutdown
        await zygote.close()

    run(go())


# What a real branch forked, and what it says of it later.


async def _two_real_kinds() -> tuple[Zygote, ChildProcess, ChildProcess]:
    kinds = ("image_decoder", "request_server")
    zygote = await Zygote.start([PreloadKind(kind, MODULES["image_decoder"]) for kind in kinds])
    children = []
    for kind in kinds:
        here, there = Channel.pair()
        options = msgspec.msgpack.encode(image_decoder.Options())
        children.append(await zygote.fork(kind, options, [there], keep=[here]))
        await children[-1].ready()
    return zygote, children[0], children[1]


def _name_of(zygote: Zygote, child: ChildProcess) -> int:
    """The pid that its branch has for it."""
    (pid,) = (pid for (_, pid), found in zygote._children.items() if found is child)
    return pid


def test_that_a_child_has_ended_is_believed_when_the_kernel_says_so_too() -> None:
    async def go() -> None:
        zygote, child, other = await _two_real_kinds()
        branch = zygote.branches[0]
        branch.control._take(
            packet(Exited(_name_of(zygote, other), 0)), Descriptors()
        )  # no child of this branch
        branch.control._take(packet(Exited(4_000_000, -31)), Descriptors())  # nobody's
        assert other.ending is child.ending is None
        with pytest.raises(BadMessage, match="lives"):
            branch.control._take(packet(Exited(_name_of(zygote, child), 0)), Descriptors())
        assert child.ending is None
        await asyncio.gather(child.end(), other.end())
        await zygote.close()

    run(go())


def test_one_process_is_forked_once() -> None:
    async def go() -> None:
        zygote, child, other = await _two_real_kinds()
        (branch,) = (each for each in zygote.branches if zygote._branches["image_decoder"].result() is each)
        with pytest.raises(BadMessage, match="twice"):
            zygote._child_of(branch, Descriptors([os.dup(child.pidfd)]), 77)
        with pytest.raises(BadMessage, match="did not start"):
            zygote._child_of(branch, Descriptors([os.dup(other.pidfd)]), 77)
        await asyncio.gather(child.end(), other.end())
        await zygote.close()

    run(go())
