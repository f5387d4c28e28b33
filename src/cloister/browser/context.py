"""A context: pages that have cookies together, and nothing with other contexts."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..errors import BrowserClosed, InvalidArgument
from ..interfaces.cookies import Cookie
from ..jar import is_for
from ..sites import is_local
from .cookies import CookieStore
from .http_cache import HttpCache
from .values import Viewport

if TYPE_CHECKING:
    from ada_url import URL

    from .async_browser import AsyncBrowser
    from .async_page import AsyncPage
    from .cookie_files import CookieParam, State, StorageState
    from .requests import AsyncAPIRequestContext

__all__ = ["AsyncBrowserContext", "Wanted"]

Wanted = str | re.Pattern[str] | None
"""A text as it is, or a pattern that is found in it; None for all."""


class AsyncBrowserContext:
    """Made by :meth:`AsyncBrowser.new_context`. Its pages have their cookies together; each cookie belongs to the pages
    of one site (its ``partitionKey``), so what is on pages of several sites knows nobody again on the next one."""

    def __init__(
        self,
        browser: AsyncBrowser,
        viewport: Viewport,
        storage_state: State,
    ) -> None:
        self._browser = browser
        self._viewport = viewport
        self._closed = False
        self.closes_with_page = False
        """Whether it was made for one page."""
        self.store = CookieStore()
        """For the browser: who is asked for cookies."""
        self._request: AsyncAPIRequestContext | None = None
        self.http_cache = HttpCache()
        """For its pages: the responses that are kept for each other."""
        if storage_state is not None:
            from . import cookie_files  # here and below: most programs have nothing to do with cookies

            self._add(cookie_files.read(storage_state))

    @property
    def pages(self) -> list[AsyncPage]:
        """Its open pages, oldest first."""
        return [page for page in self._browser.pages if page.context is self]

    @property
    def request(self) -> AsyncAPIRequestContext:
        """Requests without a page, which have the cookies of its pages and leave theirs to them."""
        self._check_open()
        if self._request is None:
            self._request = self._browser.requests_with(self.store)
        return self._request

    async def new_page(self, *, viewport: Viewport | None = None) -> AsyncPage:
        """A new, empty page. Its processes start with its first navigation."""
        self._check_open()
        if self.closes_with_page and self.pages:
            raise InvalidArgument(
                "this context is of one page and is closed with it: use browser.new_context()"
            )
        return self._browser.add_page(self, viewport or self._viewport)

    async def cookies(self, urls: str | Sequence[str] | None = None) -> list[CookieParam]:
        """The cookies, or those that go to one of ``urls``. The same cookie may be there for the pages of several
        sites."""
        from . import cookie_files

        wanted = [urls] if isinstance(urls, str) else urls
        places = None if wanted is None else [_checked(url) for url in wanted]
        return [
            cookie_files.as_param(site, cookie)
            for site, cookie in self.store.all()
            if places is None or any(_goes_to(cookie, url) for url in places)
        ]

    async def add_cookies(self, cookies: Iterable[CookieParam]) -> None:
        """Keep ``cookies``, in place of those of the same name, domain and path. Raises :class:`InvalidArgument`, and
        then keeps none of them."""
        self._check_open()
        self._add(cookies)

    def _add(self, cookies: Iterable[CookieParam]) -> None:
        from . import cookie_files

        by_site: dict[str, list[Cookie]] = {}
        for site, cookie in [found for each in cookies for found in cookie_files.cookies_of(each)]:
            by_site.setdefault(site, []).append(cookie)
        for site, its in by_site.items():
            self.store.put(site, its)

    async def clear_cookies(self, *, name: Wanted = None, domain: Wanted = None, path: Wanted = None) -> None:
        """Forget all cookies, or those of this name, domain (as :meth:`cookies` shows it) and path."""
        from . import cookie_files

        def is_meant(cookie: Cookie) -> bool:
            shown = cookie_files.as_param("", cookie)
            return (
                _matches(name, shown["name"])
                and _matches(domain, shown["domain"])
                and _matches(path, shown["path"])
            )

        self.store.remove(is_meant)

    async def storage_state(self, path: str | os.PathLike[str] | None = None) -> StorageState:
        """All that it knows; written to ``path`` too, as JSON that this user alone may read, when that is given."""
        from . import cookie_files

        state: StorageState = {"cookies": await self.cookies(), "origins": []}
        if path is not None:
            cookie_files.written(state, path)
        return state

    async def close(self) -> None:
        """Close its pages and forget its cookies. Closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        await asyncio.gather(*(page.close() for page in self.pages), return_exceptions=True)
        if self._request is not None:
            await self._browser.end_requests(self._request)
        self.store.remove(lambda _: True)
        self.http_cache.clear()
        self._browser.forget_context(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def lost(self) -> None:
        """For a page that closes."""
        if self.closes_with_page:
            await self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise BrowserClosed("the context is closed")


def _checked(url: str) -> URL:
    from ada_url import URL

    try:
        parsed = URL(url)
    except (ValueError, TypeError):
        raise InvalidArgument(f"{url!r:.200} is not a URL") from None
    return parsed


def _goes_to(cookie: Cookie, url: URL) -> bool:
    return is_for(
        cookie, url.hostname, url.pathname, is_secure=url.protocol == "https:" or is_local(url.hostname)
    )


def _matches(wanted: Wanted, text: str) -> bool:
    if wanted is None:
        return True
    return wanted == text if isinstance(wanted, str) else wanted.search(text) is not None
