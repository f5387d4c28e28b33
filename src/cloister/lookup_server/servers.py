"""A name server, as it is written."""

from __future__ import annotations

import re

import msgspec

from .addresses import Address
from .hosts import parse_host
from .policy import split_port

__all__ = ["Server"]

_PORTS = {"udp": 53, "tcp": 53, "tls": 853, "https": 443}  # RFC 1035, RFC 7858, RFC 8484
_URL = re.compile(
    r"(?:(?P<over>udp|tcp|tls|https)://)?(?P<authority>[0-9A-Fa-f:.\[\]]+)"
    r"(?P<path>/[!\"$-~]*)?(?:#(?P<name>[a-z0-9._-]+))?",  # a path is printable and has no #
    re.ASCII,
)


class Server(msgspec.Struct, frozen=True):
    """``over`` is ``udp`` (and TCP for what is too large for it), ``tcp``, ``tls`` or ``https``. ``name`` is the one
    that its certificate must be for, where that is not its address."""

    address: Address
    port: int = 53
    over: str = "udp"
    name: str = ""
    path: str = ""
    scope: int = 0

    @classmethod
    def parse(cls, text: str) -> Server:
        """``192.0.2.1``, ``[2001:db8::1]:53``, ``tcp://…``, ``tls://192.0.2.1#dns.example``,
        ``https://192.0.2.1/dns-query#dns.example``. Raises ValueError that says what is wrong with it."""
        found = _URL.fullmatch(text)
        if found is None:
            raise ValueError(
                f"{text!r} is not ADDRESS[:PORT], tls://ADDRESS[#NAME] or https://ADDRESS/PATH[#NAME]"
            )
        over = found["over"] or "udp"
        host, port = split_port(found["authority"])
        address = parse_host(host)
        name = parse_host(found["name"]) if found["name"] else ""
        if isinstance(address, str) or not isinstance(name, str):
            raise ValueError(  # noqa: TRY004 - one kind of error for a text that is wrong
                f"{text!r}: the server is an address, and what its certificate is for a name"
            )
        if bool(found["path"]) != (over == "https") or (name and over not in ("tls", "https")):
            raise ValueError(f"{text!r}: a path is for https, and a name for tls and https")
        return cls(address, port or _PORTS[over], over, name, found["path"] or "")

    @property
    def is_secret(self) -> bool:
        """Whether it is asked over TLS."""
        return self.over in ("tls", "https")

    def __str__(self) -> str:
        scheme = "" if self.over == "udp" else f"{self.over}://"
        return f"{scheme}{self.address}"
