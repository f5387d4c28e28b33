"""browser ── lookup_server, and request_server ── lookup_server."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from .base import Descriptor, Event, Interface, Milliseconds, Port, Reply, Request

__all__ = [
    "LOOKUP",
    "LOOKUP_ADMIN",
    "AddClient",
    "Connect",
    "Connected",
    "LookUp",
    "LookedUp",
    "Options",
    "PolicyRules",
    "PreloadOptions",
    "Proxy",
]

HostName = Annotated[str, Meta(min_length=1, max_length=255)]
Pattern = Annotated[str, Meta(min_length=1, max_length=300)]


class PolicyRules(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which addresses may be connected to, as the browser's ``NetworkPolicy`` says.

    ``allow_hosts`` are ``host``, ``host:port``, ``*.host``, ``[v6]:port``; ``allow_cidrs`` are networks. Without
    a rule, public addresses only. ``allow_ports`` empty means every port (of an address that is allowed).
    ``only_hosts``, unless they are None, are the only hosts, in the same form: no other is even looked up.
    """

    allow_hosts: Annotated[tuple[Pattern, ...], Meta(max_length=512)] = ()
    allow_cidrs: Annotated[tuple[Pattern, ...], Meta(max_length=256)] = ()
    allow_ports: Annotated[tuple[Port, ...], Meta(max_length=256)] = ()
    only_hosts: Annotated[tuple[Pattern, ...], Meta(max_length=512)] | None = None
    max_connections: Annotated[int, Meta(ge=1, le=4096)] = 256
    """Connections that one client may open in its life: one request_server serves one page load."""


class Proxy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A proxy for the hosts that match ``hosts`` (all if there are none) and not ``bypass``: patterns as in
    ``allow_hosts``, or networks for addresses. ``http`` is asked by CONNECT, whatever the URL's scheme."""

    scheme: Literal["http", "socks5"]
    host: HostName
    port: Port
    username: Annotated[str, Meta(max_length=255)] = ""
    password: Annotated[str, Meta(max_length=255)] = ""
    hosts: Annotated[tuple[Pattern, ...], Meta(max_length=256)] = ()
    bypass: Annotated[tuple[Pattern, ...], Meta(max_length=256)] = ()


class PreloadOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the zygote's branch loads. ``extra_roots`` (PEM) are trusted beside the system's, for name servers."""

    secure: Annotated[tuple[Literal["tls", "https"], ...], Meta(max_length=2)] = ()
    """Over which of these name servers are asked."""
    extra_roots: Annotated[str, Meta(max_length=4 * 1024 * 1024)] = ""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Start options. ``dns_servers`` are ``address``, ``address:port``, ``tcp://address``, ``tls://address#name`` or
    ``https://address/path#name``; empty means the system's."""

    rules: PolicyRules = PolicyRules()
    dns_servers: Annotated[tuple[Pattern, ...], Meta(max_length=8)] = ()
    connect_timeout: Milliseconds = 10_000
    proxies: Annotated[tuple[Proxy, ...], Meta(max_length=16)] = ()


class AddClient(Event, frozen=True):
    """A new request_server may ask; its end of the socketpair comes with this. ``rules`` are for it alone, in place of
    those that all have."""

    descriptors = (Descriptor.SOCKET,)

    rules: PolicyRules | None = None


class LookedUp(Reply, frozen=True):
    """Of both families, as numbers."""

    addresses: Annotated[tuple[Annotated[str, Meta(max_length=64)], ...], Meta(max_length=64)]


class LookUp(Request[LookedUp], frozen=True):
    """Only tell the addresses of ``host``. ``named``: as the system would, with its search list and the names of its
    own network. Asked by the browser itself. Fails with UNKNOWN_HOST, DNS_FAILED, TIMED_OUT or BAD_URL."""

    host: HostName
    named: bool


class Connected(Reply, frozen=True):
    """The connected, non-blocking TCP socket comes with this; TCP_NODELAY is set. ``address`` is what it is connected
    to: a proxy's address, where one carries the connection on."""

    descriptors = (Descriptor.SOCKET,)

    address: Annotated[str, Meta(max_length=64)]


class Connect(Request[Connected], frozen=True):
    """Resolve ``host``, judge each address by the policy, connect to the first that is allowed and answers; or have a
    proxy connect.

    Fails with UNKNOWN_HOST, DNS_FAILED, ADDRESS_REFUSED, CONNECTION_REFUSED, CONNECTION_RESET, UNREACHABLE,
    PROXY_FAILED, TIMED_OUT, BAD_URL (not a host name), TOO_MANY_REQUESTS.
    """

    host: HostName  # a name (A-labels), or an IPv4 or IPv6 literal without brackets
    port: Port


LOOKUP_ADMIN = Interface("lookup_server.admin", client=(AddClient, LookUp))
LOOKUP = Interface("lookup_server", client=(Connect,))
