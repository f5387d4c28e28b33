"""From a host to addresses: literals, /etc/hosts, DNS. What comes out is a claim of a stranger; policy judges it.

Names that never reach a name server (RFC 6761 and its successors): ``localhost`` and below are loopback, whatever
anybody says; ``.invalid``, ``.onion`` and ``.alt`` do not exist. Neither does ``.local``, which is asked for on the
local network only (RFC 6762), nor a name without a dot, which is in /etc/hosts or nowhere: search domains would let
a page name the machines of the network that it is opened in, and a bare top-level domain is no web server (RFC 7085).

A host that the user has named in a rule is another matter: it is looked up as the system would.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode

from .addresses import Address
from .configuration import Settings
from .message import AAAA, A, NoAnswer
from .name_servers import NameServers

__all__ = ["MAX_PER_FAMILY", "Resolver", "Unknown"]

MAX_PER_FAMILY = 4
"""Addresses used of each of A and AAAA: large sites publish up to eight, and one that answers is enough."""

_LOOPBACK: tuple[Address, ...] = (IPv6Address("::1"), IPv4Address("127.0.0.1"))
_NOT_IN_DNS = ("invalid", "onion", "alt")  # RFC 6761, RFC 7686, RFC 9476


class Unknown(RequestFailed):
    """The name does not exist, so that it has no address of the other family either."""

    def __init__(self, host: str, why: str) -> None:
        super().__init__(FailureCode.UNKNOWN_HOST, f"unknown host {host}: {why}")


class Resolver:
    """Resolves for all clients of a browser."""

    def __init__(
        self, hosts: dict[str, tuple[Address, ...]], settings: Settings, servers: NameServers
    ) -> None:
        self._hosts = hosts
        self._settings = settings
        self._servers = servers

    async def look_up(self, host: Address | str, version: int, *, named: bool = False) -> tuple[Address, ...]:
        """The addresses of ``host`` in IP ``version`` 4 or 6; there may be none. ``named`` is for a host that a rule
        of the user names.

        Raises Unknown when the host does not exist, and RequestFailed with DNS_FAILED when no name server could
        say so.
        """
        if not isinstance(host, str):
            return (host,) if host.version == version else ()
        last = host.rpartition(".")[2]
        if last == "localhost":
            return _of(_LOOPBACK, version)
        failure: RequestFailed | None = None
        for source in self._settings.order:
            if source == "files" and host in self._hosts:
                return _of(self._hosts[host], version)
            if source == "dns":
                try:
                    return await self._ask(host, last, version, named=named)
                except RequestFailed as error:
                    failure = error
        raise failure or Unknown(host, "it is not in /etc/hosts, and /etc/nsswitch.conf has no DNS")

    async def _ask(self, host: str, last: str, version: int, *, named: bool) -> tuple[Address, ...]:
        if last in _NOT_IN_DNS:
            raise Unknown(host, f".{last} names are not in the public DNS")
        if not named and last == "local":
            raise Unknown(host, ".local names are not in the public DNS")
        if not named and "." not in host:
            raise Unknown(host, "a name without a dot is looked up in /etc/hosts only")
        if not self._servers:
            raise RequestFailed(
                FailureCode.DNS_FAILED, f"cannot look up {host}: /etc/resolv.conf names no name server"
            )
        if version == 6 and not self._settings.ipv6:
            return ()
        try:
            for name in self._settings.spellings(host) if named else (host,):
                answer = await self._servers.ask(name, A if version == 4 else AAAA)
                if answer.exists:
                    return answer.addresses[:MAX_PER_FAMILY]
        except NoAnswer as error:
            raise RequestFailed(FailureCode.DNS_FAILED, f"cannot look up {host}: {error}") from None
        raise Unknown(host, "the name does not exist")


def _of(addresses: tuple[Address, ...], version: int) -> tuple[Address, ...]:
    return tuple(address for address in addresses if address.version == version)[:MAX_PER_FAMILY]
