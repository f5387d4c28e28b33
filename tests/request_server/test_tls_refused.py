"""Servers whose TLS or whose certificate does not hold: each refused by its name, before anything is asked."""

from __future__ import annotations

import asyncio
import ipaddress
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import NameConstraints, ObjectIdentifier, UnrecognizedExtension
from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.request_server.certificates import (
    Certificate,
    elliptic,
    handshake,
    issue,
    long_rsa,
    names,
    only,
    short_rsa,
)
from tests.request_server.conftest import Fetched, Opener
from tests.request_server.peers import outcome, peer, read_head
from tests.servers import Authority

from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode
from cloister.interfaces.fetch import Destination, Fetch
from cloister.request_server import tls

LOCAL = names("localhost")


class World:
    """Who signs for the servers of these tests. A client trusts ``root`` and ``expired_root``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = issue(None, common_name="root", is_ca=True, key=long_rsa)
        self.stranger = issue(None, common_name="stranger", is_ca=True)
        self.expired_root = issue(None, common_name="expired root", is_ca=True, days=(-3, -1))
        self.weak_root = issue(None, common_name="weak root", is_ca=True, key=short_rsa)
        self.client = tls.context("".join(c.pem for c in (self.root, self.expired_root, self.weak_root)))

    def between(self, *extensions: x509.ExtensionType, **how: object) -> Certificate:
        """An authority that the root vouches for."""
        options = {"common_name": "between", "is_ca": True} | how
        return issue(self.root, *extensions, critical=(NameConstraints,), **options)  # type: ignore[arg-type]

    def meet(self, server: ssl.SSLContext, host: str = "localhost") -> RequestFailed | None:
        try:
            handshake(self.client, server, host)
        except ssl.SSLError as error:
            failed = tls.failure(error, host)
            assert host in failed.detail
            return failed
        return None


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("tls"))


Shown = Callable[[World], tuple[Certificate, ...]]
"""The certificates that a server shows, its own first."""


def by(issuer: Callable[[World], Certificate], *shown: str) -> Shown:
    """A certificate for localhost, of ``issuer``; it is shown too, unless it is left out."""

    def show(world: World) -> tuple[Certificate, ...]:
        made = issuer(world)
        return (issue(made, LOCAL), *(() if "alone" in shown else (made,)))

    return show


def own(*extensions: x509.ExtensionType, **how: object) -> Shown:
    """A certificate of the root's."""
    return lambda world: (issue(world.root, *extensions, **how),)  # type: ignore[arg-type]


def too_long(world: World) -> tuple[Certificate, ...]:
    first = world.between(path_length=0)
    second = issue(first, common_name="second", is_ca=True)
    return (issue(second, LOCAL), second, first)


UNTRUSTED: dict[str, Shown] = {
    "self-signed": lambda _world: (issue(None, LOCAL),),
    "of an unknown authority": by(lambda world: world.stranger, "alone"),
    "of an unknown authority that is shown": by(lambda world: world.stranger),
    "without what stands between": by(lambda world: world.between(), "alone"),
    "signed by what is no authority": by(
        lambda world: issue(world.root, names("evil.example"), common_name="leaf")
    ),
    "signed further down than allowed": too_long,
    "for a name that its authority may not sign": by(
        lambda world: world.between(NameConstraints([x509.DNSName("example")], None))
    ),
    "for a name that is withheld from its authority": by(
        lambda world: world.between(NameConstraints(None, [x509.DNSName("localhost")]))
    ),
    "for an address that its authority may not sign": by(
        lambda world: world.between(NameConstraints(None, [x509.DNSName("")]))
    ),
    "for clients only": own(LOCAL, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])),
    "with a critical part that nobody knows": own(
        LOCAL,
        UnrecognizedExtension(ObjectIdentifier("1.2.3.4"), b"\x05\x00"),
        critical=(UnrecognizedExtension,),
    ),
}

EXPIRED: dict[str, Shown] = {
    "expired": own(LOCAL, days=(-3, -1)),
    "not valid yet": own(LOCAL, days=(1, 3)),
    "of an authority that has expired": by(lambda world: world.between(days=(-3, -1))),
    "of a root that has expired": by(lambda world: world.expired_root),
}

WEAK: dict[str, Shown] = {
    "of a short key": own(LOCAL, key=short_rsa),
    "of an authority with a short key": by(lambda world: world.between(key=short_rsa)),
    "of a root with a short key": by(lambda world: world.weak_root),
}

FAULTS = [
    *((name, FailureCode.CERTIFICATE_UNTRUSTED, shown) for name, shown in UNTRUSTED.items()),
    *((name, FailureCode.CERTIFICATE_EXPIRED, shown) for name, shown in EXPIRED.items()),
    *((name, FailureCode.CERTIFICATE_WEAK, shown) for name, shown in WEAK.items()),
]


@pytest.mark.parametrize(
    ("code", "shown"), [fault[1:] for fault in FAULTS], ids=[fault[0] for fault in FAULTS]
)
def test_a_certificate_that_does_not_hold_is_refused_by_name(
    world: World, code: FailureCode, shown: Shown
) -> None:
    mine, *chain = shown(world)
    failed = world.meet(mine.context(world.folder, chain))
    assert failed is not None
    assert failed.code == code, failed


