"""What a certificate's authority says of it, where the server brings that along ("OCSP stapling", RFC 6066, 8).

Python's ``ssl`` has no call for this, and the OpenSSL that it uses has: it is asked here for the word, and to judge it.
Nothing is asked of the authority itself, who would learn who reads what; so what is not stapled is not known, as in
Chromium. Text that does not hold (not signed for this certificate, or too old) says nothing.
"""

from __future__ import annotations

import _ssl
import ctypes
import enum
import ssl
from collections.abc import Iterator
from typing import Any, Final

__all__ = ["Word", "ask", "is_available", "load", "word"]

# openssl/tls1.h, openssl/ocsp.h, openssl/obj_mac.h
_SET_STATUS_TYPE: Final = 65
_GET_STATUS_RESPONSE: Final = 70
_TYPE_OCSP: Final = 1
_SUCCESSFUL: Final = 0
_GOOD: Final = 0
_REVOKED: Final = 1
_TLS_FEATURE: Final = 1020
_LEEWAY: Final = 300
"""Seconds that the clocks of an authority and of this machine may differ."""

_POINTER: Final = ctypes.c_void_p
_CALLS: Final[dict[str, tuple[Any, ...]]] = {
    # The result's type, and the arguments'.
    "SSL_ctrl": (ctypes.c_long, _POINTER, ctypes.c_int, ctypes.c_long, _POINTER),
    "SSL_get0_verified_chain": (_POINTER, _POINTER),
    "SSL_get_SSL_CTX": (_POINTER, _POINTER),
    "SSL_CTX_get_cert_store": (_POINTER, _POINTER),
    "OPENSSL_sk_num": (ctypes.c_int, _POINTER),
    "OPENSSL_sk_value": (_POINTER, _POINTER, ctypes.c_int),
    "X509_get_ext_by_NID": (ctypes.c_int, _POINTER, ctypes.c_int, ctypes.c_int),
    "EVP_sha1": (_POINTER,),
    "EVP_sha256": (_POINTER,),
    "d2i_OCSP_RESPONSE": (_POINTER, _POINTER, ctypes.POINTER(_POINTER), ctypes.c_long),
    "OCSP_RESPONSE_free": (None, _POINTER),
    "OCSP_response_status": (ctypes.c_int, _POINTER),
    "OCSP_response_get1_basic": (_POINTER, _POINTER),
    "OCSP_BASICRESP_free": (None, _POINTER),
    "OCSP_basic_verify": (ctypes.c_int, _POINTER, _POINTER, _POINTER, ctypes.c_ulong),
    "OCSP_cert_to_id": (_POINTER, _POINTER, _POINTER, _POINTER),
    "OCSP_CERTID_free": (None, _POINTER),
    "OCSP_resp_find_status": (ctypes.c_int, _POINTER, _POINTER, *(ctypes.POINTER(ctypes.c_int),) * 2,
                              *(ctypes.POINTER(_POINTER),) * 3),
    "OCSP_check_validity": (ctypes.c_int, _POINTER, _POINTER, ctypes.c_long, ctypes.c_long),
    "ERR_clear_error": (None,),
}  # fmt: skip

_HEAD: Final = object.__basicsize__ // ctypes.sizeof(ctypes.c_size_t)
"""Words that each Python object begins with. In those of ``_ssl._SSLSocket`` follow a socket, OpenSSL's pointer, and
the context, in each CPython since 3.6 (Modules/_ssl.c, PySSLSocket)."""


class Word(enum.Enum):
    """What came of it."""

    GOOD = enum.auto()
    REVOKED = enum.auto()
    NONE = enum.auto()
    MISSED = enum.auto()
    """None, and the certificate says that there must be one ("must-staple", RFC 7633)."""


class _OpenSsl:
    """The functions of the OpenSSL that this Python's ``ssl`` uses."""

    def __init__(self) -> None:
        library = ctypes.CDLL(getattr(_ssl, "__file__", None))
        for name, (result, *arguments) in _CALLS.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


_openssl: _OpenSsl | None = None


def load() -> None:
    """Before lock-down, as it looks for a library. Where this Python's OpenSSL cannot be asked (it is linked into it,
    and its names are left out), no word is asked for: :func:`is_available`."""
    global _openssl  # noqa: PLW0603 - once in the zygote, for every child
    try:
        _openssl = _OpenSsl()
    except (OSError, AttributeError):
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if not _pointer(context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="layout.example")):
        _openssl = None


def is_available() -> bool:
    """Whether what is stapled is looked at."""
    return _openssl is not None


