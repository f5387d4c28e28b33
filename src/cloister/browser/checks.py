"""What is asked of a page, checked before a process is bothered; and a page's failures as what is raised."""

from __future__ import annotations

import os
import re
import stat
import time
from pathlib import Path

from ..errors import (
    AddressRefused,
    CircuitOpen,
    CloisterError,
    InvalidArgument,
    NavigationError,
    OutOfDescriptors,
    RequestFailed,
    TimeoutError,
    descriptors_left,
    printable,
)
from ..interfaces.base import FailureCode

__all__ = [
    "checked_url",
    "deadline_of",
    "descriptors_left",
    "is_normalised",
    "left",
    "navigation_error",
    "open_regular",
    "origin_of",
    "site_of",
    "write",
]

_MAX_FILE = 64 * 2**20
_ORIGIN = re.compile(
    r"(https?)://([a-z0-9.-]{1,255}|\[[0-9a-f:.]{2,45}\])(?::([0-9]{1,5}))?(?:[/?#].*)?", re.I | re.A
)
_DEFAULT_PORT = {"http": "80", "https": "443"}


def open_regular(path: str | os.PathLike[str]) -> int:
    """Open a file for a child to read. A pipe or a device could block, or never end."""
    try:
        with descriptors_left():
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise InvalidArgument(f"{os.fspath(path)}: {error.strerror}") from None
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode) or info.st_size > _MAX_FILE:
        os.close(fd)
        what = f"more than {_MAX_FILE >> 20} MiB" if stat.S_ISREG(info.st_mode) else "not a regular file"
        raise InvalidArgument(f"{os.fspath(path)}: {what}")
    return fd


def navigation_error(url: str, error: RequestFailed) -> CloisterError:
    # The request_server names what it was asked for; so does the exception.
    detail = error.detail.removeprefix(f"{printable(url, 400)}: ")
    if error.code == FailureCode.ADDRESS_REFUSED:
        return AddressRefused(url, error.code, detail)
    if error.code == FailureCode.CIRCUIT_OPEN:
        return CircuitOpen(f"{printable(url, 200)}: {detail}")
    if error.code == FailureCode.OUT_OF_DESCRIPTORS:
        return OutOfDescriptors()
    if error.code == FailureCode.TIMED_OUT:
        return TimeoutError(f"{printable(url, 200)}: {detail or 'timed out'}")
    if error.code == FailureCode.UNSUPPORTED_TYPE:
        detail += "; browser.download() (`cloister download`) saves it"
    return NavigationError(url, error.code, detail)


def checked_url(url: str) -> str:
    """``url`` as it may enter: a bounded string with a scheme, without control characters.

    The request_server parses it; this process does not.
    """
    if not isinstance(url, str):
        raise InvalidArgument(f"a URL is a str, not {type(url).__name__}")
    url = url.strip()
    scheme, colon, _ = url.partition(":")
    if (
        not colon
        or not scheme.isascii()
        or not scheme.replace("+", "").replace("-", "").replace(".", "").isalnum()
    ):
        raise NavigationError(
            url, FailureCode.BAD_URL, "not an absolute URL: it begins with http:// or https://"
        )
    if len(url) > 8192:
        raise NavigationError(url, FailureCode.BAD_URL, f"{len(url)} characters; a URL has 8192 at the most")
    if not url.isprintable():
        raise NavigationError(url, FailureCode.BAD_URL, "it has control characters or line breaks")
    return url


def is_normalised(url: str) -> bool:
    """Whether a request_server may name this: what it fetches is http(s), in ASCII as the URL Standard serializes it.
    It becomes the page's URL, which people and terminals get to see."""
    return url.startswith(("http://", "https://")) and url.isascii() and url.isprintable() and " " not in url


def site_of(url: str) -> str | None:
    """Scheme, host and port of a URL that was checked, for tables and reports. A label: nothing is decided by it."""
    scheme, found, rest = url.partition("://")
    authority = rest.split("/")[0].split("?")[0].split("#")[0].split("\\")[0]
    host = authority.rpartition("@")[2]
    return printable(f"{scheme.lower()[:32]}://{host.lower()}", 290) if found and host else None


def origin_of(url: str) -> str | None:
    """Scheme, host and port of an http(s) URL that is written plainly (no credentials, no backslash, no escapes in its
    host); None for every other. Two URLs that have the same are of one site.

    What is fetched is judged once more by what the request_server makes of the URL.
    """
    found = _ORIGIN.fullmatch(url)
    if found is None:
        return None
    scheme, host, port = found[1].lower(), found[2].lower(), found[3]
    return f"{scheme}://{host}:{port or _DEFAULT_PORT[scheme]}"


def deadline_of(timeout: float) -> float:
    if timeout <= 0:
        raise InvalidArgument(
            f"timeout is {timeout:g} ms; nothing waits for ever here: give a positive number"
        )
    return time.monotonic() + timeout / 1000


def left(deadline: float) -> float:
    return max(0.001, deadline - time.monotonic())


def write(path: str | os.PathLike[str] | None, data: bytes) -> None:
    """Into the file at ``path``, if there is one. Raises :class:`CloisterError` saying why it cannot be written."""
    if path is not None:
        try:
            with descriptors_left():
                Path(path).write_bytes(data)
        except OSError as error:
            raise CloisterError(f"{os.fspath(path)!s}: {error.strerror}") from error
