"""Everything that a page loads beside its document: fetched once, checked, and handed to the layout engine.

Whatever the engine is given begins in one of four ways: as a bitmap that was written here, as ``/**/`` (a
stylesheet), as ``<svg`` (rewritten), or with a font's signature. Its image decoders take none but the first, so a
type that lies, or a stylesheet used as an image, reaches none of them.
"""

from __future__ import annotations

import asyncio
import re

import msgspec
import plutoprint

from ..errors import CloisterError, RequestFailed
from ..interfaces.base import FailureCode
from ..interfaces.fetch import (
    CredentialsMode,
    Destination,
    Fetch,
    Fetched,
    Mode,
    ReferrerPolicy,
    ResponseType,
)
from ..ipc import Descriptors
from ..ipc import blob as blobs
from . import document as documents
from . import svg
from .css import Use
from .images import Decoders, bitmap
from .references import Found, References, Referrer
from .requests import Requests
from .urls import DOCUMENT_IMAGE, INTERNAL, parse_data, referrer_policy_of, without_fragment

__all__ = ["MAX_RESOURCES", "Resources"]

MAX_RESOURCES = 500
"""Subresources of one page, ``data:`` URLs not counted."""

MAX_DATA_URLS = 2000
"""``data:`` URLs of one page."""

MAX_DATA_NESTING = 5
"""Levels of ``data:`` URLs within what other ``data:`` URLs hold."""

MAX_BODY = 64 * 1024 * 1024
"""Bytes of one subresource."""

_TIMEOUT = 35.0  # seconds: the request_server's own limit, and a little for the way

_NOTHING = bitmap(1, 1, bytes(4))
_STYLE_MARK = "/**/"
_FONT_MAGIC = re.compile(rb"\x00\x01\x00\x00|OTTO|true|ttcf|wOFF|wOF2")
_CSS_TYPES = {"text/css", "", "text/plain"}
_CHARSET_RULE = re.compile(rb'@charset "([\x20-\x7e]{1,40})";')


class _Resource(msgspec.Struct):
    """What a URL turned out to be. ``content`` is what the engine gets, or an image as it came."""

    content: bytes
    media_type: str
    bitmap: bytes | None = None  # of an image, while the engine has yet to copy it
    was_decoded: bool = False

    @property
    def is_raster(self) -> bool:
        return self.media_type == "image/bmp"


_UNASKED = _Resource(b"", "")


