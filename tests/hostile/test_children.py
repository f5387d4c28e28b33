"""The children, as those who receive from one another: a page's process from whoever opened it through the portal, a
request_server from a page and from a lookup_server that were taken over, a lookup_server from a request_server, a
decoder from a page. Real processes, locked down. Each answers, or closes the channel, or ends; none breaks down, none
takes another client along, and none does what it may not."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Coroutine, Iterator
from random import Random
from typing import Any

import msgspec
import pytest

from cloister import ends
from cloister.errors import ChannelClosed, RequestFailed
from cloister.interfaces import image_decoder, lookup_server, request_server, web_content
from cloister.interfaces.base import Blob, Descriptor, FailureCode, Message, Reply, Request
from cloister.interfaces.control import CONTROL
from cloister.interfaces.fetch import Destination, Fetch
from cloister.interfaces.image_decoder import Decode
from cloister.interfaces.lookup_server import LOOKUP, LOOKUP_ADMIN, AddClient, Connect
from cloister.interfaces.request_server import REQUEST_CONTROL, DocumentAllowed, DocumentFrom
from cloister.interfaces.requests import REQUESTS
from cloister.interfaces.web_content import (
    PAGE,
    WEB_CONTENT_CONTROL,
    AddPage,
    GetText,
    ImageDecoderReady,
    Load,
    NewImageDecoder,
    NewRequestServer,
    Progress,
    RequestServerReady,
    SetContent,
    TextFormat,
)
from cloister.interfaces.zygote import PreloadKind
from cloister.ipc import Channel, Connection, Descriptors, blob
from cloister.ipc.codec import codec
from cloister.process import ChildProcess, Zygote
from cloister.process.kinds import MODULES
from tests.hostile.messages import BOUNDARIES, REPLY, Boundary, Forger, Verdict, judge
from tests.hostile.things import Things, things

KINDS = ("web_content", "request_server", "lookup_server", "image_decoder")


class Nursery:
    """A zygote, and the loop that it lives on."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()
        self.zygote: Zygote = self.run(self._start())

    async def _start(self) -> Zygote:
        zygote = await Zygote.start([PreloadKind(kind, MODULES[kind]) for kind in KINDS])
        await zygote.ready()
        return zygote

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.run(work)

    def close(self) -> None:
        self.run(self.zygote.close())
        self._runner.close()

    async def fork(self, kind: str, options: msgspec.Struct, **named: Any) -> ChildProcess:
        here, there = Channel.pair()
        child = await self.zygote.fork(kind, msgspec.msgpack.encode(options), [there], keep=[here], **named)
        await child.ready()
        return child


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture(scope="module")
def given() -> Iterator[Things]:
    with things() as found:
        yield found


def boundary(name: str) -> Boundary:
    (found,) = (each for each in BOUNDARIES if str(each) == name)
    return found


async def send_until_bad(
    channel: Channel,
    boundary: Boundary,
    random: Random,
    given: Things,
    waiting: type[Request[Any]] | None = None,
    *,
    may_ask: bool = False,
) -> int:
    """Send packets up to the first bad one, with what descriptors come to hand, and take what is answered until the
    other end is closed. How many they were. ``waiting``: what the other end has asked. It ``may_ask`` more once it is
    asked itself: then nobody can say whether a reply is bad, and none is sent."""
    forger, every = Forger(boundary, random), [*given.right.values(), *given.wrong.values()]
    made: list[tuple[bytes, Verdict]] = []
    asked = {} if waiting is None else {1: waiting}
    while not made or made[-1][1] is not Verdict.BAD:
        data = forger.packet(asked)
        if may_ask and data[:1] == bytes([REPLY]) and any(verdict is Verdict.REQUEST for _, verdict in made):
            continue
        made.append((data, judge(data, boundary, asked)[0]))
        if made[-1][1] is Verdict.REPLY:
            asked.clear()
    with contextlib.suppress(ChannelClosed):
        for data, verdict in made:
            kinds = _expected(data, boundary) if verdict is not Verdict.BAD else ()
            fds = (
                [given.right[kind] for kind in kinds] if random.random() < 0.9 else random.choices(every, k=2)
            )
            channel.send(data, fds)
    async with asyncio.timeout(10):
        while True:
            try:
                channel.receive()[1].close()
            except BlockingIOError:
                await asyncio.sleep(0.001)
            except ChannelClosed:
                return len(made)


