"""The process itself, locked down by the real kernel: it fetches over sockets handed to it, and makes none."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from tests.request_server.conftest import connect
from tests.servers import ARTICLE, COMPRESSORS, SITE, Authority, Page, Server, redirect

from cloister.errors import RequestFailed
from cloister.interfaces.base import INLINE_LIMIT, Descriptor, FailureCode
from cloister.interfaces.control import Ping, Ready, Shutdown
from cloister.interfaces.cookies import Cookies, CookiesStored, GetCookies, StoreCookies
from cloister.interfaces.fetch import Destination, Fetch
from cloister.interfaces.lookup_server import LOOKUP, Connect
from cloister.interfaces.request_server import (
    REQUEST_CONTROL,
    DocumentAllowed,
    DocumentFrom,
    Options,
    PreloadOptions,
)
from cloister.interfaces.requests import REQUESTS
from cloister.ipc import Channel, Connection, Descriptors, blob
from cloister.request_server.sandbox import POLICY

PAGES = {path: page for path, page in SITE.items() if isinstance(page, Page)}
MIB = 1024 * 1024
TIMEOUT = 30.0

# What the zygote and its child do between them. After main() has returned, the sandbox is still on.
CHILD = """
import os, socket, sys
from cloister import sandbox
control, page, lookup = (int(number) for number in sys.argv[1:4])
options, preload = (bytes.fromhex(text) for text in sys.argv[4:6])
sandbox.shed([control, page, lookup])
sandbox.isolate(sandbox.NAMESPACES - {sandbox.Layer.PID_NAMESPACE})
from cloister.ipc import Channel
from cloister.ipc.service import Start
from cloister.request_server import main
main.preload(preload)
sandbox.enter_empty_root(main.POLICY.read_paths)
main.main(Start(Channel(control), (Channel(page), Channel(lookup)), options, allow_degraded=True))
for name, attempt in {
    "socket": lambda: socket.socket(),
    "file": lambda: open("/etc/passwd"),
}.items():
    try:
        attempt()
    except OSError:
        print(name, "denied", file=sys.stderr)
    else:
        print(name, "ALLOWED", file=sys.stderr)
