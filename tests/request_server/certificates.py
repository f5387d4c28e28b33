"""Certificates with any fault that a test wants, and handshakes in memory with whoever shows them."""

from __future__ import annotations

import dataclasses
import datetime
import ssl
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

DAY = datetime.timedelta(days=1)


@dataclasses.dataclass(frozen=True)
class Certificate:
    """A certificate, its key, and who signed it (None for itself)."""

    cert: x509.Certificate
    key: Key
    issuer: Certificate | None

    @property
    def pem(self) -> str:
        return self.cert.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()

    def context(self, folder: Path, chain: Iterable[Certificate] = (), ciphers: str = "") -> ssl.SSLContext:
        """A server that shows it, and ``chain`` after it."""
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.set_ciphers(ciphers or "DEFAULT:@SECLEVEL=0")
        made.set_alpn_protocols(["h2", "http/1.1"])
        file = folder / "server.pem"
        file.write_text(self.key_pem + "".join(each.pem for each in (self, *chain)))
        made.load_cert_chain(file)
        return made


def elliptic() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def short_rsa() -> Key:
    return rsa.generate_private_key(65537, 1024)


def long_rsa() -> Key:
    return rsa.generate_private_key(65537, 2048)


def names(*hosts: str) -> x509.SubjectAlternativeName:
    """Whatever they look like."""
    return x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])


def issue(
    issuer: Certificate | None,
    *extensions: x509.ExtensionType,
    common_name: str = "somebody",
    is_ca: bool = False,
    path_length: int | None = None,
    days: tuple[int, int] = (-1, 1),
    key: Callable[[], Key] = elliptic,
    critical: tuple[type[x509.ExtensionType], ...] = (),
) -> Certificate:
    """A certificate of ``issuer``'s, valid from and to so many days from now."""
    mine = key()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
    now = datetime.datetime.now(datetime.UTC)
    signing = issuer.key if issuer else mine
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.cert.subject if issuer else name)
        .public_key(mine.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + days[0] * DAY)
        .not_valid_after(now + days[1] * DAY)
        .add_extension(x509.BasicConstraints(is_ca, path_length), critical=True)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=isinstance(extension, critical))
    return Certificate(builder.sign(signing, hashes.SHA256()), mine, issuer)


def handshake(client: ssl.SSLContext, server: ssl.SSLContext, host: str = "localhost") -> ssl.SSLObject:
    """Shake hands in memory; the client's side. Raises what that fails with."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=host)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(4):
        for side in (ours, theirs):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                if side is ours:
                    raise
    return ours


def only(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    """``context``, which speaks no other version; an old one too."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.maximum_version = version
    return context
