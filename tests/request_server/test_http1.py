"""HTTP/1.1 as servers get it wrong: each is an error with a name, or read as browsers read it, and none of it is taken
for the answer to the next request."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator, Sequence

import ada_url
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.request_server.conftest import Fetched, Fetcher, Keeper, NoShelf, nobody_minds
from tests.request_server.peers import ask, led_to, outcome, peer, read_head

from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode
from cloister.interfaces.fetch import Destination, Fetch
from cloister.interfaces.request_server import Options
from cloister.request_server.client import Client
from cloister.request_server.wire import Link, Wire

URL = "http://site.example/"
NEXT = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext"
MIB = 1024 * 1024


def saying(
    said: bytes, *, more: Iterator[bytes] | None = None, hangs: bool = False
) -> list[Fetched | RequestFailed]:
    """Fetch from a server that answers the first request with ``said``, and every other one as it should."""
    told: list[int] = []

    def serve(connection: socket.socket, number: int) -> None:
        while read_head(connection):
            if told:
                connection.sendall(NEXT)
                continue
            told.append(number)
            connection.sendall(said)
            for piece in more or ():
                connection.sendall(piece)
            if not hangs:
                return

    return ask(serve, URL, URL, request_timeout=5000)


OK = b"HTTP/1.1 200 OK\r\n"

REFUSED = {
    "another length": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nok!",
    "another length in a list": OK + b"Content-Length: 2, 3\r\n\r\nok!",
    "a negative length": OK + b"Content-Length: -1\r\n\r\n",
    "a signed length": OK + b"Content-Length: +2\r\n\r\nok",
    "a length in hexadecimal": OK + b"Content-Length: 0x2\r\n\r\nok",
    "a length in other digits": OK + "Content-Length: ２\r\n\r\nok".encode(),
    "a length beyond numbers": OK + b"Content-Length: " + b"9" * 400 + b"\r\n\r\n",
    "an empty length": OK + b"Content-Length: \r\n\r\nok",
    "chunked, twice": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked, and then more": OK + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "compressed, then chunked": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "an unknown coding": OK + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a chunk of no size": OK + b"Transfer-Encoding: chunked\r\n\r\n\r\nok\r\n0\r\n\r\n",
    "a chunk of a negative size": OK + b"Transfer-Encoding: chunked\r\n\r\n-2\r\nok\r\n0\r\n\r\n",
    "a chunk with 0x": OK + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\nok\r\n0\r\n\r\n",
    "a chunk with an underscore": OK + b"Transfer-Encoding: chunked\r\n\r\n1_0\r\nok\r\n0\r\n\r\n",
    "a chunk beyond numbers": OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 30 + b"\r\n",
    "a chunk longer than it says": OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok!\r\n0\r\n\r\n",
    "a chunk that ends in a bare LF": OK + b"Transfer-Encoding: chunked\r\n\r\n2\nok\n0\n\n",
    "chunks without an end": OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
    "a body that is cut off": OK + b"Content-Length: 10\r\n\r\nok",
    "a NUL in a value": OK + b"X: a\0b\r\nContent-Length: 2\r\n\r\nok",
    "a NUL in a name": OK + b"X\0: a\r\nContent-Length: 2\r\n\r\nok",
    "a CR in a value": OK + b"X: a\rY: b\r\nContent-Length: 2\r\n\r\nok",
    "a space before the colon": OK + b"Content-Length : 2\r\n\r\nok",
    "a header without a colon": OK + b"Content-Length 2\r\n\r\nok",
    "a header without a name": OK + b": 2\r\nContent-Length: 2\r\n\r\nok",
    "a folded first header": OK + b" X: a\r\nContent-Length: 2\r\n\r\nok",
    "a letter outside of ASCII in a name": OK + b"X-\xe9: a\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/0.9": b"<html>hello</html>\r\n\r\n",
    "HTTP/2 unasked": b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/0.1": b"HTTP/0.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "another protocol": b"ICY 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "a status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "a status of four digits": b"HTTP/1.1 2000 OK\r\n\r\n",
    "a status of 0": b"HTTP/1.1 000 OK\r\nContent-Length: 2\r\n\r\nok",
    "a status of 99": b"HTTP/1.1 099 OK\r\nContent-Length: 2\r\n\r\nok",
    "a status with a sign": b"HTTP/1.1 +20 OK\r\n\r\n",
    "no status": b"HTTP/1.1\r\n\r\n",
    "two spaces before the status": b"HTTP/1.1  200 OK\r\nContent-Length: 2\r\n\r\nok",
    "an empty line first": b"\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "another protocol is switched to": b"HTTP/1.1 101 Switching\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n",
    "more headers than anybody needs": OK + b"X: 1\r\n" * 600 + b"Content-Length: 2\r\n\r\nok",
    "longer headers than anybody needs": OK + b"X: " + b"x" * 100_000 + b"\r\nContent-Length: 2\r\n\r\nok",
    "more interim responses than anybody needs": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 20 + OK + b"\r\n",
    "an interim response with a long header": b"HTTP/1.1 103 E\r\nX: " + b"x" * 100_000 + b"\r\n\r\n" + OK + b"\r\n",
    "a trailer that is no header": OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\0\r\n\r\n",
    "a redirect to two places": b"HTTP/1.1 302 Found\r\nLocation: /a\r\nLocation: /b\r\nContent-Length: 0\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused(name: str) -> None:
    first, second = saying(REFUSED[name])
    assert isinstance(first, RequestFailed), first
    assert first.code == FailureCode.BAD_RESPONSE
    assert "site.example sent a response that cannot be read" in first.detail
    assert isinstance(second, Fetched)
    assert second.body == b"next"


READ = {
    "one length, twice": (OK + b"Content-Length: 2\r\ncontent-length: 2\r\n\r\nok", b"ok"),
    "one length in a list": (OK + b"Content-Length: 2, 2\r\n\r\nok", b"ok"),
    "a length of leading zeros": (OK + b"Content-Length: 0002\r\n\r\nok", b"ok"),
    "a length and chunks: the chunks count": (
        OK + b"Content-Length: 60\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"ok",
    ),
    "a folded header": (OK + b"X: a\r\n b\r\n\tc\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    "lines that end in a bare LF": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", b"ok"),
    "letters outside of ASCII in a value": (OK + b"X: \xe9\xff\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    "a control character in a value": (OK + b"X: a\x01b\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok", b"ok"),
    "HTTP/1.0 to its end": (b"HTTP/1.0 200 OK\r\n\r\nok", b"ok"),
    "no length at all": (OK + b"\r\nok", b"ok"),
    "chunks with extensions": (
        OK + b"Transfer-Encoding: chunked\r\n\r\n1;a=b\r\no\r\n1 ; c=\"d\"\r\nk\r\n0\r\n\r\n".replace(b"1 ;", b"1;"),
        b"ok",
    ),
    "chunks with spaces behind their sizes": (
        OK + b"Transfer-Encoding: chunked\r\n\r\n2  \r\nok\r\n0\r\n\r\n",
        b"ok",
    ),
    "chunks with trailers, which are dropped": (
        OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nContent-Type: text/css\r\n\r\n",
        b"ok",
    ),
    "Chunked in capitals": (OK + b"Transfer-Encoding: CHUNKED\r\n\r\n2\r\nok\r\n0\r\n\r\n", b"ok"),
    "204 with a body": (b"HTTP/1.1 204 No\r\nContent-Length: 2\r\n\r\nok", b""),
    "304 with a body": (b"HTTP/1.1 304 Not\r\nContent-Length: 2\r\n\r\nok", b""),
    "204 in chunks": (b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", b""),
    "interim responses first": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nLink: </x>\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nok",
        b"ok",
    ),
    "more than it announced": (OK + b"Content-Length: 2\r\n\r\nok and more", b"ok"),
    "the next answer before it is asked for": (
        OK + b"Content-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison",
        b"ok",
    ),
}  # fmt: skip


@pytest.mark.parametrize("hangs", [False, True])
@pytest.mark.parametrize("name", READ)
def test_it_is_read_as_browsers_read_it(name: str, hangs: bool) -> None:
    said, body = READ[name]
    if hangs and name in {"HTTP/1.0 to its end", "no length at all"}:
        return  # the end of the connection is the end of the body
    first, second = saying(said, hangs=hangs)
    assert isinstance(first, Fetched), first
    assert first.body == body
    assert isinstance(second, Fetched)
    assert second.body == b"next"  # and never what came unasked


def test_what_could_be_read_in_two_ways_costs_the_connection() -> None:
    said = READ["a length and chunks: the chunks count"][0]
    seen: list[int] = []

    def serve(connection: socket.socket, number: int) -> None:
        while read_head(connection):
            seen.append(number)
            connection.sendall(said)

    ask(serve, URL, URL)
    assert seen == [1, 2]


def test_a_trailer_is_no_header_and_a_folded_one_is_one_line() -> None:
    (trailed, _) = saying(READ["chunks with trailers, which are dropped"][0])
    assert isinstance(trailed, Fetched)
    assert trailed.content_type == ""
    (folded, _) = saying(READ["a folded header"][0])
    assert isinstance(folded, Fetched)
    assert ("x", "a b c") in folded.headers


def test_what_comes_unasked_on_a_kept_connection_is_never_an_answer() -> None:
    is_poisoned = threading.Event()

    def serve(connection: socket.socket, number: int) -> None:
        while read_head(connection):
            connection.sendall(NEXT)
            if number == 1:
                connection.sendall(NEXT.replace(b"next", b"evil"))
                is_poisoned.set()

    async def run() -> None:
        async with led_to(port) as made:
            assert (await made.fetch(Fetch(URL, Destination.DOCUMENT))).body == b"next"
            assert is_poisoned.wait(10)
            assert (await made.fetch(Fetch(URL, Destination.DOCUMENT))).body == b"next"

    with peer(serve) as port:
        asyncio.run(run())


@pytest.mark.parametrize(
    "flood",
    [
        b"1\r\nx\r\n",
        b"1;" + b"e" * 60_000 + b"\r\nx\r\n",
    ],
    ids=["chunks of one byte", "chunks that are all extension"],
)
def test_work_for_nothing_is_cut_off(flood: bytes) -> None:
    def forever() -> Iterator[bytes]:
        while True:
            yield flood * (1 + 65536 // len(flood))

    first, second = saying(OK + b"Transfer-Encoding: chunked\r\n\r\n", more=forever())
    assert isinstance(first, RequestFailed)
    assert first.code == FailureCode.BAD_RESPONSE
    assert "keeps us busy" in first.detail
    assert isinstance(second, Fetched)


def test_many_answers_with_long_headers_are_no_flood() -> None:
    connections = 0

    def serve(connection: socket.socket, number: int) -> None:
        nonlocal connections
        connections = number
        answer = b"HTTP/1.1 204 No\r\n" + b"X: " + b"x" * 8000 + b"\r\n\r\n"
        while connection.recv(65536):
            connection.sendall(answer)

    assert all(isinstance(came, Fetched) for came in ask(serve, *[URL] * 300))
    assert connections == 1


def test_a_server_that_stops_in_the_middle_of_a_body_is_given_up() -> None:
    def serve(connection: socket.socket, _number: int) -> None:
        read_head(connection)
        connection.sendall(OK + b"Content-Length: 10\r\n\r\nok")
        read_head(connection)

    (failed,) = ask(serve, URL, request_timeout=200)
    assert isinstance(failed, RequestFailed)
    assert failed.code == FailureCode.TIMED_OUT


def test_a_body_is_sent_once_and_only_what_changes_nothing_is_sent_again() -> None:
    """A kept connection ends when it is used again: nobody knows whether the server had begun."""
    heads: list[bytes] = []

    def serve(connection: socket.socket, number: int) -> None:
        while head := read_head(connection):
            heads.append(head)
            if b"Content-Length" in head:
                connection.recv(100)
            if len(heads) % 2 == 0:
                return
            connection.sendall(NEXT)

    async def run(method: str) -> Fetched | RequestFailed:
        async with led_to(port) as made:
            await made.fetch(Fetch(URL, Destination.DOCUMENT))
            return await outcome(made.fetch(Fetch(URL, Destination.DOCUMENT, method=method), b"body"))

    with peer(serve) as port:
        posted = asyncio.run(run("POST"))
        assert isinstance(posted, RequestFailed)
        assert posted.code == FailureCode.CONNECTION_RESET
        assert len(heads) == 2
        put = asyncio.run(run("PUT"))
        assert isinstance(put, Fetched)
        assert len(heads) == 5


def test_an_answer_may_come_before_the_request_is_sent() -> None:
    def serve(connection: socket.socket, _number: int) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        with contextlib.suppress(OSError):
            while connection.recv(65536):
                pass

    async def run() -> Fetched:
        async with led_to(port) as made:
            return await made.fetch(Fetch(URL, Destination.DOCUMENT, method="POST"), bytes(32 * MIB))

    with peer(serve) as port:
        assert asyncio.run(run()).status == 413


@pytest.mark.parametrize("body", [b"", bytes(64 * MIB)], ids=["short", "long"])
def test_what_a_server_said_before_it_cut_the_connection_is_read(body: bytes) -> None:
    """It refuses a request that it has not read: behind the answer comes a reset."""

    async def dial(_url: ada_url.URL, _protocols: Sequence[str] = ()) -> Link:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ours = socket.create_connection(listener.getsockname())
            theirs, _ = listener.accept()
        ours.sendall(b"something")
        theirs.recv(1)
        theirs.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlarge")
        theirs.close()  # something is left to read: so this is a reset
        return Wire(ours)

    async def run() -> Fetched:
        client = Client(
            Options(user_agent="Cloister tests"), dial, nobody_minds, NoShelf(), Keeper().of_document
        )
        try:
            return await Fetcher(client).fetch(Fetch(URL, Destination.DOCUMENT, method="POST"), body)
        finally:
            client.close()

    fetched = asyncio.run(run())
    assert (fetched.status, fetched.body) == (413, b"large")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(st.binary(max_size=300), st.text("HTP/1.0 2\r\n:-xchunked;", max_size=200).map(str.encode)))
def test_whatever_bytes_come_there_is_an_answer_or_a_name_for_what_was_wrong(said: bytes) -> None:
    def serve(connection: socket.socket, _number: int) -> None:
        read_head(connection)
        connection.sendall(said)

    (came,) = ask(serve, URL, request_timeout=2000)
    if isinstance(came, RequestFailed):
        assert came.code in {FailureCode.BAD_RESPONSE, FailureCode.CONNECTION_RESET}
