"""What servers hear of a page that loads what it refers to, through every process."""

from __future__ import annotations

import pytest
from tests.servers import SITE, Page, Server

from cloister.browser import Page as BrowserPage

HTML = "<img src=/image.png><link rel=stylesheet href='{other}/style.css'><img src='{other}/image.png' {attribute}>"


@pytest.mark.parametrize(
    ("headers", "attribute", "image", "other_style", "other_image"),
    [
        ((), "", "page", "origin", "origin"),
        ((("Referrer-Policy", "no-referrer"),), "", None, None, None),
        ((("Referrer-Policy", "unsafe-url"),), "referrerpolicy=same-origin", "page", "page", None),
    ],
)
def test_servers_are_told_of_the_page_what_its_policy_allows(
    page: BrowserPage,
    headers: tuple[tuple[str, str], ...],
    attribute: str,
    image: str | None,
    other_style: str | None,
    other_image: str | None,
) -> None:
    with Server() as other:
        document = HTML.format(other=other.url(""), attribute=attribute).encode()
        with Server({**SITE, "/page": Page(document, headers=headers)}) as site:
            page.goto(site.url("/page?secret#here"))
    told = {None: None, "page": site.url("/page?secret"), "origin": site.url("/")}
    heard = {request.target: request.headers.get("referer") for request in site.requests}
    assert heard == {"/page?secret": None, "/image.png": told[image]}
    heard = {request.target: request.headers.get("referer") for request in other.requests}
    assert heard == {"/style.css": told[other_style], "/image.png": told[other_image]}
