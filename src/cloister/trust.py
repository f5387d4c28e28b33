"""The certificate authorities that children with TLS trust, read while files can still be read."""

from __future__ import annotations

import errno
import os
import re
import ssl
import stat
from pathlib import Path
from typing import Any

__all__ = ["Context", "context"]

_CIPHERS = "ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:DHE+AESGCM:!aNULL:!eNULL:!aDSS:!SHA1"
"""For TLS 1.2: forward secrecy, AES or ChaCha20, no SHA-1."""
_SECURITY_LEVEL = 2
"""OpenSSL's: 2048 bits of RSA or DH at the least, and no SHA-1 in a signature, in certificates too."""

_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")  # what openssl-rehash(1) names a certificate

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")
_BEGIN = b"-----BEGIN "
_NO_FILE = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO))  # the last is a socket's


class Context(ssl.SSLContext):
    """A client's context that has its roots in memory as text, and parses them before its first handshake.

    OpenSSL 3 takes 0.15 ms for each, 20 for all of Debian's: as long as a page needs for the rest of its request.
    While they are parsed, the connection is being made; and a page over http needs none.
    """

    _unread: list[bytes]

    def wrap_bio(self, *args: Any, **kwargs: Any) -> ssl.SSLObject:
        """As in the base class. Raises :class:`ssl.SSLError` when a root cannot be parsed."""
        self.read_roots()
        return super().wrap_bio(*args, **kwargs)

    def read_roots(self) -> None:
        """Parse them now. Needs no file: it can be done after lock-down, and twice."""
        if self._unread:
            self.load_verify_locations(cadata=b"\n".join(self._unread).decode())
            self._unread = []


def context(extra_roots: str = "") -> Context:
    """A client context that trusts the system's roots (certifi's where there are none) and ``extra_roots`` (PEM).

    OpenSSL reads a folder of roots only when it verifies, which is after lock-down: so all are read here.
    SSL_CERT_FILE and SSL_CERT_DIR stand in for the system's places. Raises OSError (``ssl.SSLError`` is one) if
    a file that is there cannot be read or is no certificate.
    """
    made = Context(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    # Said here, because each system's OpenSSL and Python have defaults of their own. A stricter level stays.
    made.set_ciphers(f"{_CIPHERS}:@SECLEVEL={max(_SECURITY_LEVEL, made.security_level)}")
    made.hostname_checks_common_name = False  # as browsers do: RFC 9525, 2
    made._unread = _system_roots(made)
    if not made._unread and not made.cert_store_stats()["x509_ca"]:
        import certifi  # here: it loads importlib.resources, 7 ms that a machine with roots does without

        made._unread = _CERTIFICATE.findall(Path(certifi.where()).read_bytes())
    if extra_roots:
        made.load_verify_locations(cadata=extra_roots)
    return made


def _system_roots(made: Context) -> list[bytes]:
    """Each once; what only OpenSSL's own reader of files understands, ``made`` reads at once."""
    places = ssl.get_default_verify_paths()
    file = Path(os.environ.get(places.openssl_cafile_env, places.openssl_cafile))
    folders = os.environ.get(places.openssl_capath_env, places.openssl_capath)
    files: list[Path | os.DirEntry[str]] = [file]
    for folder in map(Path, folders.split(os.pathsep)):
        if folder.is_dir():  # Debian has each of its 144 roots in the file and in the folder
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            files += [entry for entry in entries if _HASHED.fullmatch(entry.name)]
    contents = {each: content for each in files if (content := _content(each)) is not None}
    together = b"\n".join(contents.values())
    found = _CERTIFICATE.findall(together)
    if len(found) != together.count(_BEGIN) or not all(_BEGIN in each for each in contents.values()):
        found.clear()
        for each, content in contents.items():
            certificates = _CERTIFICATE.findall(content)
            # A "TRUSTED CERTIFICATE" says what it may be used for.
            if certificates and len(certificates) == content.count(_BEGIN):
                found += certificates
            else:
                made.load_verify_locations(cafile=each)
    return list(dict.fromkeys(found))


def _content(place: Path | os.DirEntry[str]) -> bytes | None:
    """Of a file; None for what is none, or leads nowhere. A stat before, a Path for each, or a buffer, takes as long as
    reading it."""
    try:
        opened = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise
    try:
        status = os.fstat(opened)
        return os.read(opened, status.st_size) if stat.S_ISREG(status.st_mode) else None
    finally:
        os.close(opened)
