"""Bodies that are read from files while they are sent: to servers that read, answer early, go away, or redirect."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import h2.events
import h2.settings
import pytest
from tests.request_server.conftest import Fetched
from tests.request_server.peers import Http2Server, led_to, outcome, peer, read_head

from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode
from cloister.interfaces.fetch import Destination, Fetch
from cloister.interfaces.request_server import Credentials, DocumentAllowed
from cloister.request_server.upload import HeldFile, Upload, pieces

URL = "http://site.example/"
SECURE = "https://site.example/"
CONTENT = b"".join(number.to_bytes(3, "big") for number in range(100_000))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


def upload(path: Path, size: int = len(CONTENT), around: bytes = b"") -> Upload:
    return Upload([around, HeldFile(os.open(path, os.O_RDONLY), size), around])


def put(
    handler: Callable[[socket.socket, int], None],
    body: Upload,
    url: str = URL,
    method: str = "PUT",
    announce: Callable[..., object] | None = None,
    until: threading.Event | None = None,
) -> Fetched | RequestFailed:
    """What becomes of ``body`` at a server that ``handler`` is. Connections stay ``until`` that."""

    async def run() -> Fetched | RequestFailed:
        options = {"announce": announce} if announce else {}
        async with led_to(port, http_2=url == SECURE, request_timeout=5000, **options) as made:  # type: ignore[arg-type]
            answer = await outcome(made.fetch(Fetch(url, Destination.DOCUMENT, method=method), body))  # type: ignore[arg-type]
            if until is not None:
                assert await asyncio.to_thread(until.wait, 10)
            return answer

    with peer(handler) as port:
        try:
            return asyncio.run(run())
        finally:
            body.close()


def read_request(connection: socket.socket) -> tuple[bytes, bytes]:
    head = read_head(connection)
    lines = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
    size, body = int(lines[b"content-length"]), bytearray()
    while len(body) < size and (data := connection.recv(65536)):
        body += data
    return head, bytes(body)


def say(connection: socket.socket, status: str, *headers: str) -> None:
    lines = "".join(f"{header}\r\n" for header in headers)
    connection.sendall(f"HTTP/1.1 {status}\r\n{lines}Content-Length: 2\r\n\r\nok".encode())


# ── the body itself ──────────────────────────────────────────────────────────────────────────────────────────────


def test_a_body_is_the_same_each_time_it_is_read_and_small_pieces_are_in_memory(file: Path) -> None:
    body = upload(file, around=b"--")
    try:
        for _ in range(2):
            found = list(pieces(body))
            assert b"".join(found) == b"--" + CONTENT + b"--"
            assert max(map(len, found)) <= 64 * 1024
        assert len(body) == len(CONTENT) + 4
    finally:
        body.close()


def test_of_a_file_that_grew_so_much_is_sent_as_was_said(file: Path) -> None:
    body = upload(file, size=1000)
    assert b"".join(pieces(body)) == CONTENT[:1000]
    body.close()


def test_nothing_is_read_by_a_number_that_may_be_another_files_by_now(file: Path, tmp_path: Path) -> None:
    body = upload(file)
    reading = pieces(body)
    next(reading)
    body.close()
    (tmp_path / "secret").write_bytes(b"s" * len(CONTENT))
    with (tmp_path / "secret").open("rb"), pytest.raises(RequestFailed) as caught:
        next(reading)
    assert caught.value.code == FailureCode.CANCELLED


def test_closing_twice_closes_nothing_else(file: Path) -> None:
    body = upload(file)
    body.close()
    other = os.open(file, os.O_RDONLY)
    body.close()
    os.close(other)


# ── servers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_is_sent_in_whole_over_http_1(file: Path) -> None:
    got: list[tuple[bytes, bytes]] = []

    def serve(connection: socket.socket, _number: int) -> None:
        got.append(read_request(connection))
        say(connection, "200 OK")

    answer = put(serve, upload(file, around=b"--"))
    assert isinstance(answer, Fetched)
    ((head, body),) = got
    assert body == b"--" + CONTENT + b"--"
    assert f"Content-Length: {len(CONTENT) + 4}".encode() in head


@pytest.mark.parametrize("window", [65_535, 2**20])
def test_a_file_is_sent_in_whole_over_http_2_as_the_server_gives_room(file: Path, window: int) -> None:
    got = bytearray()
    lengths: list[bytes] = []

    def serve(connection: socket.socket, _number: int) -> None:
        server = Http2Server(connection, {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        while True:
            for event in server.take():
                if isinstance(event, h2.events.RequestReceived):
                    lengths.append(dict(event.headers or ())[b"content-length"])
                elif isinstance(event, h2.events.DataReceived):
                    got.extend(event.data or b"")
                    server.state.acknowledge_received_data(event.flow_controlled_length or 0, 1)
                    server.flush()
                elif isinstance(event, h2.events.StreamEnded):
                    server.answer(1)

    answer = put(serve, upload(file, around=b"--"), SECURE)
    assert isinstance(answer, Fetched)
    assert bytes(got) == b"--" + CONTENT + b"--"
    assert lengths == [str(len(CONTENT) + 4).encode()]


@pytest.mark.parametrize("url", [URL, SECURE])
def test_a_file_that_has_become_shorter_is_an_error_with_a_name(file: Path, url: str) -> None:
    over = threading.Event()

    def serve(connection: socket.socket, _number: int) -> None:
        if url == SECURE:
            server = Http2Server(connection)
            while not server.resets:
                for event in server.take():
                    if isinstance(event, h2.events.DataReceived):
                        server.state.acknowledge_received_data(event.flow_controlled_length or 0, 1)
                        server.flush()
        else:
            read_request(connection)  # up to where the client hangs up
        over.set()

    answer = put(serve, upload(file, size=len(CONTENT) + 1), url, until=over)
    assert isinstance(answer, RequestFailed)
    assert answer.code == FailureCode.FILE_CHANGED
    assert "300,000 bytes now; it had 300,001" in answer.detail


@pytest.mark.parametrize("closes", [True, False])
def test_a_server_that_answers_before_it_has_read_all_is_heard(tmp_path: Path, closes: bool) -> None:
    large = tmp_path / "large"
    large.touch()
    os.truncate(large, 50 * 1024 * 1024)

    def serve(connection: socket.socket, _number: int) -> None:
        read_head(connection)
        say(connection, "413 Content Too Large", "Connection: close")
        if not closes:  # and reads nothing, until the client is gone
            poll = select.poll()
            poll.register(connection, select.POLLRDHUP)
            poll.poll(10_000)

    answer = put(serve, upload(large, size=50 * 1024 * 1024))
    assert isinstance(answer, Fetched)
    assert (answer.status, answer.body) == (413, b"ok")


def test_so_is_one_over_http_2(tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.touch()
    os.truncate(large, 50 * 1024 * 1024)

    def serve(connection: socket.socket, _number: int) -> None:
        server = Http2Server(connection)
        stream = server.request()
        server.state.send_headers(stream, [(":status", "413")])
        server.state.send_data(stream, b"ok", end_stream=True)
        server.state.reset_stream(stream, 0)  # NO_ERROR: RFC 9113, 8.1
        server.flush()
        server.until_closed()

    answer = put(serve, upload(large, size=50 * 1024 * 1024), SECURE)
    assert isinstance(answer, Fetched)
    assert (answer.status, answer.body) == (413, b"ok")


@pytest.mark.parametrize(
    ("status", "method", "again"),
    [
        ("307 Temporary Redirect", b"PUT", True),
        ("308 Permanent Redirect", b"PUT", True),
        ("303 See Other", b"GET", False),
    ],
)
def test_a_redirect_that_keeps_the_body_has_it_sent_from_its_start(
    file: Path, status: str, method: bytes, again: bool
) -> None:
    got: list[tuple[bytes, bytes]] = []

    def serve(connection: socket.socket, _number: int) -> None:
        got.append(read_request(connection))
        say(connection, status, "Location: /there")
        if again:
            got.append(read_request(connection))
        else:
            got.append((read_head(connection), b""))
        say(connection, "200 OK")

    answer = put(serve, upload(file))
    assert isinstance(answer, Fetched)
    assert answer.status == 200
    assert got[1][0].startswith(method + b" /there")
    assert [body for _, body in got] == [CONTENT, CONTENT if again else b""]


def test_a_password_that_is_asked_for_is_sent_with_all_of_it_again(file: Path) -> None:
    got: list[bytes] = []

    def serve(connection: socket.socket, _number: int) -> None:
        for status in ("401 Unauthorized", "200 OK"):
            head, body = read_request(connection)
            assert (b"Authorization: " in head) == bool(got)
            got.append(body)
            say(connection, status, 'WWW-Authenticate: Basic realm="x"')

    async def allow(_url: str, _redirects: int) -> DocumentAllowed:
        return DocumentAllowed(Credentials("me", "word"))

    answer = put(serve, upload(file), announce=allow)
    assert isinstance(answer, Fetched)
    assert answer.status == 200
    assert got == [CONTENT, CONTENT]


def test_a_kept_connection_that_has_ended_has_it_sent_over_another(file: Path) -> None:
    got: list[bytes] = []

    def serve(connection: socket.socket, number: int) -> None:
        if number == 1:
            read_head(connection)
            say(connection, "200 OK")
            read_head(connection)  # and hangs up, without an answer
            return
        got.append(read_request(connection)[1])
        say(connection, "200 OK")

    async def run(body: Upload) -> int:
        async with led_to(port) as made:
            await made.fetch(Fetch(URL, Destination.DOCUMENT))
            fetching = made.fetch(Fetch(URL, Destination.DOCUMENT, method="PUT"), body)  # type: ignore[arg-type]
            return (await fetching).response.status

    body = upload(file)
    with peer(serve) as port:
        assert asyncio.run(run(body)) == 200
    body.close()
    assert got == [CONTENT]


def test_what_is_sent_counts_as_progress(file: Path) -> None:
    told: list[int] = []

    def serve(connection: socket.socket, _number: int) -> None:
        read_request(connection)
        say(connection, "200 OK")

    body = upload(file)
    body.on_progress = lambda: told.append(1)
    assert isinstance(put(serve, body), Fetched)
    assert len(told) == len(list(_sizes(len(CONTENT))))


def _sizes(size: int) -> Iterator[int]:
    return iter(range(0, size, 64 * 1024))
