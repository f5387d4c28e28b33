"""What a page may ask of another origin, and have of its answer (Fetch standard: CORS, Cross-Origin-Resource-Policy).

A page is whose the browser says it is: each request is judged by the origin of the document that the browser allowed
this process to fetch, or named at its start. Nothing that the page says of itself counts, so a page's process that was
taken over has the rights of the site that took it over, and no other's.
"""

from __future__ import annotations

import re
from typing import Final

import ada_url
import msgspec

from ..errors import RequestFailed
from ..interfaces.base import FailureCode
from ..interfaces.fetch import CredentialsMode, Destination, Fetch, Mode, ReferrerPolicy
from ..interfaces.request_server import Options
from ..sites import is_same_site, registrable
from . import urls
from .exchange import Headers
from .headers import values
from .step import OPAQUE_ORIGIN, Relation, Step, Tainting

__all__ = [
    "SAFE_METHODS",
    "Page",
    "check_answer",
    "check_request",
    "entered",
    "is_exposed",
    "mode_of",
    "origin_header",
    "refused",
    "sends_credentials",
    "tokens",
    "unsafe_headers",
]

SAFE_METHODS: Final = frozenset({"GET", "HEAD", "POST"})  # "CORS-safelisted method"

_NO_NAVIGATION: Final = frozenset(Mode) - {Mode.NAVIGATE}
_MODES: Final = {
    Destination.DOCUMENT: frozenset(Mode),
    Destination.FONT: frozenset({Mode.CORS, Mode.SAME_ORIGIN}),  # CSS Fonts 4, 11.3
}

_SAFE_TYPES: Final = {"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"}
_UNSAFE_CHARACTERS: Final = re.compile(r'[\x00-\x08\x0a-\x1f"():<>?@\[\\\]{}\x7f]')
_LANGUAGES: Final = re.compile(r"[0-9A-Za-z *,\-.;=]*")
_RANGE: Final = re.compile(r"bytes=[0-9]+-[0-9]*")
_MAX_SAFE_VALUE: Final = 128
_MAX_SAFE_VALUES: Final = 1024

_SAFE_IN_RESPONSES: Final = frozenset(
    {
        "cache-control",
        "content-language",
        "content-length",
        "content-type",
        "expires",
        "last-modified",
        "pragma",
    }
)
_NOT_WHEN_DOWNGRADED: Final = {
    ReferrerPolicy.NO_REFERRER_WHEN_DOWNGRADE,
    ReferrerPolicy.STRICT_ORIGIN,
    ReferrerPolicy.STRICT_ORIGIN_WHEN_CROSS_ORIGIN,
}


class Page(msgspec.Struct, frozen=True):
    """Who asks, by the browser's word. ``document`` is where the page's document came from, if from anywhere."""

    document: ada_url.URL | None = None
    is_opaque: bool = False
    styles: frozenset[str] = frozenset()
    """Style sheets that it was given: each asks for what it refers to in its own name."""

    @classmethod
    def of(cls, options: Options) -> Page:
        """As it is when the process starts. What a program gives set_content() may be no URL that is fetched."""
        try:
            return cls(urls.parse(options.document), options.is_opaque)
        except RequestFailed:
            return cls()

    def with_style(self, url: str) -> Page:
        """The same page, which was given the style sheet at ``url``."""
        return msgspec.structs.replace(self, styles=self.styles | {url.partition("#")[0]})

    @property
    def origin(self) -> str:
        return OPAQUE_ORIGIN if self.document is None or self.is_opaque else urls.origin(self.document)

    @property
    def url(self) -> str:
        """What it can have as its referrer; "" for nothing."""
        return "" if self.document is None else str(self.document.href)


# ── before anything is sent ──────────────────────────────────────────────────────────────────────────────────────


def mode_of(fetch: Fetch) -> Mode:
    """A document is navigated to, whatever else is said."""
    return Mode.NAVIGATE if fetch.destination is Destination.DOCUMENT else fetch.mode


