"""What a server staples to its certificate: a word of its authority counts, and anything else says nothing."""

from __future__ import annotations

import asyncio
import datetime
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import SSL
from tests.request_server.certificates import DAY, Certificate, handshake, issue, names

from cloister import Browser, NavigationError, NetworkPolicy
from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode
from cloister.request_server import stapled, tls
from cloister.request_server.stapled import Word
from cloister.request_server.wire import TlsWire, Wire

LOCAL = names("localhost")
MUST_STAPLE = x509.TLSFeature([x509.TLSFeatureType.status_request])
TODAY = (-1, 1)
Status = ocsp.OCSPCertStatus


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    stapled.load()


@pytest.fixture(scope="module")
def root() -> Certificate:
    return issue(None, common_name="root", is_ca=True)


def answer(
    about: Certificate,
    status: Status,
    *,
    signer: Certificate | None = None,
    days: tuple[int, int] = TODAY,
    digest: hashes.HashAlgorithm | None = None,
) -> bytes:
    """What an authority says of ``about``: ``signer``, or who issued it."""
    assert about.issuer is not None
    now = datetime.datetime.now(datetime.UTC)
    signs = signer or about.issuer
    builder = ocsp.OCSPResponseBuilder().add_response(
        about.cert,
        about.issuer.cert,
        digest or hashes.SHA1(),
        status,
        now + days[0] * DAY,
        now + days[1] * DAY,
        now - 5 * DAY if status is Status.REVOKED else None,
        None,
    )
    if signs is not about.issuer:
        builder = builder.certificates([signs.cert])
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, signs.cert)
    return builder.sign(signs.key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def serve(
    end: socket.socket, mine: Certificate, chain: list[Certificate], staple: bytes, version: int
) -> None:
    """Shake hands once, with ``staple`` for whoever asks; then whatever comes, until the end."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    context.use_certificate(mine.cert)
    context.use_privatekey(mine.key)
    for each in chain:
        context.add_extra_chain_cert(each.cert)
    context.set_ocsp_server_callback(lambda _connection, _data: staple)
    connection = SSL.Connection(context, end)
    connection.set_accept_state()
    try:
        connection.do_handshake()
        while connection.recv(1000):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
    except (SSL.Error, OSError):
        pass  # it was refused, or left
    finally:
        end.close()


def meet(
    root: Certificate,
    mine: Certificate,
    staple: bytes,
    *,
    chain: tuple[Certificate, ...] = (),
    version: int = SSL.TLS1_3_VERSION,
) -> FailureCode | None:
    """What becomes of a handshake with a server that shows ``mine`` and ``staple``."""
    ours, theirs = socket.socketpair()
    server = threading.Thread(target=serve, args=(theirs, mine, list(chain), staple, version))
    server.start()
    context = tls.context(root.pem)

    async def shake() -> None:
        wire = Wire(ours)
        try:
            await asyncio.wait_for(TlsWire(wire, context, "localhost").handshake(), 10)
        finally:
            wire.close()

    try:
        asyncio.run(shake())
    except RequestFailed as failed:
        return FailureCode(failed.code)
    finally:
        server.join(10)
    return None


def test_this_pythons_openssl_can_be_asked() -> None:
    assert stapled.is_available()


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["1.2", "1.3"])
def test_a_certificate_that_its_authority_calls_revoked_is_refused(root: Certificate, version: int) -> None:
    mine = issue(root, LOCAL)
    assert meet(root, mine, answer(mine, Status.REVOKED), version=version) == FailureCode.CERTIFICATE_REVOKED
    assert meet(root, mine, answer(mine, Status.GOOD), version=version) is None
    assert meet(root, mine, b"", version=version) is None


def delegate(of: Certificate, *uses: x509.ObjectIdentifier) -> Certificate:
    return issue(of, x509.ExtendedKeyUsage([*uses]), common_name="responder")


REVOKED: dict[str, Callable[[Certificate, Certificate], bytes]] = {
    "told apart by SHA-256": lambda _root, mine: answer(mine, Status.REVOKED, digest=hashes.SHA256()),
    "by whom the authority made a certificate for it": lambda root, mine: answer(
        mine, Status.REVOKED, signer=delegate(root, ExtendedKeyUsageOID.OCSP_SIGNING)
    ),
}
NOTHING: dict[str, Callable[[Certificate, Certificate], bytes]] = {
    "by a stranger": lambda _root, mine: answer(
        mine, Status.REVOKED, signer=issue(None, common_name="stranger", is_ca=True)
    ),
    "by a stranger that bears the authority's name": lambda _root, mine: answer(
        mine, Status.REVOKED, signer=issue(None, common_name="root", is_ca=True)
    ),
    "by another certificate of the authority's": lambda root, mine: answer(
        mine, Status.REVOKED, signer=delegate(root, ExtendedKeyUsageOID.SERVER_AUTH)
    ),
    "by the certificate itself": lambda _root, mine: answer(mine, Status.REVOKED, signer=mine),
    "about another certificate": lambda root, _mine: answer(issue(root, LOCAL), Status.REVOKED),
    "that is over": lambda _root, mine: answer(mine, Status.REVOKED, days=(-9, -3)),
    "of a day to come": lambda _root, mine: answer(mine, Status.REVOKED, days=(3, 9)),
    "that the authority knows nothing": lambda _root, mine: answer(mine, Status.UNKNOWN),
    "to come later": lambda _root, _mine: ocsp.OCSPResponseBuilder.build_unsuccessful(
        ocsp.OCSPResponseStatus.TRY_LATER
    ).public_bytes(serialization.Encoding.DER),
    "cut": lambda _root, mine: answer(mine, Status.REVOKED)[:-9],
    "of no sense": lambda _root, _mine: b"\x30\x84\xff\xff\xff\xff" + b"x" * 100,
}


@pytest.mark.parametrize("made", REVOKED.values(), ids=REVOKED)
def test_so_is_one_whose_word_comes(made: Callable[..., bytes], root: Certificate) -> None:
    mine = issue(root, LOCAL)
    assert meet(root, mine, made(root, mine)) == FailureCode.CERTIFICATE_REVOKED


@pytest.mark.parametrize("made", NOTHING.values(), ids=NOTHING)
def test_a_word_that_does_not_hold_says_nothing(made: Callable[..., bytes], root: Certificate) -> None:
    mine, strict = issue(root, LOCAL), issue(root, LOCAL, MUST_STAPLE)
    assert meet(root, mine, made(root, mine)) is None
    assert meet(root, strict, made(root, strict)) == FailureCode.CERTIFICATE_UNTRUSTED


def test_a_certificate_that_must_have_a_word_with_it_is_refused_without(root: Certificate) -> None:
    mine = issue(root, LOCAL, MUST_STAPLE)
    assert meet(root, mine, b"") == FailureCode.CERTIFICATE_UNTRUSTED
    assert meet(root, mine, answer(mine, Status.GOOD)) is None


def test_the_authority_in_between_is_asked_for_its_own(root: Certificate) -> None:
    between = issue(root, common_name="between", is_ca=True)
    mine = issue(between, LOCAL)
    revoked = answer(mine, Status.REVOKED)
    assert meet(root, mine, revoked, chain=(between,)) == FailureCode.CERTIFICATE_REVOKED
    assert meet(root, mine, answer(mine, Status.GOOD), chain=(between,)) is None


@pytest.fixture
def revoked_server(root: Certificate) -> Iterator[int]:
    """A server on loopback whose certificate was revoked; its port."""
    mine = issue(root, LOCAL)
    staple = answer(mine, Status.REVOKED)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            try:
                while True:
                    serve(listener.accept()[0], mine, [], staple, SSL.TLS1_3_VERSION)
            except OSError:
                return  # it was closed

        thread = threading.Thread(target=accept)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def test_a_page_of_a_revoked_server_is_an_error_by_name(
    root: Certificate, revoked_server: int, tmp_path: Path
) -> None:
    (tmp_path / "root.pem").write_text(root.pem)
    network = NetworkPolicy(allow_hosts=[f"localhost:{revoked_server}"])
    with Browser(network=network, ca_certs=tmp_path / "root.pem") as browser:
        page = browser.new_page()
        with pytest.raises(NavigationError, match="was revoked") as caught:
            page.goto(f"https://localhost:{revoked_server}/")
        assert caught.value.code == FailureCode.CERTIFICATE_REVOKED
        page.set_content("<p>on it goes")
        assert page.text() == "on it goes\n"


def test_no_answer_that_was_tampered_with_says_anything(
    root: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = issue(root, LOCAL)
    met = handshake(tls.context(root.pem), mine.context(tmp_path))
    for status, known in ((Status.REVOKED, Word.REVOKED), (Status.GOOD, Word.GOOD)):
        whole = answer(mine, status)

        def judged(given: bytes) -> Word:
            monkeypatch.setattr(stapled, "_answer", lambda *_args: given)
            return stapled.word(met)

        assert judged(whole) is known
        assert judged(whole + b"\0") is Word.NONE
        for at in range(len(whole)):
            assert judged(whole[:at]) is Word.NONE
            # A number that stands for a hash's parameters, or a key that nobody needs, may be another.
            assert judged(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :]) in (Word.NONE, known)


def test_a_python_that_lays_its_objects_out_otherwise_is_not_looked_into(
    root: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = issue(root, LOCAL)
    monkeypatch.setattr(stapled, "_HEAD", stapled._HEAD + 1)
    monkeypatch.setattr(stapled, "_openssl", None)
    stapled.load()
    assert not stapled.is_available()  # and a word that cannot be had is not missed
    assert meet(root, mine, answer(mine, Status.REVOKED)) is None
