"""A child that was taken over, in a whole browser: it ends with ``BadMessage``, whoever waits for it is told, and
nobody else notices."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Callable
from random import Random

import msgspec
import pytest

from cloister import AsyncPage, CloisterError, SandboxUnavailable, ends
from cloister.browser import cookies
from cloister.browser.cookie_files import CookieParam
from cloister.errors import BadMessage, PageCrashed
from cloister.interfaces.base import INLINE_LIMIT, Blob, Failure, FailureCode, Message
from cloister.interfaces.control import Pong, Ready, Refused
from cloister.interfaces.cookies import Cookie, GetCookies, SameSite, StoreCookies
from cloister.interfaces.image_decoder import Decoded
from cloister.interfaces.request_server import DocumentFrom
from cloister.interfaces.web_content import (
    Links,
    Loaded,
    NewImageDecoder,
    NewRequestServer,
    Painted,
    Pdf,
    Progress,
    SetContent,
    TextResult,
)
from cloister.ipc import Channel, memory
from tests.faults.world import World
from tests.hostile.impostor import Impostor, Lie, impostors, packet, start
from tests.hostile.messages import BOUNDARIES, Boundary, Forger, Verdict, judge

LOADED = Loaded("about:blank", 0, "mine", (), 10, 10)
PAGE = next(each for each in BOUNDARIES if str(each) == "web_content from its server")
CONTROL = next(each for each in BOUNDARIES if str(each) == "web_content.control from its server")


# ── a page's process ─────────────────────────────────────────────────────────────────────────────────────────────


def claims_another_url(liar: Impostor) -> None:
    liar.answer(Loaded("https://bank.example/", 200, "Bank", (), 10, 10))


def answers_the_same_twice(liar: Impostor) -> None:
    asked = liar.work.recv(65536)
    for _ in range(2):
        liar.say(LOADED, number=struct.unpack_from("<BI", asked)[1])


def answers_another_number(liar: Impostor) -> None:
    asked = liar.work.recv(65536)
    liar.say(LOADED, number=struct.unpack_from("<BI", asked)[1] + 1)


def says_a_name_with_escapes_in_it(liar: Impostor) -> None:
    liar.work.send(struct.pack("<BI", 0, 0) + msgspec.msgpack.encode(["\x1b]0;mine\x07\n" * 3000]))


def speaks_for_the_control_channel(liar: Impostor) -> None:
    liar.say(Ready(()))


def speaks_as_the_browser(liar: Impostor) -> None:
    liar.say(Painted(), number=1)


def says_that_it_was_refused_after_ready(liar: Impostor) -> None:
    liar.control.send(packet(Refused(())))


def asks_where_only_a_request_server_may(liar: Impostor) -> None:
    liar.control.send(packet(DocumentFrom("https://bank.example/", 0), 1))


def floods_with_cancellations(liar: Impostor) -> None:
    while True:
        liar.work.send(struct.pack("<BI", 3, 1))


def floods_and_takes_the_answers(liar: Impostor) -> None:
    liar.work.setblocking(False)
    for number in range(1, 2**32):
        try:
            liar.say(NewImageDecoder(), number=number)
            liar.say(Progress(1, 1))
            liar.work.recv(65536)
        except BlockingIOError:
            continue


def sends_its_own_channels(liar: Impostor) -> None:
    socket.send_fds(liar.work, [packet(NewRequestServer(), 1)], [liar.work.fileno(), liar.control.fileno()])


def answers_pings_with_a_wrong_nonce(liar: Impostor) -> None:
    liar.answer_pings(lambda nonce: Pong(nonce ^ 1))


def refuses_to_answer_pings(liar: Impostor) -> None:
    liar.answer_pings(lambda _nonce: Failure(FailureCode.INTERNAL, "no"))


def loads_then(answer: Message, fds: Callable[[], list[int]] = list) -> Lie:
    """Whatever is asked after the document is answered so."""

    def lie(liar: Impostor) -> None:
        liar.answer(LOADED)
        liar.answer(answer, fds())

    return lie


BAD_PAGES: dict[str, Lie] = {
    each.__name__: each
    for each in (
        claims_another_url,
        answers_the_same_twice,
        answers_another_number,
        says_a_name_with_escapes_in_it,
        speaks_for_the_control_channel,
        speaks_as_the_browser,
        says_that_it_was_refused_after_ready,
        asks_where_only_a_request_server_may,
        floods_with_cancellations,
        floods_and_takes_the_answers,
        sends_its_own_channels,
        answers_pings_with_a_wrong_nonce,
        refuses_to_answer_pings,
    )
}


@pytest.mark.parametrize("name", BAD_PAGES)
def test_a_page_that_breaks_the_protocol_is_ended_and_nobody_else_notices(world: World, name: str) -> None:
    async def go() -> None:
        await world.recover()
        page = await world.browser.new_page()
        with impostors(world.browser, "web_content", [BAD_PAGES[name]]) as came:
            outcome = await world.act(page.set_content("<p>x", timeout=3000))
            (liar,) = came
            await liar.wait(5)
        assert isinstance(liar.ending, ends.BadMessage), liar.ending
        assert str(liar.ending).isprintable()
        if name == "answers_the_same_twice":  # the first answer was good
            said = await world.act(page.text())
            assert isinstance(said, PageCrashed)
            assert said.end == liar.ending
        else:
            assert isinstance(outcome, BadMessage), repr(outcome)
        await page.reload(timeout=5000)
        assert (await page.text()).strip() == "x"
        await page.close()
        await world.all_is_well()

    world.run(go())


def _unsealed(size: int) -> list[int]:
    fd = os.memfd_create("liar")
    os.truncate(fd, size)
    return [fd]


LARGE = INLINE_LIMIT + 1
BAD_ANSWERS: dict[str, tuple[str, Lie]] = {
    "fewer bytes than announced": ("text", loads_then(TextResult(Blob(5, b"abc")))),
    "more bytes than announced": ("text", loads_then(TextResult(Blob(1, b"abc")))),
    "no bytes and no memfd": ("text", loads_then(TextResult(Blob(LARGE)))),
    "a memfd that is shorter": (
        "text",
        loads_then(TextResult(Blob(2 * LARGE)), lambda: [memory.sealed(bytes(LARGE))]),
    ),
    "a memfd that is longer": (
        "text",
        loads_then(TextResult(Blob(LARGE)), lambda: [memory.sealed(bytes(LARGE + 1))]),
    ),
    "a memfd without seals": ("text", loads_then(TextResult(Blob(LARGE)), lambda: _unsealed(LARGE))),
    "a terabyte": ("text", loads_then(TextResult(Blob(2**40)), lambda: [memory.sealed(b"x")])),
    "a PDF beyond its limit": ("pdf", loads_then(Pdf(Blob(2**30), 1), lambda: [memory.sealed(b"x")])),
    "links that are none": ("links", loads_then(Links(Blob(1, b"\xc1")))),
    "links with a name that is no text": ("links", loads_then(Links(Blob(6, b"\x91\x92\xa1\xff\xa1a")))),
    "links with too many fields": ("links", loads_then(Links(Blob(8, b"\x91\x93\xa1a\xa1a\xa1a")))),
    "a text for links": ("links", loads_then(TextResult(Blob(0, b"")))),
}


@pytest.mark.parametrize("name", BAD_ANSWERS)
def test_a_page_that_lies_about_what_it_gives_is_ended(world: World, name: str) -> None:
    asked, lie = BAD_ANSWERS[name]

    async def go() -> None:
        await world.recover()
        page = await world.browser.new_page()
        with impostors(world.browser, "web_content", [lie]) as came:
            await page.set_content("<p>x", timeout=3000)
        outcome = await world.act(getattr(page, asked)(timeout=3000))
        assert isinstance(outcome, BadMessage), repr(outcome)
        assert str(outcome).isprintable()
        (liar,) = came
        await liar.wait(5)
        assert isinstance(liar.ending, ends.BadMessage), liar.ending
        await page.close()
        await world.all_is_well()

    world.run(go())


def closes_its_reading(liar: Impostor) -> None:
    asked = liar.work.recv(65536)
    liar.work.shutdown(socket.SHUT_RD)
    liar.say(LOADED, number=struct.unpack_from("<BI", asked)[1])


def closes_its_writing(liar: Impostor) -> None:
    liar.answer(LOADED)
    liar.work.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("lie", [closes_its_reading, closes_its_writing])
def test_a_channel_that_is_half_open_is_closed(world: World, lie: Lie) -> None:
    async def go() -> None:
        await world.recover()
        page = await world.browser.new_page()
        with impostors(world.browser, "web_content", [lie]):
            await page.set_content("<p>x")
        outcome = await world.act(page.text(timeout=60_000))
        assert isinstance(outcome, PageCrashed), repr(outcome)
        assert outcome.end == ends.Killed("it closed a channel that it needs")
        await page.close()
        await world.all_is_well()

    world.run(go())


IN_A_BROWSER = 400
"""Messages that are made up for a whole browser."""


def test_whatever_a_page_makes_up(world: World) -> None:
    """On its page channel and its control channel, until it is one message too many."""
    judged = 0

    async def one(page: AsyncPage, boundary: Boundary, seed: int) -> None:
        nonlocal judged
        forger = Forger(boundary, Random(seed))
        made: list[tuple[bytes, Verdict]] = []
        while not made or made[-1][1] is not Verdict.BAD:
            data = forger.packet({1: SetContent})
            if (verdict := judge(data, boundary, {1: SetContent})[0]) is not Verdict.REPLY:
                made.append((data, verdict))
        judged += len(made)

        def lie(liar: Impostor) -> None:
            liar.work.recv(65536)
            for data, _ in made:
                (liar.work if boundary is PAGE else liar.control).send(data)

        with impostors(world.browser, "web_content", [lie]) as came:
            outcome = await world.act(page.set_content("<p>x", timeout=3000))
        (liar,) = came
        await liar.wait(5)
        assert isinstance(liar.ending, ends.BadMessage), (seed, made, liar.ending)
        assert isinstance(outcome, BadMessage), (seed, made, outcome)

    async def go() -> None:
        await world.recover()
        page, seed = await world.browser.new_page(), 0
        while judged < IN_A_BROWSER:
            seed += 1
            await one(page, PAGE if seed % 2 else CONTROL, seed)
        await page.close()
        await world.all_is_well()

    world.run(go())
    assert judged >= IN_A_BROWSER


# ── the others ───────────────────────────────────────────────────────────────────────────────────────────────────


def names(*urls: str) -> Lie:
    """A request_server that says that it is about to ask for these."""

    def lie(liar: Impostor) -> None:
        liar.work.recv(65536)
        for number, url in enumerate(urls):
            liar.control.send(packet(DocumentFrom(url, number), number + 1))
            liar.control.recv(65536)

    return lie


def fetches_for_the_page(liar: Impostor) -> None:
    liar.work.recv(65536)
    liar.control.send(packet(NewRequestServer(), 1))


def names_many_at_once(liar: Impostor) -> None:
    for number in range(1, 2**32):
        liar.control.send(packet(DocumentFrom("http://a.example/", 0), number))


def body(data: bytes) -> Blob:
    return Blob(len(data), data)


def has_cookies(data: Blob, *, after: str | None = "http://127.0.0.1/") -> Lie:
    """One that has the browser keep this as cookies, ``after`` it was given leave for a document there."""

    def lie(liar: Impostor) -> None:
        liar.work.recv(65536)
        if after is not None:
            liar.ask(DocumentFrom(after, 0), 1)
        liar.control.send(packet(StoreCookies(data), 2))

    return lie


def cookie(name: str, value: str = "", domain: str = "bank.example") -> Cookie:
    return Cookie(name, value, domain, "/", False, True, True, SameSite.NONE, None, 2**63 - 1)


def spoiled(**fields: object) -> Blob:
    """One cookie that is none."""
    made = msgspec.structs.asdict(cookie("a")) | fields
    return body(msgspec.msgpack.encode([list(made.values())]))


BAD_REQUEST_SERVERS: dict[str, Lie] = {
    "cookies that are none": has_cookies(body(b"\xc1")),
    "a cookie with a line of its own": has_cookies(spoiled(value="a\r\nHost: bank.example")),
    "a cookie with another behind it": has_cookies(spoiled(value="a; b=c")),
    "a cookie that is too long": has_cookies(spoiled(name="a" * 4096, value="b")),
    "a cookie for ever": has_cookies(spoiled(expires=2**50)),
    "a cookie of no path": has_cookies(spoiled(path="a")),
    "more cookies than there may be": has_cookies(Blob(2**30)),
    "cookies for a document from nowhere": has_cookies(body(b"\x90"), after=None),
    "a script": names("javascript:alert(1)"),
    "a file": names("file:///etc/passwd"),
    "escapes": names("http://a.example/", "http://b.example/\x1b[2J"),
    "a line of its own": names("http://a.example/\nHTTP 200"),
    "what looks like another": names("http://bank.example\u202e/"),
    "a request of a page": fetches_for_the_page,
    "many at once": names_many_at_once,
}


@pytest.mark.parametrize("name", BAD_REQUEST_SERVERS)
def test_a_request_server_that_lies_is_ended_and_the_page_is_told(world: World, name: str) -> None:
    async def go() -> None:
        await world.recover()
        page = await world.browser.new_page()
        with impostors(world.browser, "request_server", [BAD_REQUEST_SERVERS[name]]) as came:
            outcome = await world.act(page.goto(world.server.url("/plain"), timeout=3000))
        (liar,) = came
        await liar.wait(5)
        assert isinstance(liar.ending, ends.BadMessage), liar.ending
        assert isinstance(outcome, CloisterError), repr(outcome)
        assert not isinstance(outcome, PageCrashed | BadMessage), "the page's own process said nothing wrong"
        assert str(outcome).isprintable()
        await page.goto(world.server.url("/plain"), timeout=5000)
        await page.close()
        await world.all_is_well()

    world.run(go())


def test_what_a_request_server_may_say_of_cookies_has_an_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cookies, "MOST_MESSAGES", 3)

    def lie(liar: Impostor) -> None:
        liar.work.recv(65536)
        liar.ask(DocumentFrom(world.server.url("/plain"), 0), 1)
        liar.ask(GetCookies(), 2)
        for number in range(3, 6):
            made = msgspec.msgpack.encode((cookie(f"number {number}"),))
            liar.ask(StoreCookies(body(made)), number)

    async def go() -> None:
        await world.recover()
        async with await world.browser.new_context() as context:
            page = await context.new_page()
            with impostors(world.browser, "request_server", [lie]):
                await world.act(page.goto(world.server.url("/plain"), timeout=1000))
            kept = [each["name"] for each in await context.cookies()]
        assert kept == ["number 3", "number 4"]
        await world.all_is_well()

    world.run(go())


def test_what_a_request_server_says_of_cookies_is_filed_under_its_own_site(world: World) -> None:
    """It claims to be the bank's, and gets at nothing of the bank's."""
    bank: CookieParam = {"name": "secret", "value": "1", "url": "https://bank.example/"}
    mine: CookieParam = {"name": "mine", "value": "1", "url": world.server.url("/")}

    def lie(liar: Impostor) -> None:
        liar.work.recv(65536)
        liar.ask(DocumentFrom(world.server.url("/plain"), 0), 1)
        _name, site, (_size, inline) = liar.ask(GetCookies(), 2)
        found = ",".join(each[0] for each in msgspec.msgpack.decode(inline))
        claimed = msgspec.msgpack.encode((cookie("claimed"), cookie("found", f"{site} {found}")))
        liar.ask(StoreCookies(body(claimed)), 3)
        refused = liar.ask(DocumentFrom("https://bank.example/", 1), 4)
        _name, site, _body = liar.ask(GetCookies(), 5)
        claimed = msgspec.msgpack.encode((cookie("refused", f"{refused[1]} {site}"),))
        liar.ask(StoreCookies(body(claimed)), 6)

    async def go() -> None:
        await world.recover()
        async with await world.browser.new_context() as context:
            await context.add_cookies([bank, mine])
            page = await context.new_page()
            with impostors(world.browser, "request_server", [lie]) as came:
                await world.act(page.goto(world.server.url("/plain"), timeout=1000))
            kept = {each["name"]: (each["partitionKey"], each["value"]) for each in await context.cookies()}
            assert not came[0].is_alive
        assert kept == {
            "secret": ("https://bank.example", "1"),
            "mine": ("http://127.0.0.1", "1"),
            "claimed": ("http://127.0.0.1", ""),
            "found": ("http://127.0.0.1", "http://127.0.0.1 mine"),
            "refused": ("http://127.0.0.1", "other_site http://127.0.0.1"),
        }
        await world.all_is_well()

    world.run(go())


def decodes(decoded: Decoded, fds: Callable[[], list[int]]) -> Lie:
    return lambda liar: liar.answer(decoded, fds())


def decodes_nothing(liar: Impostor) -> None:
    liar.answer(LOADED)


ONE = Decoded(1, 1, "PNG")
BAD_DECODERS: dict[str, Lie] = {
    "more pixels than it may": decodes(Decoded(2**14, 2**13, "PNG"), lambda: [memory.sealed(b"x")]),
    "more pixels than there are": decodes(Decoded(20, 20, "PNG"), lambda: [memory.sealed(b"1234")]),
    "pixels that may change": decodes(ONE, lambda: _unsealed(4)),
    "pixels in a folder": decodes(ONE, lambda: [os.open("/", os.O_RDONLY)]),
    "no pixels": decodes(ONE, list),
    "a format with escapes": decodes(Decoded(1, 1, "P\x1b[2J"), lambda: [memory.sealed(b"1234")]),
    "a page": decodes_nothing,
}


@pytest.mark.parametrize("name", BAD_DECODERS)
def test_a_decoder_that_lies_is_ended_and_the_next_one_decodes(world: World, name: str) -> None:
    async def go() -> None:
        await world.recover()
        assert world.browser._processes is not None
        for spare in world.browser._processes.decoders.spares:
            await spare.end()
        with impostors(world.browser, "image_decoder", [BAD_DECODERS[name]]) as came:
            outcome = await world.act(world.browser.decode_image(world.image_file))
        (liar,) = came
        assert isinstance(liar.ending, ends.BadMessage), liar.ending
        assert isinstance(outcome, BadMessage), repr(outcome)
        assert str(outcome).isprintable()
        await world.all_is_well()

    world.run(go())


def test_a_lookup_server_that_speaks_unasked_is_replaced(world: World) -> None:
    async def go() -> None:
        await world.recover()
        assert world.browser._processes is not None
        standing = {child.kind: child for child in world.browser._processes.standing()}
        with impostors(world.browser, "lookup_server", [lambda liar: liar.say(Ready(()))]) as came:
            standing["lookup_server"].kill()
            await standing["lookup_server"].wait(5)
            while not came or not came[0].has_ended:
                await asyncio.sleep(0.01)
        assert isinstance(came[0].ending, ends.BadMessage), came[0].ending
        await world.all_is_well()

    world.run(go())


def test_what_a_child_says_of_its_sandbox_reaches_no_terminal_as_it_is(world: World) -> None:
    """A Refused in the place of Ready has words for the user in it."""

    def refuses(liar: Impostor) -> None:
        liar.control.send(packet(Refused((("seccomp", "\x1b[2J\nall is well"),))))

    async def go() -> None:
        await world.recover()
        here, there = Channel.pair()
        liar = start("image_decoder", refuses, [there], [here], ready=False)
        with pytest.raises(SandboxUnavailable) as caught:
            await liar.ready(5)
        assert str(caught.value).isprintable()
        await liar.end()

    world.run(go())
