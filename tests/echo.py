"""A server that reads bodies, and tells what it was asked."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclasses.dataclass(frozen=True)
class Asked:
    """``body`` is empty where it was long; ``size`` and ``sha256`` are of all of it."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    size: int
    sha256: str


_KEPT = 100_000


class Echo(ThreadingHTTPServer):
    """``answers`` are a status and a Location by path; every other path is answered with "echo"."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[Asked] = []
        self.answers: dict[str, tuple[int, str]] = {}

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server_port}{path}"

    def handle_error(self, *_: object) -> None:
        """Clients leave in the middle of things."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Echo

    def __getattr__(self, name: str) -> object:
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def _answer(self) -> None:
        left = size = int(self.headers.get("Content-Length", "0"))
        kept, digest = bytearray(), hashlib.sha256()
        while left and (data := self.rfile.read(min(left, 65536))):
            left -= len(data)
            digest.update(data)
            if size <= _KEPT:
                kept += data
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append(
            Asked(self.command, self.path, headers, bytes(kept), size - left, digest.hexdigest())
        )
        status, location = self.server.answers.get(self.path.partition("?")[0], (200, ""))
        body = b"" if self.command == "HEAD" else b"echo"
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Set-Cookie", "a=1")
        self.send_header("Set-Cookie", "b=2")
        self.send_header("X-Twice", "one")
        self.send_header("X-Twice", "two")
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def echo() -> Iterator[Echo]:
    with Echo() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
