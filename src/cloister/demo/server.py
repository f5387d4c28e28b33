"""The demo's two servers on loopback: the site, and a canary that nobody should ever reach."""

from __future__ import annotations

import threading
import zlib
from contextlib import ExitStack
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any, Self

from . import daylight

__all__ = ["BOMB_UNPACKED", "Canary", "DemoServer", "Site"]

BOMB_UNPACKED = 1024 * 1024 * 1024  # bytes
DRIP_SECONDS = 1.0  # between two bytes of /hostile/drip
# An engine that reads what is within what by recursion overflows 8 MiB of stack at about 20,000 of these. Chains of
# references between SVG elements do the same in 4 s, where this takes 1.
NESTED_SELECTORS = 26_000

# Path on the server: file in site/, content type. Nothing else is served, and no path is built from a request.
FILES: dict[str, tuple[str, str]] = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/rooms": ("rooms.html", "text/html; charset=utf-8"),
    "/style.css": ("style.css", "text/css; charset=utf-8"),
    "/pictures/arcade.jpg": ("pictures/arcade.jpg", "image/jpeg"),
    "/pictures/matins.png": ("pictures/matins.png", "image/png"),
    "/pictures/lauds.jpg": ("pictures/lauds.jpg", "image/jpeg"),
    "/pictures/prime.gif": ("pictures/prime.gif", "image/gif"),
    "/pictures/terce.bmp": ("pictures/terce.bmp", "image/bmp"),
    "/pictures/mist.pgm": ("pictures/mist.pgm", "image/x-portable-graymap"),
    "/pictures/sext.webp": ("pictures/sext.webp", "image/webp"),
    "/pictures/ink.pbm": ("pictures/ink.pbm", "image/x-portable-bitmap"),
    "/pictures/none.tiff": ("pictures/none.tiff", "image/tiff"),
    "/pictures/vespers.avif": ("pictures/vespers.avif", "image/avif"),
    "/pictures/compline.ppm": ("pictures/compline.ppm", "image/x-portable-pixmap"),
    "/pictures/lamp.ico": ("pictures/lamp.ico", "image/x-icon"),
    "/pictures/plan.svg": ("pictures/plan.svg", "image/svg+xml"),
    "/hostile/reach": ("hostile/reach.html", "text/html; charset=utf-8"),
    "/hostile/images": ("hostile/images.html", "text/html; charset=utf-8"),
    "/hostile/oversized.png": ("hostile/oversized.png", "image/png"),
    "/hostile/truncated.png": ("hostile/truncated.png", "image/png"),
    "/hostile/truncated.jpg": ("hostile/truncated.jpg", "image/jpeg"),
    "/hostile/truncated.webp": ("hostile/truncated.webp", "image/webp"),
}


def crash_page() -> bytes:
    """What is not what is not what is not, and so on."""
    selector = ":not(" * NESTED_SELECTORS + "p" + ")" * NESTED_SELECTORS
    return f"<!DOCTYPE html><title>The one who falls</title><style>{selector} {{}}</style><p>Down".encode()


@dataclass(frozen=True)
class Answer:
    """What one path answers."""

    body: bytes
    content_type: str = "text/html; charset=utf-8"
    location: str | None = None


class _Handler(BaseHTTPRequestHandler):
    """Quiet, HTTP/1.1, and done with a client that hangs up."""

    protocol_version = "HTTP/1.1"
    timeout = 10  # seconds a client may keep an idle connection

    def log_message(self, format: str, *args: object) -> None:
        """The demo's own report is what belongs on the terminal."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = False

    def __init__(self, handler: type[_Handler], owner: Any) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self.owner = owner

    def handle_error(self, request: object, client_address: object) -> None:
        """A hostile page's process is cut off while it reads; that is not the demo's failure to report."""
        import sys

        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Running:
    """A server on 127.0.0.1 that answers from its own thread while it is entered."""

    handler: type[_Handler]

    def __enter__(self) -> Self:
        self._stopped = threading.Event()
        self._server = _Server(self.handler, self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stopped.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def port(self) -> int:
        """Which port the kernel chose."""
        return self._server.server_address[1]


class _CanaryHandler(_Handler):
    def do_GET(self) -> None:
        self.server.owner.seen.append(self.path)  # type: ignore[attr-defined]
        self.send_error(404)


class Canary(_Running):
    """Stands for the service next door. ``seen`` are the paths it was asked for: none, if the walls hold."""

    handler = _CanaryHandler

    def __init__(self) -> None:
        self.seen: list[str] = []


class _SiteHandler(_Handler):
    def do_GET(self) -> None:
        site: Site = self.server.owner  # type: ignore[attr-defined]
        if self.path == "/hostile/bomb":
            self._bomb()
        elif self.path == "/hostile/drip":
            self._drip(site)
        elif (answer := site.answers.get(self.path)) is not None:
            self._answer(answer)
        else:
            self.send_error(404)

    def _answer(self, answer: Answer) -> None:
        self.send_response(200 if answer.location is None else 302)
        if answer.location is not None:
            self.send_header("Location", answer.location)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def _bomb(self) -> None:
        """A gigabyte of zeros as a megabyte of valid gzip (RFC 1952), sent until the client has had enough."""
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Connection", "close")
        self.end_headers()
        zeros = bytes(1024 * 1024)
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        # A full flush forgets what came before and ends on a byte, so the same block may follow itself.
        block = packer.compress(zeros) + packer.flush(zlib.Z_FULL_FLUSH)
        self.wfile.write(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03")
        checksum = 0
        for _ in range(BOMB_UNPACKED // len(zeros)):
            self.wfile.write(block)
            checksum = zlib.crc32(zeros, checksum)
        size = BOMB_UNPACKED % 2**32
        self.wfile.write(packer.flush() + checksum.to_bytes(4, "little") + size.to_bytes(4, "little"))

    def _drip(self, site: Site) -> None:
        """One byte a second, until the client hangs up or the demo ends."""
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Connection", "close")
        self.end_headers()
        while not site.stopping(DRIP_SECONDS):
            self.wfile.write(b".")


class Site(_Running):
    """The demo's pages. ``canary_port`` is where the hostile ones try to get to."""

    handler = _SiteHandler

    def __init__(self, canary_port: int) -> None:
        folder = resources.files(__package__) / "site"
        self.answers = {
            path: Answer((folder / name).read_bytes(), content_type)
            for path, (name, content_type) in FILES.items()
        }
        reach = self.answers["/hostile/reach"].body.replace(b"{canary}", str(canary_port).encode())
        self.answers["/hostile/reach"] = Answer(reach)
        self.answers["/hostile/redirect"] = Answer(b"", location=f"http://127.0.0.1:{canary_port}/redirected")
        self.answers["/daylight"] = Answer(daylight.page().encode())
        self.answers["/hostile/crash"] = Answer(crash_page())

    @property
    def host(self) -> str:
        """``localhost:port``: what a network policy has to allow."""
        return f"localhost:{self.port}"

    def url(self, path: str) -> str:
        """Where ``path`` is served."""
        return f"http://{self.host}{path}"

    def stopping(self, seconds: float) -> bool:
        """Wait ``seconds``; true as soon as the server is being stopped."""
        return self._stopped.wait(seconds)


class DemoServer:
    """The site and its canary, for the length of a ``with`` block."""

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            self.canary = starting.enter_context(Canary())
            self.site = starting.enter_context(Site(self.canary.port))
            self._running = starting.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._running.close()
