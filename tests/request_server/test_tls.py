"""Trust anchors come from where the system keeps them, and are all there before files are out of reach."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import socket
import ssl
from pathlib import Path

import certifi
import pytest
from tests.request_server.certificates import handshake
from tests.servers import Authority

from cloister import trust
from cloister.request_server import tls


@pytest.fixture
def no_system_roots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "no-such-file"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "no-such-folder"))


def roots(context: ssl.SSLContext) -> set[str]:
    if isinstance(context, trust.Context):
        context.read_roots()
    return {hashlib.sha256(der).hexdigest() for der in context.get_ca_certs(binary_form=True)}


def fingerprint(pem: str) -> str:
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest()


@pytest.mark.usefixtures("no_system_roots")
def test_without_system_roots_those_of_certifi_are_trusted() -> None:
    expected = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    expected.load_verify_locations(cafile=certifi.where())
    assert roots(tls.context()) == roots(expected)


@pytest.mark.usefixtures("no_system_roots")
def test_extra_roots_are_trusted_on_top(authority: Authority) -> None:
    assert roots(tls.context(authority.roots)) == roots(tls.context()) | {fingerprint(authority.roots)}


def test_ssl_cert_file_stands_in_for_the_systems(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "roots.pem"
    file.write_text(authority.roots)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "no-such-folder"))
    assert roots(tls.context()) == {fingerprint(authority.roots)}


def test_every_hashed_certificate_of_ssl_cert_dir_is_read_at_once(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = Authority()
    for folder, root in (("a", authority.roots), ("b", other.roots)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0123abcd.0").write_text(root)
        (tmp_path / folder / "README").write_text("no certificate")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "no-such-file"))
    monkeypatch.setenv("SSL_CERT_DIR", f"{tmp_path / 'a'}:{tmp_path / 'b'}")
    assert roots(tls.context()) == {fingerprint(authority.roots), fingerprint(other.roots)}


def test_a_folder_adds_what_the_file_lacks_and_loads_nothing_twice(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, second, other = authority.roots, Authority().roots, Authority().roots
    file = tmp_path / "roots.pem"
    file.write_text(f"# two of them\n{first}\n{second}")
    contents = (first, second + "\n", other, f"{first}{other}")
    for number, content in enumerate(contents):
        (tmp_path / f"0123abcd.{number}").write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    parsed: list[str] = []
    load = ssl.SSLContext.load_verify_locations

    def loading(context: ssl.SSLContext, *, cadata: str) -> None:
        parsed.extend(cadata.split("-----BEGIN CERTIFICATE-----")[1:])
        load(context, cadata=cadata)

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", loading)
    assert roots(tls.context()) == {fingerprint(first), fingerprint(second), fingerprint(other)}
    assert len(parsed) == 3


def test_what_has_the_name_of_a_hashed_certificate_and_is_no_file_is_passed_over(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "0123abcd.0").write_text(authority.roots)
    (tmp_path / "0123abcd.1").mkdir()
    (tmp_path / "0123abcd.2").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "0123abcd.3")
    (tmp_path / "0123abcd.4").symlink_to("0123abcd.4")
    (tmp_path / "0123abcd.5").symlink_to("0123abcd.0/x")
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as unix:
        unix.bind(str(tmp_path / "0123abcd.6"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "no-such-file"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    assert roots(tls.context()) == {fingerprint(authority.roots)}


def test_a_file_among_others_that_has_no_certificate_is_told(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "0123abcd.0").write_text(authority.roots)
    (tmp_path / "0123abcd.1").write_text("nonsense")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "no-such-file"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    with pytest.raises(ssl.SSLError):
        tls.context()


def test_roots_are_parsed_before_the_first_handshake_and_not_before(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "roots.pem").write_text(authority.roots)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "roots.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "no-such-folder"))
    context = tls.context()
    assert not context.get_ca_certs()
    context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="localhost")
    assert {hashlib.sha256(der).hexdigest() for der in context.get_ca_certs(binary_form=True)} == {
        fingerprint(authority.roots)
    }


def test_a_root_that_says_what_it_may_be_used_for_is_read_by_openssl_itself(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # X509_CERT_AUX without any use: the certificate, and an empty sequence (openssl-x509(1), "trusted certificate")
    der = ssl.PEM_cert_to_DER_cert(authority.roots) + b"\x30\x00"
    lines = base64.encodebytes(der).decode()
    trusted = f"-----BEGIN TRUSTED CERTIFICATE-----\n{lines}-----END TRUSTED CERTIFICATE-----\n"
    (tmp_path / "roots.pem").write_text(trusted)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "roots.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "no-such-folder"))
    assert roots(tls.context()) == {fingerprint(authority.roots)}


def test_what_is_no_certificate_is_not_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLError):
        tls.context("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    file = tmp_path / "roots.pem"
    file.write_text("nonsense")
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(ssl.SSLError):
        tls.context()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken(authority: Authority, version: ssl.TLSVersion) -> None:
    server = authority.context()
    server.minimum_version = server.maximum_version = version
    assert handshake(tls.context(authority.roots), server).version() == version.name.replace("_", ".")


@pytest.mark.parametrize("level", [0, 3])
def test_what_is_safe_enough_is_said_here_and_not_by_the_system(
    monkeypatch: pytest.MonkeyPatch, level: int
) -> None:
    """Systems have lists and levels of their own; a stricter level is kept."""

    class Configured(trust.Context):
        def __init__(self, _protocol: int) -> None:
            self.set_ciphers(f"ALL:@SECLEVEL={level}")

    ours = tls.context()
    monkeypatch.setattr(trust, "Context", Configured)
    made = tls.context()
    assert made.security_level == max(2, level)
    assert {cipher["name"] for cipher in made.get_ciphers()} <= {
        cipher["name"] for cipher in ours.get_ciphers()
    }