def _expected(data: bytes, boundary: Boundary) -> tuple[Descriptor, ...]:
    message = codec(boundary.interface, boundary.receiver).decode(data)[2]
    return () if message is None else message.expected_descriptors()


def test_a_page_process_goes_on_for_its_other_pages(nursery: Nursery, given: Things) -> None:
    """What a program sends that came through the portal, or a browser that was taken over."""

    async def go() -> None:
        child = await nursery.fork("web_content", web_content.Options(), interface=WEB_CONTENT_CONTROL)
        good = Connection(
            child.channel, PAGE, "client", {NewImageDecoder: _none, Progress: lambda _message, _fds: None}
        )
        await good.request(SetContent(Blob(7, b"<p>good")), timeout=10)
        sent = 0
        for seed in itertools.count():
            here, there = Channel.pair()
            child.control.send(AddPage(web_content.Options()), [there.detach()])
            client = boundary("web_content from its client")
            sent += await send_until_bad(here, client, Random(seed), given, may_ask=True)
            here.close()
            if sent > 1500:
                break
        answer, fds = await good.request(GetText(TextFormat.TEXT), timeout=10)
        assert blob.unpack(answer.body, fds, 100).strip() == b"good"
        await child.ping()
        good.close()
        await child.wait(5)
        assert child.ending == ends.Exited(0)
        await child.end()

    nursery.run(go())


async def _none(_message: Message, _fds: Descriptors) -> Reply:
    raise RequestFailed("no_process")


def test_a_lookup_server_goes_on_for_its_other_clients(nursery: Nursery, given: Things) -> None:
    async def go() -> None:
        rules = lookup_server.PolicyRules(allow_cidrs=("192.0.2.0/24",), allow_ports=(1,))
        options = lookup_server.Options(rules, dns_servers=("127.0.0.1:9",), connect_timeout=500)
        child = await nursery.fork("lookup_server", options)
        admin = Connection(child.channel, LOOKUP_ADMIN, "client")
        sent = 0
        for seed in itertools.count():
            here, there = Channel.pair()
            admin.send(AddClient(), [there.detach()])
            sent += await send_until_bad(here, boundary("lookup_server from its client"), Random(seed), given)
            here.close()
            if sent > 1500:
                break
        here, there = Channel.pair()
        admin.send(AddClient(), [there.detach()])
        client = Connection(here, LOOKUP, "client")
        with pytest.raises(RequestFailed) as caught:
            await client.request(Connect("127.0.0.1", 1), timeout=10)
        assert caught.value.code == FailureCode.ADDRESS_REFUSED
        client.close()
        admin.close()
        await child.wait(5)
        assert child.ending == ends.Exited(0)
        await child.end()

    nursery.run(go())


@pytest.mark.parametrize("who", ["request_server from its client", "image_decoder from its client"])
def test_a_process_with_one_client_ends_with_it(nursery: Nursery, given: Things, who: str) -> None:
    """A request_server for a page, a decoder for an image: nobody else needs them."""
    kind = who.partition(" ")[0]
    options = {
        "request_server": request_server.Options("test", request_timeout=500),
        "image_decoder": image_decoder.Options(max_pixels=1000),
    }

    async def refuse(_message: DocumentFrom, _fds: Descriptors) -> Reply:
        raise RequestFailed(FailureCode.OTHER_SITE)

    async def one(seed: int) -> int:
        work, lookup = Channel.pair(), Channel.pair()
        channels = [work[1], lookup[1]] if kind == "request_server" else [work[1]]
        if kind != "request_server":
            lookup[1].close()
        child = await nursery.zygote.fork(
            kind,
            msgspec.msgpack.encode(options[kind]),
            channels,
            keep=[work[0], lookup[0]],
            interface=REQUEST_CONTROL if kind == "request_server" else CONTROL,
            handlers={DocumentFrom: refuse} if kind == "request_server" else None,
        )
        sent = await send_until_bad(work[0], boundary(who), Random(seed), given)
        await child.wait(5)
        assert child.ending == ends.Exited(0), seed
        await child.end()
        return sent

    async def go() -> None:
        sent = 0
        for seed in itertools.count():
            sent += await one(seed)
            if sent > 300:
                return

    nursery.run(go())


