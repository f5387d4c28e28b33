"""Servers and clients that others wrote, on loopback, and our own request_server, locked down, to meet them."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import shutil
import socket
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509

from cloister.errors import RequestFailed
from cloister.interfaces.fetch import Destination, Fetch, Fetched
from cloister.ipc import blob
from tests.request_server.certificates import issue
from tests.request_server.test_process import MIB, TIMEOUT, start

HERE = Path(__file__).parent
SBIN = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"
"""Where servers are, and a user's PATH has no such folder."""


@dataclass(frozen=True)
class Peer:
    """A server: its URLs without TLS and with it, the root that vouches for it, and what it wrote on stderr."""

    plain: str
    secure: str
    roots: str
    process: subprocess.Popen[bytes]
    log: Path


@dataclass(frozen=True)
class Came:
    """A response, read to its end."""

    fetched: Fetched
    body: bytes

    @property
    def status(self) -> int:
        return self.fetched.status

    @property
    def headers(self) -> dict[str, str]:
        return dict(self.fetched.headers)


class Asker:
    """Our side: a request_server, asked over its channel as a page asks."""

    def __init__(self, runner: asyncio.Runner, page: object) -> None:
        self._runner = runner
        self._page = page

    def fetch(
        self, url: str, *headers: tuple[str, str], method: str = "GET", body: bytes = b""
    ) -> Came | RequestFailed:
        """What it came to."""
        return self.fetch_all([(url, headers, method, body)])[0]

    def fetch_all(
        self, wanted: Sequence[tuple[str, tuple[tuple[str, str], ...], str, bytes]]
    ) -> list[Came | RequestFailed]:
        """The same of several at once."""

        async def run() -> list[Came | RequestFailed]:
            return list(await asyncio.gather(*(self._one(*each) for each in wanted)))

        return self._runner.run(run())

    def get(self, url: str, *headers: tuple[str, str], method: str = "GET", body: bytes = b"") -> Came:
        """Of what is to come to a response."""
        came = self.fetch(url, *headers, method=method, body=body)
        assert isinstance(came, Came), came
        return came

    def failure(self, url: str, method: str = "GET", body: bytes = b"") -> str:
        """The code of what is to fail."""
        failed = self.fetch(url, method=method, body=body)
        assert isinstance(failed, RequestFailed), failed
        assert "\n" not in failed.detail
        return failed.code

    def call_later(self, seconds: float, work: Callable[[], None]) -> None:
        """Beside the next fetch."""
        self._runner.get_loop().call_later(seconds, work)

    async def _one(
        self, url: str, headers: tuple[tuple[str, str], ...], method: str, sent: bytes
    ) -> Came | RequestFailed:
        packed, fds = blob.pack(sent)
        fetch = Fetch(url, Destination.DOCUMENT, method=method, headers=headers, body=packed)
        try:
            fetched, given = await self._page.request(fetch, fds, timeout=TIMEOUT)  # type: ignore[attr-defined]
        except RequestFailed as error:
            return error
        return Came(fetched, blob.unpack(fetched.body, given, 64 * MIB))


@contextlib.contextmanager
def asking(roots: str, **limits: int) -> Iterator[Asker]:
    """A request_server that trusts ``roots``."""
    with asyncio.Runner() as runner:
        started = start(roots, **limits)
        child = runner.run(started.__aenter__())
        try:
            yield Asker(runner, child.page)
        finally:
            runner.run(started.__aexit__(None, None, None))


@contextlib.contextmanager
def running(
    command: list[str],
    folder: Path,
    sockets: list[socket.socket],
    env: dict[str, str],
    peer: tuple[str, str, str],
) -> Iterator[Peer]:
    """``command``, which answers on ``sockets``: whoever connects before it does waits in their queues."""
    log = folder / "stderr"
    with log.open("wb") as written:
        process = subprocess.Popen(
            command,
            env=os.environ | env,
            pass_fds=[each.fileno() for each in sockets],
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=written,
        )
    for each in sockets:
        each.close()
    try:
        yield Peer(*peer, process, log)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Place:
    """Two ports of 127.0.0.1, the second for TLS, and a certificate for localhost and 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        root = issue(None, common_name="root", is_ca=True)
        loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        mine = issue(root, x509.SubjectAlternativeName([x509.DNSName("localhost"), loopback]))
        self.certificate, self.key = folder / "certificate.pem", folder / "key.pem"
        self.certificate.write_text(mine.pem)
        self.key.write_text(mine.key_pem)
        self.roots = folder / "roots.pem"
        self.roots.write_text(root.pem)
        self.sockets = [socket.create_server(("127.0.0.1", 0), backlog=100) for _ in range(2)]
        self.ports = [each.getsockname()[1] for each in self.sockets]
        plain, secure = self.ports
        self.peer = (f"http://localhost:{plain}", f"https://localhost:{secure}", root.pem)


@pytest.fixture(scope="module")
def hypercorn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    """A hypercorn that serves :mod:`tests.peers.app`."""
    folder = tmp_path_factory.mktemp("hypercorn")
    place = Place(folder)
    plain, secure = (each.fileno() for each in place.sockets)
    command = [
        sys.executable, "-m", "hypercorn", "--insecure-bind", f"fd://{plain}", "--bind", f"fd://{secure}",
        "--certfile", str(place.certificate), "--keyfile", str(place.key), "--graceful-timeout", "10",
        "tests.peers.app:app",
    ]  # fmt: skip
    with running(
        command, folder, place.sockets, {"PYTHONPATH": os.pathsep.join(sys.path)}, place.peer
    ) as peer:
        yield peer


@contextlib.contextmanager
def nginx_in(folder: Path) -> Iterator[Peer]:
    """A nginx whose files and configuration are in ``folder``."""
    program = shutil.which("nginx", path=SBIN)
    if program is None:
        pytest.skip("nginx is not installed")
    place = Place(folder)
    site = folder / "site"
    site.mkdir()
    for name, content in FILES.items():
        (site / name).write_bytes(content)
    (folder / "passwords").write_text("me:{PLAIN}secret\n")
    plain, secure = place.ports
    values = {
        "FOLDER": folder,
        "PLAIN": plain,
        "SECURE": secure,
        "CERTIFICATE": place.certificate,
        "KEY": place.key,
        "LONG": "l" * 3000,
        "USER": "" if os.geteuid() else "user root;",  # the folder is no other user's to read
    }
    text = (HERE / "nginx.conf").read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    (folder / "nginx.conf").write_text(text)
    command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "errors")]
    # How nginx hands its sockets to the nginx that takes its place.
    inherited = {"NGINX": "".join(f"{each.fileno()};" for each in place.sockets)}
    with running(command, folder, place.sockets, inherited, place.peer) as peer:
        yield peer


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peer]:
    with nginx_in(tmp_path_factory.mktemp("nginx")) as peer:
        yield peer


WORDS = b"<!doctype html><title>nginx</title><p>" + b"Words that repeat, so that they compress. " * 2000
FILES = {
    "index.html": WORDS,
    "plain.txt": bytes(range(33, 127)) * 100,
    "packed.txt": b"as it was before",
    "packed.txt.gz": zlib.compress(b"packed in advance", wbits=31),
    "large.bin": bytes(range(256)) * 8 * 1024,  # 2 MiB
    "empty": b"",
}
