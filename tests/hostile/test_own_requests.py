"""A request_server of the browser's own that was taken over: it is ended, the program is told, and it gets nothing that
is for another."""

from __future__ import annotations

import asyncio
import os
import struct
from pathlib import Path

import msgspec
import pytest

from cloister import CloisterError, ends
from cloister.interfaces.base import INLINE_LIMIT, Blob, Message
from cloister.interfaces.request_server import DocumentFrom, Options
from cloister.interfaces.transfers import MAX_PIECE, Onward, Piece, TransferOpened
from cloister.interfaces.web_content import NewRequestServer
from cloister.ipc import memory
from tests.faults.world import TIMEOUT, World
from tests.hostile.impostor import Impostor, Lie, impostors, packet

URL = "http://a.example/file"
ALLOWED = "DocumentAllowed"


def opened(**more: object) -> TransferOpened:
    fields: dict[str, object] = {"id": 1, "url": URL, "status": 200, "headers": (), **more}
    return TransferOpened(**fields)  # type: ignore[arg-type]


def says(*answers: Message) -> Lie:
    def lie(liar: Impostor) -> None:
        for answer in answers:
            liar.answer(answer)

    return lie


def gives_too_large_a_piece(liar: Impostor) -> None:
    liar.answer(opened())
    liar.answer(Piece(Blob(MAX_PIECE + 1)), [memory.sealed(bytes(MAX_PIECE + 1))])


def gives_more_than_it_may(liar: Impostor) -> None:
    liar.answer(opened())
    while True:
        liar.answer(Piece(Blob(MAX_PIECE)), [memory.sealed(bytes(MAX_PIECE))])


def gives_a_file_for_memory(liar: Impostor) -> None:
    liar.answer(opened())
    liar.answer(Piece(Blob(INLINE_LIMIT + 1)), [os.open("/etc/passwd", os.O_RDONLY)])


def names(*urls: str) -> Lie:
    def lie(liar: Impostor) -> None:
        liar.work.recv(65536)
        for number, url in enumerate(urls):
            liar.control.send(packet(DocumentFrom(url, number), number + 1))
            liar.control.recv(65536)

    return lie


def asks_for_a_process(liar: Impostor) -> None:
    liar.work.recv(65536)
    liar.control.send(packet(NewRequestServer(), 1))


BAD: dict[str, Lie] = {
    "a file as its URL": says(opened(url="file:///etc/passwd")),
    "escapes in its URL": says(opened(url="http://a.example/\x1b[2J")),
    "a redirect to a file": says(opened(onward=Onward("file:///etc/passwd", "GET", False))),
    "a redirect to a script": says(opened(onward=Onward("javascript:alert(1)", "GET", False))),
    "a redirect by another method": says(opened(onward=Onward("http://b.example/", "DELETE", True))),
    "a piece for a head": says(Piece(Blob(0, b""))),
    "a head for a piece": says(opened(), opened()),
    "a piece of another size": says(opened(), Piece(Blob(5, b"123"))),
    "too large a piece": gives_too_large_a_piece,
    "more than it may": gives_more_than_it_may,
    "a file": gives_a_file_for_memory,
    "names a file": names("file:///etc/passwd"),
    "names with escapes": names("http://a.example/", "http://a.example/\x1b[2J"),
    "asks as a page": asks_for_a_process,
}


def is_own(options: bytes) -> bool:
    """Whether a request_server is for the program: pages have theirs forked ahead, at any time."""
    return msgspec.msgpack.decode(options, type=Options).for_browser


@pytest.mark.parametrize("name", BAD)
def test_one_that_lies_is_ended_and_the_program_is_told(world: World, name: str) -> None:
    async def go() -> None:
        await world.recover()
        folder = world.folders[0] / "downloads"
        folder.mkdir()
        for work in (
            lambda: world.browser.request.post(URL, data=b"x", timeout=TIMEOUT),
            lambda: world.browser.download(URL, folder, timeout=TIMEOUT, max_bytes=3 * MAX_PIECE),
        ):
            with impostors(world.browser, "request_server", [BAD[name]] * 3, is_own) as came:
                outcome = await world.act(work())
            assert came
            for liar in came:
                await liar.wait(5)
                assert isinstance(liar.ending, ends.BadMessage), liar.ending
            assert isinstance(outcome, CloisterError), repr(outcome)
            assert str(outcome).isprintable()
            assert os.listdir(folder) == []
        folder.rmdir()
        await world.browser.request.servers.close()
        await world.all_is_well()

    world.run(go())


def test_one_gets_a_password_for_its_own_origin_only_and_only_while_it_is_asked_for_something(
    world: World,
) -> None:
    answers: Path = world.folders[0] / "answers"

    def curious(liar: Impostor) -> None:
        asked = liar.work.recv(65536)
        for number, url in enumerate((URL, "http://bank.example/", "https://a.example/", URL)):
            _ask_for(liar, url, number + 1)
        liar.say(opened(), number=struct.unpack_from("<BI", asked)[1])
        liar.answer(Piece(Blob(0, b"")))
        _ask_for(liar, URL, 9)

    def _ask_for(liar: Impostor, url: str, number: int) -> None:
        liar.control.send(packet(DocumentFrom(url, 0), number))
        while (said := liar.control.recv(65536))[0] != 2:  # a ping
            continue
        with answers.open("a") as file:
            file.write(f"{msgspec.msgpack.decode(said[5:])[0]}\n")

    async def go() -> None:
        await world.recover()
        with impostors(world.browser, "request_server", [curious], is_own) as came:
            await world.act(world.browser.request.get(URL, timeout=TIMEOUT))
        assert len(came) == 1
        async with asyncio.timeout(10):
            while len(answers.read_text().splitlines()) < 5:
                await asyncio.sleep(0.005)
        assert answers.read_text().splitlines() == [ALLOWED, "Failure", "Failure", ALLOWED, "Failure"]
        answers.unlink()
        await world.browser.request.servers.close()
        await world.all_is_well()

    world.run(go())
