"""One page load's HTTP client: redirects, limits, deadlines, and every way to fail by its name."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import msgspec

from ..errors import BadMessage, ChannelClosed, RequestFailed
from ..interfaces.base import FailureCode
from ..interfaces.fetch import Destination, Fetch, Mode, ResponseType
from ..interfaces.request_server import DocumentAllowed, Options
from . import cors, headers, orb, redirects, referrers, upgrades, urls
from .body import Body
from .cache import Cache, Shelf
from .cookies import DocumentCookies
from .credentials import Keyring
from .exchange import Answer, Asked, Broken, Headers, Unwelcome
from .pool import Dial, Pool
from .preflight import Preflights, question
from .step import OPAQUE_ORIGIN, Step, Tainting
from .upload import Outgoing

__all__ = ["Announce", "Client", "LedElsewhere", "Response", "Special", "Terms"]

_MAX_DISCARDED: Final = 64 * 1024
"""Bytes of a body that nobody wants, a redirect's, which are read to keep its connection."""


Announce = Callable[[str, int], Awaitable[DocumentAllowed]]


class Terms(msgspec.Struct, frozen=True):
    """What one fetch may take. ``max_redirects`` is None where none is followed. Whoever reads the body may move the
    ``clock``."""

    max_bytes: int
    max_redirects: int | None
    clock: asyncio.Timeout


class LedElsewhere(Exception):
    """A redirect with ``status`` leaves the origin, for which the browser has another request_server: ``step``."""

    def __init__(self, step: Step, status: int, redirects: int) -> None:
        self.step = step
        self.status = status
        self.redirects = redirects


class Response(msgspec.Struct, frozen=True):
    """What a fetch came to, once its head is there: as :class:`Fetched`. ``body`` is decoded, and read by whoever
    wants it; what another origin keeps from the page ends in a :class:`RequestFailed` then. ``raw`` are all of its
    headers, for a program."""

    url: str
    status: int
    content_type: str
    headers: tuple[tuple[str, str], ...]
    body: AsyncIterator[bytes]
    requests: int
    kind: ResponseType = ResponseType.BASIC
    raw: Headers = msgspec.field(default_factory=list)


class Special(msgspec.Struct, frozen=True):
    """What a fetch has that no page can ask for.

    ``headers`` are ours, and take the place of those of the same name. ``ask`` has a connection of its own, and what
    it answers is not followed elsewhere. An endless one has no time limit, and no limit of its own, once its head
    is there. With ``terms`` of its own, a redirect out of its origin is :class:`LedElsewhere`."""

    headers: Headers = msgspec.field(default_factory=list)
    ask: Callable[[Asked], Awaitable[Answer]] | None = None
    is_endless: bool = False
    terms: Terms | None = None


_USUAL: Final = Special()


