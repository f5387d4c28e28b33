"""Servers on loopback that say whatever bytes a test wants, and a client that is led to them without TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import ada_url
import h2.config
import h2.connection
import h2.events
import h2.settings
from tests.request_server.conftest import Fetched, Fetcher, Keeper, NoShelf, nobody_minds

from cloister.errors import RequestFailed
from cloister.interfaces.fetch import Destination, Fetch
from cloister.interfaces.request_server import Options
from cloister.request_server import tls
from cloister.request_server.client import Announce, Client
from cloister.request_server.wire import Link, Wire

Handler = Callable[[socket.socket, int], None]
"""Serves one connection, given its number from 1 on. The connection is closed when it returns."""

_WAIT = 20.0  # seconds


@contextlib.contextmanager
def peer(handler: Handler) -> Iterator[int]:
    """The port of a server whose connections ``handler`` serves, each in a thread."""
    listener = socket.create_server(("127.0.0.1", 0))
    open_ones: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def serve(connection: socket.socket, number: int) -> None:
        with connection, contextlib.suppress(OSError):
            handler(connection, number)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.settimeout(_WAIT)
                # What waits for an acknowledgement is lost with a connection that is closed under something unread.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                open_ones.append(connection)
                threads.append(threading.Thread(target=serve, args=(connection, len(open_ones))))
                threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()
        for connection in open_ones:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


@contextlib.asynccontextmanager
async def led_to(
    port: int,
    *,
    http_2: bool = False,
    announce: Announce = nobody_minds,
    keeper: Keeper | None = None,
    **options: Any,
) -> AsyncIterator[Fetcher]:
    """A client that finds every host at ``port``. With ``http_2`` that is what https:// URLs are spoken to by. Unless
    ``for_browser=False``, nobody's rights are looked at."""

    async def dial(url: ada_url.URL, protocols: Sequence[str] = tls.PROTOCOLS) -> Link:
        made = socket.create_connection(("127.0.0.1", port), timeout=_WAIT)
        link = Wire(made)
        if http_2 and url.protocol == "https:" and "h2" in protocols:
            link.protocol = "h2"
        return link

    given = Options(user_agent="Cloister tests", **{"for_browser": True, **options})
    client = Client(given, dial, announce, NoShelf(), (keeper or Keeper()).of_document)
    try:
        yield Fetcher(client)
    finally:
        client.close()
        await asyncio.sleep(0)


def read_head(connection: socket.socket) -> bytes:
    """A request without a body, as it came; b"" when there is none any more."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        if not (data := connection.recv(1)):
            return b""
        head += data
    return head


def ask(handler: Handler, *urls: str, http_2: bool = False, **options: Any) -> list[Fetched | RequestFailed]:
    """Fetch ``urls``, one after another, from a server that ``handler`` is."""

    async def run() -> list[Fetched | RequestFailed]:
        async with led_to(port, http_2=http_2, **options) as made:
            return [await outcome(made.fetch(Fetch(url, Destination.DOCUMENT))) for url in urls]

    with peer(handler) as port:
        return asyncio.run(run())


async def outcome(fetching: Any) -> Fetched | RequestFailed:
    """What it came to."""
    try:
        fetched: Fetched = await fetching
    except RequestFailed as error:
        return error
    return fetched


class Http2Server:
    """One connection's server side, frame by frame: h2 for what is ordinary, ``say`` for what is not."""

    def __init__(
        self, connection: socket.socket, settings: dict[h2.settings.SettingCodes, int] | None = None
    ) -> None:
        self.socket = connection
        self.state = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.state.local_settings = h2.settings.Settings(client=False, initial_values=settings)
        self.state.initiate_connection()
        self.flush()
        self._requests: list[int] = []
        self.resets: list[tuple[int, int]] = []

    def flush(self) -> None:
        self.socket.sendall(self.state.data_to_send())

    def say(self, data: bytes) -> None:
        """These bytes."""
        self.socket.sendall(data)

    def take(self) -> list[h2.events.Event]:
        """Read once. Raises ConnectionError at the end."""
        data = self.socket.recv(65536)
        if not data:
            raise ConnectionError
        events = self.state.receive_data(data)
        self.flush()
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                assert event.stream_id is not None
                self._requests.append(event.stream_id)
            elif isinstance(event, h2.events.StreamReset):
                self.resets.append((event.stream_id or 0, event.error_code or 0))
        return events

    def request(self) -> int:
        """The stream of the next request."""
        while not self._requests:
            self.take()
        return self._requests.pop(0)

    def answer(self, stream: int, body: bytes = b"ok", *more: tuple[str, str]) -> None:
        self.state.send_headers(stream, [(":status", "200"), *more], end_stream=not body)
        if body:
            self.state.send_data(stream, body, end_stream=True)
        self.flush()

    def serve(self) -> None:
        """Answer whatever comes, until the client is gone."""
        while True:
            self.answer(self.request())

    def until_closed(self) -> bytes:
        """What the client says from here on."""
        said = b""
        with contextlib.suppress(OSError):
            while data := self.socket.recv(65536):
                said += data
        return said