def test_a_certificate_that_holds_is_taken(world: World) -> None:
    between = world.between()
    assert world.meet(issue(between, LOCAL).context(world.folder, [between])) is None


@pytest.mark.parametrize("digest", ["sha1", "md5"])
def test_a_certificate_signed_with_a_broken_digest_is_weak(world: World, digest: str) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: nothing else signs with SHA-1 any more")
    key = elliptic()
    wanted = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(LOCAL, critical=False)
    )
    authority = world.folder / "authority"
    authority.write_text(world.root.pem + world.root.key_pem)
    signed = subprocess.run(
        [
            "openssl",
            "x509",
            "-req",
            f"-{digest}",
            "-CA",
            authority,
            "-CAkey",
            authority,
            "-copy_extensions",
            "copy",
        ],
        input=wanted.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM),
        check=True,
        capture_output=True,
    ).stdout
    weak = Certificate(x509.load_pem_x509_certificate(signed), key, world.root)
    failed = world.meet(weak.context(world.folder))
    assert failed is not None
    assert failed.code == FailureCode.CERTIFICATE_WEAK, failed


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────

MATCHES = [("a.example", "a.example"), ("*.a.example", "b.a.example"), ("A.Example", "a.example")]
NO_MATCHES = [
    ("*.example", "a.example"),  # of a whole domain
    ("*.a.example", "c.b.a.example"),
    ("*.a.example", "a.example"),
    ("b*.a.example", "bc.a.example"),
    ("*c.a.example", "bc.a.example"),
    ("*.*.example", "b.a.example"),
    ("a.*.example", "a.b.example"),
    ("xn--*.a.example", "xn--bcher-kva.a.example"),
    ("*", "localhost"),
    (".example", "a.example"),
    ("a.example\0.evil.example", "a.example"),
    ("a.example\0", "a.example"),
    ("*.0.0.1", "127.0.0.1"),
    ("127.0.0.1", "127.0.0.1"),  # an address is no name
]


@pytest.mark.parametrize(("name", "host"), MATCHES)
def test_names_and_wildcards_of_one_label_match(world: World, name: str, host: str) -> None:
    assert world.meet(issue(world.root, names(name)).context(world.folder), host) is None


@pytest.mark.parametrize(("name", "host"), NO_MATCHES)
def test_a_name_that_only_looks_like_the_hosts_is_another(world: World, name: str, host: str) -> None:
    failed = world.meet(issue(world.root, names(name)).context(world.folder), host)
    assert failed is not None
    assert failed.code == FailureCode.CERTIFICATE_WRONG_HOST, failed


@pytest.mark.parametrize("others", [(), (x509.IPAddress(ipaddress.ip_address("192.0.2.1")),)], ids=str)
def test_the_common_name_is_not_looked_at(world: World, others: tuple[x509.GeneralName, ...]) -> None:
    more = (x509.SubjectAlternativeName(others),) if others else ()
    failed = world.meet(issue(world.root, *more, common_name="localhost").context(world.folder))
    assert failed is not None
    assert failed.code == FailureCode.CERTIFICATE_WRONG_HOST, failed


# ── weak TLS ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1], ids=lambda each: each.name
)
def test_a_server_that_speaks_old_versions_only_is_weak(world: World, version: ssl.TLSVersion) -> None:
    failed = world.meet(only(issue(world.root, LOCAL).context(world.folder), version))
    assert failed is not None
    assert failed.code == FailureCode.TLS_WEAK
    assert "version" in failed.detail


@pytest.mark.parametrize("ciphers", ["eNULL", "aNULL", "ECDHE+AES+SHA1", "kRSA"])
def test_there_is_no_agreement_on_a_weak_cipher(world: World, ciphers: str) -> None:
    """The server finds none that it knows, so all that it says is that."""
    made = issue(world.root, LOCAL, key=long_rsa)
    server = made.context(world.folder, ciphers=f"{ciphers}:@SECLEVEL=0")
    failed = world.meet(only(server, ssl.TLSVersion.TLSv1_2))
    assert failed is not None
    assert failed.code == FailureCode.TLS_FAILED, failed


GROUP_2 = """-----BEGIN DH PARAMETERS-----
MIGHAoGBAP//////////yQ/aoiFowjTExmKLgNwc0SkCTgiKZ8x0Agu+pjsTmyJR
Sgh5jjQE3e+VGbPNOkMbMCsKbfJfFDdP4TVtbVHCReSFtXZiXn7G9ExC6aY37WsL
/1y29Aa37e44a/taiZ+lrp8kEXxLH+ZJKGZR7OZTgf//////////AgEC
-----END DH PARAMETERS-----
"""
"""Of 1024 bits (RFC 2409, 6.2)."""


