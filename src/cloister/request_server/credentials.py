"""Basic authentication (RFC 7617), with what the browser was given for an origin and nothing else."""

from __future__ import annotations

import base64
import re
from typing import Final

import ada_url

from ..interfaces.request_server import Credentials
from . import urls
from .exchange import Headers
from .headers import values

__all__ = ["Keyring"]

_BASIC: Final = re.compile(r"(?:^|,)\s*basic(?:\s|,|$)", re.IGNORECASE)


class Keyring:
    """Credentials are sent to an origin once it has asked for them."""

    def __init__(self) -> None:
        self._known: dict[str, Credentials] = {}
        self._asked: set[str] = set()

    def add(self, url: ada_url.URL, credentials: Credentials) -> None:
        """``credentials`` are for the origin of ``url``."""
        self._known[urls.origin(url)] = credentials

    def header(self, url: ada_url.URL) -> bytes | None:
        """``Authorization`` for a request to ``url``."""
        origin = urls.origin(url)
        if origin not in self._asked:
            return None
        mine = self._known[origin]
        return b"Basic " + base64.b64encode(f"{mine.username}:{mine.password}".encode())

    def unlocks(self, url: ada_url.URL, headers: Headers) -> bool:
        """Whether the request whose answer was a 401 with ``headers`` is worth repeating, now with credentials."""
        origin = urls.origin(url)
        asks = any(_BASIC.search(value) for value in values(headers, "www-authenticate"))
        if not asks or origin in self._asked or origin not in self._known:
            return False
        self._asked.add(origin)
        return True
