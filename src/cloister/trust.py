"""The certificate authorities that children with TLS trust, read while files can still be read."""

from __future__ import annotations

import os
import re
import ssl
from pathlib import Path

__all__ = ["context"]

_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")  # what openssl-rehash(1) names a certificate

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----")


def context(extra_roots: str = "") -> ssl.SSLContext:
    """A client context that trusts the system's roots (certifi's where there are none) and ``extra_roots`` (PEM).

    OpenSSL reads a folder of roots only when it verifies, which is after lock-down: so all are loaded here.
    SSL_CERT_FILE and SSL_CERT_DIR stand in for the system's places. Raises OSError (``ssl.SSLError`` is one) if
    a file that is there cannot be read or is no certificate.
    """
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_system_roots(made)
    if not made.cert_store_stats()["x509_ca"]:
        import certifi  # here: it loads importlib.resources, 7 ms that a machine with roots does without

        made.load_verify_locations(cafile=certifi.where())
    if extra_roots:
        made.load_verify_locations(cadata=extra_roots)
    return made


def _load_system_roots(made: ssl.SSLContext) -> None:
    places = ssl.get_default_verify_paths()
    file = Path(os.environ.get(places.openssl_cafile_env, places.openssl_cafile))
    loaded: set[bytes] = set()
    if file.is_file():
        made.load_verify_locations(cafile=file)
        loaded.update(_CERTIFICATE.findall(file.read_bytes()))
    folders = os.environ.get(places.openssl_capath_env, places.openssl_capath)
    for folder in map(Path, folders.split(os.pathsep)):
        if folder.is_dir():
            for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
                # Debian has each of its 144 roots in the file and in the folder, and OpenSSL takes 0.1 ms for one.
                if _HASHED.fullmatch(entry.name) and entry.is_file() and _content(entry) not in loaded:
                    made.load_verify_locations(cafile=entry)


def _content(entry: os.DirEntry[str]) -> bytes:
    with open(entry, "rb") as file:  # noqa: PTH123 - a Path for each takes as long as reading it
        return file.read().strip()
