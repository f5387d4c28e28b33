"""Whom servers take a browser for, and what it may say to prove who its user is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

import msgspec

from ..errors import InvalidArgument
from ..interfaces import request_server
from .checks import origin_of

__all__ = ["ClientHints", "HttpCredentials", "Keyring", "with_hints"]

_MOST = 64
_ORIGIN = r"(?i)https?://[^/?#]+/?"
_PLATFORMS = {
    "Windows": "Windows",
    "macOS": "Mac OS X",
    "Linux": "Linux",
    "Android": "Android",
    "iOS": "like Mac OS X",
}


class HttpCredentials(TypedDict):
    """A name and a password for one origin, such as ``https://intranet.example``."""

    origin: str
    username: str
    password: str


class ClientHints(TypedDict):
    """What ``Sec-CH-UA``, ``-Mobile`` and ``-Platform`` say: names with their major versions, ``Linux``, a telephone
    or not."""

    brands: Sequence[tuple[str, str]]
    platform: str
    mobile: NotRequired[bool]


class Keyring:
    """Credentials by origin. Raises :class:`InvalidArgument` for what cannot be said."""

    def __init__(self, given: HttpCredentials | Sequence[HttpCredentials]) -> None:
        each = [given] if isinstance(given, Mapping) else given
        if len(each) > _MOST:
            raise InvalidArgument(f"http_credentials are for {len(each)} origins; {_MOST} is the most")
        self._known: dict[str, request_server.Credentials] = {}
        for one in each:
            try:
                written, username, password = (one[key] for key in ("origin", "username", "password"))
            except (KeyError, TypeError):
                raise InvalidArgument("http_credentials have origin, username and password") from None
            origin = (
                origin_of(written) if isinstance(written, str) and re.fullmatch(_ORIGIN, written) else None
            )
            if origin is None:
                raise InvalidArgument(f"http_credentials: {written!r} is not an origin such as https://host")
            values = {"username": username, "password": password}
            try:
                self._known[origin] = msgspec.convert(values, request_server.Credentials)
            except msgspec.ValidationError:
                raise InvalidArgument(
                    f"http_credentials for {origin}: a name without a colon and a password, 256 printable "
                    "characters each at most"
                ) from None

    def get(self, url: str) -> request_server.Credentials | None:
        """What there is for the origin of ``url``."""
        origin = origin_of(url)
        return None if origin is None else self._known.get(origin)


def with_hints(options: request_server.Options, hints: ClientHints | None) -> request_server.Options:
    """``options`` with client hints that say what its user agent says: servers compare them.

    Raises :class:`InvalidArgument` where the two differ.
    """
    if hints is None:
        return options
    try:
        checked = msgspec.convert(hints, request_server.ClientHints)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"client_hints: {error}") from None
    agent = options.user_agent
    if not any(f"/{version}" in agent for _, version in checked.brands):
        raise InvalidArgument(f"client_hints: none of the brands' versions is in the user agent {agent!r}")
    if _PLATFORMS.get(checked.platform, checked.platform) not in agent or checked.mobile != (
        "Mobile" in agent
    ):
        raise InvalidArgument(f"client_hints: the user agent is for another platform: {agent!r}")
    return msgspec.structs.replace(options, client_hints=checked)
