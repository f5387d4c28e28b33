"""What a host is: an address or a name, spelled in exactly one way.

The asker has a URL parser and sends what that made of the host. So nothing is interpreted here: a spelling
that two parsers could read differently (``0x7f.1``, ``127.1``, ``2130706433``) is not a host.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address

from .addresses import Address

__all__ = ["parse_host"]

# Underscores and edge hyphens are no host names by RFC 1123, but stand in public DNS and browsers open them.
_LABEL = re.compile(r"[a-z0-9_-]{1,63}", re.ASCII)
# "Ends in a number", URL standard, section 3.5: the last label of a name is never a number.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)


def parse_host(text: str) -> Address | str:
    """``text`` as an address, or as a lower-case name without its trailing dot.

    Raises ValueError for anything else, with what is wrong with it.
    """
    if ":" in text:
        return _parse_ipv6(text)
    name = text.lower()
    if _NUMBER.fullmatch(name.removesuffix(".").rpartition(".")[2]):
        try:
            return IPv4Address(text)
        except ValueError:
            raise ValueError("an IPv4 address is written as four decimal numbers") from None
    name = name.removesuffix(".")
    if len(name) > 253:  # RFC 1035, 2.3.4: 255 octets on the wire
        raise ValueError("a host name has at most 253 characters")
    if not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError("a host name has letters, digits, hyphens and dots only")
    return name


def _parse_ipv6(text: str) -> IPv6Address:
    if "%" in text:
        raise ValueError("an address with a zone is not allowed in a URL")
    return IPv6Address(text)
