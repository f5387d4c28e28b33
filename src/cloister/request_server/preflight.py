"""Asking another origin whether it agrees to a request, before the request is sent (Fetch standard, "CORS-preflight
fetch")."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec

from ..interfaces.fetch import CredentialsMode
from .cors import SAFE_METHODS, origin_header, refused, tokens, unsafe_headers
from .exchange import Headers
from .headers import values
from .step import Step, Tainting

__all__ = ["Preflights", "question"]

_MOST_KEPT: Final = 100
_MAX_AGE: Final = 7200  # seconds, as Chromium; longer than any request_server lives
_DEFAULT_AGE: Final = 5
_ANY: Final = "*"
_NEVER_ANY: Final = "authorization"  # "CORS non-wildcard request-header name"


class _Agreed(msgspec.Struct, frozen=True):
    """What a server agreed to, for an origin and with credentials or without."""

    until: float
    methods: frozenset[str]
    headers: frozenset[str]

    def refusal(self, step: Step) -> str:
        """Why ``step`` is not to be sent; "" where it is."""
        has_any = step.credentials is not CredentialsMode.INCLUDE
        if step.method not in self.methods | SAFE_METHODS and not (has_any and _ANY in self.methods):
            return f"does not agree to {step.method} from other origins"
        for name in unsafe_headers(step.headers):
            if name not in self.headers and not (has_any and _ANY in self.headers and name != _NEVER_ANY):
                return f"does not agree to the header {name} from other origins"
        return ""


class Preflights:
    """What servers agreed to, as long as they said, for one page load."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._agreed: dict[tuple[str, str | None, bool], _Agreed] = {}

    def needs(self, step: Step) -> bool:
        """Whether the server is to be asked before ``step`` is sent."""
        if step.tainting is not Tainting.CORS:
            return False
        if step.method in SAFE_METHODS and not unsafe_headers(step.headers):
            return False
        known = self._agreed.get(_key(step))
        return known is None or known.until <= self._clock() or bool(known.refusal(step))

    def note(self, step: Step, status: int, headers: Headers) -> None:
        """Take in the answer to the question, which passed the CORS check. Raises :class:`RequestFailed`
        (CORS_REFUSED) where it is not yes."""
        if not 200 <= status < 300:
            raise refused(step, "does not agree to such requests from other origins")
        allowed = tokens(headers, "access-control-allow-headers")
        agreed = _Agreed(
            self._clock() + _age(headers),
            tokens(headers, "access-control-allow-methods"),
            frozenset(name.lower() for name in allowed),
        )
        if why := agreed.refusal(step):
            raise refused(step, why)
        if len(self._agreed) >= _MOST_KEPT:
            del self._agreed[next(iter(self._agreed))]
        self._agreed[_key(step)] = agreed


def question(step: Step) -> Headers:
    """The headers of the question that are not those of any request. It is sent without credentials."""
    asked = [(b"Access-Control-Request-Method", step.method.encode())]
    if names := unsafe_headers(step.headers):
        asked.append((b"Access-Control-Request-Headers", ",".join(names).encode()))
    return asked


def _key(step: Step) -> tuple[str, str | None, bool]:
    return step.url.href, origin_header(step), step.credentials is CredentialsMode.INCLUDE


def _age(headers: Headers) -> int:
    said = values(headers, "access-control-max-age")
    if len(said) != 1 or not (said[0].isascii() and said[0].isdigit()):
        return _DEFAULT_AGE
    return min(int(said[0][:9]), _MAX_AGE)