def test_a_request_server_answers_though_its_lookup_server_lies(nursery: Nursery, given: Things) -> None:
    """A page waits for the answer, and gets one."""

    async def allow(_message: DocumentFrom, _fds: Descriptors) -> Reply:
        return DocumentAllowed()

    async def one(seed: int) -> None:
        page, lookup = Channel.pair(), Channel.pair()
        child = await nursery.zygote.fork(
            "request_server",
            msgspec.msgpack.encode(request_server.Options("test", request_timeout=200)),
            [page[1], lookup[1]],
            keep=[page[0], lookup[0]],
            interface=REQUEST_CONTROL,
            handlers={DocumentFrom: allow},
        )
        asker = Connection(page[0], REQUESTS, "client")
        fetching = asyncio.ensure_future(
            asker.request(Fetch("http://a.example/", Destination.DOCUMENT), timeout=10)
        )
        await _readable(lookup[0])
        await send_until_bad(
            lookup[0], boundary("lookup_server from its server"), Random(seed), given, Connect
        )
        with pytest.raises(RequestFailed):
            await fetching
        await child.ping()
        asker.close()
        await child.wait(5)
        assert child.ending == ends.Exited(0), seed
        await child.end()

    async def go() -> None:
        for seed in range(20):
            await one(seed)

    nursery.run(go())


HTML = b"<img src=data:image/png;base64,iVBORw0KGgo=><p>text"


@pytest.mark.parametrize("who", ["request_server from its server", "image_decoder from its server"])
def test_a_page_is_shown_or_fails_though_what_it_asks_lies(nursery: Nursery, given: Things, who: str) -> None:
    """Its process was not at fault, and goes on."""
    seeds, sent = itertools.count(), 0

    async def lie(_message: Message, _fds: Descriptors) -> tuple[Reply, list[int]]:
        here, there = Channel.pair()
        lies.append(asyncio.ensure_future(one(here)))
        return _READY[who], [there.detach()]

    async def one(channel: Channel) -> None:
        nonlocal sent
        await _readable(channel)
        channel.receive()[1].close()
        sent += await send_until_bad(channel, boundary(who), Random(next(seeds)), given, _ASKED[who])
        channel.close()

    lies: list[asyncio.Future[None]] = []

    async def go() -> None:
        child = await nursery.fork("web_content", web_content.Options(max_images=2))
        asked: dict[type[Message], Any] = {
            NewRequestServer: lie,
            NewImageDecoder: lie,
            Progress: lambda _message, _fds: None,
        }
        page = Connection(child.channel, PAGE, "client", asked)
        while sent < 60:
            if who.startswith("request_server"):
                with contextlib.suppress(RequestFailed):
                    await page.request(Load("http://a.example/"), timeout=10)
            else:
                with contextlib.suppress(RequestFailed):  # a document that is an image
                    await page.request(SetContent(Blob(8, HTML[:8]), content_type="image/png"), timeout=10)
                await page.request(SetContent(Blob(len(HTML), HTML)), timeout=10)
                answer, fds = await page.request(GetText(TextFormat.TEXT), timeout=10)
                assert blob.unpack(answer.body, fds, 100).strip() == b"text"
            await asyncio.gather(*lies)
            await child.ping()
        page.close()
        await child.wait(5)
        assert child.ending == ends.Exited(0)
        await child.end()

    nursery.run(go())


_ASKED: dict[str, type[Request[Any]]] = {
    "request_server from its server": Fetch,
    "image_decoder from its server": Decode,
}
_READY = {
    "request_server from its server": RequestServerReady(),
    "image_decoder from its server": ImageDecoderReady(),
}


async def _readable(channel: Channel) -> None:
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(channel.fileno(), ready.set)
    try:
        await asyncio.wait_for(ready.wait(), 10)
    finally:
        loop.remove_reader(channel.fileno())