class Client:
    """Fetches for one page, within ``options``'s limits, over connections that ``dial`` makes.

    ``announce(url, redirects)`` is awaited before a document is asked for anywhere, and may fail the fetch, or give
    credentials for that origin. ``shelf`` is where responses are kept, ``cookies`` are those of the page.
    """

    def __init__(
        self, options: Options, dial: Dial, announce: Announce, shelf: Shelf, cookies: DocumentCookies
    ) -> None:
        self._options = options
        self._announce = announce
        self._cookies = cookies
        self._requests_left = options.max_requests
        self._bytes_left = options.max_total_bytes
        self._pool = Pool(dial)
        self._cache = Cache(self._pool.ask, shelf, options.cache)
        self._strict_transport = upgrades.StrictTransport()
        self._keyring = Keyring()
        self._page = cors.Page.of(options)
        """Its document is where its redirects have led so far."""
        self._preflights = Preflights()

    def close(self) -> None:
        """Close every connection."""
        self._pool.close()

    @property
    def page(self) -> cors.Page:
        """Who asks, by the browser's word."""
        return self._page

    @contextlib.asynccontextmanager
    async def open(
        self, fetch: Fetch, body: Outgoing = b"", special: Special = _USUAL
    ) -> AsyncIterator[Response]:
        """Ask for ``fetch.url``, follow where it leads, and give the response while the ``async with`` lasts, its
        time limit included. Leaving it, or being cancelled, closes what is under way. ``terms`` are those of every
        fetch of the page unless others are given.

        Raises :class:`RequestFailed`; any HTTP status is a response. For the browser, :class:`LedElsewhere`.
        """
        seconds = self._options.request_timeout / 1000
        terms = special.terms or self._terms(seconds)
        under_way = _UnderWay(self._first(fetch, body, special), special, terms)
        try:
            async with terms.clock as deadline:
                response = await self._follow(fetch, under_way)
                if special.is_endless:
                    deadline.reschedule(None)
                yield response
                if under_way.answer is not None:
                    self._cache.keep(under_way.answer)
            if fetch.destination is Destination.STYLE:  # read to its end: it was not blocked
                self._page = self._page.with_style(response.url)
            return
        except TimeoutError:
            failure = RequestFailed(
                FailureCode.TIMED_OUT,
                f"{under_way.step.url.host} had not answered in full after {seconds:g} s",
            )
        except (ChannelClosed, BadMessage):  # of the lookup_server: the page has done nothing wrong
            failure = RequestFailed(FailureCode.NO_PROCESS, "the lookup server is gone")
        except Unwelcome as error:
            failure = RequestFailed(
                FailureCode.CLIENT_CERTIFICATE_REQUIRED, f"{under_way.step.url.host} let us not in: {error}"
            )
        except Broken as error:
            failure = RequestFailed(
                FailureCode.CONNECTION_RESET, f"the connection to {under_way.step.url.host} broke: {error}"
            )
        except ValueError as error:
            failure = RequestFailed(
                FailureCode.BAD_RESPONSE,
                f"{under_way.step.url.host} sent a response that cannot be read: {error}",
            )
        except RequestFailed as error:
            failure = error
        finally:
            under_way.close()
        if under_way.step.tainting is not Tainting.BASIC:  # what it would say is another origin's
            raise RequestFailed(
                failure.code, f"{urls.parse(fetch.url).host}, asked for another origin: {failure.code}"
            )
        if under_way.redirects:
            shown = urls.shown(under_way.step.url.href)
            raise RequestFailed(failure.code, f"redirected to {shown}: {failure.detail}")
        raise failure

    def _terms(self, seconds: float) -> Terms:
        options = self._options
        return Terms(options.max_response_bytes, options.max_redirects, asyncio.timeout(seconds))

    def _first(self, fetch: Fetch, body: Outgoing, special: Special) -> Step:
        """What is asked first. Raises :class:`RequestFailed` for what may not be asked."""
        url, method = urls.parse(fetch.url), headers.method(fetch)
        if self._options.for_browser:
            own = headers.of_program(fetch) + special.headers
            return Step(url, method, own, body, fetch.referrer_policy)
        own = headers.own(fetch)
        if special.ask:
            return Step(url, method, own + special.headers, body, fetch.referrer_policy)
        cors.check_request(fetch, self._page, method, own)
        mode = cors.mode_of(fetch)
        origin = OPAQUE_ORIGIN if mode is Mode.NAVIGATE else self._page.origin
        return Step(url, method, own, body, fetch.referrer_policy, origin, mode, fetch.credentials)

    async def _follow(self, fetch: Fetch, under_way: _UnderWay) -> Response:
        terms, special = under_way.terms, under_way.special
        while True:
            answer = await self._ask(fetch, under_way)
            step = under_way.step
            is_followed = special.ask is None and terms.max_redirects is not None
            further = redirects.follow(step, answer.status, answer.headers) if is_followed else None
            if further is None:
                return self._response(fetch, under_way, answer)
            if under_way.redirects == terms.max_redirects:
                raise RequestFailed(
                    FailureCode.TOO_MANY_REDIRECTS,
                    f"{step.url.host} redirects on, after {under_way.redirects} redirects; that is the limit",
                )
            await _discard(answer)
            self._cache.keep(answer)
            if special.terms and urls.origin(further.url) != urls.origin(step.url):
                raise LedElsewhere(further, answer.status, under_way.redirects + 1)
            under_way.go(further)

    async def _ask(self, fetch: Fetch, under_way: _UnderWay) -> Answer:
        """One step: its answer, whatever it says. Credentials that a server asks for are sent."""
        url = self._strict_transport.upgraded(under_way.step.url)
        if not self._options.for_browser:
            url = upgrades.without_mixed_content(url, fetch.destination, self._page.url)
        step = under_way.step = msgspec.structs.replace(under_way.step, url=url)
        step = under_way.step = cors.entered(step)
        self._count()
        if fetch.destination is Destination.DOCUMENT:
            allowed = await self._announce(url.href, under_way.redirects)
            if allowed.credentials is not None:
                self._keyring.add(url, allowed.credentials)
            self._cache.use = allowed.cache
            self._page = cors.Page(url)
            self._cookies.begin(url, has_cookies=allowed.has_cookies)
            under_way.is_cross_site |= allowed.is_cross_site
        if self._preflights.needs(step):
            await self._ask_before(fetch, under_way)
        answer = await self._send(fetch, under_way)
        may_use = self._may_use_password(step)
        if answer.status == 401 and may_use and self._keyring.unlocks(url, answer.headers):
            await _discard(answer)
            self._count()
            answer = await self._send(fetch, under_way)
        self._strict_transport.note(url, answer.headers)
        cors.check_answer(step, answer.headers)
        return answer

    async def _ask_before(self, fetch: Fetch, under_way: _UnderWay) -> None:
        """Have another origin agree to a request that only its own pages could make without CORS."""
        step = under_way.step
        self._count()
        asked = headers.request(step.url, Destination.EMPTY, self._options) + question(step)
        asked += self._said_of_page(fetch, step)
        answer = under_way.answer = await self._pool.ask(Asked("OPTIONS", step.url, asked))
        cors.check_answer(step, answer.headers)
        self._preflights.note(step, answer.status, answer.headers)
        await _discard(answer)

    async def _send(self, fetch: Fetch, under_way: _UnderWay) -> Answer:
        """A step, with the cookies that may go with it; those of its answer are kept."""
        step, special = under_way.step, under_way.special
        asked = self._asked(fetch, under_way)
        ask = special.ask or (self._pool.ask if special.is_endless else self._cache.ask)
        says_its_own = any(name.lower() == b"cookie" for name, _ in step.headers)  # a program may
        if says_its_own or not cors.sends_credentials(step):
            under_way.answer = await ask(asked)
            return under_way.answer
        is_document = fetch.destination is Destination.DOCUMENT
        if not under_way.is_cross_site:
            under_way.is_cross_site = await self._cookies.is_cross_site(step.url)
        is_cross_site = under_way.is_cross_site
        mine = await self._cookies.header(
            step.url, step.method, is_document=is_document, is_cross_site=is_cross_site
        )
        if mine is not None:
            asked.headers.append((b"Cookie", mine))
        answer = under_way.answer = await ask(asked)
        await self._cookies.receive(
            step.url, answer.headers, is_document=is_document, is_cross_site=is_cross_site
        )
        return answer

    def _asked(self, fetch: Fetch, under_way: _UnderWay) -> Asked:
        step, special = under_way.step, under_way.special
        # What is ours for a page's request needs no other origin's leave.
        ours = [] if self._options.for_browser or special.ask else special.headers
        asked = headers.request(step.url, fetch.destination, self._options, step.headers + ours)
        if not special.ask:
            asked += self._said_of_page(fetch, step)
        if self._may_use_password(step) and (mine := self._keyring.header(step.url)):
            asked.append((b"Authorization", mine))
        return Asked(step.method, step.url, asked, step.body)

    def _said_of_page(self, fetch: Fetch, step: Step) -> Headers:
        said: Headers = []
        if told := referrers.referrer(fetch.referrer, step.url, step.policy):
            said.append((b"Referer", told.encode()))
        if self._options.for_browser:
            return said
        if origin := cors.origin_header(step):
            said.append((b"Origin", origin.encode()))
        return said + headers.metadata(step, fetch.destination)

    def _may_use_password(self, step: Step) -> bool:
        """Only for the page's document, and for what is of its origin: a page may not have another site's secrets
        fetched by our password. What the page itself says goes first."""
        is_own = urls.origin(step.url) == self._page.origin
        says_nothing = not any(name.lower() == b"authorization" for name, _ in step.headers)
        return is_own and says_nothing and cors.sends_credentials(step)

    def _count(self) -> None:
        if not self._requests_left:
            raise RequestFailed(
                FailureCode.TOO_MANY_REQUESTS, f"this page made {self._options.max_requests} requests already"
            )
        self._requests_left -= 1

    def _response(self, fetch: Fetch, under_way: _UnderWay, answer: Answer) -> Response:
        step = under_way.step
        url = step.url
        is_endless = under_way.special.is_endless
        limit = self._options.max_total_bytes if is_endless else under_way.terms.max_bytes
        too_large = RequestFailed(
            FailureCode.TOO_LARGE,
            f"{url.host} sent more than {limit:,} bytes; that is the limit of a response",
        )
        whole = Response(
            url=url.href,
            status=answer.status,
            content_type=headers.content_type(answer.headers),
            headers=headers.forwarded(
                answer.headers, lambda name: cors.is_exposed(step, answer.headers, name)
            ),
            body=Body(answer, self.spend, limit, too_large),
            requests=under_way.redirects + 1,
            raw=answer.headers,
        )
        return whole if self._options.for_browser else _for_page(whole, fetch, step, answer.headers)

    def spend(self, size: int) -> None:
        """``size`` bytes came for the page. Raises :class:`RequestFailed` (TOO_LARGE) where that is too much."""
        if size > self._bytes_left:
            raise RequestFailed(
                FailureCode.TOO_LARGE,
                f"all that this page fetched exceeds {self._options.max_total_bytes:,} bytes; that is its limit",
            )
        self._bytes_left -= size


