"""The proxies that pages' connections go through."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Literal, NotRequired, TypedDict

from cloister.errors import InvalidArgument
from cloister.interfaces import lookup_server

from .network import host_rule

__all__ = ["ProxySettings", "proxies"]

_SERVER = r"(?:(?P<scheme>[a-z0-9+.-]+)://)?(?P<host>\[[0-9a-fA-F:.]+\]|[^\s/?#@\\:\[\]%*]+)(?::(?P<port>[0-9]{1,5}))?/?"
_SCHEMES: dict[str, tuple[Literal["http", "socks5"], int]] = {
    "http": ("http", 80),
    "socks5": ("socks5", 1080),
    "socks5h": ("socks5", 1080),  # as curl spells that the proxy looks names up, which it always does here
}
_MAX = 16
_KEYS = frozenset(("server", "username", "password", "bypass", "hosts"))


class ProxySettings(TypedDict):
    """One proxy, as Playwright has it: ``server`` is ``"http://host:port"`` or ``"socks5://host:port"``, ``bypass`` a
    text such as ``"example.org, .corp.example, 10.0.0.0/8"`` of hosts that are connected to without it. ``hosts`` is
    such a text of the only hosts that are connected to through it; all unless given."""

    server: str
    username: NotRequired[str]
    password: NotRequired[str]
    bypass: NotRequired[str]
    hosts: NotRequired[str]


def proxies(given: ProxySettings | Sequence[ProxySettings] | None) -> tuple[lookup_server.Proxy, ...]:
    """What lookup_server is told. Raises InvalidArgument (a ValueError); what it says has no password in it."""
    if given is None:
        return ()
    several: Sequence[ProxySettings] = [given] if isinstance(given, Mapping) else given
    if isinstance(several, str) or not isinstance(several, Sequence):
        raise InvalidArgument('proxy is {"server": "http://host:port"}, or a list of such')
    if len(several) > _MAX:
        raise InvalidArgument(f"proxy has {len(several)} entries; at most {_MAX} are allowed")
    return tuple(map(_proxy, several))


def _proxy(given: ProxySettings) -> lookup_server.Proxy:
    if not isinstance(given, Mapping) or "server" not in given:
        raise InvalidArgument('proxy is {"server": "http://host:port"}, or a list of such')
    if unknown := set(given) - _KEYS:
        raise InvalidArgument(
            f"proxy has {', '.join(sorted(map(repr, unknown)))}; there are {', '.join(sorted(_KEYS))}"
        )
    if not all(isinstance(value, str) for value in given.values()):
        raise InvalidArgument("proxy: each of its values is a str")
    found = re.fullmatch(_SERVER, given["server"])
    if found is None:
        raise InvalidArgument(
            "proxy: server is http://HOST:PORT or socks5://HOST:PORT; username and password are entries of their own"
        )
    scheme = _SCHEMES.get(found["scheme"] or "http")
    if scheme is None:
        raise InvalidArgument(f"proxy: {found['scheme']}:// is not one of {', '.join(_SCHEMES)}")
    port = int(found["port"] or scheme[1])
    if not 1 <= port <= 65535:
        raise InvalidArgument(
            f"proxy: the port of {given['server']!r} is {port}; it must be between 1 and 65535"
        )
    username, password = given.get("username", ""), given.get("password", "")
    _check_credentials(scheme[0], username, password)
    return lookup_server.Proxy(
        scheme=scheme[0],
        host=host_rule("proxy: server", found["host"]).removeprefix("[").removesuffix("]"),
        port=port,
        username=username,
        password=password,
        hosts=_patterns("hosts", given.get("hosts", "")),
        bypass=_patterns("bypass", given.get("bypass", "")),
    )


def _check_credentials(scheme: str, username: str, password: str) -> None:
    if password and not username:
        raise InvalidArgument("proxy: there is a password and no username")
    if username and not password and scheme == "socks5":  # RFC 1929 has no empty one
        raise InvalidArgument("proxy: SOCKS5 takes a password with a username")
    if max(len(username.encode()), len(password.encode())) > 255:  # RFC 1929
        raise InvalidArgument("proxy: a username and a password have at most 255 bytes each")
    if not (username + password).isprintable() or (scheme == "http" and ":" in username):  # RFC 7617
        raise InvalidArgument(
            "proxy: a username has no colon, and neither it nor a password control characters"
        )


def _patterns(name: str, text: str) -> tuple[str, ...]:
    patterns = [part.strip() for part in text.split(",") if part.strip()]
    if len(patterns) > 256:
        raise InvalidArgument(f"proxy: {name} has {len(patterns)} entries; at most 256 are allowed")
    return tuple(_pattern(name, pattern) for pattern in patterns)


def _pattern(name: str, text: str) -> str:
    if "/" in text:
        from ipaddress import ip_network  # most programs name none

        try:
            return str(ip_network(text))
        except ValueError as error:
            raise InvalidArgument(
                f"proxy: {name}: {text!r} is not a network such as 10.0.0.0/8: {error}"
            ) from None
    return host_rule(f"proxy: {name}", f"*{text}" if text.startswith(".") else text)
