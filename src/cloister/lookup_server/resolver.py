"""From a host to addresses: literals, /etc/hosts, DNS. What comes out is a claim of a stranger; policy judges it.

Names that never reach a name server (RFC 6761 and its successors): ``localhost`` and below are loopback, whatever
anybody says; ``.invalid``, ``.onion``, ``.alt`` and ``.local`` do not exist. A name without a dot exists in
/etc/hosts or not at all: search domains would let a page name the machines of the network that it is opened in,
and a bare top-level domain is no web server (RFC 7085).
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Final

import dns.asyncresolver
import dns.exception
import dns.message
import dns.name
import dns.nameserver
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.resolver
from dns._asyncio_backend import Backend

from cloister.errors import RequestFailed
from cloister.interfaces.base import FailureCode

from .addresses import Address
from .system import System

__all__ = ["MAX_PER_FAMILY", "Resolver", "warm_up"]

MAX_PER_FAMILY = 4
"""Addresses used of each of A and AAAA: large sites publish up to eight, and one that answers is enough."""

_LOOPBACK: tuple[Address, ...] = (IPv6Address("::1"), IPv4Address("127.0.0.1"))
_NO_DNS = ("invalid", "onion", "alt", "local")  # RFC 6761, RFC 7686, RFC 9476, RFC 6762
_AAAA_DELAY = 0.5
"""Seconds that AAAA may take longer than A: some servers drop the question (RFC 8305, section 3, suggests 0.05
for a client that still takes the answer when it comes; here a late one is lost)."""
_TRY_TIMEOUT = 1.5  # seconds for one UDP question; the lifetime holds three


_READ = (
    dns.rdatatype.A,
    dns.rdatatype.AAAA,
    dns.rdatatype.CNAME,
    dns.rdatatype.SOA,  # how long a name is known not to exist
    dns.rdatatype.OPT,
)


class _ConnectedDatagrams(Backend):
    """Asks over connected UDP sockets: a name server that is not there is an error at once (ICMP port
    unreachable), and answers from elsewhere are dropped by the kernel."""

    def datagram_connection_required(self) -> bool:
        return True


_BACKEND = _ConnectedDatagrams()


def warm_up() -> None:
    """Load the record types that are read and turn lazy loading off: nothing can be imported after lock-down, and
    which types an answer holds is up to a stranger. Those of all others stay bytes that nobody parses."""
    for kind in _READ:
        dns.rdata.get_rdata_class(dns.rdataclass.IN, kind)  # type: ignore[no-untyped-call]
    dns.rdata._dynamic_load_allowed = False  # load_all_types() does so, and loads 60 modules more
    query = dns.message.make_query("example.org.", dns.rdatatype.AAAA, use_edns=True)
    response = dns.message.make_response(dns.message.from_wire(query.to_wire()))
    dns.message.from_wire(response.to_wire())


_BLANK: Final = dns.asyncresolver.Resolver(configure=False)
"""Made before lock-down: a new one asks for this machine's name, which the process is not to know."""


class Resolver:
    """Resolves for one client. Answers are kept for their TTL, and for this client only: a shared cache would tell
    one page what another has looked up.

    ``lifetime`` is the most that the name servers may take for one name, in seconds.
    """

    def __init__(self, system: System, *, lifetime: float) -> None:
        self._hosts = system.hosts
        self._servers = system.name_servers
        self._lifetime = lifetime
        self._dns = copy.copy(_BLANK)
        self._dns.nameservers = [
            dns.nameserver.Do53Nameserver(str(address), port) for address, port in system.name_servers
        ]
        self._dns.timeout = _TRY_TIMEOUT
        self._dns.cache = dns.resolver.LRUCache(256)

    async def resolve(self, host: Address | str) -> tuple[Address, ...]:
        """The addresses of ``host``, IPv6 and IPv4 by turns, at least one.

        Raises RequestFailed: UNKNOWN_HOST when the host does not exist or has no address, DNS_FAILED when no name
        server could say so.
        """
        if not isinstance(host, str):
            return (host,)
        last = host.rpartition(".")[2]
        if last == "localhost":
            return _LOOPBACK
        if host in self._hosts:
            return self._hosts[host][: 2 * MAX_PER_FAMILY]
        if "." not in host:
            raise _unknown(host, "a name without a dot is looked up in /etc/hosts only")
        if last in _NO_DNS:
            raise _unknown(host, f".{last} names are not in the public DNS")
        if not self._servers:
            raise RequestFailed(
                FailureCode.DNS_FAILED, f"cannot look up {host}: /etc/resolv.conf names no name server"
            )
        return await self._ask(host)

    async def _ask(self, host: str) -> tuple[Address, ...]:
        v4 = asyncio.create_task(self._query(host, dns.rdatatype.A))
        v6 = asyncio.create_task(self._query(host, dns.rdatatype.AAAA))
        try:
            await asyncio.wait([v4])
            await asyncio.wait([v6], timeout=_AAAA_DELAY if _settles(v4) else None)
            answers = [task for task in (v4, v6) if task.done()]
        finally:
            v4.cancel()
            v6.cancel()
        found = [task.result() for task in reversed(answers) if task.exception() is None]
        if addresses := _by_turns(found):
            return addresses
        for task in answers:
            if (error := task.exception()) is not None:
                raise error
        raise _unknown(host, "the name has no address")

    async def _query(self, host: str, kind: dns.rdatatype.RdataType) -> list[Address]:
        try:
            answer = await self._dns.resolve(
                dns.name.from_text(f"{host}."),
                kind,
                lifetime=self._lifetime,
                search=False,
                raise_on_no_answer=False,
                backend=_BACKEND,
            )
        except dns.resolver.NXDOMAIN:
            raise _unknown(host, "the name does not exist") from None
        except dns.resolver.NoNameservers as error:
            raise self._failed(host, _reasons(error.kwargs.get("errors", ()))) from None
        except dns.exception.Timeout:
            raise self._failed(host, f"no answer within {self._lifetime:g} s") from None
        except dns.exception.DNSException as error:
            raise self._failed(host, type(error).__name__) from None
        return [ip_address(record.address) for record in answer.rrset or ()][:MAX_PER_FAMILY]

    def _failed(self, host: str, why: str) -> RequestFailed:
        servers = ", ".join(str(address) for address, _ in self._servers)
        return RequestFailed(
            FailureCode.DNS_FAILED, f"cannot look up {host}: {why} (name servers: {servers})"
        )


def _settles(v4: asyncio.Task[list[Address]]) -> bool:
    """Whether the answer for A is enough to go on with: there are addresses, or the name does not exist."""
    error = v4.exception()
    return bool(v4.result()) if error is None else getattr(error, "code", "") == FailureCode.UNKNOWN_HOST


def _reasons(errors: Sequence[Any]) -> str:
    """What each name server did, from dnspython's (server, tcp, port, error, response) records."""
    return "; ".join(f"{server}: {error}" for server, _, _, error, _ in errors) or "every server failed"


def _unknown(host: str, why: str) -> RequestFailed:
    return RequestFailed(FailureCode.UNKNOWN_HOST, f"unknown host {host}: {why}")


def _by_turns(families: Sequence[Sequence[Address]]) -> tuple[Address, ...]:
    """One of each family in turn, so that a family without a route costs one attempt (RFC 8305, section 4)."""
    longest = max(map(len, families), default=0)
    return tuple(family[i] for i in range(longest) for family in families if i < len(family))