def _for_page(whole: Response, fetch: Fetch, step: Step, said: Headers) -> Response:
    """What a page gets of it (Fetch standard, "filtered response")."""
    destination = fetch.destination
    if orb.is_blocked_by_type(destination, said):
        raise RequestFailed(
            FailureCode.UNSUPPORTED_TYPE, f"{step.url.host} says that it is nothing to use as {destination}"
        )
    if step.tainting is not Tainting.OPAQUE:
        kind = ResponseType.BASIC if step.tainting is Tainting.BASIC else ResponseType.CORS
        return msgspec.structs.replace(whole, kind=kind)
    is_style = destination is Destination.STYLE
    # A style sheet's own address and policy are its word on what it refers to, not on what it says.
    return Response(
        url=whole.url if is_style else urls.parse(fetch.url).href,
        status=0,
        content_type=whole.content_type,
        headers=headers.forwarded(said, lambda name: is_style and name == "referrer-policy"),
        body=orb.guarded(whole.body, destination, whole.status, said, step.url.host),
        requests=1,
        kind=ResponseType.OPAQUE,
    )


class _UnderWay:
    """How far a fetch has come: what is being asked, and the answer that is open."""

    def __init__(self, step: Step, special: Special, terms: Terms) -> None:
        self.step = step
        self.special = special
        self.terms = terms
        self.redirects = 0
        self.is_cross_site = False
        """Whether another site than the document's has had a hand in it."""
        self.answer: Answer | None = None

    def go(self, step: Step) -> None:
        self.close()
        self.step = step
        self.redirects += 1

    def close(self) -> None:
        if self.answer is not None:
            self.answer.close()
            self.answer = None


async def _discard(answer: Answer) -> None:
    """Read a short body to its end, so that the connection can be used again; abandon a long one."""
    size = 0
    while (data := await answer.receive()) and size <= _MAX_DISCARDED:
        size += len(data)
    answer.close()
