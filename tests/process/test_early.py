"""A zygote that begins before the program that needs it: taken, told otherwise, or left."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cloister.cli.pages import BrowserOfPages
from cloister.errors import OutOfDescriptors
from cloister.interfaces.zygote import PreloadKind
from cloister.process import Zygote, early, spawn
from cloister.process.kinds import MODULES, OF_PAGES, PAGES_ONLY
from cloister.sandbox import Layer, machine
from tests.conftest import children, descriptors

USUAL = [PreloadKind(kind, MODULES[kind]) for kind in OF_PAGES]


@pytest.fixture(autouse=True)
def none_is_left() -> Iterator[None]:
    yield
    early.abandon()


def _begin(kinds: Sequence[str]) -> None:
    early.start()
    if kinds:
        early.tell(kinds, {})


def test_a_program_that_wants_what_it_was_told_takes_it() -> None:
    _begin(OF_PAGES)
    begun = early._begun[0]

    async def go() -> None:
        zygote = await Zygote.start(USUAL)
        try:
            assert os.getpgid(zygote.process.pid) == begun.spawned.pid
            await zygote.ready()
            assert len(zygote.branches) == len(OF_PAGES)
        finally:
            await zygote.close()

    asyncio.run(go())
    assert early.take() is None


def test_the_browser_of_a_pages_command_takes_what_the_command_told() -> None:
    """Else it would be ended, and the command start another: twice the time."""
    early.start()
    early.tell(OF_PAGES, PAGES_ONLY)
    begun = early._begun[0].spawned.pid
    with BrowserOfPages() as browser:
        assert browser._browser._processes is not None
        (zygote, *_) = browser._browser._processes.standing()
        assert os.getpgid(zygote.pid) == begun


@pytest.mark.parametrize("options", [b"", b"\x81\xabextra_roots\xa0"])
def test_a_program_that_wants_something_else_gets_another_and_the_first_one_ends(options: bytes) -> None:
    _begin(OF_PAGES)
    begun = early._begun[0]
    wanted = [PreloadKind("request_server", MODULES["request_server"], options)]

    async def go() -> None:
        zygote = await Zygote.start(wanted)
        try:
            assert os.getpgid(zygote.process.pid) != begun.spawned.pid
            with pytest.raises(ProcessLookupError):
                os.killpg(begun.spawned.pid, 0)
            await zygote.ready()
        finally:
            await zygote.close()

    asyncio.run(go())


def test_one_that_was_told_nothing_yet_is_told_what_is_wanted() -> None:
    early.start()
    begun = early._begun[0]

    async def go() -> None:
        zygote = await Zygote.start([USUAL[-1]])
        try:
            assert os.getpgid(zygote.process.pid) == begun.spawned.pid
            await zygote.ready()
        finally:
            await zygote.close()

    asyncio.run(go())


def test_where_a_layer_may_lack_one_that_was_told_to_refuse_is_not_taken() -> None:
    _begin(OF_PAGES)
    begun = early._begun[0]

    async def go() -> None:
        zygote = await Zygote.start(USUAL, allow_degraded=True)
        try:
            assert os.getpgid(zygote.process.pid) != begun.spawned.pid
        finally:
            await zygote.close()

    asyncio.run(go())


@pytest.mark.parametrize("after", [0, 0.05, 0.1, 0.2, 0.5], ids="{} s".format)
@pytest.mark.parametrize("kinds", [(), OF_PAGES], ids=["told nothing", "told"])
def test_one_that_nobody_takes_ends_with_all_that_it_has_become(kinds: tuple[str, ...], after: float) -> None:
    before = children(), descriptors()
    _begin(kinds)
    group = early._begun[0].spawned.pid
    time.sleep(after)
    early.abandon()
    assert (children(), descriptors()) == before
    deadline = time.monotonic() + 10
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < deadline:  # whoever adopts its helpers reaps them
            os.killpg(group, 0)
            time.sleep(0.01)


@pytest.mark.parametrize("after", [0.14, 0.16, 0.18, 0.2, 0.22, 0.24, 0.3], ids="{} s".format)
def test_no_file_is_left_of_one_that_ends_while_it_loads(after: float) -> None:
    """Fontconfig reads its configuration from a file."""
    if not machine().available >= {Layer.MOUNT_NAMESPACE, Layer.USER_NAMESPACE}:
        pytest.skip("this machine allows this user no mounts of its own")
    before = set(Path("/tmp").glob("cloister-*.conf"))
    _begin(OF_PAGES)
    time.sleep(after)
    early.abandon()
    deadline = time.monotonic() + 10
    while set(Path("/tmp").glob("cloister-*.conf")) - before:  # others may have some for a moment
        assert time.monotonic() < deadline, "a file was left"
        time.sleep(0.05)


def test_there_is_one_at_a_time() -> None:
    early.start()
    first = early._begun[0].spawned
    _begin(OF_PAGES)
    _begin(("image_decoder",))
    (only,) = early._begun
    assert only.spawned is first
    assert len(only.channels) == len(OF_PAGES)


def test_what_hinders_it_is_left_for_the_launch_to_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(_kind: str) -> None:
        raise OutOfDescriptors

    monkeypatch.setattr(spawn, "spawn", no_room)
    _begin(OF_PAGES)
    assert early.take() is None


def test_it_is_there_untold_where_it_could_not_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_arguments: object) -> None:
        raise OutOfDescriptors

    with monkeypatch.context() as patch:
        patch.setattr(early, "_told", no_room)
        _begin(OF_PAGES)
    begun = early._begun[0]
    assert begun.options == b""

    async def go() -> None:
        zygote = await Zygote.start([USUAL[-1]])
        try:
            assert os.getpgid(zygote.process.pid) == begun.spawned.pid
        finally:
            await zygote.close()

    asyncio.run(go())


def test_the_first_word_is_the_greeting_however_soon_it_was_told() -> None:
    """The process in the new pid namespace could speak before the one that made it has said who it is."""
    if Layer.PID_NAMESPACE not in machine().available:
        pytest.skip("this machine allows this user no pid namespace")

    async def go() -> None:
        for _ in range(3):
            before = children()
            _begin(("image_decoder",))
            first = early._begun[0].spawned.pid
            deadline = time.monotonic() + 5
            while len(children() - before) < 2:  # until it has made the other one
                assert time.monotonic() < deadline, "it makes no process in the new pid namespace"
            os.kill(first, signal.SIGSTOP)
            time.sleep(0.3)
            os.kill(first, signal.SIGCONT)
            zygote = await Zygote.start([USUAL[-1]])
            await zygote.close()

    asyncio.run(asyncio.wait_for(go(), 20))