def test_a_small_group_is_weak(world: World) -> None:
    (world.folder / "group").write_text(GROUP_2)
    server = issue(world.root, LOCAL, key=long_rsa).context(world.folder, ciphers="DHE:@SECLEVEL=0")
    server.load_dh_params(str(world.folder / "group"))
    failed = world.meet(only(server, ssl.TLSVersion.TLSv1_2))
    assert failed is not None
    assert failed.code == FailureCode.TLS_WEAK, failed


HELLOS = {
    "TLS 1.0": (0x0301, 0xC02F),
    "TLS 1.1": (0x0302, 0xC02F),
    "RC4": (0x0303, 0x0005),
    "3DES": (0x0303, 0x000A),
    "no encryption": (0x0303, 0x0002),
    "no certificate": (0x0303, 0x0034),
    "export": (0x0303, 0x0003),
    "a cipher that nobody knows": (0x0303, 0x5A5A),
}
"""Version and cipher (IANA, "TLS Cipher Suites") that a server picks, whatever it was offered."""


@pytest.mark.parametrize(("version", "cipher"), HELLOS.values(), ids=HELLOS)
def test_a_server_that_picks_what_nobody_offered_is_weak(world: World, version: int, cipher: int) -> None:
    body = version.to_bytes(2) + bytes(32) + b"\0" + cipher.to_bytes(2) + b"\0"  # RFC 5246, 7.4.1.3
    message = b"\x02" + len(body).to_bytes(3) + body
    incoming = ssl.MemoryBIO()
    mine = world.client.wrap_bio(incoming, ssl.MemoryBIO(), server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        mine.do_handshake()
    incoming.write(b"\x16\x03\x03" + len(message).to_bytes(2) + message)
    with pytest.raises(ssl.SSLError) as caught:
        mine.do_handshake()
    assert tls.failure(caught.value, "localhost").code == FailureCode.TLS_WEAK, caught.value


# ── over a connection ────────────────────────────────────────────────────────────────────────────────────────────

Serve = Callable[[ssl.SSLSocket, socket.socket], None]
"""Answers once a request was read, given the connection with TLS and the bare one below it."""


def asked(client: Opener, context: ssl.SSLContext, serve: Serve) -> Fetched | RequestFailed:
    """What a fetch from a server comes to that answers over HTTP/1.1 as ``serve`` says."""
    context.set_alpn_protocols(["http/1.1"])

    def connected(connection: socket.socket, _number: int) -> None:
        bare = connection.dup()
        with bare, context.wrap_socket(connection, server_side=True, suppress_ragged_eofs=False) as secure:
            if read_head(secure):
                serve(secure, bare)

    async def run() -> Fetched | RequestFailed:
        async with client() as made:
            return await outcome(made.fetch(Fetch(f"https://localhost:{port}/", Destination.DOCUMENT)))

    with peer(connected) as port:
        return asyncio.run(run())


def failed_with(result: Fetched | RequestFailed) -> str:
    assert isinstance(result, RequestFailed)
    assert "localhost" in result.detail
    return result.code


def test_a_server_that_wants_our_certificate_is_told_that_there_is_none(
    client: Opener, authority: Authority
) -> None:
    context = authority.context()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=authority.roots)
    failed = asked(client, context, lambda _secure, _bare: None)
    assert failed_with(failed) == FailureCode.CLIENT_CERTIFICATE_REQUIRED
    only(context, ssl.TLSVersion.TLSv1_2)  # which has no word for it
    assert failed_with(asked(client, context, lambda _secure, _bare: None)) == FailureCode.TLS_FAILED


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "said",
    [b"Content-Length: 9\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"],
    ids=["length", "chunks"],
)
def test_a_body_that_was_cut_is_refused_though_tls_does_not_say_so(
    client: Opener, authority: Authority, said: bytes
) -> None:
    result = asked(client, authority.context(), lambda secure, _bare: secure.sendall(HEAD + said))
    assert failed_with(result) == FailureCode.BAD_RESPONSE


def test_a_whole_body_needs_no_goodbye(client: Opener, authority: Authority) -> None:
    for said in (b"Content-Length: 3\r\n\r\nall", b"\r\nall"):

        def serve(secure: ssl.SSLSocket, _bare: socket.socket, said: bytes = said) -> None:
            secure.sendall(HEAD + said)

        result = asked(client, authority.context(), serve)
        assert isinstance(result, Fetched)
        assert result.body == b"all"


@pytest.mark.parametrize("framing", [b"Content-Length: 9\r\n", b""], ids=["length", "until it closes"])
@pytest.mark.parametrize(
    "record",
    [b"\x17\x03\x03\x00\x20" + bytes(32), b"not TLS at all, not any more\r\n", b"\x17\x03\x03\xff\xff"],
    ids=["forged", "no TLS", "too long"],
)
def test_what_was_tampered_with_is_neither_a_body_nor_its_end(
    client: Opener, authority: Authority, record: bytes, framing: bytes
) -> None:
    def serve(secure: ssl.SSLSocket, bare: socket.socket) -> None:
        secure.sendall(HEAD + framing + b"\r\nhalf")
        bare.sendall(record)
        bare.recv(65536)

    assert failed_with(asked(client, authority.context(), serve)) == FailureCode.CONNECTION_RESET
