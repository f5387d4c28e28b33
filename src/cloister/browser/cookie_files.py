"""Cookies as a program writes them (Playwright's names), and as files have them: storage state, cookies.txt."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NotRequired, TypedDict

import msgspec
from ada_url import URL

from ..errors import CloisterError, InvalidArgument
from ..interfaces.cookies import Cookie, SameSite
from ..sites import is_local, is_public_suffix, registrable, site_of
from .checks import open_regular

__all__ = ["CookieParam", "State", "StorageState", "as_param", "cookies_of", "read", "written"]

_MOST: Final = 3000
_MAX_FILE: Final = 64 * 2**20
_NETSCAPE_HTTP_ONLY: Final = "#HttpOnly_"


class CookieParam(TypedDict, total=False):
    """A cookie, as in Playwright. It has ``name`` and ``value``, and either a ``url`` or a ``domain`` (with a dot
    before it for all names below, too) and a ``path``. ``expires`` is in seconds since 1970, -1 for the end of the
    context.

    ``partitionKey`` is the site of the pages that have it, such as ``https://example.org``: the cookie's own if it is
    not given, over https, and over http too where the cookie is not ``secure``.
    """

    name: str
    value: str
    url: str
    domain: str
    path: str
    expires: float
    httpOnly: bool
    secure: bool
    sameSite: str
    partitionKey: str


class StorageState(TypedDict):
    """What a context knows, as Playwright writes it. ``origins`` is empty, as pages store nothing else here."""

    cookies: list[CookieParam]
    origins: NotRequired[list[Any]]


State = StorageState | str | os.PathLike[str] | None
"""A storage state, or the path of a file that :func:`read` reads; None for nothing."""


class _Given(msgspec.Struct, forbid_unknown_fields=True):
    """A :class:`CookieParam` whose types are right."""

    name: str
    value: str
    url: str | None = None
    domain: str | None = None
    path: str | None = None
    expires: float = -1
    httpOnly: bool = False  # noqa: N815
    secure: bool | None = None
    sameSite: SameSite = SameSite.LAX  # noqa: N815
    partitionKey: str | None = None  # noqa: N815


def cookies_of(param: CookieParam) -> list[tuple[str, Cookie]]:
    """The cookie, and the sites of the pages that are to have it. Raises :class:`InvalidArgument`."""
    try:
        given = msgspec.convert(param, _Given)
    except msgspec.ValidationError as error:
        raise InvalidArgument(f"a cookie is not what it should be: {error}") from None
    where = f"the cookie {given.name!r:.100}"
    scheme, domain, path = _place(given, where)
    host = domain.removeprefix(".")
    if domain.startswith(".") and is_public_suffix(host):
        raise InvalidArgument(f"{where} would be for all of {host}, which is a public suffix")
    try:
        cookie = Cookie(
            name=_bytes(given.name),
            value=_bytes(given.value),
            domain=host,
            path=_bytes(path),
            host_only=not domain.startswith("."),
            secure=scheme == "https" if given.secure is None else given.secure,
            http_only=given.httpOnly,
            same_site=given.sameSite,
            expires=None if given.expires == -1 else max(0, int(min(given.expires, 2**42))),
            created=time.time_ns(),
        )
        msgspec.msgpack.decode(msgspec.msgpack.encode(cookie), type=Cookie)  # what a message could carry
    except ValueError as error:  # NaN, and msgspec's errors are ones
        raise InvalidArgument(f"{where} cannot be one: {error}") from None
    return [(site, cookie) for site in _sites(given, scheme, host, where, is_secure=cookie.secure)]


def _place(given: _Given, where: str) -> tuple[str | None, str, str]:
    """Scheme if it says one, domain and path."""
    if given.url is None:
        if not given.domain or given.path is None:
            raise InvalidArgument(f"{where} needs a url, or a domain and a path")
        return None, _dot(given.domain) + _host(given.domain.removeprefix("."), where), given.path
    if given.domain is not None or given.path is not None:
        raise InvalidArgument(f"{where} has a url, and a domain or a path beside it")
    try:
        url = URL(given.url)
    except ValueError:
        url = None
    if url is None or url.protocol not in {"http:", "https:"}:
        raise InvalidArgument(f"{where}: {given.url!r:.200} is not an http(s) URL")
    path = url.pathname[: url.pathname.rfind("/") + 1]
    return url.protocol.removesuffix(":"), url.hostname, path


def _dot(domain: str) -> str:
    return "." if domain.startswith(".") else ""


def _host(name: str, where: str) -> str:
    """As URLs have it: lower case, A-labels."""
    try:
        host = URL(f"http://{name}/").hostname
    except ValueError:
        host = ""
    if not host or any(each in name for each in "/?#@\\") or (":" in name and not name.startswith("[")):
        raise InvalidArgument(f"{where}: {name!r:.200} is not a domain")
    return host


def _sites(given: _Given, scheme: str | None, host: str, where: str, *, is_secure: bool) -> list[str]:
    if given.partitionKey is not None:
        site = site_of(given.partitionKey)
        if site is None or site != given.partitionKey:
            raise InvalidArgument(
                f"{where}: partitionKey {given.partitionKey!r:.200} is not a site such as https://example.org"
            )
        return [site]
    schemes = ["https", "http"]
    if scheme is not None:
        schemes = [scheme]
    elif is_secure and not is_local(host):
        schemes = ["https"]
    return [f"{each}://{registrable(host) or host}" for each in schemes]


def as_param(site: str, cookie: Cookie) -> CookieParam:
    """``cookie`` of the pages of ``site``, as a program is given it. Bytes that are no UTF-8 are kept as lone
    surrogates, as in file names."""
    return {
        "name": _text(cookie.name),
        "value": _text(cookie.value),
        "domain": cookie.domain if cookie.host_only else f".{cookie.domain}",
        "path": _text(cookie.path),
        "expires": -1 if cookie.expires is None else cookie.expires,
        "httpOnly": cookie.http_only,
        "secure": cookie.secure,
        "sameSite": cookie.same_site.value,
        "partitionKey": site,
    }


def _text(of_bytes: str) -> str:
    return of_bytes.encode("latin-1").decode("utf-8", "surrogateescape")


def _bytes(text: str) -> str:
    try:
        return text.encode("utf-8", "surrogateescape").decode("latin-1")
    except UnicodeEncodeError:
        raise ValueError("it has text that is no Unicode") from None


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────


def read(state: State) -> list[CookieParam]:
    """The cookies of a storage state, or of a file that has one or is a cookies.txt.

    Raises :class:`InvalidArgument`.
    """
    if state is None:
        return []
    if not isinstance(state, str | os.PathLike):
        return _of_state(state, "storage_state")
    name = os.fspath(state)
    with os.fdopen(open_regular(state), "rb") as file:
        try:
            text = file.read(_MAX_FILE).decode("utf-8", "surrogateescape").removeprefix("\ufeff")
        except OSError as error:
            raise InvalidArgument(f"{name}: {error.strerror}") from None
    if not text.lstrip().startswith("{"):
        return _of_netscape(text, name)
    import json  # here: most programs have no such file

    try:
        state = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{name}: it is no JSON: {error}") from None
    return _of_state(state, name)


def _of_state(state: Any, name: str) -> list[CookieParam]:
    cookies = state.get("cookies") if isinstance(state, Mapping) else None
    if not isinstance(cookies, list) or set(state) - {"cookies", "origins"}:
        raise InvalidArgument(f"{name}: a storage state has a list of cookies, and nothing else but origins")
    if len(cookies) > _MOST:
        raise InvalidArgument(f"{name}: it has {len(cookies)} cookies; {_MOST} is the most")
    return cookies


def _of_netscape(text: str, name: str) -> list[CookieParam]:
    """As browsers' extensions, curl and yt-dlp write it: seven fields between tabs in a line."""
    found: list[CookieParam] = []
    for number, line in enumerate(text.split("\n"), 1):
        written = line.removesuffix("\r").removeprefix(_NETSCAPE_HTTP_ONLY)
        if not written.strip() or written.startswith("#"):
            continue
        fields = written.split("\t")
        flags = {"TRUE": True, "FALSE": False}
        if len(fields) != 7 or fields[1] not in flags or fields[3] not in flags or not _is_number(fields[4]):
            raise InvalidArgument(
                f"{name}: line {number} is not domain, TRUE or FALSE, path, TRUE or FALSE, expiry, name and value "
                "between tabs"
            )
        domain, below, path, secure, expires, key, value = fields
        found.append(
            {
                "name": key,
                "value": value,
                "domain": ("." if flags[below] else "") + domain.removeprefix("."),
                "path": path,
                "expires": float(expires) or -1,
                "httpOnly": line.startswith(_NETSCAPE_HTTP_ONLY),
                "secure": flags[secure],
            }
        )
        if len(found) > _MOST:
            raise InvalidArgument(f"{name}: it has more than {_MOST} cookies")
    return found


def _is_number(text: str) -> bool:
    return text.isascii() and text.replace(".", "", 1).isdigit() and len(text) < 20


def written(state: StorageState, path: str | os.PathLike[str]) -> None:
    """Write ``state`` for this user alone: it is as good as the passwords behind it. Raises :class:`CloisterError`."""
    import json

    target = Path(path)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "w", encoding="ascii") as file:
                json.dump(state, file, indent=2)
                file.write("\n")
            part.replace(target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise CloisterError(f"{os.fspath(path)}: {error.strerror}") from error
