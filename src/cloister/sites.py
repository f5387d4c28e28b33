"""Sites: which hosts are one party's, by the public suffix list (publicsuffix.org).

The list is the one that the package ``publicsuffixlist`` keeps up to date. It is looked up here: a set of its lines is
there after 3 ms, when it is needed, where the package's own class takes 40 ms of each cold start.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Final

__all__ = [
    "is_address",
    "is_below",
    "is_local",
    "is_public_suffix",
    "is_same_site",
    "load",
    "read",
    "registrable",
    "site_of",
]

_URL: Final = re.compile(
    r"(https?)://(\[[0-9a-f:.]+\]|[^\s/?#@\\:\[\]%]{1,255})(?::[0-9]{1,5})?(?:[/?#].*)?", re.I
)
_IPV4: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}", re.ASCII)
_MOST_LABELS: Final = 10
"""Labels of a host that are looked at, from its end: the longest rule has 7."""


@functools.cache
def read() -> bytes:
    """The list as it is published. Read once; a child does so before it is locked down.

    Raises OSError where there is no list: without one, a cookie could be for all of ``co.uk``.
    """
    from importlib.util import find_spec  # here: most programs never need the list

    package = find_spec("publicsuffixlist")  # which is not imported for it
    if package is None or package.origin is None:
        raise FileNotFoundError(
            "the package publicsuffixlist is not installed: it has the public suffix list"
        )
    return Path(package.origin).with_name("public_suffix_list.dat").read_bytes()


@functools.cache
def load() -> frozenset[bytes]:
    """The list's rules; and its comments, as taking them out takes as long again, and no name begins with a slash.
    Raises as :func:`read`."""
    return frozenset(filter(None, map(bytes.strip, read().splitlines())))


def site_of(url: str) -> str | None:
    """The site of an http(s) URL as the URL Standard writes it: ``https://example.org``, the scheme and the host's
    :func:`registrable` part, or the host where it has none. The port does not count. None for any other text."""
    found = _URL.fullmatch(url)
    return None if found is None else _site(found[1].lower(), found[2].lower())


def is_same_site(one: str, other: str) -> bool:
    """Whether two http(s) URLs are of one site. Where the hosts are the same it takes no list to know."""
    first, second = _URL.fullmatch(one), _URL.fullmatch(other)
    if first is None or second is None:
        return False
    if (first[1].lower(), first[2].lower()) == (second[1].lower(), second[2].lower()):
        return True
    return site_of(one) == site_of(other)


@functools.lru_cache(maxsize=1024)
def _site(scheme: str, host: str) -> str:
    return f"{scheme}://{registrable(host) or host}"


def is_address(host: str) -> bool:
    """Whether ``host``, of a URL as the standard writes it, is an IP address."""
    return host.startswith("[") or _IPV4.fullmatch(host) is not None


def is_local(host: str) -> bool:
    """Whether ``host`` is this machine, to which http is as safe as https (Secure Contexts, 3.1)."""
    name = host.removesuffix(".")
    if is_address(name):
        return name == "[::1]" or name.startswith("127.")
    return name == "localhost" or name.endswith(".localhost")


def is_below(host: str, domain: str) -> bool:
    """Whether ``host`` is ``domain`` or a name below it (RFC 6265bis, 5.1.3)."""
    return host == domain or (host.endswith(f".{domain}") and not is_address(host))


def is_public_suffix(host: str) -> bool:
    """Whether names below ``host`` are of different parties, as those of ``co.uk`` or ``github.io`` are."""
    return not is_address(host) and registrable(host) is None


@functools.lru_cache(maxsize=1024)
def registrable(host: str) -> str | None:
    """A public suffix and the label before it, of a name in A-labels: ``example.co.uk`` of ``www.example.co.uk``.

    None for an address, and for what is a public suffix itself; ``localhost`` is one, as any single label is. The dot
    of ``example.org.`` stays: that is another name.
    """
    if is_address(host):
        return None
    name = host.removesuffix(".")
    labels = name.split(".")
    shown = [_u_label(label) for label in labels[-_MOST_LABELS:]]
    own = len(labels) - _suffix_length(shown) - 1
    return None if own < 0 else ".".join(labels[own:]) + host[len(name) :]


def _suffix_length(labels: list[bytes]) -> int:
    """Of how many labels the public suffix is (publicsuffix.org/list, "Algorithm")."""
    rules = load()
    for start in range(len(labels)):
        rest = b".".join(labels[start:])
        if b"!" + rest in rules:
            return len(labels) - start - 1
        if rest in rules or b".".join([b"*", *labels[start + 1 :]]) in rules:
            return len(labels) - start
    return 1


def _u_label(label: str) -> bytes:
    """As the list has it: in letters, UTF-8."""
    if label.startswith("xn--"):
        try:
            return label[4:].encode("ascii").decode("punycode").encode()
        except UnicodeError:
            pass
    return label.encode()
