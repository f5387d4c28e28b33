"""Basic authentication: what the browser was given for an origin goes there when it asks, and nowhere else."""

from __future__ import annotations

import asyncio
import base64
import socket

import pytest
from tests.request_server.peers import led_to, peer, read_head

from cloister.errors import RequestFailed
from cloister.interfaces.fetch import Destination, Fetch
from cloister.interfaces.request_server import Credentials, DocumentAllowed
from cloister.request_server.credentials import Keyring
from cloister.request_server.urls import parse

MINE = Credentials("me", "päss:word")
TOKEN = base64.b64encode("me:päss:word".encode())


async def allow(url: str, _redirects: int) -> DocumentAllowed:
    """The browser, which has credentials for one origin."""
    return DocumentAllowed(MINE if url.startswith("http://site.example/") else None)


class Site:
    """Asks for a password everywhere but on /open, and for none on other hosts; ``seen`` is host, path and what was
    said."""

    def __init__(
        self, challenge: bytes = b'Basic realm="x", charset="UTF-8"', accepts: bytes = TOKEN
    ) -> None:
        self.seen: list[tuple[str, str, bytes]] = []
        self._challenge = challenge
        self._accepts = accepts

    def serve(self, connection: socket.socket, _number: int) -> None:
        while head := read_head(connection):
            headers = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:-2])
            path = head.split()[1].decode()
            said = headers.get(b"Authorization", b"")
            self.seen.append((headers[b"Host"].decode(), path, said))
            if path == "/leave":
                answer = b"302 Found\r\nLocation: http://other.example/"
            elif path == "/open" or said == b"Basic " + self._accepts:
                answer = b"200 OK"
            else:
                answer = b"401 Unauthorized\r\nWWW-Authenticate: " + self._challenge
            connection.sendall(b"HTTP/1.1 " + answer + b"\r\nContent-Length: 2\r\n\r\nok")

    def visit(self, *asked: tuple[str, Destination], **fetch: object) -> list[int]:
        """The statuses of these fetches, one after another."""

        async def run() -> list[int]:
            async with led_to(port, announce=allow, for_browser=False) as made:
                return [
                    (await made.fetch(Fetch(url, destination, **fetch))).response.status  # type: ignore[arg-type]
                    for url, destination in asked
                ]

        with peer(self.serve) as port:
            return asyncio.run(run())


HOME, IMAGE = Destination.DOCUMENT, Destination.IMAGE


def test_a_password_is_said_when_it_is_asked_for_and_from_then_on() -> None:
    site = Site()
    assert site.visit(("http://site.example/", HOME), ("http://site.example/i.png", IMAGE)) == [200, 200]
    told = [said for *_, said in site.seen]
    assert told == [b"", b"Basic " + TOKEN, b"Basic " + TOKEN]


def test_a_wrong_password_is_said_once() -> None:
    site = Site(accepts=b"another")
    assert site.visit(("http://site.example/", HOME)) == [401]
    assert len(site.seen) == 2


@pytest.mark.parametrize("challenge", [b'Digest realm="basic"', b"Bearer", b"", b"basically"])
def test_other_schemes_get_nothing(challenge: bytes) -> None:
    site = Site(challenge)
    assert site.visit(("http://site.example/", HOME)) == [401]
    assert len(site.seen) == 1


@pytest.mark.parametrize("challenge", [b"basic", b'Negotiate, BASIC realm="x"', b"Basic"])
def test_basic_is_found_among_others(challenge: bytes) -> None:
    assert Site(challenge).visit(("http://site.example/", HOME)) == [200]


def test_other_origins_get_nothing() -> None:
    site = Site()
    assert site.visit(("http://site.example/", HOME), ("http://site.example:8080/", HOME)) == [200, 401]
    assert site.visit(("http://site.example/leave", HOME)) == [401]
    assert not any(said for host, _, said in site.seen if host != "site.example")


def test_another_sites_page_does_not_get_what_is_behind_the_password() -> None:
    site = Site()
    with pytest.raises(RequestFailed, match="another origin"):
        site.visit(("http://evil.example/open", HOME), ("http://site.example/i.png", IMAGE))
    assert len(site.seen) == 2
    assert not any(said for *_, said in site.seen)


def test_a_password_in_a_url_is_not_said() -> None:
    site = Site()
    assert site.visit(("http://me:secret@other.example/", HOME)) == [401]
    assert not any(said for *_, said in site.seen)


def test_what_the_page_says_itself_goes_first() -> None:
    site = Site()
    site.visit(("http://site.example/open", HOME), headers=(("Authorization", "Bearer x"),))
    assert site.visit(("http://site.example/", HOME), headers=(("Authorization", "Bearer x"),)) == [401]
    assert {said for *_, said in site.seen} == {b"Bearer x"}


def test_nothing_is_said_unasked() -> None:
    keyring = Keyring()
    keyring.add(parse("http://site.example/page"), MINE)
    assert keyring.header(parse("http://site.example/")) is None
    assert not keyring.unlocks(parse("https://site.example/"), [(b"www-authenticate", b"Basic")])
    assert keyring.unlocks(parse("http://site.example/"), [(b"www-authenticate", b"Basic")])
    assert keyring.header(parse("http://site.example/x")) == b"Basic " + TOKEN
    assert keyring.header(parse("https://site.example/x")) is None
