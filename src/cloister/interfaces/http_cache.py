"""request_server ── browser: responses that are kept from one page load to the next.

Only request_servers read what is in them. The browser files them under its own key, the site of the document that it
allowed, and looks at nothing but their size.
"""

import enum
from typing import Annotated

from msgspec import Meta

from .base import Blob, Reply, Request

__all__ = ["MAX_ENTRY", "CacheGet", "CacheKept", "CachePut", "CacheUse", "Cached"]

MAX_ENTRY = 2 * 1024 * 1024 + 128 * 1024
"""Bytes of one entry: a body of 2 MiB and its headers."""

CacheKey = Annotated[bytes, Meta(min_length=32, max_length=32)]
"""The SHA-256 of a URL."""


class CacheUse(enum.StrEnum):
    """What a page load does with what was kept."""

    OFF = "off"  # nothing is kept of it either
    EMPTY = "empty"  # there is nothing, so nobody asks
    ON = "on"
    REVALIDATE = "revalidate"  # each server is asked whether it has changed, as for a reload


class Cached(Reply, frozen=True):
    """An entry; empty where there is none."""

    body: Blob


class CacheGet(Request[Cached], frozen=True):
    """What is kept for the document's site under ``key``?"""

    key: CacheKey


class CacheKept(Reply, frozen=True):
    """The browser has taken note."""


class CachePut(Request[CacheKept], frozen=True):
    """Keep ``body`` for the document's site, in place of what was there; an empty one forgets that."""

    key: CacheKey
    body: Blob
