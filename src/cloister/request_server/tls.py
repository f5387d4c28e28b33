"""The client's side of TLS, and its failures by name."""

from __future__ import annotations

import ssl
from typing import Final

from .. import trust
from ..errors import RequestFailed
from ..interfaces.base import FailureCode
from . import stapled
from .exchange import Broken, Unwelcome

__all__ = ["PROTOCOLS", "broken", "check_word", "context", "failure"]

PROTOCOLS: Final = ("h2", "http/1.1")
"""What is offered, where nothing else is said."""

# X509_V_ERR_*, openssl/x509_vfy.h
_EXPIRED: Final = {10: "has expired", 9: "is not valid yet"}
_WRONG_HOST: Final = {62, 63, 64}  # host name, email, IP address
_WEAK: Final = {66, 67, 68}  # the key, an authority's key, what it is signed with
_NOT_TRUSTED: Final = {
    18: "is self-signed",
    19: "leads to a root that is not trusted",
    20: "leads to no root that is trusted, or the server left out what stands between",
}

_WEAK_TLS: Final = {
    "UNSUPPORTED_PROTOCOL",
    "WRONG_SSL_VERSION",
    "TLSV1_ALERT_PROTOCOL_VERSION",
    "TLSV1_ALERT_INSUFFICIENT_SECURITY",
    "WRONG_CIPHER_RETURNED",
    "UNKNOWN_CIPHER_RETURNED",
    "DH_KEY_TOO_SMALL",
    "WRONG_SIGNATURE_TYPE",
}
"""OpenSSL's reasons: what the server offers, or picks, is not safe any more."""
_WANTS_CERTIFICATE: Final = "TLSV13_ALERT_CERTIFICATE_REQUIRED"


def context(extra_roots: str = "") -> trust.Context:
    """:func:`cloister.trust.context` for HTTP. What it offers by ALPN is said for each connection."""
    return trust.context(extra_roots)


def failure(error: ssl.SSLError, host: str) -> RequestFailed:
    """``error`` of a handshake with ``host`` as what the browser understands, in one sentence."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _certificate(error.verify_code, error.verify_message, host)
    reason = error.reason or ""
    if reason in _WEAK_TLS:
        return RequestFailed(
            FailureCode.TLS_WEAK, f"{host} speaks no TLS that is safe, only old or weak: {_words(reason)}"
        )
    why = _words(reason) if reason else "it closed the connection"
    return RequestFailed(FailureCode.TLS_FAILED, f"{host} and we could not agree on a TLS connection: {why}")


def check_word(word: stapled.Word, host: str) -> None:
    """Raise :class:`RequestFailed` where an authority's word, or that it is missing, speaks against ``host``."""
    if word is stapled.Word.REVOKED:
        what = f"the certificate of {host} was revoked, says its authority"
        raise RequestFailed(FailureCode.CERTIFICATE_REVOKED, what)
    if word is stapled.Word.MISSED:
        what = f"the certificate of {host} holds only with word that it is not revoked, and none came"
        raise RequestFailed(FailureCode.CERTIFICATE_UNTRUSTED, what)


def broken(error: ssl.SSLError) -> Broken:
    """``error`` after a handshake."""
    if error.reason == _WANTS_CERTIFICATE:  # TLS 1.3 says so once we are through (RFC 8446, 4.4.2.4)
        return Unwelcome("it wants a certificate of ours, and we have none")
    return Broken(f"TLS: {_words(error.reason or 'it failed')}")


def _certificate(number: int, message: str, host: str) -> RequestFailed:
    whose = f"the certificate of {host}"
    if number in _EXPIRED:
        return RequestFailed(FailureCode.CERTIFICATE_EXPIRED, f"{whose} {_EXPIRED[number]}")
    if number in _WRONG_HOST:
        return RequestFailed(
            FailureCode.CERTIFICATE_WRONG_HOST, f"the server at {host} has a certificate for another host"
        )
    if number in _WEAK:
        return RequestFailed(FailureCode.CERTIFICATE_WEAK, f"{whose} is too weak to mean anything: {message}")
    why = _NOT_TRUSTED.get(number, f"is not trusted: {message}")
    return RequestFailed(FailureCode.CERTIFICATE_UNTRUSTED, f"{whose} {why}")


def _words(reason: str) -> str:
    return reason.replace("_", " ").lower()