def check_request(fetch: Fetch, page: Page, method: str, own: Headers) -> None:
    """Raises :class:`RequestFailed` (BAD_REQUEST) for what no page can ask for, whomever it asks."""
    if _claims_another(fetch.referrer, page):
        raise _bad(
            f"the page is not of the origin of {urls.shown(fetch.referrer)}, which it has as its referrer"
        )
    if fetch.mode not in _MODES.get(fetch.destination, _NO_NAVIGATION):
        raise _bad(f"a page cannot ask for {fetch.destination} by the mode {fetch.mode}")
    if mode_of(fetch) is not Mode.NO_CORS:
        return
    if method not in SAFE_METHODS:
        raise _bad(f"{method} needs the mode cors")
    if unsafe := unsafe_headers(own, may_range=False):
        raise _bad(f"the header {unsafe[0]} needs the mode cors")


def _claims_another(referrer: str, page: Page) -> bool:
    try:
        claimed = urls.origin(urls.parse(referrer))
    except RequestFailed:  # about:blank, nothing at all: no server is told of it
        return False
    own = page.document is not None and claimed == urls.origin(page.document)
    return not own and referrer not in page.styles


def _bad(detail: str) -> RequestFailed:
    return RequestFailed(FailureCode.BAD_REQUEST, detail)


def unsafe_headers(own: Headers, *, may_range: bool = True) -> list[str]:
    """The names of the page's headers that another origin has to agree to ("CORS-unsafe request-header names"), in
    lower case, in order."""
    found: set[str] = set()
    safe: set[str] = set()
    size = 0
    for key, content in own:
        name, value = key.decode().lower(), content.decode()
        if not _is_safe(name, value) or (name == "range" and not may_range):
            found.add(name)
        else:
            safe.add(name)
            size += len(value)
    return sorted(found | safe if size > _MAX_SAFE_VALUES else found)


def _is_safe(name: str, value: str) -> bool:
    """ "CORS-safelisted request-header"."""
    if len(value) > _MAX_SAFE_VALUE:
        return False
    match name:
        case "accept":
            return not _UNSAFE_CHARACTERS.search(value)
        case "accept-language" | "content-language":
            return _LANGUAGES.fullmatch(value) is not None
        case "content-type":
            is_form = value.partition(";")[0].strip().lower() in _SAFE_TYPES
            return is_form and not _UNSAFE_CHARACTERS.search(value)
        case "range":
            return _RANGE.fullmatch(value) is not None
    return False


# ── on the way ───────────────────────────────────────────────────────────────────────────────────────────────────


def entered(step: Step) -> Step:
    """``step``, with what it makes of the response. What another origin had a hand in does not become the page's own
    again. Raises :class:`RequestFailed` (CORS_REFUSED)."""
    if step.mode is Mode.NAVIGATE:
        return step
    is_own = urls.origin(step.url) == step.origin
    relation = max(step.relation, Relation.SAME_ORIGIN if is_own else _relation(step))
    if is_own and step.tainting is Tainting.BASIC:
        return msgspec.structs.replace(step, relation=relation)
    if step.mode is Mode.SAME_ORIGIN:
        raise refused(step, "is of another origin, and it was asked for what is of the page's")
    tainting = Tainting.OPAQUE if step.mode is Mode.NO_CORS else Tainting.CORS
    return msgspec.structs.replace(step, relation=relation, tainting=tainting)


def _relation(step: Step) -> Relation:
    if step.origin != OPAQUE_ORIGIN and is_same_site(step.url.href, step.origin):
        return Relation.SAME_SITE
    return Relation.CROSS_SITE


def refused(step: Step, why: str) -> RequestFailed:
    """What a page is told of another origin that did not agree."""
    return RequestFailed(FailureCode.CORS_REFUSED, f"{step.url.host} {why}")


