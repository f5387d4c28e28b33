"""The client's side of TLS, and its failures by name."""

from __future__ import annotations

import ssl

from .. import trust
from ..errors import RequestFailed
from ..interfaces.base import FailureCode

__all__ = ["context", "failure"]

# X509_V_ERR_*, openssl/x509_vfy.h
_EXPIRED = {10: "has expired", 9: "is not valid yet"}
_WRONG_HOST = {62, 63, 64}  # host name, email, IP address
_SELF_SIGNED = 18


def context(extra_roots: str = "") -> trust.Context:
    """:func:`cloister.trust.context` for HTTP: it offers HTTP/2, and HTTP/1.1."""
    made = trust.context(extra_roots)
    made.set_alpn_protocols(["h2", "http/1.1"])
    return made


def failure(error: ssl.SSLError, host: str) -> RequestFailed:
    """``error`` of a handshake with ``host`` as what the browser understands, in one sentence."""
    if not isinstance(error, ssl.SSLCertVerificationError):
        reason = (error.reason or "it closed the connection").replace("_", " ").lower()
        return RequestFailed(
            FailureCode.TLS_FAILED, f"{host} and we could not agree on a TLS connection: {reason}"
        )
    number = error.verify_code
    if number in _EXPIRED:
        return RequestFailed(FailureCode.CERTIFICATE_EXPIRED, f"the certificate of {host} {_EXPIRED[number]}")
    if number in _WRONG_HOST:
        return RequestFailed(
            FailureCode.CERTIFICATE_WRONG_HOST, f"the server at {host} has a certificate for another host"
        )
    why = "is self-signed" if number == _SELF_SIGNED else f"is not trusted: {error.verify_message}"
    return RequestFailed(FailureCode.CERTIFICATE_UNTRUSTED, f"the certificate of {host} {why}")
