"""Where a redirect leads, and what goes along (Fetch standard, "HTTP-redirect fetch")."""

from __future__ import annotations

import msgspec

from ..errors import RequestFailed
from . import urls
from .exchange import BadResponse, Headers
from .headers import values
from .referrers import policy_of
from .step import Step
from .upload import Outgoing

__all__ = ["follow"]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_FOR_ONE_ORIGIN = frozenset({b"authorization", b"cookie", b"host"})
_ABOUT_THE_BODY = frozenset({b"content-encoding", b"content-language", b"content-location", b"content-type"})


def follow(step: Step, status: int, headers: Headers) -> Step | None:
    """What is asked for next; None if this is the answer.

    Raises :class:`RequestFailed` for where nobody can go, :class:`BadResponse` for several ways at once.
    """
    locations = {value for name, value in headers if name.lower() == b"location"}
    if status not in _REDIRECTS or not locations:
        return None  # without a location, the response itself is all there is
    if len(locations) > 1:
        raise BadResponse("it redirects to several places at once")
    try:
        url = urls.redirect(step.url, locations.pop())
    except RequestFailed as error:
        raise RequestFailed(error.code, f"{step.url.host} redirected to {error.detail}") from error
    leaves = urls.origin(url) != urls.origin(step.url)
    method, own = step.method, step.headers
    body: Outgoing = step.body
    if (status in (301, 302) and method == "POST") or (status == 303 and method not in {"GET", "HEAD"}):
        method, body = "GET", b""
        own = [(name, value) for name, value in own if name.lower() not in _ABOUT_THE_BODY]
    if leaves:
        own = [(name, value) for name, value in own if name.lower() not in _FOR_ONE_ORIGIN]
    policy = policy_of(values(headers, "referrer-policy")) or step.policy
    return msgspec.structs.replace(
        step,
        url=url,
        method=method,
        headers=own,
        body=body,
        policy=policy,
        is_tainted=step.is_tainted or (leaves and urls.origin(step.url) != step.origin),
    )