def sends_credentials(step: Step) -> bool:
    """Whether the request says who the user is: by cookies, by a password (Fetch standard, "HTTP-network-or-cache
    fetch", includeCredentials)."""
    is_own = step.tainting is Tainting.BASIC
    return step.credentials is CredentialsMode.INCLUDE or (
        step.credentials is CredentialsMode.SAME_ORIGIN and is_own
    )


def origin_header(step: Step) -> str | None:
    """The ``Origin`` of the request ("append a request Origin header"); None for none."""
    told = OPAQUE_ORIGIN if step.is_tainted else step.origin
    if step.tainting is Tainting.CORS:
        return told
    if step.method in {"GET", "HEAD"}:
        return None
    if step.mode is not Mode.CORS and _is_hidden(step):
        return OPAQUE_ORIGIN
    return told


def _is_hidden(step: Step) -> bool:
    if step.policy is ReferrerPolicy.SAME_ORIGIN:
        return urls.origin(step.url) != step.origin
    is_downgrade = step.origin.startswith("https:") and step.url.protocol == "http:"
    return step.policy is ReferrerPolicy.NO_REFERRER or (is_downgrade and step.policy in _NOT_WHEN_DOWNGRADED)


# ── what comes back ──────────────────────────────────────────────────────────────────────────────────────────────


def check_answer(step: Step, headers: Headers) -> None:
    """Whether who answers, a redirect too, agrees to be asked by this page. Raises :class:`RequestFailed`
    (CORS_REFUSED, CROSS_ORIGIN_BLOCKED)."""
    if step.tainting is Tainting.CORS:
        _check_cors(step, headers)
    elif step.tainting is Tainting.OPAQUE:
        _check_resource_policy(step, headers)


def _check_cors(step: Step, headers: Headers) -> None:
    """ "CORS check". Several headers are one, with commas, and that is no origin."""
    allowed = ", ".join(values(headers, "access-control-allow-origin")).strip(" \t")
    if not allowed:
        raise refused(step, "does not let other origins read it")
    is_included = step.credentials is CredentialsMode.INCLUDE
    if allowed == "*" and not is_included:
        return
    if allowed != origin_header(step):
        raise refused(step, "lets another origin read it, not the page's")
    if is_included and ", ".join(values(headers, "access-control-allow-credentials")).strip(" \t") != "true":
        raise refused(step, "does not let other origins read what it says to this user")


def _check_resource_policy(step: Step, headers: Headers) -> None:
    """ "Cross-origin resource policy check", for a page without an embedder policy."""
    policy = ", ".join(values(headers, "cross-origin-resource-policy")).strip(" \t")
    if policy == "same-origin":
        is_allowed = urls.origin(step.url) == step.origin
    elif policy == "same-site" and step.origin != OPAQUE_ORIGIN:
        page = urls.parse(step.origin)
        is_near = _party(step.url) == _party(page)
        is_allowed = is_near and (page.protocol == "https:" or step.url.protocol == "http:")
    else:
        is_allowed = policy != "same-site"
    if not is_allowed:
        raise RequestFailed(
            FailureCode.CROSS_ORIGIN_BLOCKED, f"{step.url.host} keeps it to its own ({policy})"
        )


def _party(url: ada_url.URL) -> str:
    """Who has the host: the site but for its scheme."""
    return registrable(url.hostname) or url.hostname


def is_exposed(step: Step, headers: Headers, name: str) -> bool:
    """Whether a page gets the header ``name`` (in lower case) of a response with ``headers``."""
    if step.tainting is Tainting.BASIC or (step.tainting is Tainting.CORS and name in _SAFE_IN_RESPONSES):
        return True
    if step.tainting is Tainting.OPAQUE:
        return False
    named = {each.lower() for each in tokens(headers, "access-control-expose-headers")}
    return name in named or ("*" in named and step.credentials is not CredentialsMode.INCLUDE)


def tokens(headers: Headers, name: str) -> frozenset[str]:
    """What the lists in ``name`` headers name."""
    said = ",".join(values(headers, name))
    return frozenset(each.strip(" \t") for each in said.split(",")) - {""}