sys.stderr.flush()
os._exit(0)
"""


@dataclass
class Child:
    process: subprocess.Popen[bytes]
    control: Connection
    page: Connection
    ready: asyncio.Future[Ready]
    visited: list[tuple[str, int]]
    """Where it said that a document was about to come from. What is in ``forbidden``, it was not allowed."""
    forbidden: set[str]

    async def fetch(self, url: str) -> tuple[str, bytes]:
        reply, fds = await self.page.request(Fetch(url, Destination.DOCUMENT), timeout=TIMEOUT)
        return reply.url, blob.unpack(reply.body, fds, 64 * MIB)

    async def ended(self) -> tuple[int, str]:
        """Its exit code, and what it said on stderr."""
        _, said = await asyncio.to_thread(self.process.communicate, timeout=TIMEOUT)
        return self.process.returncode, said.decode()


@contextlib.asynccontextmanager
async def start(roots: str = "", **limits: Any) -> AsyncIterator[Child]:
    pairs = [Channel.pair() for _ in range(3)]
    theirs = [pair[1] for pair in pairs]
    ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
    visited: list[tuple[str, int]] = []
    forbidden: set[str] = set()

    async def document_from(message: DocumentFrom, _fds: Descriptors) -> DocumentAllowed:
        visited.append((message.url, message.redirects))
        if message.url in forbidden:
            raise RequestFailed(FailureCode.OTHER_SITE, "not there")
        return DocumentAllowed()

    async def get_cookies(_message: GetCookies, _fds: Descriptors) -> tuple[Cookies, list[int]]:
        body, fds = blob.pack(msgspec.msgpack.encode(()))
        return Cookies("", body), fds

    async def store_cookies(_message: StoreCookies, fds: Descriptors) -> CookiesStored:
        fds.close()
        return CookiesStored()

    control = Connection(
        pairs[0][0],
        REQUEST_CONTROL,
        "client",
        {
            Ready: lambda message, _fds: ready.set_result(message),
            DocumentFrom: document_from,
            GetCookies: get_cookies,
            StoreCookies: store_cookies,
        },
    )
    page = Connection(pairs[1][0], REQUESTS, "client")
    lookup = Connection(pairs[2][0], LOOKUP, "server", {Connect: connect})
    numbers = [channel.fileno() for channel in theirs]
    options = msgspec.msgpack.encode(Options(user_agent="Cloister tests", **limits)).hex()
    preload = msgspec.msgpack.encode(PreloadOptions(extra_roots=roots)).hex()
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, *map(str, numbers), options, preload],
        pass_fds=numbers,
        stderr=subprocess.PIPE,
    )
    for channel in theirs:
        channel.close()
    try:
        async with asyncio.timeout(TIMEOUT):
            await ready
        yield Child(process, control, page, ready, visited, forbidden)
    finally:
        process.kill()
        await asyncio.to_thread(process.communicate)
        for connection in (control, page, lookup):
            connection.close()


def test_every_kind_of_response_is_fetched_from_inside_the_sandbox(authority: Authority) -> None:
    async def run() -> None:
        async with start(authority.roots) as child:
            assert "seccomp" in child.ready.result().layers
            for path in ["/article", "/redirect", *(f"/encoded/{name}" for name in COMPRESSORS)]:
                assert (await child.fetch(plain.url(path)))[1] == ARTICLE
            for https in (http_1, http_2):
                assert await child.fetch(https.url("/redirect", "localhost")) == (
                    https.url("/article", "localhost"),
                    ARTICLE,
                )
            _, large = await child.fetch(http_2.url("/large"))
            assert large == b"x" * (3 * MIB)

    with (
        Server() as plain,
        Server(PAGES, tls=authority.context(http_2=False)) as http_1,
        Server(PAGES, tls=authority.context()) as http_2,
    ):
        asyncio.run(run())
    assert {request.version for request in http_2.requests} == {"HTTP/2"}


def test_every_failure_inside_the_sandbox_is_an_answer(authority: Authority) -> None:
    async def run() -> dict[str, str]:
        codes: dict[str, str] = {}
        urls = {path: plain.url(path) for path in SITE if not isinstance(SITE[path], Page)}
        urls |= {
            "file": "file:///etc/passwd",
            "private": "http://10.0.0.1/",
            "nonsense": "http://\u00ad.\u3002/",
        }
        urls |= {
            "expired": old.url("/"),
            "untrusted": stranger.url("/"),
            "plain": plain.url("/").replace(":", "s:", 1),
        }
        async with start(authority.roots, request_timeout=300, max_response_bytes=MIB) as child:
            for name, url in urls.items():
                with pytest.raises(RequestFailed) as caught:
                    await child.fetch(url)
                codes[name] = caught.value.code
            assert (await child.fetch(plain.url("/article")))[1] == ARTICLE
            return codes

    with (
        Server() as plain,
        Server(PAGES, tls=authority.context(days=-1)) as old,
        Server(PAGES, tls=Authority().context()) as stranger,
    ):
        codes = asyncio.run(run())
    assert FailureCode.INTERNAL not in codes.values()
    assert codes["/bomb/zstd"] == FailureCode.TOO_LARGE
    assert codes["/huge-header"] == FailureCode.BAD_RESPONSE
    assert codes["/silent"] == FailureCode.TIMED_OUT
    assert codes["expired"] == FailureCode.CERTIFICATE_EXPIRED
    assert codes["untrusted"] == FailureCode.CERTIFICATE_UNTRUSTED
    assert codes["plain"] == FailureCode.TLS_FAILED


def test_it_asks_the_browser_before_it_speaks_to_a_documents_server() -> None:
    async def run() -> list[tuple[str, int]]:
        async with start() as child:
            assert (await child.fetch(first.url("/go")))[0] == second.url("/article#there")
            image = Fetch(first.url("/image.png"), Destination.IMAGE)
            await child.page.request(image, timeout=TIMEOUT)  # of what is no document, nobody is told
            child.forbidden.add(third.url("/secret"))
            with pytest.raises(RequestFailed) as caught:
                await child.fetch(second.url("/leave"))
            assert caught.value.code == FailureCode.OTHER_SITE
            return child.visited

    with (
        Server() as third,
        Server({**SITE, "/leave": redirect(third.url("/secret"))}) as second,
        Server({**SITE, "/go": redirect(second.url("/article#there"))}) as first,
    ):
        visited = asyncio.run(run())
    assert visited == [
        (first.url("/go"), 0),
        (second.url("/article#there"), 1),
        (second.url("/leave"), 0),
        (third.url("/secret"), 1),
    ]
    assert third.requests == []


def test_a_large_body_comes_in_a_sealed_memfd(authority: Authority) -> None:
    async def run() -> None:
        async with start(authority.roots) as child:
            url = Fetch(site.url("/large"), Destination.DOCUMENT)
            reply, fds = await child.page.request(url, timeout=TIMEOUT)
            assert reply.body.inline is None
            assert reply.body.size > INLINE_LIMIT
            fds.check([Descriptor.SEALED_MEMFD])
            fds.close()

    with Server() as site:
        asyncio.run(run())


def test_a_cancelled_request_ends_its_connection(authority: Authority) -> None:
    async def run() -> None:
        async with start(authority.roots, max_response_bytes=2**40) as child:
            task = asyncio.create_task(child.fetch(site.url("/endless")))
            async with asyncio.timeout(TIMEOUT):
                while not site.open_connections:
                    await asyncio.sleep(0.005)
                task.cancel()
                while site.open_connections:
                    await asyncio.sleep(0.005)
            assert (await child.fetch(site.url("/article")))[1] == ARTICLE

    with Server() as site:
        asyncio.run(run())


@pytest.mark.parametrize("how", ["the page is gone", "shutdown", "the browser is gone"])
def test_it_ends_with_what_it_serves_and_could_never_open_a_socket_or_a_file(how: str) -> None:
    async def run() -> tuple[int, str]:
        async with start() as child:
            assert (await child.control.request(Ping(7), timeout=TIMEOUT))[0].nonce == 7
            if how == "shutdown":
                child.control.send(Shutdown())
            elif how == "the page is gone":
                child.page.close()
            else:
                child.control.close()
            return await child.ended()

    code, said = asyncio.run(run())
    assert said.splitlines() == ["socket denied", "file denied"]
    assert code == 0


def test_the_policy_has_no_call_that_makes_a_socket_a_process_or_opens_a_file() -> None:
    for call in (
        "socket",
        "connect",
        "bind",
        "accept4",
        "openat",
        "clone",
        "execve",
        "ptrace",
        "io_uring_setup",
    ):
        assert not POLICY.allows(call), call
    assert POLICY.read_paths == ()
    assert not POLICY.connects