class Resources(plutoprint.ResourceFetcher):
    """The resources of one page, and the layout engine's only source of any.

    ``missing`` counts those that could not be had: the page is shown without them.
    """

    def __init__(self, requests: Requests, decoders: Decoders) -> None:
        super().__init__()
        self.missing = 0
        self.referrer = Referrer()  # the document, where it has a URL
        self.referrers: dict[str, Referrer] = {}  # who else asks for what
        self.uses: dict[str, Use] = {}  # of URLs that are no images
        self._requests = requests
        self._decoders = decoders
        self._known: dict[str, _Resource | None] = {}
        self._fetched = 0
        self._data_urls = 0
        self._nesting = 0

    # ── what is found while parsing ──────────────────────────────────────────────────────────────────────────

    def adopt(self, url: str, use: Use) -> str | None:
        """Take in a ``data:`` URL; the internal URL to write in its place, or ``None`` where it is unusable."""
        parsed = parse_data(url)
        if parsed is None or self._data_urls >= MAX_DATA_URLS or self._nesting >= MAX_DATA_NESTING:
            return None
        self._data_urls += 1
        content_type, body = parsed
        internal = f"{INTERNAL}//data/{self._data_urls}"
        # Its own references hang on nothing; those with a scheme are fetched when the engine asks for them.
        references = References("", self.adopt, Found(), self.referrer)
        self._nesting += 1
        try:
            self._known[internal] = self._judge(body, content_type, use, references)
        finally:
            self._nesting -= 1
        return internal

    async def adopt_document(self, body: bytes, content_type: str) -> None:
        """The document itself is an image: let the page that shows it find it. Raises :class:`RequestFailed`."""
        resource = self._judge(
            body, content_type, Use.IMAGE, References("", self.adopt, Found(), self.referrer)
        )
        if resource is None:
            raise RequestFailed(FailureCode.IMAGE_BROKEN, "this is not a well-formed SVG document")
        if resource.is_raster:
            resource.bitmap = await self._decoders.decode(resource.content)
            resource.was_decoded = True
        self._known[DOCUMENT_IMAGE] = resource

    def lacks(self, url: str) -> bool:
        """Whether ``url`` was asked for in vain."""
        return self._known.get(without_fragment(url), _UNASKED) is None

    # ── fetching ahead ───────────────────────────────────────────────────────────────────────────────────────

    async def fetch(self, url: str, use: Use, found: Found) -> None:
        """Fetch ``url``; what it refers to goes into ``found``. A failure counts as missing."""
        self._known[url] = None
        try:
            fetched, fds = await self._requests.request(self._request(url, use), timeout=_TIMEOUT)
            self._known[url] = self._take(fetched, fds, use, found)
        except CloisterError:
            self._known[url] = None
        if self._known[url] is None:
            self.missing += 1

    async def decode(self, url: str) -> None:
        """Have the image at ``url`` decoded, if it is one that needs it and is not yet."""
        resource = self._known.get(url)
        if resource is None or not resource.is_raster or resource.bitmap is not None:
            return
        try:
            resource.bitmap = await self._decoders.decode(resource.content)
            resource.was_decoded = True
        except CloisterError:
            self._lost(url)

    async def decode_again(self) -> None:
        """For another layout of the same page: have ready what the first one used."""
        self._decoders.begin_again()
        used = [url for url, resource in self._known.items() if resource is not None and resource.was_decoded]
        await asyncio.gather(*(self.decode(url) for url in used))

    def forget_bitmaps(self) -> None:
        """The engine has its own copies: keep the encoded images only."""
        for resource in self._known.values():
            if resource is not None:
                resource.bitmap = None

    # ── the engine's callback ────────────────────────────────────────────────────────────────────────────────

    def fetch_url(self, url: str) -> plutoprint.ResourceData:
        """Answer the layout engine. It runs on the loop's thread, in the middle of parsing, layout or painting."""
        key = without_fragment(url)
        try:
            if key not in self._known:
                self._fetch_now(key)
            resource = self._known[key]
            if resource is None:
                return _nothing()
            if not resource.is_raster:
                return plutoprint.ResourceData(resource.content, resource.media_type, "utf-8")
            if resource.bitmap is None:
                resource.bitmap = self._decoders.decode_blocking(resource.content)
                resource.was_decoded = True
            return plutoprint.ResourceData(resource.bitmap, resource.media_type)
        except CloisterError:
            self._lost(key)
            return _nothing()

    def _fetch_now(self, url: str) -> None:
        self._known[url] = None
        if not url.startswith(("http://", "https://")):
            return
        self.missing += 1  # until it is there
        use = self.uses.get(url, Use.IMAGE)
        fetched, fds = self._requests.request_blocking(self._request(url, use), timeout=_TIMEOUT)
        self._known[url] = self._take(fetched, fds, use, Found())
        if self._known[url] is not None:
            self.missing -= 1

    def _lost(self, url: str) -> None:
        if self._known.get(url) is not None:
            self.missing += 1
        self._known[url] = None

    # ── judging ──────────────────────────────────────────────────────────────────────────────────────────────

    def _request(self, url: str, use: Use) -> Fetch:
        if self._fetched >= MAX_RESOURCES:
            raise RequestFailed(FailureCode.TOO_MANY_REQUESTS, "this page asks for too many resources")
        self._fetched += 1
        referrer = self.referrers.get(url, self.referrer)
        destination = Destination(use.value)
        if use is Use.FONT:
            mode, credentials = Mode.CORS, CredentialsMode.SAME_ORIGIN
        else:
            mode, credentials = Mode.NO_CORS, CredentialsMode.INCLUDE
        return Fetch(url, destination, referrer.url, referrer.policy, mode=mode, credentials=credentials)

    def _take(self, fetched: Fetched, fds: Descriptors, use: Use, found: Found) -> _Resource | None:
        body = blobs.unpack(fetched.body, fds, MAX_BODY)
        if fetched.kind is not ResponseType.OPAQUE and not 200 <= fetched.status < 300:
            return None
        # A style sheet asks in its own name, by its own policy; what it says is not the document's word.
        policy = referrer_policy_of(fetched.headers) or ReferrerPolicy.STRICT_ORIGIN_WHEN_CROSS_ORIGIN
        references = References(
            fetched.url, self.adopt, found, Referrer(without_fragment(fetched.url), policy)
        )
        return self._judge(body, fetched.content_type, use, references)

    def _judge(self, body: bytes, content_type: str, use: Use, references: References) -> _Resource | None:
        """What ``body`` really is; ``None`` for what is of no use."""
        media_type = documents.essence(content_type)
        if use is Use.STYLE:
            if media_type not in _CSS_TYPES:
                return None
            sheet = _STYLE_MARK + references.css(_decode_css(body, content_type))
            return _Resource(sheet.encode("utf-8", "replace"), "text/css")
        if _FONT_MAGIC.match(body):
            return _Resource(body, "font/sfnt")
        if use is Use.FONT:
            return None
        if media_type == "image/svg+xml" or body.lstrip()[:5] in {b"<svg ", b"<?xml"}:
            text = svg.rewrite(documents.decode(body, content_type), self.adopt)
            return None if text is None else _Resource(text.encode("utf-8", "replace"), "image/svg+xml")
        return _Resource(body, "image/bmp")


def _decode_css(body: bytes, content_type: str) -> str:
    rule = _CHARSET_RULE.match(body)  # CSS Syntax 3, section 3.2
    if documents.charset(content_type) is None:
        label = rule[1].decode() if rule and not rule[1].lower().startswith(b"utf-16") else "utf-8"
        content_type = f"text/css; charset={label}"
    return documents.decode(body, content_type)


def _nothing() -> plutoprint.ResourceData:
    """What stands for a resource that is missing: a transparent pixel, or as a stylesheet nothing at all.

    An exception or an empty answer would have the engine write a line on standard error for each.
    """
    return plutoprint.ResourceData(_NOTHING, "image/bmp")