def ask(tls: ssl.SSLObject) -> None:
    """Have the server staple it. Before the handshake."""
    if _openssl is not None:
        _openssl.SSL_ctrl(_pointer(tls), _SET_STATUS_TYPE, _TYPE_OCSP, None)


def word(tls: ssl.SSLObject) -> Word:
    """What came, after a handshake that succeeded."""
    if _openssl is None:
        return Word.NONE
    pointer = _pointer(tls)
    chain = _openssl.SSL_get0_verified_chain(pointer)
    if _openssl.OPENSSL_sk_num(chain) < 1:
        return Word.NONE
    leaf = _openssl.OPENSSL_sk_value(chain, 0)
    try:
        is_revoked = _judge(_openssl, _answer(_openssl, pointer), pointer, chain)
    finally:
        _openssl.ERR_clear_error()  # or Python takes what it finds there for its next call's
    if is_revoked is None:
        must = _openssl.X509_get_ext_by_NID(leaf, _TLS_FEATURE, -1) >= 0
        return Word.MISSED if must else Word.NONE
    return Word.REVOKED if is_revoked else Word.GOOD


def _pointer(tls: ssl.SSLObject) -> int:
    """OpenSSL's own object; 0 if Python's is not laid out as it was, and so does not have its context where it was."""
    inner: Any = tls._sslobj  # type: ignore[attr-defined]
    if type(inner).__basicsize__ < (_HEAD + 3) * ctypes.sizeof(ctypes.c_size_t):
        return 0
    words = (ctypes.c_size_t * (_HEAD + 3)).from_address(id(inner))
    return words[_HEAD + 1] if words[_HEAD + 2] == id(tls.context) else 0


def _answer(openssl: _OpenSsl, pointer: int) -> bytes:
    place = _POINTER()
    size = openssl.SSL_ctrl(pointer, _GET_STATUS_RESPONSE, 0, ctypes.byref(place))
    return ctypes.string_at(place, size) if place and size > 0 else b""  # 64 KiB at the most, says TLS


def _judge(openssl: _OpenSsl, answer: bytes, pointer: int, chain: int) -> bool | None:
    """Whether ``answer`` says that the first of ``chain`` is revoked; None when it says nothing that holds."""
    at = ctypes.cast(ctypes.c_char_p(answer), _POINTER)
    end = (at.value or 0) + len(answer)
    response = openssl.d2i_OCSP_RESPONSE(None, ctypes.byref(at), len(answer)) if answer else None
    if not response:
        return None
    basic = None
    try:
        if at.value == end and openssl.OCSP_response_status(response) == _SUCCESSFUL:
            basic = openssl.OCSP_response_get1_basic(response)
        # Signed by the issuer, or by whom the issuer made a certificate for it.
        store = openssl.SSL_CTX_get_cert_store(openssl.SSL_get_SSL_CTX(pointer))
        if not basic or openssl.OCSP_basic_verify(basic, chain, store, 0) != 1:
            return None
        return next(_statuses(openssl, basic, chain), None)
    finally:
        openssl.OCSP_BASICRESP_free(basic)
        openssl.OCSP_RESPONSE_free(response)


def _statuses(openssl: _OpenSsl, basic: int, chain: int) -> Iterator[bool]:
    """Whether it is revoked, where that is said of ``leaf`` and of today. Certificates are told apart by a hash, which
    is SHA-1 (RFC 5019, 2.1.1) or SHA-256 (RFC 9654, 3.1.1)."""
    leaf = openssl.OPENSSL_sk_value(chain, 0)
    # A certificate that is itself trusted stands alone.
    issuer = openssl.OPENSSL_sk_value(chain, min(1, openssl.OPENSSL_sk_num(chain) - 1))
    for digest in (openssl.EVP_sha1, openssl.EVP_sha256):
        identity = openssl.OCSP_cert_to_id(digest(), leaf, issuer)
        if not identity:
            continue
        status, reason = ctypes.c_int(), ctypes.c_int()
        revoked, this_update, next_update = _POINTER(), _POINTER(), _POINTER()
        found = openssl.OCSP_resp_find_status(
            basic, identity, *map(ctypes.byref, (status, reason, revoked, this_update, next_update))
        )
        openssl.OCSP_CERTID_free(identity)
        holds = found == 1 and openssl.OCSP_check_validity(this_update, next_update, _LEEWAY, -1) == 1
        if holds and status.value in (_GOOD, _REVOKED):
            yield status.value == _REVOKED
